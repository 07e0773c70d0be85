"""``grpo-audit decontaminate``: does a prompt set contain evaluation documents?"""

from __future__ import annotations

import json as jsonlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.cli.runs import Json
from grpo_audit.contamination.check import NAMED, Contamination, DocumentFinding, PromptText, check
from grpo_audit.contamination.documents import Document, Test
from grpo_audit.contamination.index import Index
from grpo_audit.contamination.rows import Row, rows
from grpo_audit.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from grpo_audit.config.load import Resolved

SHOWN: Final = 10
"""Documents that are spelled out; --json has all."""
MOVED: Final = 500
"""Rows between two movements of the bar."""


@dataclass(frozen=True)
class _Prompts:
    """A prompt set that is read once, row by row."""

    name: str
    rows: Callable[[], Iterator[Row]]
    size: int
    """What the bar counts: bytes of a file."""


def decontaminate(
    prompts: Annotated[Path | None, typer.Argument(help="The prompt set: JSONL, CSV, TSV or Parquet.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="A file of evaluation documents, in the same formats. Repeatable."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="A suite whose documents to look for: 'builtin' or a folder of lm-eval tasks.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Take prompts and suite from a recipe, where they are not named.")
    ] = None,
    field: Annotated[str | None, typer.Option(help="Field of the prompts that holds the text.")] = None,
    against_field: Annotated[
        str | None, typer.Option("--against-field", help="Field of the evaluation files that holds the text.")
    ] = None,
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

    By 8-grams of words, with numbers as they are and masked, so that swapped
    numbers do not hide a document; by character 5-grams where a document is short
    or its script has no spaces; by all its numbers, which survive translation. A
    prompt with more than half of what is distinctive in a document contaminates it.

    [bold]Examples[/bold]

      grpo-audit decontaminate train.jsonl --against test.csv --drop clean.jsonl

      grpo-audit decontaminate train.parquet --field question --suite builtin

      grpo-audit decontaminate --recipe recipe.yaml

    The last looks in the prompts of the recipe for the documents of its suite.

    [bold]The table[/bold], for each evaluation: docs, its documents; contaminated, those in a
    prompt; partly, those that share words; numbers, those that share nothing but
    all numbers; untestable, too short or too much alike: only a copy is found.

    Exit code 0: done, whatever was found. 1: a control failed, so the result
    means nothing.
    """
    resolved = _recipe(recipe)
    source = _prompts(prompts, field, resolved)
    documents = _documents(against, against_field, suite, resolved)
    _check_drop(drop, drop_flagged)
    index = Index(documents)
    if not index.documents:
        raise ConfigError("There are no evaluation documents", found="empty files")
    result, kept = _run(index, source, jobs, drop, drop_flagged)
    if not result.prompts:
        raise ConfigError(f"There are no prompts in {source.name}", found="no rows", expected="at least one")
    if json:
        typer.echo(jsonlib.dumps({"valid": result.valid, "kept": kept, **asdict(result)}, indent=2))
    else:
        _show(result, source.name, drop, kept)
    if not result.valid:
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)


def _recipe(path: Path | None) -> Resolved | None:
    if path is None:
        return None
    from grpo_audit.config.load import resolve

    return resolve(path)


def _prompts(path: Path | None, field: str | None, resolved: Resolved | None) -> _Prompts:
    if path is not None:
        return _Prompts(path.name, lambda: rows(path, field), path.stat().st_size if path.is_file() else 0)
    if resolved is None:
        raise ConfigError("Which prompts?", next_step="Name a file, or a recipe with --recipe")
    from grpo_audit.prompts.loading import load

    found = load(resolved.config.prompts, resolved.base_dir).rows

    def of_recipe() -> Iterator[Row]:
        for row in found:
            values = {"id": row.id, "prompt": row.messages or row.text, **row.columns}
            yield Row(row.id, row.text, jsonlib.dumps(values, ensure_ascii=False))

    return _Prompts(resolved.config.prompts.source, of_recipe, 0)


def _documents(
    against: list[Path] | None, field: str | None, suite: str | None, resolved: Resolved | None
) -> list[Document]:
    documents = [Document(path.name, row.id, row.text) for path in against or () for row in rows(path, field)]
    if suite is not None or (resolved is not None and not against):
        documents += _of_suite(suite, resolved)
    elif not against:
        raise ConfigError("Against what?", next_step="Name --against FILE, --suite builtin or --recipe RECIPE")
    return documents


def _of_suite(suite: str | None, resolved: Resolved | None) -> list[Document]:
    from grpo_audit.cli.suite_documents import suite_documents
    from grpo_audit.config.sections import EvaluationConfig
    from grpo_audit_evals.suite import load_suite

    if suite is not None:
        return list(suite_documents(load_suite(EvaluationConfig(suite=suite), Path.cwd())))
    assert resolved is not None
    if resolved.config.evaluation.suite is None:
        raise ConfigError("The recipe has no evaluation suite", next_step="Name --against FILE or --suite builtin")
    return list(suite_documents(load_suite(resolved.config.evaluation, resolved.base_dir)))


def _check_drop(drop: Path | None, drop_flagged: bool) -> None:
    if drop is None:
        if drop_flagged:
            raise ConfigError("--drop-flagged drops nothing by itself", next_step="Name a file with --drop FILE")
        return
    if drop.exists():
        raise ConfigError(f"Refusing to write over {drop}", next_step="Name a new file")
    if not drop.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {drop.absolute().parent}", next_step="Make it, or name another file")


def _run(
    index: Index, source: _Prompts, jobs: int, drop: Path | None, drop_flagged: bool
) -> tuple[Contamination, int | None]:
    """Check, and write the clean set as the answers come; it appears under its name only when it is whole."""
    with console.bar("decontaminate", source.size) as bar:
        if drop is None:
            return check(index, _texts(source.rows(), bar, None), jobs=jobs), None
        unfinished = drop.with_name(f".{drop.name}.unfinished")
        waiting: deque[str] = deque()  # rows whose answer is on its way: a few chunks
        kept = 0
        try:
            with unfinished.open("w", encoding="utf-8", newline="\n") as target:

                def on_prompt(contaminated: bool, flagged: bool) -> None:
                    nonlocal kept
                    line = waiting.popleft()
                    if not (flagged if drop_flagged else contaminated):
                        target.write(line + "\n")
                        kept += 1

                result = check(index, _texts(source.rows(), bar, waiting), jobs=jobs, on_prompt=on_prompt)
            if result.prompts:
                unfinished.replace(drop)
        finally:
            unfinished.unlink(missing_ok=True)
        return result, kept


def _texts(found: Iterator[Row], bar: console.Bar, waiting: deque[str] | None) -> Iterator[PromptText]:
    done = 0
    for number, row in enumerate(found, start=1):
        done += (len(row.line) if row.line.isascii() else len(row.line.encode("utf-8", "replace"))) + 1
        if waiting is not None:
            waiting.append(row.line)
        if number % MOVED == 0:
            bar.update(done, f"{number:,} prompts")
        yield PromptText(row.id, row.text)
    bar.of(done, done)


def _show(result: Contamination, name: str, drop: Path | None, kept: int | None) -> None:
    console.out.print(_table(result))
    for finding in result.contaminated[:SHOWN]:
        console.out.print(console.visible(_line(finding)), soft_wrap=True, markup=False)
    if len(result.contaminated) > SHOWN:
        console.out.print(f"... and {len(result.contaminated) - SHOWN:,} more documents: --json lists them")
    for control in result.controls:
        mark = "[green]held[/green]  " if control.ok else "[bold red]FAILED[/bold red]"
        console.out.print(f"control {mark} {control.name}: {control.found:,} of {control.planted:,}", soft_wrap=True)
    line = (
        f"{name}: {result.prompts:,} prompts, {result.prompts_contaminated:,} contaminated, "
        f"{result.prompts_flagged - result.prompts_contaminated:,} partly the same, "
        f"{result.prompts_numbers_only:,} with the same numbers only"
    )
    console.out.print(console.visible(line), soft_wrap=True, markup=False)
    if not result.valid:
        console.out.print("[bold red]The result means nothing: a control failed.[/bold red]")
    if drop is not None and kept is not None:
        console.out.print(console.visible(f"{kept:,} prompts kept in {drop}"), soft_wrap=True, markup=False)


def _table(result: Contamination) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("evaluation", overflow="fold")
    for name in ("docs", "contaminated", "partly", "numbers", "untestable"):
        table.add_column(name, justify="right", no_wrap=True)
    for task, count in result.documents.items():
        here = [finding for finding in result.findings if finding.task == task]
        contaminated = sum(finding.contaminated for finding in here)
        numbers = sum(finding.kind.numbers_only for finding in here)
        untestable = result.tested_by[task].get(Test.EXACT_ONLY, 0)
        cells = (count, contaminated, len(here) - contaminated - numbers, numbers, untestable)
        table.add_row(escape(console.visible(task)), *(f"{cell:,}" for cell in cells))
    return table


def _line(finding: DocumentFinding) -> str:
    more = f" and {finding.prompts - NAMED:,} more" if finding.prompts > NAMED else ""
    prompts = ", ".join(finding.examples)
    return f"{finding.task} {finding.id}: {finding.coverage:.0%} covered ({finding.kind}) by {prompts}{more}"
