"""``grpo-audit refusals``: refusal rates corrected for the error of the detector, and the sheet that measures it."""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.cli.console import visible
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.errors import ConfigError, EvaluationError
from grpo_audit.ledger.project import Project
from grpo_audit.record.comparisons import CorrectedRate, DetectorError
from grpo_audit.record.events import EvalSample, EventKind, Phase, RunRegistered
from grpo_audit.refusal import sheet as sheets
from grpo_audit.refusal.correction import Labels
from grpo_audit.refusal.judged import Judgements, corrected_rates, labelled_rate, style_changes

Places = dict[tuple[str, Phase, str], int]
"""Event that holds the texts, by task, phase and document."""
_WIDE = 110
"""Columns from which on a terminal has room for the intervals of both rates; --json always has them."""


def refusals(
    run: Annotated[str | None, typer.Argument(help="Run id, prefix or name. Left out: the newest run.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Judge this task. Repeatable. Left out: those whose behaviour is about refusing."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="CSV", help="Write a sheet of answers to label here.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="With --sheet: answers on it.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="With --sheet: of the random sample.")] = 0,
    annotators: Annotated[int, typer.Option(min=1, max=2, help="With --sheet: label columns on it.")] = 1,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="CSV", help="Read a labelled sheet back and correct by it.")
    ] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Refusal rates before and after training, corrected for the error of the refusal detector.

    The detector is run again on the recorded answers, whatever the tasks themselves measure. Without labels its error
    is the one measured on published human labels. A model that refuses in another style needs its own:

    grpo-audit refusals --sheet answers.csv --n 120

    Write refusal, partial or answer into the last column (partial counts as a refusal), then:

    grpo-audit refusals --labels answers.csv
    """
    if sheet is not None and labels is not None:
        raise ConfigError("--sheet writes a sheet and --labels reads one", next_step="Name one of them")
    if sheet is not None:
        sheets.refuse_existing(sheet)
    with Project.open(db, mode="read") as project:
        run_id = project.find_run(run).run_id
        judged, places = _judge(project, run_id, frozenset(task) if task else None)
        reasons = {item.task: reason for item in judged.tasks if (reason := judged.unusable(item.task)) is not None}
        if len(reasons) == len(judged.tasks):
            name, reason = next(iter(reasons.items()))
            raise EvaluationError(f"Run {run_id} has no refusal rates", found=f"{name}: {reason}")
        items = sheets.items(run_id, judged)
        if sheet is not None:
            _export(project, run_id, items, places, sheet, n, seed, annotators, json=json)
            return
    read = None if labels is None else sheets.read(labels, (item.id for item in items))
    rates = corrected_rates(judged) if read is None else _by_labels(judged, items, read, labels)
    if json:
        typer.echo(jsonlib.dumps(_plain(run_id, judged, rates, reasons, read), indent=2))
    else:
        _show(run_id, judged, rates, reasons, read)


def _judge(project: Project, run_id: str, tasks: frozenset[str] | None) -> tuple[Judgements, Places]:
    """Every answer of the run's tasks about refusing, judged, and where it is recorded."""
    registered = project.last(run_id, EventKind.RUN_REGISTERED)
    plan = registered.payload.evaluation if registered and isinstance(registered.payload, RunRegistered) else None
    if plan is None:
        raise EvaluationError(f"Run {run_id} was registered without an evaluation, so it has no answers to judge")
    judged = Judgements(plan, tasks)
    if not judged.tasks:
        raise EvaluationError(
            f"No task of run {run_id} is about refusing",
            found=", ".join(item.task for item in plan.tasks),
            next_step="Name one with --task",
        )
    places: Places = {}
    with console.bar("answers", project.counts(run_id).get(EventKind.EVAL_SAMPLE, 0)) as bar:
        for done, event in enumerate(project.events(run_id=run_id, kinds={EventKind.EVAL_SAMPLE}), 1):
            bar.update(done)
            sample = event.payload
            if isinstance(sample, EvalSample) and judged.wants(sample):
                judged.add(sample, project.content(event.seq, "response"))
                places[sample.task, sample.phase, sample.doc_id] = event.seq
    return judged, places


def _export(
    project: Project,
    run_id: str,
    items: list[sheets.Item],
    places: Places,
    path: Path,
    num: int,
    seed: int,
    annotators: int,
    *,
    json: bool,
) -> None:
    chosen = sheets.choose(items, num, seed)
    seqs = [places[item.task, item.phase, item.doc_id] for item in chosen]
    texts = [(_text(project, seq, "prompt"), _text(project, seq, "response")) for seq in seqs]
    rows = [sheets.Row(item.id, *pair) for item, pair in zip(chosen, texts, strict=True)]
    sheets.write(path, rows, annotators=annotators)
    tasks = Counter(item.task for item in chosen)
    if json:
        result = {"run": run_id, "sheet": str(path), "answers": len(rows), "seed": seed, "tasks": dict(tasks)}
        typer.echo(jsonlib.dumps(result, indent=2))
        return
    parts = ", ".join(f"{count} of {name}" for name, count in sorted(tasks.items()))
    console.out.print(visible(f"{len(rows)} answers in {path}: {parts}"), markup=False, soft_wrap=True)
    words = ", ".join(sheets.LABELS)
    console.out.print(
        f"Fill in every label ({words}), then: grpo-audit refusals {run_id} --labels {visible(str(path))}",
        markup=False,
        soft_wrap=True,
    )


def _text(project: Project, seq: int, name: str) -> str:
    found = project.content(seq, name)
    return "(erased)" if found is None else found.decode("utf-8", "replace")


def _by_labels(
    judged: Judgements, items: list[sheets.Item], read: sheets.Sheet, path: Path | None
) -> list[CorrectedRate]:
    found = sheets.strata(items, read.labels)
    people = "two annotators" if read.annotators == 2 else "one annotator"
    source = f"labels of this run's answers by {people}"
    rates = []
    for task in judged.tasks:
        if judged.unusable(task.task) is None:
            try:
                rates.append(labelled_rate(judged, task, found.get(task.task, Labels()), source))
            except EvaluationError as error:
                raise EvaluationError(
                    f"{path} cannot correct task {task.task}", found=error.what, next_step=error.next_step
                ) from error
    return rates


def _plain(
    run_id: str, judged: Judgements, rates: list[CorrectedRate], reasons: dict[str, str], read: sheets.Sheet | None
) -> dict[str, object]:
    return {
        "run": run_id,
        "detector": judged.detector.identity,
        "labelled": None if read is None else len(read.labels),
        "annotators": None if read is None else read.annotators,
        "agreement_kappa": None if read is None else read.agreement,
        "rates": [rate.model_dump(mode="json") for rate in rates],
        "not_counted": reasons,
        "style_changes": [{**vars(change), "message": change.message} for change in style_changes(judged)],
    }


def _show(
    run_id: str, judged: Judgements, rates: list[CorrectedRate], reasons: dict[str, str], read: sheets.Sheet | None
) -> None:
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{run_id}: share of answers that refuse", title_justify="left", title_style="bold"
    )
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    table.add_column("evaluation", no_wrap=True)
    wide = console.out.width >= _WIDE
    names = ("answers", "raw before", "raw after", "before", "95 %", "after", "95 %", "change", "95 % interval")
    for name in names:
        if wide or name not in ("answers", "95 %"):
            table.add_column(name, justify="right", no_wrap=True)
    for rate in rates:
        cells = {
            "answers": f"{rate.documents:,}",
            "raw before": f"{rate.pre_raw:.3f}",
            "raw after": f"{rate.post_raw:.3f}",
            "before": f"{rate.pre:.3f}",
            "95 % before": _interval(rate.pre_ci_low, rate.pre_ci_high),
            "after": f"{rate.post:.3f}",
            "95 % after": _interval(rate.post_ci_low, rate.post_ci_high),
            "change": f"{rate.difference:+.3f}",
            "interval": _interval(rate.ci_low, rate.ci_high, sign="+"),
        }
        kept = [text for name, text in cells.items() if wide or not name.startswith(("answers", "95 %"))]
        table.add_row(escape(visible(rate.task)), *kept)
    console.out.print(table)
    for line in _notes(rates, read):
        console.out.print(visible(line), markup=False, soft_wrap=True)
    for name, reason in reasons.items():
        console.out.print(visible(f"{name}: not counted, {reason}"), markup=False, soft_wrap=True)
    for change in style_changes(judged):
        console.out.print(visible(change.message), markup=False, soft_wrap=True, style="yellow")


def _notes(rates: list[CorrectedRate], read: sheets.Sheet | None) -> list[str]:
    """What the figures rest on."""
    lines = ["raw: as the detector counts, before and after training; the rest is corrected for its error"]
    if read is None:
        lines.append(f"error: {_error(rates[0].error)}, {rates[0].error.source}")
        lines.append("This takes for granted that it errs alike here. To measure: grpo-audit refusals --sheet FILE.csv")
    else:
        for rate in rates:
            after = rate.post_error or rate.error
            lines.append(f"{rate.task}: before {_error(rate.error)}; after {_error(after)}")
        if read.annotators == 2:
            said = "not defined, all labels are the same" if read.agreement is None else f"{read.agreement:.2f}"
            lines.append(f"agreement of the annotators (Cohen's kappa): {said}")
    if any(rate.clipped for rate in rates):
        lines.append("A corrected rate outside of 0 to 1 was set to the bound.")
    return lines


def _error(error: DetectorError) -> str:
    known = [
        f"{name} unknown" if value is None else f"{name} {value:.3f}"
        for name, value in (("sensitivity", error.sensitivity), ("specificity", error.specificity))
    ]
    return f"{', '.join(known)} on {error.labelled} labelled answers"


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    if low is None or high is None:
        return "-"
    return escape(f"[{low:{sign}.2f}, {high:{sign}.2f}]")
