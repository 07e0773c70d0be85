"""``grpo-audit decontaminate``: does a prompt set contain evaluation documents?"""

from __future__ import annotations

import json as jsonlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.cli.runs import Json
from grpo_audit.contamination.check import Contamination, PromptText, check
from grpo_audit.contamination.index import Document, Index, Test
from grpo_audit.contamination.rows import Row, rows
from grpo_audit.errors import ConfigError, ExitCode

SHOWN = 10
"""Documents that are spelled out; --json has all."""


def decontaminate(
    prompts: Annotated[Path, typer.Argument(help="The prompt set: JSONL, CSV, TSV or Parquet.")],
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="A file of evaluation documents, in the same formats. Repeatable."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="A suite whose documents to look for: 'builtin' or a folder of lm-eval tasks.")
    ] = None,
    field: Annotated[str | None, typer.Option(help="Field of the prompts that holds the text.")] = None,
    drop: Annotated[
        Path | None, typer.Option("--drop", help="Write the prompts without the contaminated ones here, as JSONL.")
    ] = None,
    drop_flagged: Annotated[
        bool, typer.Option("--drop-flagged", help="With --drop: leave out every prompt with any overlap.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, for large sets.")] = os.cpu_count() or 1,
    json: Json = False,
) -> None:
    """Look for evaluation documents in a prompt set, and write a clean set.

    By 8-grams of words, with numbers as they are and masked (so that swapped numbers do not hide a document); by
    character 5-grams where a document is short or its script has no spaces; by the multiset of numbers, which survives
    translation. A prompt that covers more than half of a document contaminates it. Planted controls say whether the
    check works; documents that cannot be tested are counted.

    Exit code 0: done, whatever was found. 1: a control failed, so the result means nothing.
    """
    if not against and suite is None:
        raise ConfigError("Against what?", next_step="Name --against FILE or --suite builtin")
    if drop is not None and drop.exists():
        raise ConfigError(f"Refusing to write over {drop}", next_step="Name a new file")
    index = Index([*_from_files(against or []), *(_from_suite(suite) if suite else ())])
    if not index.documents:
        raise ConfigError("There are no evaluation documents", found="empty files")
    result, kept = _run(index, prompts, field, jobs, drop, drop_flagged)
    if json:
        typer.echo(jsonlib.dumps({"valid": result.valid, "kept": kept, **_plain(result)}, indent=2))
    else:
        _show(result, prompts, drop, kept)
    if not result.valid:
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)


def _run(
    index: Index, path: Path, field: str | None, jobs: int, drop: Path | None, drop_flagged: bool
) -> tuple[Contamination, int | None]:
    """Check, and write the clean set as the answers come; it appears under its name only when it is whole."""
    size = path.stat().st_size if path.is_file() else 0
    if drop is None:
        with console.bar("decontaminate", size) as bar:
            return check(index, _texts(rows(path, field), bar), jobs=jobs), None
    unfinished = drop.with_name(f".{drop.name}.unfinished")
    kept = 0
    try:
        with unfinished.open("w", encoding="utf-8") as target, console.bar("decontaminate", size) as bar:
            lines = rows(path, field)

            def on_prompt(contaminated: bool, flagged: bool) -> None:
                nonlocal kept
                row = next(lines)
                if not (flagged if drop_flagged else contaminated):
                    target.write(row.line + "\n")
                    kept += 1

            result = check(index, _texts(rows(path, field), bar), jobs=jobs, on_prompt=on_prompt)
        unfinished.replace(drop)
    finally:
        unfinished.unlink(missing_ok=True)
    return result, kept


def _texts(found: Iterator[Row], bar: console.Bar) -> Iterator[PromptText]:
    done = 0
    for row in found:
        done += len(row.line.encode("utf-8", "replace")) + 1
        bar.update(done)
        yield PromptText(row.id, row.text)


def _from_files(paths: list[Path]) -> Iterator[Document]:
    for path in paths:
        for row in rows(path):
            yield Document(path.name, row.id, row.text)


def _from_suite(suite: str) -> Iterator[Document]:
    from grpo_audit.config.sections import EvaluationConfig
    from grpo_audit_evals.suite import load_suite

    for item in load_suite(EvaluationConfig(suite=suite), Path.cwd()).tasks:
        for document, known in zip(item.task.eval_docs, item.documents, strict=False):
            yield Document(item.name, known.doc_id, str(item.task.doc_to_text(document)))


def _plain(result: Contamination) -> dict[str, Any]:
    return asdict(result)


def _show(result: Contamination, prompts: Path, drop: Path | None, kept: int | None) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("evaluation", no_wrap=True)
    for name in ("docs", "contaminated", "flagged", "numbers", "untestable"):
        table.add_column(name, justify="right")
    contaminated = Counter(finding.task for finding in result.findings if finding.contaminated)
    overlap = Counter(finding.task for finding in result.findings if finding.coverage > 0 and not finding.contaminated)
    numbers = Counter(finding.task for finding in result.findings if finding.coverage == 0)
    for task, count in result.documents.items():
        untestable = result.tested_by[task].get(Test.EXACT_ONLY, 0)
        cells = (count, contaminated[task], overlap[task], numbers[task], untestable)
        table.add_row(escape(console.visible(task)), *(f"{cell:,}" for cell in cells))
    console.out.print(table)
    for finding in result.contaminated[:SHOWN]:
        line = (
            f"{finding.task} {finding.id}: {finding.coverage:.0%} covered ({finding.kind}) by "
            f"{', '.join(finding.examples)}" + (f" and {finding.prompts - 3:,} more" if finding.prompts > 3 else "")
        )
        console.out.print(console.visible(line), soft_wrap=True, markup=False)
    if len(result.contaminated) > SHOWN:
        console.out.print(f"... and {len(result.contaminated) - SHOWN:,} more documents: --json lists them")
    for control in result.controls:
        mark = "[green]held[/green]  " if control.ok else "[bold red]FAILED[/bold red]"
        console.out.print(f"control {mark} {control.name}: {control.found:,} of {control.planted:,}")
    console.out.print(
        f"{prompts.name}: {result.prompts:,} prompts, {result.prompts_contaminated:,} contaminated, "
        f"{result.prompts_flagged:,} with any overlap",
        markup=False,
    )
    if drop is not None and kept is not None:
        console.out.print(f"{kept:,} prompts kept in {drop}", markup=False)
