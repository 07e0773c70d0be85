"""The figures of the release table: results before and after, and the differences with their margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grpo_audit.report.model import ReleaseRow, ReportData, Standing
from grpo_audit.report.numbers import figure, signed
from grpo_audit.report.svg import Drawing, Ink, settings, to_svg
from grpo_audit.report.visible import label, plain

_WIDTH = 4.7
TASK_CHARACTERS = 35
"""What fits beside a row, with the mark of the better direction."""
_STANDING = {Standing.GOOD: Ink.GREEN, Standing.BAD: Ink.VERMILION, Standing.OPEN: Ink.OCHRE, Standing.QUIET: Ink.BLUE}


def release_figures(data: ReportData) -> tuple[Drawing, ...]:
    """Before and after, and the differences with intervals and margins. Empty without compared tasks."""
    rows = [row for row in data.release.rows if row.pre is not None and row.post is not None]
    if not rows:
        return ()
    with settings():
        return _before_after(rows), _differences(rows)


def _row_figure(rows: Sequence[ReleaseRow], xlabel: str) -> tuple[Figure, Any]:
    height = 0.55 + 0.33 * len(rows)
    drawing = Figure(figsize=(_WIDTH, height))
    axes = drawing.add_axes((0.42, 0.42 / height, 0.56, 1 - 0.50 / height))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(xlabel, fontsize=8)
    axes.tick_params(axis="x", length=3, labelsize=8)
    for position, row in enumerate(rows):
        axes.axhline(position, color=Ink.HAIR, linewidth=0.6, zorder=0)
        name = label(row.behaviour)
        direction = "" if row.higher_is_better else " (↓ better)"
        _beside(axes, position, name[:1].upper() + name[1:], above=True)
        _beside(axes, position, label(row.task, TASK_CHARACTERS - len(direction)) + direction, above=False)
    return drawing, axes


def _beside(axes: Any, position: int, text: str, *, above: bool) -> None:
    """Text left of a row: the behaviour above its line, the task in small type below."""
    axes.annotate(
        text,
        (0, position),
        xycoords=("axes fraction", "data"),
        xytext=(-8, 1 if above else -1),
        textcoords="offset points",
        fontsize=8.5 if above else 6.5,
        color=Ink.TEXT if above else Ink.MUTED,
        ha="right",
        va="bottom" if above else "top",
        annotation_clip=False,
    )


def _before_after(rows: Sequence[ReleaseRow]) -> Drawing:
    drawing, axes = _row_figure(rows, "value of the primary metric")
    values = [value for row in rows for value in (row.pre, row.post) if value is not None]
    if min(values) >= 0 and max(values) <= 1:
        axes.set_xlim(-0.02, 1.02)
    for position, row in enumerate(rows):
        ink = _STANDING[row.standing]
        axes.plot([row.pre, row.post], [position, position], color=ink, linewidth=1.8, alpha=0.45, zorder=2)
        axes.plot([row.pre], [position], "o", color=ink, markerfacecolor=Ink.PAPER, markersize=5, zorder=3)
        axes.plot([row.post], [position], "o", color=ink, markersize=5.5, zorder=4)
    text = "; ".join(f"{plain(row.behaviour)}: {_number(row.pre)} to {_number(row.post)}" for row in rows)
    return Drawing(
        "fig-values",
        "Before and after",
        "Open circle: base model. Filled circle: trained weights.",
        to_svg(drawing, "fig-values", "Primary metric of each task before and after training", text),
    )


def _differences(rows: Sequence[ReleaseRow]) -> Drawing:
    drawing, axes = _row_figure(rows, "difference, after − before")
    axes.axvline(0, color=Ink.MUTED, linewidth=0.9, zorder=1)
    reach = 0.02
    for position, row in enumerate(rows):
        if row.difference is None:
            continue
        ink = _STANDING[row.standing]
        ends = [row.difference]
        if row.ci_low is not None and row.ci_high is not None:
            ends += [row.ci_low, row.ci_high]
            axes.plot([row.ci_low, row.ci_high], [position, position], color=ink, linewidth=2, zorder=3)
        axes.plot([row.difference], [position], "o", color=ink, markersize=5, zorder=4)
        if row.margin is not None:
            limit = -row.margin if row.higher_is_better else row.margin
            ends.append(limit)
            axes.plot([limit, limit], [position - 0.3, position + 0.3], color=Ink.TEXT, linewidth=1.1, zorder=2)
        reach = max(reach, *(abs(end) for end in ends))
    axes.set_xlim(-1.08 * reach, 1.08 * reach)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    text = "; ".join(f"{plain(row.behaviour)}: {_interval(row)}" for row in rows)
    return Drawing(
        "fig-differences",
        "Differences",
        "Point and bar: paired difference, 95 % interval. Short upright stroke: the margin fixed before step 0, "
        "on the side that is worse.",
        to_svg(drawing, "fig-differences", "Paired differences with 95 % intervals and margins", text),
    )


def _number(value: float | None) -> str:
    return "not recorded" if value is None else figure(value)


def _interval(row: ReleaseRow) -> str:
    if row.difference is None:
        return "not recorded"
    if row.ci_low is None or row.ci_high is None:
        return f"{signed(row.difference)} without an interval"
    return f"{signed(row.difference)}, {signed(row.ci_low)} to {signed(row.ci_high)}"
