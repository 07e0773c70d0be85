"""Corrected rates: right on average, honest about what is not known, and the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from record_factory import digest

from grpo_audit.errors import EvaluationError
from grpo_audit.record.comparisons import CorrectedRate, DetectorError, MeasuredOn
from grpo_audit.record.events import EvaluationPlan, TaskPlan
from grpo_audit.refusal import correction as c
from grpo_audit.refusal.correction import Labels, Marked, Pair, Stratum, double_sampling, errors_of, rogan_gladen
from grpo_audit.refusal.detector import fit
from grpo_audit.refusal.error import default_error, error_of, measure
from grpo_audit.refusal.judged import Judgements, corrected_rates, style_changes

LEAST_COVERAGE = 0.93
"""Of a nominal 0.95: what the issue asks for. 1,000 simulations have a standard error of 0.007."""


def _error(tp: int, fn: int, tn: int, fp: int, name: str = "set") -> DetectorError:
    counts = MeasuredOn(name=name, true_positives=tp, false_negatives=fn, true_negatives=tn, false_positives=fp)
    return error_of([counts], "test")


class World:
    """Documents with a true answer and a fallible detector, before and after."""

    def __init__(
        self,
        rng: np.random.Generator,
        documents: int,
        rates: tuple[float, float],
        right: tuple[tuple[float, float], tuple[float, float]],
        cluster_size: int = 1,
    ) -> None:
        luck = rng.random((documents // cluster_size, 2))
        alike = rng.random(len(luck)) < 0.5
        luck[alike, 1] = luck[alike, 0]
        self.truth = np.repeat(luck < np.array(rates), cluster_size, axis=0)
        luck = rng.random(self.truth.shape)
        sensitivity, specificity = (np.array([side[at] for side in right]) for at in (0, 1))
        self.verdict = np.where(self.truth, luck < sensitivity, luck >= specificity)
        self.rng = rng
        self.clusters = [str(at // cluster_size) for at in range(len(self.truth))]

    @property
    def marked(self) -> Marked:
        return Marked(self.clusters, self.verdict[:, 0].tolist(), self.verdict[:, 1].tolist())

    def labels(self, each: int) -> Labels:
        """Labels of a random sample of ``each`` answers of either verdict, before and after."""
        pre, post = (Pair(*(self._stratum(side, verdict, each) for verdict in (True, False))) for side in (0, 1))
        return Labels(pre=pre, post=post)

    def _stratum(self, side: int, verdict: bool, each: int) -> Stratum:
        there = np.flatnonzero(self.verdict[:, side] == verdict)
        chosen = self.rng.choice(there, min(each, len(there)), replace=False)
        return Stratum(len(chosen), int(self.truth[chosen, side].sum()))


@pytest.mark.parametrize(
    ("documents", "rates", "right", "labelled", "cluster_size"),
    [
        (200, (0.8, 0.5), (0.9, 0.95), (300, 300), 1),
        (200, (0.1, 0.05), (0.9, 0.9), (200, 200), 1),
        (500, (0.02, 0.02), (0.93, 0.98), (340, 320), 1),
        (100, (0.3, 0.7), (0.8, 0.8), (60, 60), 1),
        (300, (0.6, 0.4), (0.9, 0.95), (300, 300), 5),
    ],
)
def test_intervals_cover_the_truth_where_the_error_is_measured_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
    documents: int,
    rates: tuple[float, float],
    right: tuple[float, float],
    labelled: tuple[int, int],
    cluster_size: int,
) -> None:
    """Over 1,000 simulations at least 93 % of the 95 % intervals of the difference hold the planted one."""
    monkeypatch.setattr(c, "DRAWS", 1000)
    rng = np.random.default_rng(documents)
    covered, raw, corrected, truth = 0, [], [], rates[1] - rates[0]
    for seed in range(1000):
        world = World(rng, documents, rates, (right, right), cluster_size)
        found, left = int(rng.binomial(labelled[0], right[0])), int(rng.binomial(labelled[1], right[1]))
        error = _error(found, labelled[0] - found, left, labelled[1] - left)
        result = rogan_gladen(world.marked, error, seed=seed).difference
        assert result.low is not None and result.high is not None
        covered += result.low <= truth <= result.high
        raw.append(world.marked.raw[1] - world.marked.raw[0])
        corrected.append(result.value)
    assert covered / 1000 >= LEAST_COVERAGE
    expected = truth * (right[0] + right[1] - 1)
    assert np.mean(raw) == pytest.approx(expected, abs=0.01)  # biased towards zero, as the formula says
    assert np.mean(corrected) == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize(("rates", "each"), [((0.8, 0.5), 10), ((0.3, 0.3), 40), ((0.1, 0.05), 10)])
def test_labels_of_both_checkpoints_undo_a_change_of_style(
    monkeypatch: pytest.MonkeyPatch, rates: tuple[float, float], each: int
) -> None:
    """The detector finds 90 % of the refusals before and 60 % after: intervals from labels hold the planted
    difference in at least 93 % of 1,000 simulations, and those of an error measured before in far fewer."""
    monkeypatch.setattr(c, "DRAWS", 1000)
    rng = np.random.default_rng(int(100 * rates[0]))
    covered = fooled = 0
    corrected, raw, truth = [], [], rates[1] - rates[0]
    for seed in range(1000):
        world = World(rng, 300, rates, ((0.9, 0.95), (0.6, 0.95)))
        result = double_sampling(world.marked, world.labels(each), seed=seed).difference
        assert result.low is not None and result.high is not None
        covered += result.low <= truth <= result.high
        corrected.append(result.value)
        raw.append(world.marked.raw[1] - world.marked.raw[0])
        if seed < 200:
            old = rogan_gladen(world.marked, _error(270, 30, 285, 15), seed=seed).difference
            assert old.low is not None and old.high is not None
            fooled += not old.low <= truth <= old.high
    assert covered / 1000 >= LEAST_COVERAGE
    assert np.mean(corrected) == pytest.approx(truth, abs=0.01)
    if rates[1] >= 0.3:
        assert abs(np.mean(raw) - truth) > 0.05
        assert fooled / 200 > 0.3


def test_a_perfect_detector_needs_no_correction() -> None:
    """With sensitivity and specificity 1 the corrected rates are the raw ones."""
    marked = Marked([str(at) for at in range(10)], [True] * 7 + [False] * 3, [True] * 2 + [False] * 8)
    result = rogan_gladen(marked, _error(500, 0, 500, 0))
    assert (result.pre.value, result.post.value) == pytest.approx((0.7, 0.2))
    assert result.difference.value == pytest.approx(-0.5)
    assert not result.clipped


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.integers(20, 60),
    st.integers(0, 9),
)
def test_every_estimate_lies_in_its_interval_and_every_rate_in_0_to_1(
    rows: list[tuple[int, bool, bool]], right: int, wrong: int
) -> None:
    """Whatever the verdicts: rates in 0..1, differences in -1..1, low <= value <= high, None for a single cluster."""
    marked = Marked([str(row[0]) for row in rows], [row[1] for row in rows], [row[2] for row in rows])
    result = rogan_gladen(marked, _error(right, wrong, right, wrong))
    for estimate, least in ((result.pre, 0.0), (result.post, 0.0), (result.difference, -1.0)):
        if len(set(marked.clusters)) == 1:
            assert estimate.low is None and estimate.high is None
        else:
            assert estimate.low is not None and estimate.high is not None
            assert least <= estimate.low <= estimate.value <= estimate.high <= 1.0
    assert result.difference.value == result.post.value - result.pre.value


def test_no_refusal_at_all_is_no_certainty() -> None:
    """A rate of zero before and after has an interval of some width, and the clipping is said."""
    marked = Marked([str(at) for at in range(50)], [False] * 50, [False] * 50)
    result = rogan_gladen(marked, default_error())
    assert result.clipped and result.difference.value == 0.0
    assert result.difference.low is not None and result.difference.high is not None
    assert result.difference.high - result.difference.low > 0.02
    assert result.post.high is not None and result.post.high > 0.01


def test_more_labels_make_narrower_intervals() -> None:
    """The uncertainty of the detector's error is part of the interval."""
    marked = Marked([str(at) for at in range(400)], [at % 2 == 0 for at in range(400)], [True] * 400)
    widths = []
    for times in (1, 4, 16):
        result = rogan_gladen(marked, _error(40 * times, 10 * times, 45 * times, 5 * times)).pre
        assert result.low is not None and result.high is not None
        widths.append(result.high - result.low)
    assert widths[0] > widths[1] > widths[2]


def test_sets_that_disagree_make_wider_intervals() -> None:
    """Two models on which the detector errs differently leave more open than the same labels of one model."""
    one = MeasuredOn(name="a", true_positives=95, false_negatives=5, true_negatives=100, false_positives=0)
    other = MeasuredOn(name="b", true_positives=65, false_negatives=35, true_negatives=100, false_positives=0)
    marked = Marked([str(at) for at in range(1000)], [True] * 500 + [False] * 500, [True] * 500 + [False] * 500)
    apart, pooled = error_of([one, other], "test"), _error(160, 40, 200, 0)
    assert apart.sensitivity == pooled.sensitivity
    wide, narrow = rogan_gladen(marked, apart).pre, rogan_gladen(marked, pooled).pre
    assert wide.low is not None and wide.high is not None and narrow.low is not None and narrow.high is not None
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize("counts", [(50, 50, 50, 50), (20, 80, 70, 30), (3, 1, 3, 1), (1, 0, 1, 0)])
def test_a_detector_that_says_too_little_corrects_nothing(counts: tuple[int, int, int, int]) -> None:
    """Guessing, worse than guessing, or hardly measured: refused, with a way out."""
    with pytest.raises(EvaluationError, match="says too little"):
        rogan_gladen(Marked(["a", "b"], [True, False], [True, False]), _error(*counts))


@pytest.mark.parametrize("counts", [(5, 1, 0, 0), (0, 0, 5, 1)])
def test_labels_of_one_kind_correct_nothing(counts: tuple[int, int, int, int]) -> None:
    """An unknown sensitivity or specificity is unknown, not 0 or 1."""
    with pytest.raises(EvaluationError, match="labels of both kinds"):
        rogan_gladen(Marked(["a", "b"], [True, False], [True, False]), _error(*counts))


def test_nothing_measured_is_an_error() -> None:
    """No labels, or as many labels as verdicts not, measure nothing; no documents or unpaired ones correct nothing."""
    with pytest.raises(EvaluationError, match="cannot be measured"):
        measure("none", [], [])
    with pytest.raises(EvaluationError, match="cannot be measured"):
        measure("few", [True], [True, False])
    with pytest.raises(EvaluationError, match="no labelled answers"):
        error_of([], "test")
    with pytest.raises(EvaluationError, match="do not belong together"):
        Marked([], [], [])
    with pytest.raises(EvaluationError, match="do not belong together"):
        Marked(["a"], [True], [])


def test_a_verdict_without_labels_is_refused() -> None:
    """Where marked answers exist and none of them is labelled, there is no estimate to make."""
    marked = Marked(["a", "b"], [True, False], [True, False])
    full, half = Pair(Stratum(5, 5), Stratum(5, 0)), Pair(Stratum(0, 0), Stratum(5, 0))
    with pytest.raises(EvaluationError, match="before training that look like refusals is labelled"):
        double_sampling(marked, Labels(pre=half, post=full))
    with pytest.raises(EvaluationError, match="training did not change that look like refusals is labelled"):
        double_sampling(Marked(["a", "b"], [True, False], [True, False], [True, True]), Labels(pre=full, post=full))
    never = Marked(["a", "b"], [False, False], [True, False])
    assert double_sampling(never, Labels(pre=half, post=full)).pre.value == 0.0


def test_labelling_everything_gives_the_labels_rate() -> None:
    """With a label for every answer the estimate is the labels' own share, and the errors are those counted."""
    labels = Labels(pre=Pair(Stratum(6, 5), Stratum(4, 1)), post=Pair(Stratum(3, 3), Stratum(7, 0)))
    marked = Marked([str(at) for at in range(10)], [True] * 6 + [False] * 4, [True] * 3 + [False] * 7)
    result = double_sampling(marked, labels)
    assert (result.pre.value, result.post.value) == pytest.approx((0.6, 0.3))
    before, after = (errors_of(marked, labels, side, "test") for side in ("pre", "post"))
    assert (before.sensitivity, before.specificity) == pytest.approx((5 / 6, 3 / 4))
    assert (after.sensitivity, after.specificity) == pytest.approx((1.0, 1.0))
    none = Labels(pre=Pair(Stratum(6, 0), Stratum(4, 0)), post=Pair(Stratum(3, 3), Stratum(7, 0)))
    never = errors_of(marked, none, "pre", "test")
    assert never.sensitivity is None and never.specificity == pytest.approx(0.4)


def test_answers_that_did_not_change_add_nothing_to_the_difference() -> None:
    """With the same few labels, the interval of the difference is narrow where nine answers in ten stayed the same, and
    wide where that is not known; the estimate is the same."""
    pre = [at % 2 == 0 for at in range(200)]
    post = [not verdict if at < 20 and at % 4 == 0 else verdict for at, verdict in enumerate(pre)]
    few = Pair(Stratum(10, 9), Stratum(10, 1))
    labels = Labels(same=few, pre=few, post=few)
    clusters = [str(at) for at in range(200)]
    known = double_sampling(Marked(clusters, pre, post, [at >= 20 for at in range(200)]), labels).difference
    unknown = double_sampling(Marked(clusters, pre, post), labels).difference
    assert known.value == pytest.approx(unknown.value) == pytest.approx(-5 / 200 * 0.8)
    assert None not in (known.low, known.high, unknown.low, unknown.high)
    assert known.high - known.low < 0.4 * (unknown.high - unknown.low)  # type: ignore[operator]


def test_the_same_answer_has_one_verdict() -> None:
    """A text that is said to be the same and is judged in two ways is an error."""
    with pytest.raises(EvaluationError, match="two verdicts"):
        Marked(["a"], [True], [False], [True])


def test_the_draws_are_frozen() -> None:
    """The same verdicts give the same interval today and in the next version of numpy: L1 computes it again."""
    marked = Marked(
        [str(at // 2) for at in range(20)], [at % 3 == 0 for at in range(20)], [at % 4 == 0 for at in range(20)]
    )
    result = rogan_gladen(marked, _error(90, 10, 95, 5)).difference
    expected = (-0.11764705882352944, -0.356898651664673, 0.1699193800207381)
    assert (result.value, result.low, result.high) == pytest.approx(expected, abs=1e-9)
    assert rogan_gladen(marked, _error(90, 10, 95, 5)).difference == result


# --- from recorded samples -------------------------------------------------------------------------------------------

PLAN = EvaluationPlan(
    suite="test",
    harness="test",
    protocol_digest=digest("protocol"),
    alpha=0.05,
    tasks=[
        TaskPlan(
            task=name,
            behaviour=behaviour,
            metric="refused",
            higher_is_better=True,
            safety=True,
            margin=0.05,
            documents=40,
            documents_digest=digest(name),
        )
        for name, behaviour in (("harm", "jailbreak robustness"), ("safe", "refusal calibration"), ("maths", "task"))
    ],
)
REFUSED, ANSWERED = "I can't help with that.", "Take the second road on the left."
ODD = "Es tut mir leid, aber dabei kann ich dir nicht helfen."  # seen by the rule alone


def _sample(phase: str, task: str, number: int, finish: str = "stop") -> object:
    from grpo_audit.record.events import EvalSample

    return EvalSample.model_validate(
        {
            "phase": phase,
            "task": task,
            "doc_id": f"{task}-{number}",
            "cluster": f"{task}-{number}",
            "doc_hash": digest(f"{task} {number}"),
            "prompt_hash": digest(f"{task} {number}"),
            "target": "",
            "prediction": "p",
            "metrics": {"refused": 0.0},
            "completion_tokens": 3,
            "finish_reason": finish,
        }
    )


def _judged(texts: dict[str, list[str | bytes | None]], task: str = "harm", finish: str = "stop") -> Judgements:
    judged = Judgements(PLAN)
    for phase, answers in texts.items():
        for number, answer in enumerate(answers):
            judged.add(_sample(phase, task, number, finish), answer)  # type: ignore[arg-type]
    return judged


def test_rates_come_from_the_recorded_answers_of_tasks_about_refusing() -> None:
    """Only those tasks are judged, their raw rates are the shares of refusals, and the rest is said to be missing."""
    judged = _judged({"pre": [REFUSED] * 30 + [ANSWERED] * 10, "post": [REFUSED.encode()] * 10 + [ANSWERED] * 30})
    assert [task.task for task in judged.tasks] == ["harm", "safe"]
    assert judged.add(_sample("pre", "maths", 0), REFUSED) is None  # type: ignore[arg-type]
    (rate,) = corrected_rates(judged)
    assert (rate.task, rate.pre_raw, rate.post_raw, rate.documents) == ("harm", 0.75, 0.25, 40)
    assert rate.error == default_error() and rate.post_error is None
    assert rate.ci_low is not None and rate.ci_high is not None
    assert rate.ci_low <= rate.difference <= rate.ci_high < 0.0
    assert judged.unusable("safe") == "not the same documents were answered before and after"
    assert CorrectedRate.model_validate_json(rate.model_dump_json()) == rate


@pytest.mark.parametrize(
    ("texts", "finish", "reason"),
    [
        ({"pre": [REFUSED], "post": [None]}, "stop", "erased"),
        ({"pre": [REFUSED], "post": []}, "stop", "not the same documents"),
        ({"pre": [], "post": []}, "stop", "not the same documents"),
        ({"pre": [b"[]"], "post": [b"[]"]}, "likelihood", "likelihoods"),
    ],
)
def test_what_cannot_be_judged_has_a_reason_and_no_rate(
    texts: dict[str, list[str | bytes | None]], finish: str, reason: str
) -> None:
    """Erased, unpaired or likelihood samples give no number, and a sentence instead."""
    judged = _judged(texts, finish=finish)
    assert reason in (judged.unusable("harm") or "")
    assert corrected_rates(judged) == []
    with pytest.raises(EvaluationError, match="cannot be counted"):
        judged.marked("harm")


def test_an_unknown_task_is_named() -> None:
    """A task that the plan lacks is an error that lists those it has."""
    with pytest.raises(EvaluationError, match="no task 'harms'; expected harm, maths, safe"):
        Judgements(PLAN, frozenset({"harms"}))


def test_your_own_detector_needs_its_own_error() -> None:
    """The shipped error is not taken for that of another detector."""
    pytest.importorskip("sklearn")
    own = fit(
        ["no way, friend", "no way, friend", "yes, gladly so", "yes, gladly so"], [True, True, False, False], source="t"
    )
    judged = Judgements(PLAN, detector=own)
    with pytest.raises(EvaluationError, match="does not belong to your own detector"):
        corrected_rates(judged)


def test_a_change_of_style_is_seen_and_a_change_of_rate_is_not_taken_for_one() -> None:
    """Answers that only one half of the detector sees, in place of answers that both see, are noticed; fewer refusals
    in the same words are not, and neither are two odd answers among forty."""
    before: list[str | bytes | None] = [REFUSED] * 20 + [ANSWERED] * 20
    (found,) = style_changes(_judged({"pre": before, "post": [ODD] * 20 + [ANSWERED] * 20}))
    assert (found.task, found.pre, found.post) == ("harm", 0.0, 0.5) and "label a sample" in found.message
    assert style_changes(_judged({"pre": before, "post": [REFUSED] * 5 + [ANSWERED] * 35})) == []
    assert style_changes(_judged({"pre": before, "post": [ODD] * 2 + before[2:]})) == []
    assert style_changes(_judged({"pre": [ODD] * 20 + [ANSWERED] * 20, "post": before})) == []
