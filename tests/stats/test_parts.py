"""What a comparison says beside the primary metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from grpo_audit.errors import ComparisonError
from grpo_audit.record.audits import ControlOutcome, DocumentOverlap, TaskContamination
from grpo_audit.record.events import Comparison, Decontamination, EvalSample, Verdict
from grpo_audit.stats.clean import flagged_documents
from grpo_audit.stats.inference import infer
from grpo_audit.stats.paired import compare

SIZE = 40


def documents(
    world: Any, seed: int, shift: float, task: str = "t", clusters: list[str] | None = None, **metrics: float
) -> list[EvalSample]:
    """Answers with a primary metric ``m``, a second one ``s`` that moves by ``shift``, and lengths."""
    rng = np.random.default_rng(seed)
    samples = world.samples(task, [float(value) for value in rng.integers(0, 2, SIZE)], clusters)
    return [
        sample.model_copy(
            update={
                "metrics": sample.metrics | {"s": float(rng.normal()) + shift} | metrics,
                "completion_tokens": int(rng.integers(5, 20) + 5 * shift),
            }
        )
        for sample in samples
    ]


def compared(world: Any, pre: list[EvalSample], post: list[EvalSample], **options: Any) -> Comparison:
    """The comparison of one task."""
    plan = world.plan(world.task("t", len(pre)))
    return compare(plan, world.side("a", {"t": pre}), world.side("b", {"t": post}), **options).comparison


def test_every_other_metric_is_compared_as_the_primary_one_is(world: Any) -> None:
    """Paired and clustered by the same function, with Benjamini-Hochberg over all of them; the primary is not among
    them."""
    clusters = [f"c{index // 3}" for index in range(SIZE)]
    pre, post = documents(world, 1, 0.0, clusters=clusters, u=1.0), documents(world, 2, 2.0, clusters=clusters, u=1.0)
    rows = compared(world, pre, post, directions={"t": {"s": False}}).secondary
    assert [row.metric for row in rows] == ["other", "s", "u"]
    row = rows[1]
    values = [[sample.metrics["s"] for sample in side] for side in (pre, post)]
    expected = infer(*values, clusters, margin=None, alpha=0.05)
    assert (row.p, row.ci_low, row.ci_high, row.method) == (
        expected.p, expected.ci_low, expected.ci_high, expected.method,
    )  # fmt: skip
    assert row.difference == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert (row.changed, row.higher_is_better, row.gained + row.lost) == (True, False, SIZE)
    assert row.p_adjusted == pytest.approx(multipletests([1.0, row.p, 1.0], method="fdr_bh")[1][1])
    for still in (rows[0], rows[2]):
        assert (still.p, still.p_adjusted, still.changed, still.higher_is_better) == (None, None, None, None)
        assert "no pair differs" in still.method


def test_the_direction_of_a_metric_with_a_filter_is_that_of_the_metric(world: Any) -> None:
    """``exact_match,strict`` is as good large as ``exact_match``."""
    side = documents(world, 1, 0.0, **{"exact_match,strict": 1.0})
    rows = compared(world, side, side, directions={"t": {"exact_match": True}}).secondary
    assert [row.higher_is_better for row in rows if row.metric == "exact_match,strict"] == [True]


def test_a_metric_that_a_document_lacks_takes_no_part(world: Any) -> None:
    """Half a metric is no metric: neither a crash nor a mean over what happens to be there."""
    pre, post = documents(world, 1, 0.0, x=1.0), documents(world, 2, 0.0, x=1.0)
    post[3] = post[3].model_copy(update={"metrics": {"m": 1.0, "s": 0.0}})
    assert [row.metric for row in compared(world, pre, post).secondary] == ["s"]


def test_lengths_are_tested_by_rank_and_by_distribution(world: Any) -> None:
    """Means, medians, Wilcoxon and Kolmogorov-Smirnov, as scipy has them."""
    pre, post = documents(world, 1, 0.0), documents(world, 2, 1.0)
    (row,) = compared(world, pre, post).lengths
    one, two = (np.array([sample.completion_tokens for sample in side], dtype=float) for side in (pre, post))
    assert (row.pre_mean, row.post_median) == (one.mean(), np.median(two))
    assert row.p_shift == stats.wilcoxon(two - one).pvalue
    assert row.p_distribution == stats.ks_2samp(one, two).pvalue


def test_lengths_of_a_cluster_count_once(world: Any) -> None:
    """Twins that say the same do not make a shift more certain."""
    pre, post = documents(world, 1, 0.0)[:20], documents(world, 2, 0.3)[:20]

    def twice(samples: list[EvalSample]) -> list[EvalSample]:
        both = world.samples("t", [sample.metrics["m"] for sample in samples] * 2, [f"c{i % 20}" for i in range(40)])
        return [
            copy.model_copy(update={"completion_tokens": samples[index % 20].completion_tokens})
            for index, copy in enumerate(both)
        ]

    single, twins = compared(world, pre, post).lengths[0], compared(world, twice(pre), twice(post)).lengths[0]
    assert (twins.p_shift, twins.p_distribution) == (single.p_shift, single.p_distribution)


def test_the_length_matched_difference_is_over_answers_of_one_length(world: Any) -> None:
    """Up to a tenth of the longer answer; where no pair matches there is no difference, rather than 0."""
    pre, post = world.samples("t", [0.0, 0.0, 0.0]), world.samples("t", [1.0, 0.0, 1.0])

    def with_lengths(samples: list[EvalSample], *lengths: int) -> list[EvalSample]:
        return [s.model_copy(update={"completion_tokens": n}) for s, n in zip(samples, lengths, strict=True)]

    (row,) = compared(world, with_lengths(pre, 10, 100, 10), with_lengths(post, 9, 110, 12)).lengths
    assert (row.matched_documents, row.matched_difference) == (2, 0.5)
    (row,) = compared(world, with_lengths(pre, 10, 100, 10), with_lengths(post, 20, 10, 12)).lengths
    assert (row.matched_documents, row.matched_difference) == (0, None)
    (row,) = compared(world, with_lengths(pre, 5, 5, 5), with_lengths(post, 5, 5, 5)).lengths
    assert (row.p_shift, row.matched_documents) == (None, 3)


def test_a_task_that_scores_likelihoods_has_no_lengths(world: Any) -> None:
    """No answer was generated, so none has a length."""
    side = [s.model_copy(update={"completion_tokens": None}) for s in documents(world, 1, 0.0)]
    assert compared(world, side, side).lengths == []


# --- the clean subset -----------------------------------------------------------------------------------------------


def gained(world: Any, which: range) -> tuple[list[EvalSample], list[EvalSample]]:
    """Documents of which these were wrong before and are right after."""
    return world.samples("t", [0.0] * SIZE), world.samples("t", [float(index in which) for index in range(SIZE)])


def test_a_headline_that_rests_on_flagged_documents_does_not_hold_on_the_clean_ones(world: Any) -> None:
    """Improved on all, undecided on the clean: every gain was on a document that a prompt contained."""
    result = compared(world, *gained(world, range(12)), flagged={"t": {f"d{index}" for index in range(12)}})
    assert result.tasks[0].verdict is Verdict.IMPROVED
    (row,) = result.clean
    assert (row.clean, row.flagged, row.pre, row.post, row.difference) == (28, 12, 0.0, 0.0, 0.0)
    assert (row.flagged_pre, row.flagged_post, row.verdict) == (0.0, 1.0, Verdict.NO_DISCORDANT_PAIRS)


def test_a_headline_on_clean_documents_holds(world: Any) -> None:
    """With the flagged ones left out the figures are those of the clean ones alone."""
    pre, post = gained(world, range(20, 40))
    (row,) = compared(world, pre, post, flagged={"t": {"d0", "d1"}}).clean
    expected = infer(
        [s.metrics["m"] for s in pre[2:]], [s.metrics["m"] for s in post[2:]], [s.cluster for s in pre[2:]],
        margin=0.05, alpha=0.05,
    )  # fmt: skip
    assert (row.p, row.ci_low, row.ci_high) == (expected.p, expected.ci_low, expected.ci_high)
    assert (row.verdict, row.clean) == (Verdict.IMPROVED, 38)


def test_nothing_clean_is_nothing_tested(world: Any) -> None:
    """Every document flagged: no figure, no verdict, and why."""
    (row,) = compared(world, *gained(world, range(3)), flagged={"t": {f"d{i}" for i in range(SIZE)}}).clean
    assert (row.clean, row.pre, row.difference, row.p, row.verdict) == (0, None, None, None, None)
    assert "nothing is left" in row.method and row.flagged_post == 3 / SIZE


def test_a_checked_task_without_overlaps_says_so_and_an_unchecked_one_nothing(world: Any) -> None:
    """ "No document flagged" and "nobody looked" are different statements."""
    sides = gained(world, range(12))
    (row,) = compared(world, *sides, flagged={"t": set()}).clean
    assert (row.clean, row.flagged, row.flagged_pre, row.verdict) == (SIZE, 0, None, Verdict.IMPROVED)
    assert compared(world, *sides, flagged={}).clean == compared(world, *sides).clean == []


def test_a_metric_that_is_better_small_keeps_its_sign_on_the_clean_subset(world: Any) -> None:
    """Interval and difference are post - pre in the metric's own units; the verdict knows the direction."""
    plan = world.plan(world.task("t", SIZE, higher=False))
    pre, post = gained(world, range(20, 40))
    result = compare(plan, world.side("a", {"t": pre}), world.side("b", {"t": post}), flagged={"t": {"d0"}})
    (row,) = result.comparison.clean
    assert row.difference is not None and row.ci_low is not None and row.ci_high is not None
    assert 0 < row.ci_low < row.difference < row.ci_high
    assert row.verdict is Verdict.REGRESSED


def test_a_flagged_document_that_was_not_evaluated_is_refused(world: Any) -> None:
    """Then the contamination check was about something else."""
    with pytest.raises(ComparisonError, match="flagged document was not evaluated"):
        compared(world, *gained(world, range(3)), flagged={"t": {"d0", "nowhere"}})


def checked(world: Any, *, valid: bool = True, digest: str | None = None) -> Decontamination:
    """A contamination check of the task with four overlaps."""

    def overlap(doc: int, coverage: float, contaminated: bool, how: str = "words") -> DocumentOverlap:
        return DocumentOverlap(
            task="t", doc_id=f"d{doc}", how=how, coverage=coverage, contaminated=contaminated, prompts=1, examples=[]
        )

    return Decontamination(
        method="m",
        prompts_digest=world.protocol,
        prompts=1,
        words=1,
        prompts_contaminated=1,
        prompts_flagged=1,
        tasks=[
            TaskContamination(
                task="t", documents=SIZE, documents_digest=digest or world.task("t", SIZE).documents_digest,
                contaminated=1, flagged=3, numbers_only=1, untestable=0,
            )
        ],
        overlaps=[overlap(0, 1.0, True, "exact"), overlap(1, 0.2, False), overlap(2, 0.0, False, "numbers only"),
                  overlap(3, 0.0, True, "exact")],
        controls=[ControlOutcome(name="c", planted=1, found=1, expected=1)],
        valid=valid,
        seconds=1.0,
    )  # fmt: skip


def test_flagged_is_what_shares_words_and_not_what_shares_numbers(world: Any) -> None:
    """A document of which a prompt has the numbers alone may be a coincidence, and stays clean."""
    plan = world.plan(world.task("t", SIZE), world.task("u", 5))
    assert flagged_documents(plan, checked(world)) == {"t": frozenset({"d0", "d1", "d3"})}


def test_a_check_whose_controls_failed_says_nothing(world: Any) -> None:
    """Not even that everything is clean."""
    assert flagged_documents(world.plan(world.task("t", SIZE)), checked(world, valid=False)) is None


def test_a_check_of_other_documents_is_refused(world: Any) -> None:
    """The digests of the documents must be those of the plan."""
    with pytest.raises(ComparisonError, match="other documents than were evaluated"):
        flagged_documents(world.plan(world.task("t", SIZE)), checked(world, digest=world.protocol))
