"""A comparison on the terminal: the primary metrics side by side, then what else moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.cli.console import visible
from grpo_audit.cli.outcome import WORDS, comparison_table, legend, verdict_words
from grpo_audit.record.events import Comparison, SecondaryComparison
from grpo_audit.stats.versus import Column, Example, Versus, label

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ROWS = 12
"""Secondary metrics listed."""
_WIDE = 110
"""Columns of a terminal from which on everything is shown."""
_CHARACTERS = 600
"""Of a prompt or an answer."""


def show(found: Versus) -> None:
    """Everything, on stdout."""
    out = console.out
    for letter, item in zip(LETTERS, (found.baseline, *(column.evaluated for column in found.columns)), strict=False):
        role = "  (baseline)" if letter == "A" else ""
        out.print(
            f"{letter}  {visible(label(item))}{role}  weights {item.side.weights[7:19]}", markup=False, soft_wrap=True
        )
    out.print(f"   protocol {found.baseline.side.protocol[7:19]}, the same for all", markup=False, soft_wrap=True)
    out.print()
    if len(found.columns) == 1:
        out.print(comparison_table(found.columns[0].result.comparison, f"{title(found)}"))
    else:
        out.print(side_by_side(found))
    out.print(f"[dim]{_family(found)}[/dim]", soft_wrap=True)
    for letter, column in zip(LETTERS[1:], found.columns, strict=False):
        _rest(column, f"{letter}: " if len(found.columns) > 1 else "")


def title(found: Versus) -> str:
    """Of the table of a single comparison."""
    one, two = found.baseline, found.columns[0].evaluated
    if one.recorded and one.run_id == two.run_id:
        return f"{one.run_id}: before and after RL"
    return escape(visible(f"{label(one)} (pre) and {label(two)} (post)"))


def side_by_side(found: Versus) -> Table:
    """One row a task; for each other evaluation its value, the change (where there is room) and the verdict."""
    wide = console.out.width >= 30 + 33 * len(found.columns)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("evaluation", min_width=16, overflow="fold")
    table.add_column("A", justify="right", no_wrap=True)
    for letter in LETTERS[1 : len(found.columns) + 1]:
        for name in (letter, f"{letter} - A")[: 2 if wide else 1]:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", overflow="fold")
    for rows in zip(*(column.result.comparison.tasks for column in found.columns), strict=True):
        cells = [escape(visible(rows[0].task)) + (" *" if rows[0].safety else ""), f"{rows[0].pre:.3f}"]
        for row in rows:
            cells += [f"{row.post:.3f}", *([f"{row.difference:+.3f}"] if wide else []), verdict_words(row)]
        table.add_row(*cells)
    table.caption, table.caption_justify = legend(), "left"
    return table


def _family(found: Versus) -> str:
    tasks, alpha = len(found.columns[0].result.comparison.tasks), found.columns[0].result.comparison.alpha
    what = f"the {tasks} primary metrics" if tasks > 1 else "one primary metric"
    text = f"Corrected (Holm) for {what}: at most {alpha:.0%} chance of any false alarm"
    if len(found.columns) > 1:
        text += f" in each comparison, up to {min(1.0, alpha * len(found.columns)):.0%} in all {len(found.columns)}"
    return text + "."


def _rest(column: Column, lead: str) -> None:
    comparison = column.result.comparison
    for finding in column.result.findings:
        console.out.print(f"[bold red]{lead}{finding.rule}[/bold red]  {escape(finding.message)}", soft_wrap=True)
    if comparison.secondary:
        _secondary(comparison, lead)
    if comparison.lengths and all(row.p_shift is None for row in comparison.lengths):
        console.out.print(f"{lead}no answer changed its length in tokens")
    elif comparison.lengths:
        console.out.print(_lengths(comparison, f"{lead}answer lengths in tokens"))
    if any(row.flagged for row in comparison.clean):
        console.out.print(_clean(comparison, f"{lead}documents that no prompt overlaps with"))
    elif comparison.clean:
        console.out.print(f"{lead}no prompt overlaps with a document of {len(comparison.clean)} evaluations checked")


def _secondary(comparison: Comparison, lead: str) -> None:
    changed = sorted((row for row in comparison.secondary if row.changed), key=lambda row: row.p_adjusted or 0.0)
    tested = sum(row.changed is not None for row in comparison.secondary)
    head = (
        f"{lead}{len(changed)} of {len(comparison.secondary)} secondary metrics changed "
        f"({tested} could be tested; exploratory, false discovery rate {comparison.alpha:.0%})"
    )
    if not changed:
        console.out.print(head, soft_wrap=True)
        return
    wide = console.out.width >= _WIDE
    names = ("pre", "post", "change", *(("95 % interval",) if wide else ()), "adjusted p")
    table = _table(head, "evaluation and metric", names)
    for row in changed[:_ROWS]:
        table.add_row(
            escape(visible(f"{row.task} {row.metric}")),
            f"{row.pre:.4g}",
            f"{row.post:.4g}",
            _coloured(row),
            *([escape(interval(row.ci_low, row.ci_high))] if wide else []),
            "" if row.p_adjusted is None else probability(row.p_adjusted),
        )
    if len(changed) > _ROWS:
        table.caption, table.caption_justify = f"and {len(changed) - _ROWS} more: --json or --html", "left"
    console.out.print(table)


def _coloured(row: SecondaryComparison) -> str:
    text = f"{row.difference:+.4g}"
    if row.higher_is_better is None or row.difference == 0:
        return text
    return f"[green]{text}[/green]" if (row.difference > 0) == row.higher_is_better else f"[red]{text}[/red]"


def _lengths(comparison: Comparison, head: str) -> Table:
    wide = console.out.width >= _WIDE
    names = ("mean pre", "post", *(("median pre", "post") if wide else ()), "p", "same length", "change there")
    table = _table(head, "evaluation", names)
    for row in comparison.lengths:
        medians = (f"{row.pre_median:g}", f"{row.post_median:g}") if wide else ()
        table.add_row(
            escape(visible(row.task)),
            f"{row.pre_mean:.1f}",
            f"{row.post_mean:.1f}",
            *medians,
            "" if row.p_shift is None else probability(row.p_shift),
            f"{row.matched_documents}/{row.documents}",
            "" if row.matched_difference is None else f"{row.matched_difference:+.3f}",
        )
    return table


def _clean(comparison: Comparison, head: str) -> Table:
    table = _table(head, "evaluation", ("clean", "pre", "post", "verdict there", "flagged", "pre", "post"))
    for row in comparison.clean:
        if row.flagged:
            table.add_row(
                escape(visible(row.task)),
                str(row.clean),
                *("" if value is None else f"{value:.3f}" for value in (row.pre, row.post)),
                "" if row.verdict is None else WORDS[row.verdict],
                str(row.flagged),
                *("" if value is None else f"{value:.3f}" for value in (row.flagged_pre, row.flagged_post)),
            )
    return table


def _table(head: str, first: str, names: Sequence[str]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, title=head, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column(first, overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def interval(low: float | None, high: float | None) -> str:
    """Both ends, or nothing."""
    return "" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"


def probability(p: float) -> str:
    """A p value; below 0.001 only that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def example_lines(found: Versus) -> Iterator[str]:
    """The flipped documents, with both answers."""
    same_run = len(found.columns) == 1 and found.columns[0].evaluated.run_id == found.baseline.run_id
    for letter, column in zip(LETTERS[1:], found.columns, strict=False):
        names = ("before", "after") if same_run else ("A", letter)
        for example in column.examples:
            yield from _example(example, names)


def _example(example: Example, names: tuple[str, str]) -> Iterator[str]:
    flip = example.flip
    yield visible(f"{flip.task} {flip.doc_id}: {'gained' if flip.improved else 'lost'} ({flip.pre:g} to {flip.post:g})")
    rows = [("prompt", example.prompt), ("wanted", flip.target)]
    for name, text, prediction in (
        (names[0], example.before, flip.pre_prediction),
        (names[1], example.after, flip.post_prediction),
    ):
        rows.append((name, text if flip.generated else prediction))
        if flip.generated and text is not None and prediction not in text:
            rows.append(("  read as", prediction))
    for name, shown in rows:
        yield f"  {name:<9}  {'(erased)' if shown is None else _cut(visible(shown))}"


def _cut(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} ... ({len(text) - _CHARACTERS} more)"
