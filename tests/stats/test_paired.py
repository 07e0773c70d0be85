"""The paired comparison of a suite: what it refuses, and the verdicts it gives."""

from __future__ import annotations

from typing import Any

import pytest
from statsmodels.stats.multitest import multipletests

from grpo_audit.errors import ComparisonError
from grpo_audit.record.events import Comparison, EvalSample, Severity, TaskComparison, Verdict
from grpo_audit.stats.paired import compare


def one_task(world: Any, pre: list[float], post: list[float], **plan: Any) -> TaskComparison:
    """Compare a suite of one task."""
    result = compare(
        world.plan(world.task("t", len(pre), **plan)),
        world.side("a", {"t": world.samples("t", pre)}),
        world.side("b", {"t": world.samples("t", post)}),
    )
    return result.comparison.tasks[0]


def binary(gained: int, lost: int, same: int) -> tuple[list[float], list[float]]:
    """Paired binary values with these counts."""
    return [0.0] * gained + [1.0] * lost + [1.0] * same, [1.0] * gained + [0.0] * lost + [1.0] * same


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((30, 5, 165), Verdict.IMPROVED),
        ((5, 30, 165), Verdict.REGRESSED),
        ((4, 4, 492), Verdict.NOT_WORSE),
        ((8, 9, 33), Verdict.INCONCLUSIVE),
        ((0, 0, 200), Verdict.NO_DISCORDANT_PAIRS),
    ],
)
def test_verdicts(world: Any, counts: tuple[int, int, int], verdict: Verdict) -> None:
    """Each verdict comes up on data made for it, with its counts."""
    result = one_task(world, *binary(*counts))
    assert result.verdict is verdict
    assert (result.gained, result.lost, result.documents) == (counts[0], counts[1], sum(counts))


def test_inconclusive_states_what_could_have_been_found(world: Any) -> None:
    """An inconclusive verdict comes with the minimum detectable effect."""
    result = one_task(world, *binary(8, 9, 33))
    assert result.minimum_detectable is not None
    assert 0.1 < result.minimum_detectable < 0.4


def test_lower_is_better_turns_the_verdict_and_not_the_numbers(world: Any) -> None:
    """For a metric that is better when small, a fall is an improvement, and the interval stays that of post - pre."""
    pre, post = binary(5, 30, 165)
    result = one_task(world, pre, post, higher=False)
    assert result.verdict is Verdict.IMPROVED
    assert result.difference == pytest.approx(-25 / 200)
    assert result.ci_low is not None and result.ci_high is not None
    assert result.ci_low < result.difference < result.ci_high < 0
    assert (result.gained, result.lost) == (30, 5)
    mirrored = one_task(world, post, pre)
    assert mirrored.p == result.p
    assert mirrored.ci_low == pytest.approx(-result.ci_high)


def test_family_of_holm_is_every_task_of_the_plan(world: Any) -> None:
    """Adjusted p values are Holm's over all tasks; a task in which nothing differs counts as p = 1."""
    data = {"a": binary(14, 4, 100), "b": binary(9, 2, 100), "c": binary(0, 0, 50)}
    plan = world.plan(*(world.task(name, len(pre)) for name, (pre, _) in data.items()))
    result = compare(
        plan,
        world.side("x", {name: world.samples(name, pre) for name, (pre, _) in data.items()}),
        world.side("y", {name: world.samples(name, post) for name, (_, post) in data.items()}),
    )
    raw = [task.p for task in result.comparison.tasks]
    assert raw[2] is None and result.comparison.tasks[2].p_adjusted is None
    expected = multipletests([raw[0], raw[1], 1.0], method="holm")[1]
    assert [task.p_adjusted for task in result.comparison.tasks[:2]] == pytest.approx(list(expected[:2]))
    assert raw[0] is not None and raw[0] < 0.05
    assert result.comparison.tasks[0].verdict is not Verdict.IMPROVED, "significant alone, not in this family"


def test_order_of_the_second_evaluation_must_be_that_of_the_plan(world: Any) -> None:
    """Samples in another order are other documents than the plan's digest says."""
    samples = world.samples("t", [0.0, 1.0, 1.0])
    with pytest.raises(ComparisonError, match="another order"):
        compare(world.plan(world.task("t", 3)), world.side("a", {"t": samples}), world.side("b", {"t": samples[::-1]}))


def changed(world: Any, field: str, value: str) -> list[EvalSample]:
    """Three samples, the second with one field changed."""
    samples = world.samples("t", [0.0, 1.0, 1.0])
    samples[1] = samples[1].model_copy(update={field: value})
    return samples  # type: ignore[no-any-return]


def test_a_changed_prompt_is_refused_by_name(world: Any, digest: Any) -> None:
    """The same document asked in other words is no pair."""
    with pytest.raises(ComparisonError, match="task t: the prompt of 'd1' differs"):
        compare(
            world.plan(world.task("t", 3)),
            world.side("a", {"t": world.samples("t", [0.0, 1.0, 1.0])}),
            world.side("b", {"t": changed(world, "prompt_hash", digest("other"))}),
        )


def test_a_changed_document_is_refused(world: Any, digest: Any) -> None:
    """A document edited between the evaluations is no pair, whichever side holds it."""
    good, bad = {"t": world.samples("t", [0.0, 1.0, 1.0])}, {"t": changed(world, "doc_hash", digest("other"))}
    for pre, post in ((good, bad), (bad, good), (bad, bad)):
        with pytest.raises(ComparisonError, match="other documents than the plan"):
            compare(world.plan(world.task("t", 3)), world.side("a", pre), world.side("b", post))


def test_swapped_ids_are_refused(world: Any) -> None:
    """Two documents that exchange their ids would be paired with each other."""
    samples = world.samples("t", [0.0, 1.0, 1.0])
    swapped = [
        samples[0],
        samples[1].model_copy(update={"doc_id": "d2"}),
        samples[2].model_copy(update={"doc_id": "d1"}),
    ]
    with pytest.raises(ComparisonError, match="document of 'd1' differs"):
        compare(world.plan(world.task("t", 3)), world.side("a", {"t": samples}), world.side("b", {"t": swapped}))


def test_another_protocol_is_refused(world: Any, digest: Any) -> None:
    """Both evaluations must have been made under the plan's protocol."""
    samples = {"t": world.samples("t", [0.0, 1.0])}
    side = world.side("b", samples)
    other = type(side)(side.weights, digest("other protocol"), samples)
    for pre, post in ((side, other), (other, side)):
        with pytest.raises(ComparisonError, match="not made under the protocol"):
            compare(world.plan(world.task("t", 2)), pre, post)


@pytest.mark.parametrize("rows", [[], [0, 1], [0, 1, 1]])
def test_missing_and_doubled_documents_are_refused(world: Any, rows: list[int]) -> None:
    """Each document of the plan is there once, on both sides."""
    samples = world.samples("t", [0.0, 1.0, 1.0])
    with pytest.raises(ComparisonError, match="does not cover its documents"):
        compare(
            world.plan(world.task("t", 3)),
            world.side("a", {"t": samples}),
            world.side("b", {"t": [samples[row] for row in rows]}),
        )


def test_a_missing_metric_is_refused(world: Any) -> None:
    """A document without the primary metric is not silently left out."""
    samples = world.samples("t", [0.0, 1.0])
    samples[1] = samples[1].model_copy(update={"metrics": {"other": 1.0}})
    with pytest.raises(ComparisonError, match="no 'm' for document 'd1'"):
        compare(
            world.plan(world.task("t", 2)),
            world.side("a", {"t": world.samples("t", [0.0, 1.0])}),
            world.side("b", {"t": samples}),
        )


def test_an_empty_plan_is_refused(world: Any) -> None:
    """A comparison of nothing does not pass."""
    with pytest.raises(ComparisonError, match="nothing to compare"):
        compare(world.plan(), world.side("a", {}), world.side("b", {}))


def responses(text: str) -> dict[str, dict[str, str]]:
    """Digests of three responses; only the last one can be chosen."""
    return {"t": {"d0": "x", "d1": "y", "d2": text}}


def test_new_weights_with_old_texts_are_found_out(world: Any) -> None:
    """Weights differ and every text is the same: an error. One different text, or equal weights, and it is quiet."""
    plan, samples = world.plan(world.task("t", 3)), {"t": world.samples("t", [0.0, 1.0, 1.0])}
    old = world.side("a", samples, responses=responses("z"), evidence=(4,))
    same_texts = world.side("b", samples, responses=responses("z"), evidence=(9,))
    (finding,) = compare(plan, old, same_texts).findings
    assert (finding.rule, finding.severity) == ("evaluation-did-not-see-the-weights", Severity.ERROR)
    assert finding.evidence == [4, 9]
    assert compare(plan, old, world.side("b", samples, responses=responses("other"))).findings == ()
    assert compare(plan, old, world.side("a", samples, responses=responses("z"))).findings == ()
    assert compare(plan, old, world.side("b", samples)).findings == ()


def test_the_comparison_survives_its_canonical_form(world: Any) -> None:
    """Whatever the data, no nan reaches the record: the payload reads back equal."""
    result = one_task(world, [0.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert TaskComparison.model_validate_json(result.model_dump_json()) == result
    assert Comparison.model_config["allow_inf_nan"] is False
