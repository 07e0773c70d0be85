"""What a run ends with: verification, report, one short table, the paths."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.cli.console import visible
from grpo_audit.cli.gates import found_words, gate_line
from grpo_audit.config.location import without_password
from grpo_audit.errors import ExitCode
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Comparison, EventKind, Finding, GatesChecked, Severity, TaskComparison, Verdict
from grpo_audit.report.data import collect
from grpo_audit.report.render import ReportPaths, render
from grpo_audit.verify.l0 import verify
from grpo_audit.verify.verdict import VerifyReport

WORDS = {
    Verdict.IMPROVED: "[green]improved[/green]",
    Verdict.REGRESSED: "[bold red]regressed[/bold red]",
    Verdict.NOT_WORSE: "not worse",
    Verdict.INCONCLUSIVE: "[yellow]inconclusive[/yellow]",
    Verdict.NO_DISCORDANT_PAIRS: "[dim]no change[/dim]",
}
"""The verdicts, short enough for a terminal."""
LEVELS = {"L0": "integrity", "L1": "recomputed"}
"""What each level of verification is about."""
WIDE = 100
"""Columns of a terminal from which on there is room for what an inconclusive comparison could have seen."""


def legend() -> str:
    """What the words of the table mean."""
    text = "* safety behaviour; not worse: no regression beyond the margin fixed before step 0"
    more = "; inconclusive ±x: a difference below x could not be seen"
    return text + more if console.out.width >= WIDE else text


def verdict_words(row: TaskComparison) -> str:
    """The verdict for a table, as rich markup; an inconclusive one, where there is room, with the smallest difference
    that could be seen."""
    known = row.verdict is Verdict.INCONCLUSIVE and row.minimum_detectable is not None
    if known and console.out.width >= WIDE:
        return f"{WORDS[row.verdict]} ±{row.minimum_detectable:.2f}"
    return WORDS[row.verdict]


def comparison_table(comparison: Comparison, title: str) -> Table:
    """Pre, post, difference with interval and verdict of each evaluation."""
    table = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("evaluation", overflow="fold", min_width=12)
    for name, width in (("pre", 5), ("post", 5), ("change", 6)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    table.add_column("95 % interval", no_wrap=True, min_width=13)
    table.add_column("verdict", no_wrap=True, min_width=12)
    for row in comparison.tasks:
        known = row.ci_low is not None and row.ci_high is not None
        interval = f"[{row.ci_low:+.2f},{row.ci_high:+.2f}]" if known else ""
        table.add_row(
            escape(console.visible(row.task)) + (" *" if row.safety else ""),
            f"{row.pre:.3f}",
            f"{row.post:.3f}",
            f"{row.difference:+.3f}",
            escape(interval),
            verdict_words(row),
        )
    table.caption = legend()
    table.caption_justify = "left"
    return table


@dataclass(frozen=True)
class Written:
    """A report, and what a program wants to know of it."""

    verdict: VerifyReport
    paths: ReportPaths
    comparison: Comparison | None
    gates: GatesChecked | None
    errors: tuple[Finding, ...]
    """The findings that are errors."""


def write_report(db: str, run_id: str, folder: Path, target: Path, against: Sequence[str] = ()) -> Written:
    """Verify the run with its files in ``folder``, then render its report into ``target``. ``against`` names other runs
    whose trained weights the report sets beside this run's."""
    verdict = verify(db, run=run_id, run_folder=folder)
    with Project.open(db, mode="read") as project:
        paths = render(collect(project, run_id, verdict, against=against), target)
        compared, gates = project.last(run_id, EventKind.COMPARISON), project.last(run_id, EventKind.GATES_CHECKED)
        noticed = [event.payload for event in project.events(run_id, kinds={EventKind.FINDING})]
    return Written(
        verdict,
        paths,
        compared.payload if compared and isinstance(compared.payload, Comparison) else None,
        gates.payload if gates and isinstance(gates.payload, GatesChecked) else None,
        tuple(item for item in noticed if isinstance(item, Finding) and item.severity is Severity.ERROR),
    )


def verdict_line(report: VerifyReport) -> str:
    """The verdict in one line, as rich markup."""
    run = f"run {report.run.run_id}" if report.run else "no run"
    if not report.ok:
        names = ", ".join(f"({check.number}) {check.name}" for check in report.failures)
        return f"[bold red]NOT INTACT[/bold red]  {run}: {escape(names)}"
    word = "[bold green]VERIFIED[/bold green]" if report.sealed else "[bold yellow]INTACT, UNFINISHED[/bold yellow]"
    key = f", key {report.key_source}" if report.key_source else ""
    return f"{word}  {report.level} {LEVELS[report.level]}, {report.vouched}{key}, {report.events:,} events, {run}"


def verdict_json(report: VerifyReport) -> dict[str, object]:
    """The whole report, with what it derives, for programs."""
    return {
        "ok": report.ok,
        "sealed": report.sealed,
        "exit_code": int(report.exit_code),
        "vouched": report.vouched,
        **asdict(report),
    }


def finish(
    db: str, run_id: str, folder: Path, *, json: bool, target: Path | None = None, against: Sequence[str] = ()
) -> None:
    """The end of ``run``, ``train`` and ``report``. Exits non-zero when verification fails."""
    written = write_report(db, run_id, folder, target or folder, against)
    verdict, paths, comparison, gates = written.verdict, written.paths, written.comparison, written.gates
    if json:
        result = {
            "run": run_id,
            "record": without_password(db),
            "report": str(paths.html),
            "model_card": str(paths.card),
            "verification": verdict_json(verdict),
            "comparison": comparison.model_dump(mode="json") if comparison else None,
            "gates": gates.model_dump(mode="json") if gates else None,
            "errors": [item.model_dump(mode="json") for item in written.errors],
        }
        typer.echo(jsonlib.dumps(result, indent=2))
    else:
        console.out.print()
        if comparison:
            console.out.print(comparison_table(comparison, f"{run_id}: before and after RL"))
        if gates:
            console.out.print(gate_line(gates), soft_wrap=True)
            for item in gates.gates:
                if not item.passed:
                    console.out.print(f"  {visible(item.name)}: {visible(found_words(item))}", markup=False)
        for error in written.errors:
            console.out.print("[bold red]ERROR[/bold red]", end="  ")
            console.out.print(visible(f"{error.rule}: {error.message}"), markup=False, soft_wrap=True)
        console.out.print(verdict_line(verdict), soft_wrap=True)
        console.out.print(f"report      {paths.html}", soft_wrap=True, markup=False)
        console.out.print(f"model card  {paths.card}", soft_wrap=True, markup=False)
        console.out.print(f"record      {without_password(db)}", soft_wrap=True, markup=False)
    if verdict.exit_code != ExitCode.OK:
        raise typer.Exit(verdict.exit_code)
