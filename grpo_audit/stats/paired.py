"""Paired comparison of two evaluations: the same documents, the same prompts, two sets of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo_audit.record.events import Comparison, EvaluationPlan, Finding, Severity
from grpo_audit.stats.binding import Pair, Side, documents_digest, pair_up
from grpo_audit.stats.clean import Flagged, clean_comparisons
from grpo_audit.stats.earlier import infer_earlier
from grpo_audit.stats.inference import infer
from grpo_audit.stats.lengths import length_shifts
from grpo_audit.stats.primary import compare_task, holm, infer_task
from grpo_audit.stats.secondary import secondary_comparisons

__all__ = ["PairedResult", "Side", "compare", "compare_earlier", "documents_digest"]

NOT_SEEN = "evaluation-did-not-see-the-weights"
"""Rule of the finding that different weights gave the same answers throughout."""


@dataclass(frozen=True)
class PairedResult:
    """The comparison, and what the check of the comparison itself noticed."""

    comparison: Comparison
    findings: tuple[Finding, ...]


def compare(
    plan: EvaluationPlan,
    pre: Side,
    post: Side,
    *,
    flagged: Flagged | None = None,
    directions: Mapping[str, Mapping[str, bool]] | None = None,
) -> PairedResult:
    """Compare two sets of weights on every task of the plan.

    The family of the Holm correction is every task of the plan, also those in which no pair differs: it is fixed
    before the data are seen. The test against the margin is not corrected, because "no behaviour regressed" is the
    intersection of its parts. The detectable effect is stated at the level that Holm grants every task, alpha / tasks.

    Args:
        flagged: Documents that overlap with a training prompt, by task checked; None when nothing was checked.
        directions: By task and metric, whether larger is better, for metrics that are not primary.

    Raises:
        ComparisonError: Protocols, documents or prompts differ, a task is missing or has no primary metric.
    """
    pairs = pair_up(plan, pre, post)
    level = plan.alpha / len(plan.tasks)
    inferences = {task.task: infer_task(task, pairs[task.task], level, infer) for task in plan.tasks}
    adjusted = holm(inferences, plan.alpha)
    comparison = Comparison(
        protocol_digest=plan.protocol_digest,
        pre_weights=pre.weights,
        post_weights=post.weights,
        alpha=plan.alpha,
        tasks=[
            compare_task(task, pairs[task.task], inferences[task.task], adjusted[task.task], plan.alpha)
            for task in plan.tasks
        ],
        secondary=secondary_comparisons(plan.tasks, pairs, alpha=plan.alpha, directions=directions or {}),
        lengths=length_shifts(plan.tasks, pairs),
        clean=[] if flagged is None else clean_comparisons(plan.tasks, pairs, flagged, plan.alpha),
    )
    return PairedResult(comparison, tuple(_saw_the_weights(pre, post, pairs)))


def compare_earlier(plan: EvaluationPlan, pre: Side, post: Side) -> PairedResult:
    """As ``compare`` was before there were secondary metrics, lengths and the clean subset: for level L1 of records
    made then. Raises as it does."""
    pairs = pair_up(plan, pre, post)
    inferences = {task.task: infer_task(task, pairs[task.task], plan.alpha, infer_earlier) for task in plan.tasks}
    adjusted = holm(inferences, plan.alpha)
    comparison = Comparison(
        protocol_digest=plan.protocol_digest,
        pre_weights=pre.weights,
        post_weights=post.weights,
        alpha=plan.alpha,
        tasks=[
            compare_task(task, pairs[task.task], inferences[task.task], adjusted[task.task], plan.alpha)
            for task in plan.tasks
        ],
    )
    return PairedResult(comparison, tuple(_saw_the_weights(pre, post, pairs)))


def _saw_the_weights(pre: Side, post: Side, pairs: Mapping[str, Sequence[Pair]]) -> list[Finding]:
    if pre.weights == post.weights or pre.responses is None or post.responses is None or not pairs:
        return []
    for task, rows in pairs.items():
        for before, _ in rows:
            if pre.responses[task][before.doc_id] != post.responses[task][before.doc_id]:
                return []
    return [
        Finding(
            rule=NOT_SEEN,
            severity=Severity.ERROR,
            message=(
                f"The weights differ ({pre.weights[:19]}... and {post.weights[:19]}...), but all "
                f"{sum(map(len, pairs.values()))} responses are identical: the evaluation replayed old answers or "
                "looked at other weights."
            ),
            evidence=[*pre.evidence, *post.evidence],
        )
    ]
