"""Figures: themed, self-contained, deterministic, sensible from one step to ten thousand."""

from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from grpo_audit.report.curves import MAX_POINTS, condense, training_figures
from grpo_audit.report.evidence import Evidence, Source
from grpo_audit.report.figures import _row_figure, release_figures
from grpo_audit.report.model import ReportData, StepSeries
from grpo_audit.report.svg import settings


def series(steps: int, *, kl_every: int = 5) -> StepSeries:
    """Waves, with a new attempt half-way."""
    wave = tuple(math.sin(step / 50) for step in range(steps))
    positive = tuple(1 + value for value in wave)
    return StepSeries(
        step=tuple(range(steps)),
        attempt=tuple(1 + (step >= steps // 2) for step in range(steps)),
        seq=tuple(range(steps)),
        reward=wave,
        rewards={"accuracy": wave, "format": positive},
        length=positive,
        truncated=positive,
        entropy=positive,
        kl=tuple(value if step % kl_every == 0 else None for step, value in enumerate(positive)),
        zero_variance=tuple(value / 2 for value in positive),
        grad_norm=positive,
        source=Source(Evidence.MEASURED),
    )


def with_series(data: ReportData, found: StepSeries) -> ReportData:
    """The same report with another training."""
    return replace(data, training=replace(data.training, series=found))


@pytest.mark.parametrize("steps", [1, 6, 10_000])
def test_any_number_of_steps(data: ReportData, steps: int) -> None:
    """One step, six steps and ten thousand give six small figures each, none of them large."""
    found = training_figures(with_series(data, series(steps)))
    assert [drawing.heading for drawing in found] == [
        "Reward", "Completion length", "Entropy", "KL to the initial policy", "Zero-variance groups", "Gradient norm",
    ]  # fmt: skip
    assert all(len(drawing.svg) < 60_000 for drawing in found)
    assert ("each point is the mean" in found[0].caption) == (steps > MAX_POINTS)


def test_no_steps_no_figures(data: ReportData) -> None:
    """Without steps there is no training figure, and without compared tasks no release figure."""
    assert training_figures(with_series(data, series(0))) == ()
    assert release_figures(replace(data, release=replace(data.release, rows=()))) == ()


def test_a_figure_never_measured_says_so(data: ReportData) -> None:
    """KL that no step measured is drawn as "not recorded", not as a line at zero."""
    found = replace(series(6), kl=(None,) * 6)
    drawing = next(item for item in training_figures(with_series(data, found)) if item.name == "fig-kl")
    assert "not recorded" in drawing.svg


def test_same_data_same_bytes(data: ReportData) -> None:
    """Drawing twice gives the same bytes."""
    assert release_figures(data) == release_figures(data)
    assert training_figures(data) == training_figures(data)


def test_figures_obey_the_page(data: ReportData) -> None:
    """No style, script, metadata or namespace inside; a title and a description; palette classes; ids of its own."""
    ids: set[str] = set()
    for drawing in (*release_figures(data), *training_figures(data)):
        root = ElementTree.fromstring(drawing.svg)
        elements = list(root.iter())
        assert {element.tag for element in elements} <= {
            "svg", "title", "desc", "g", "defs", "path", "use", "text", "clipPath", "rect",
        }  # fmt: skip
        assert not any("style" in element.attrib for element in elements)
        assert root.find("title") is not None and root.find("desc") is not None
        assert any(element.get("class", "").startswith(("f-", "s-")) for element in elements)
        own = [element.get("id") for element in elements if "id" in element.attrib]
        assert len(own) == len(set(own)) and not ids & set(own)
        ids |= {name for name in own if name}
        references = {element.get("href", "")[1:] for element in elements if "href" in element.attrib}
        assert references <= set(own)


def test_a_task_name_is_no_mathematics(data: ReportData) -> None:
    """Names with dollar signs, tags and control characters are drawn as text."""
    row = replace(data.release.rows[0], behaviour="a$_b$<b>\x00\u202e", task="$\\frac{1}{2}$\n\x1b")
    drawing = release_figures(replace(data, release=replace(data.release, rows=(row,))))[0]
    text = "".join(ElementTree.fromstring(drawing.svg).itertext())
    assert "A$_b$<b>⟨U+0000⟩⟨U+202E⟩" in text and "$\\frac{1}{2}$ ⟨U+001B⟩" in text


@given(st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3)), max_size=700), st.integers(1, 50))
def test_condensing_keeps_the_extremes(values: list[float | None], limit: int) -> None:
    """At most ``limit`` points; their band spans exactly the values there are; gaps add nothing."""
    curve = condense(range(len(values)), values, limit)
    known = [value for value in values if value is not None]
    assert len(curve.x) <= limit
    assert bool(curve.x) == bool(known)
    if known:
        assert min(curve.low) == min(known) and max(curve.high) == max(known)
        assert all(
            low - 1e-6 <= mean <= high + 1e-6 for low, mean, high in zip(curve.low, curve.mean, curve.high, strict=True)
        )


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("task", ["builtin_contamination_probe", "builtin_hazard_knowledge", "global_mmlu_full_" * 6])
def test_no_label_of_a_task_is_cut_at_the_edge(data: ReportData, task: str, higher: bool) -> None:
    """The names beside the rows, with the mark of the better direction, lie inside of the drawing."""
    row = replace(
        data.release.rows[0], task=task, behaviour="refusal calibration (over-refusal)", higher_is_better=higher
    )
    with settings():
        drawing, _ = _row_figure([row], "value")
        canvas = FigureCanvasAgg(drawing)
        canvas.draw()
        renderer = canvas.get_renderer()
        assert min(text.get_window_extent(renderer).x0 for text in drawing.axes[0].texts) >= 0
