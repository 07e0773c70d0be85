"""``grpo-audit coverage``: which items of which standard the record documents, and what is missing."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from grpo_audit.catalogue.collect import collect
from grpo_audit.catalogue.coverage import (
    MEANING,
    Line,
    Standard,
    Status,
    as_json,
    counts,
    cover,
    find_standard,
    how_to_supply,
    standards,
)
from grpo_audit.catalogue.evidence import Pointer
from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.ledger.project import Project

_STYLE = {
    Status.DOCUMENTED: "green",
    Status.PARTLY: "yellow",
    Status.MISSING: "bold red",
    Status.NOT_APPLICABLE: "dim",
    Status.OUTSIDE: "dim",
}
_WIDTH = 100


def coverage(
    run: Annotated[str | None, typer.Argument(help="Run id, prefix or name. Left out: the newest run.")] = None,
    standard: Annotated[
        str | None, typer.Option("--standard", help="Only this one, item by item, e.g. annex-xi, mdf, seed-list.")
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only items that are not fully documented, and how to supply the rest.")
    ] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show what the record documents of what the EU AI Act, NIST, ISO, CycloneDX and the Hub ask for.

    Each item names the fields that answer it, with their evidence (event numbers), or what is missing and how to supply
    it: a key of the recipe, or [bold]grpo-audit annotate[/bold]. A row documents what an item asks for; it says nothing
    about conformity. The mapping is data with a source for every row (docs/catalogue.md).
    """
    chosen = standards() if standard is None else (find_standard(standard),)
    with Project.open(db, mode="read") as project:
        catalogue = collect(project, project.find_run(run).run_id)
    found = [(item, cover(catalogue, item)) for item in chosen]
    run_id = catalogue.accountability.run_id.value
    if json:
        shown = [as_json(item, _chosen(lines, missing)) for item, lines in found]
        typer.echo(jsonlib.dumps({"run": run_id, "standards": shown}, indent=2, ensure_ascii=False))
        return
    console.out.print(
        f"[bold]{escape(console.visible(str(run_id)))}[/bold]  what this record documents", soft_wrap=True
    )
    if standard is None and not missing:
        _summary(found)
        return
    for item, lines in found:
        _table(item, _chosen(lines, missing))


def _chosen(lines: tuple[Line, ...], missing: bool) -> tuple[Line, ...]:
    if not missing:
        return lines
    return tuple(line for line in lines if line.status in (Status.PARTLY, Status.MISSING))


def _summary(found: list[tuple[Standard, tuple[Line, ...]]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("standard", no_wrap=True)
    for status in Status:
        table.add_column(status.value, justify="right", style=_STYLE[status], no_wrap=True)
    for item, lines in found:
        numbers = counts(lines)
        table.add_row(item.standard, *(str(numbers[status]) for status in Status))
    console.out.print(table)
    for status, meaning in MEANING.items():
        console.out.print(f"[{_STYLE[status]}]{status.value}[/]: {meaning}", soft_wrap=True)
    console.out.print("Item by item: --standard NAME. What to supply: --missing.", soft_wrap=True)


def _table(standard: Standard, lines: tuple[Line, ...]) -> None:
    if not lines:
        return
    numbers = ", ".join(f"{number} {status.value}" for status, number in counts(lines).items() if number)
    console.out.print(f"\n[bold]{standard.title}[/bold]  {numbers}", soft_wrap=True)
    console.out.print(f"{standard.document} ({standard.date})", style="dim", markup=False, soft_wrap=True)
    section = ""
    for line in lines:
        if line.item.section != section:
            section = line.item.section
            console.out.print(f"\n[bold]{section}[/bold]", soft_wrap=True)
        _print(line)
    if standard.note:
        console.out.print(standard.note, style="dim", markup=False, soft_wrap=True)


def _print(line: Line) -> None:
    item = line.item
    unread = "" if item.checked else "  [dim](text of the standard not read)[/dim]"
    name = item.title if item.title == item.item else f"{item.item}  {item.title}"
    console.out.print(f"[{_STYLE[line.status]}]{line.status.value:<14}[/]  {escape(name)}{unread}", soft_wrap=True)
    for field, found in line.known:
        _say("", f"{field}: {_short(found.text() or '')}", f"{found.evidence.value}{_events(found.pointer)}")
    for field, found in line.not_applicable:
        _say("", f"{field}: does not apply", _short(found.reason))
    for field, found in line.missing:
        _say("red", f"{field}: missing", how_to_supply(field) or found.reason)
    if item.lacks:
        _say("dim", "not held here", item.lacks)


def _say(style: str, what: str, why: str) -> None:
    text = f"{' ' * 16}{console.visible(what)}  ({console.visible(why)})"
    console.out.print(text, style=style or None, markup=False, soft_wrap=True)


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _events(pointer: Pointer) -> str:
    spans = [f"#{span.first}–#{span.last}" for span in pointer.spans[:2]]
    seqs = [f"#{seq}" for seq in pointer.seqs[:3]]
    more = len(pointer.seqs) + len(pointer.spans) - len(seqs) - len(spans)
    names = " ".join(seqs + spans)
    return f" {names}{f' and {more} more' if more else ''}" if names else ""
