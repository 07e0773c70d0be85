"""Release gates in words, for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from grpo_audit.cli.console import visible
from grpo_audit.record.audits import GateResult, GatesChecked

SHOWN = 6
"""Figures of one gate that are named; --json has all."""


def gate_table(result: GatesChecked, title: str) -> Table:
    """Each gate: what it asks for, what was found, and whether it holds."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name in ("gate", "condition", "found", ""):
        table.add_column(name, overflow="fold")
    for item in result.gates:
        mark = "[green]holds[/green]" if item.passed else "[bold red]FAILS[/bold red]"
        table.add_row(
            Text(visible(item.name)),
            Text(visible(f"{item.figure} {item.condition}")),
            Text(visible(found_words(item))),
            mark,
        )
    return table


def found_words(item: GateResult) -> str:
    """What was found, those figures first that do not meet the condition."""
    if not item.found:
        return "no such figure in this run"
    if list(item.found) == [item.figure]:  # named beside it already
        return _short(item.found[item.figure])
    if item.passed and len(item.found) > 1:
        return f"all {len(item.found)} figures"
    names = [*item.failed, *(name for name in item.found if name not in item.failed)]
    shown = [f"{name} = {_short(item.found[name])}" for name in names[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def gate_line(result: GatesChecked) -> str:
    """One line, as rich markup."""
    failed = sum(not item.passed for item in result.gates)
    if result.passed:
        return f"[bold green]GATES HOLD[/bold green]  {len(result.gates)} of {len(result.gates)}, fixed before step 0"
    return f"[bold red]GATES FAIL[/bold red]  {failed} of {len(result.gates)}, fixed before step 0"


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value
