"""The training curves: small multiples that flow side by side on a screen and one below the other on a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grpo_audit.report.model import ReportData, StepSeries
from grpo_audit.report.numbers import figure, significant, whole
from grpo_audit.report.svg import Drawing, Ink, settings, to_svg
from grpo_audit.report.visible import label as short, plain

MAX_POINTS = 250
"""Points a curve is drawn with; a longer one is averaged over equal windows, with their extremes as a band."""

MAX_SOURCES = 5
"""Reward sources drawn beside the total."""

_SIZE = (3.3, 1.9)
_LEFT = 0.15  # wide enough for 0.0012
_MARKERS_UP_TO = 40
_INKS = (Ink.TEXT, Ink.BLUE, Ink.VERMILION, Ink.GREEN, Ink.PURPLE, Ink.OCHRE)
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)), (0, (8, 2)))


@dataclass(frozen=True)
class Curve:
    """Points of one line after averaging; ``low`` and ``high`` are the extremes of each window."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    window: int


def training_figures(data: ReportData) -> tuple[Drawing, ...]:
    """Training curves, one small figure each. Empty without steps."""
    series = data.training.series
    if not len(series):
        return ()
    with settings():
        return (
            _rewards(series),
            _single(series, "length", "Completion length", series.length, "mean tokens a completion"),
            _single(series, "entropy", "Entropy", series.entropy, "nats a token, of the sampling distribution"),
            _single(series, "kl", "KL to the initial policy", series.kl, "nats a token, at the steps that measured it"),
            _single(
                series,
                "variance",
                "Zero-variance groups",
                series.zero_variance,
                "share of groups without signal",
                top=1,
            ),
            _single(series, "gradient", "Gradient norm", series.grad_norm, "before clipping"),
        )


def condense(steps: Sequence[int], values: Sequence[float | None], limit: int = MAX_POINTS) -> Curve:
    """Average a series over equal windows of steps so that at most ``limit`` points remain; gaps stay out."""
    window = max(1, math.ceil(len(steps) / limit))
    curve = Curve([], [], [], [], window)
    for start in range(0, len(steps), window):
        inside = [
            (step, value)
            for step, value in zip(steps[start : start + window], values[start : start + window], strict=True)
            if value is not None
        ]
        if inside:
            found = [value for _, value in inside]
            curve.x.append(sum(step for step, _ in inside) / len(inside))
            curve.mean.append(math.fsum(found) / len(found))
            curve.low.append(min(found))
            curve.high.append(max(found))
    return curve


def _small() -> tuple[Figure, Any]:
    drawing = Figure(figsize=_SIZE)
    axes = drawing.add_axes((_LEFT, 0.2, 0.985 - _LEFT, 0.74))
    axes.tick_params(length=2.5, labelsize=8)
    axes.set_xlabel("step", fontsize=8, labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: significant(value))
    axes.grid(axis="y", color=Ink.HAIR, linewidth=0.5)
    axes.set_axisbelow(True)
    return drawing, axes


def _draw(axes: Any, curve: Curve, ink: Ink, *, dash: object = "solid", label: str = "", width: float = 1.5) -> None:
    marker = "o" if len(curve.x) <= _MARKERS_UP_TO else ""
    if curve.window > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=ink, alpha=0.16, linewidth=0, zorder=2)
    axes.plot(
        curve.x,
        curve.mean,
        color=ink,
        linewidth=width,
        linestyle=dash,
        marker=marker,
        markersize=2.6,
        zorder=3,
        label=label,
    )


def _frame(axes: Any, series: StepSeries) -> None:
    """Common x range, and a dotted line where a new attempt took over."""
    first, last = series.step[0], series.step[-1]
    pad = 0.5 if first == last else 0.02 * (last - first)
    axes.set_xlim(first - pad, last + pad)
    for before, after, step in zip(series.attempt, series.attempt[1:], series.step[1:], strict=False):
        if before != after:
            axes.axvline(step - 0.5, color=Ink.MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)


def _floor(axes: Any, values: Sequence[float], top: float | None) -> None:
    """A quantity that cannot be negative starts at 0; a share ends at 1."""
    if top is not None:
        axes.set_ylim(-0.02 * top, 1.02 * top)
        axes.set_yticks([0, 0.25 * top, 0.5 * top, 0.75 * top, top])
    elif values and min(values) >= 0:
        axes.set_ylim(0, max(max(values) * 1.08, 1e-6))


def _single(
    series: StepSeries, name: str, heading: str, values: Sequence[float | None], unit: str, *, top: float | None = None
) -> Drawing:
    drawing, axes = _small()
    curve = condense(series.step, values)
    if curve.x:
        _draw(axes, curve, Ink.BLUE)
        _floor(axes, curve.high, top)
    else:
        axes.set_yticks([])
        axes.annotate("not recorded", (0.5, 0.5), xycoords="axes fraction", ha="center", color=Ink.MUTED)
    _frame(axes, series)
    caption = _caption(unit, curve)
    return Drawing(
        f"fig-{name}",
        heading,
        caption,
        to_svg(drawing, f"fig-{name}", f"{heading} by step", _ends(heading, series, values)),
    )


def _rewards(series: StepSeries) -> Drawing:
    drawing, axes = _small()
    names = sorted(series.rewards)[:MAX_SOURCES]
    lines: list[tuple[str, Sequence[float | None]]] = [("total", series.reward)]
    lines += [(name, series.rewards[name]) for name in names]
    everything: list[float] = []
    curve = condense(series.step, series.reward)
    for position, (name, values) in enumerate(lines):
        curve = condense(series.step, values)
        everything += curve.low + curve.high
        if curve.x:
            _draw(
                axes,
                curve,
                _INKS[position % len(_INKS)],
                dash=_DASHES[position % len(_DASHES)],
                label=short(name, 16),
                width=1.9 if position == 0 else 1.2,
            )
    if everything and min(everything) >= 0:
        axes.set_ylim(0, max(max(everything) * 1.08, 1e-6))
    _frame(axes, series)
    if everything:
        drawing.legend(
            loc="upper left",
            bbox_to_anchor=(_LEFT - 0.02, 0.985),
            ncols=3,
            frameon=False,
            fontsize=7,
            handlelength=2.2,
            columnspacing=1.1,
            handletextpad=0.5,
            borderaxespad=0,
        )
        axes.set_position((_LEFT, 0.2, 0.985 - _LEFT, 0.66 - 0.08 * ((len(lines) - 1) // 3)))
    left_out = len(series.rewards) - len(names)
    extra = f"; {left_out} more sources in the record" if left_out else ""
    text = " ".join(_ends(name, series, values) for name, values in lines)
    return Drawing(
        "fig-reward",
        "Reward",
        _caption(f"weighted total, and the mean of each source{extra}", curve),
        to_svg(drawing, "fig-reward", "Reward by step and source", text),
    )


def _caption(unit: str, curve: Curve) -> str:
    if curve.window == 1:
        return unit
    return (
        f"{unit}; each point is the mean of {whole(curve.window)} steps, the band runs from the lowest to the highest"
    )


def _ends(name: str, series: StepSeries, values: Sequence[float | None]) -> str:
    found = [(step, value) for step, value in zip(series.step, values, strict=True) if value is not None]
    if not found:
        return f"{plain(name)}: not recorded."
    (first, start), (last, end) = found[0], found[-1]
    return f"{plain(name)}: {figure(start)} at step {first}, {figure(end)} at step {last}."
