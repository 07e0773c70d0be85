"""Paired comparison of two evaluations: the same documents, the same prompts, two sets of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from statsmodels.stats.multitest import multipletests

from grpo_audit.errors import ComparisonError
from grpo_audit.record.events import (
    Comparison,
    EvalSample,
    EvaluationPlan,
    Finding,
    Severity,
    TaskComparison,
    TaskPlan,
    Verdict,
)
from grpo_audit.stats.inference import Inference, infer


@dataclass(frozen=True)
class Side:
    """One set of weights under the suite."""

    weights: str
    """Digest of the weights under test."""
    protocol: str
    """Protocol digest the evaluation was made under."""
    samples: Mapping[str, Sequence[EvalSample]]
    """By task."""
    responses: Mapping[str, Mapping[str, str]] | None = None
    """By task and document id: digest of the raw response. None when the texts are not at hand."""
    evidence: tuple[int, ...] = ()
    """Sequence numbers of the events this rests on."""


@dataclass(frozen=True)
class PairedResult:
    """The comparison, and what the check of the comparison itself noticed."""

    comparison: Comparison
    findings: tuple[Finding, ...]


def documents_digest(hashes: Sequence[str]) -> str:
    """SHA-256 over the documents' hashes, one a line, in order."""
    return "sha256:" + hashlib.sha256("".join(f"{item}\n" for item in hashes).encode("ascii")).hexdigest()


def compare(plan: EvaluationPlan, pre: Side, post: Side) -> PairedResult:
    """Compare two sets of weights on every task of the plan.

    The family of the Holm correction is every task of the plan, also those in which no pair differs: it is fixed
    before the data are seen. The test against the margin is not corrected, because "no behaviour regressed" is the
    intersection of its parts. A decline that is significant is called ``regressed`` even when it is smaller than the
    margin; ``p_margin`` tells the two apart.

    Raises:
        ComparisonError: Protocols, documents or prompts differ, a task is missing or has no primary metric.
    """
    _same_protocol(plan, pre, post)
    pairs = {task.task: _pair(task, pre.samples, post.samples) for task in plan.tasks}
    inferences = {task.task: _infer(task, pairs[task.task], plan.alpha) for task in plan.tasks}
    adjusted = _holm(inferences, plan.alpha)
    comparison = Comparison(
        protocol_digest=plan.protocol_digest,
        pre_weights=pre.weights,
        post_weights=post.weights,
        alpha=plan.alpha,
        tasks=[
            _task(task, pairs[task.task], inferences[task.task], adjusted[task.task], plan.alpha) for task in plan.tasks
        ],
    )
    return PairedResult(comparison, tuple(_saw_the_weights(pre, post, pairs)))


Pair = tuple[EvalSample, EvalSample]


def _same_protocol(plan: EvaluationPlan, pre: Side, post: Side) -> None:
    if not plan.tasks:
        raise ComparisonError("the evaluation plan has no tasks, so there is nothing to compare")
    for name, side in (("first", pre), ("second", post)):
        if side.protocol != plan.protocol_digest:
            raise ComparisonError(
                f"the {name} evaluation was not made under the protocol of the plan",
                found=side.protocol,
                expected=plan.protocol_digest,
                next_step="Evaluate both sets of weights with the same suite and the same version of the harness",
            )


def _pair(
    task: TaskPlan, pre: Mapping[str, Sequence[EvalSample]], post: Mapping[str, Sequence[EvalSample]]
) -> list[Pair]:
    """Join by document id; document and prompt must be the same bytes. In the order of the plan's documents."""
    first, second = _by_document(task, pre, "first"), _by_document(task, post, "second")
    if missing := first.keys() ^ second.keys():
        side = "second" if missing & first.keys() else "first"
        raise ComparisonError(
            f"task {task.task}: {len(missing)} documents were answered only once",
            found=f"document {min(missing)!r} missing from the {side} evaluation",
            expected="the same documents in both",
        )
    for doc_id, before in first.items():
        after = second[doc_id]
        for what, one, two in (
            ("document", before.doc_hash, after.doc_hash),
            ("prompt", before.prompt_hash, after.prompt_hash),
        ):
            if one != two:
                raise ComparisonError(f"task {task.task}: the {what} of {doc_id!r} differs", found=two, expected=one)
    return [(before, second[doc_id]) for doc_id, before in first.items()]


def _by_document(task: TaskPlan, samples: Mapping[str, Sequence[EvalSample]], side: str) -> dict[str, EvalSample]:
    where = f"task {task.task} of the {side} evaluation"
    rows = samples.get(task.task, ())
    result = {row.doc_id: row for row in rows}
    if len(result) != len(rows) or len(rows) != task.documents:
        raise ComparisonError(
            f"{where} does not cover its documents",
            found=f"{len(rows)} samples of {len(result)} documents",
            expected=f"{task.documents} documents, each once",
        )
    if (digest := documents_digest([row.doc_hash for row in rows])) != task.documents_digest:
        raise ComparisonError(
            f"{where} has other documents than the plan, or another order",
            found=digest,
            expected=task.documents_digest,
        )
    for row in rows:
        if task.metric not in row.metrics:
            raise ComparisonError(
                f"{where} has no {task.metric!r} for document {row.doc_id!r}",
                found=", ".join(sorted(row.metrics)),
            )
    return result


def _oriented(task: TaskPlan) -> Callable[[EvalSample], float]:
    """The metric such that larger is better."""
    sign = 1.0 if task.higher_is_better else -1.0
    return lambda sample: sign * sample.metrics[task.metric]


def _infer(task: TaskPlan, pairs: Sequence[Pair], alpha: float) -> Inference:
    value = _oriented(task)
    clusters = [before.cluster for before, _ in pairs]
    return infer(
        [value(before) for before, _ in pairs],
        [value(after) for _, after in pairs],
        clusters,
        margin=task.margin,
        alpha=alpha,
    )


def _holm(inferences: Mapping[str, Inference], alpha: float) -> dict[str, float | None]:
    # A task that cannot be tested still counts in the family: p = 1 never helps the others.
    raw = [1.0 if item.p is None else item.p for item in inferences.values()]
    adjusted = multipletests(raw, alpha=alpha, method="holm")[1] if raw else []
    return {
        name: None if item.p is None else float(value)
        for (name, item), value in zip(inferences.items(), adjusted, strict=True)
    }


def _task(
    task: TaskPlan, pairs: Sequence[Pair], inference: Inference, adjusted: float | None, alpha: float
) -> TaskComparison:
    value = _oriented(task)
    changes = [value(after) - value(before) for before, after in pairs]
    pre, post = (sum(pair[side].metrics[task.metric] for pair in pairs) / len(pairs) for side in (0, 1))
    interval = (inference.ci_low, inference.ci_high)
    if not task.higher_is_better and interval[0] is not None and interval[1] is not None:
        interval = (-interval[1], -interval[0])
    return TaskComparison(
        task=task.task,
        behaviour=task.behaviour,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        safety=task.safety,
        documents=len(pairs),
        pre=pre,
        post=post,
        difference=post - pre,
        ci_low=interval[0],
        ci_high=interval[1],
        p=inference.p,
        p_adjusted=adjusted,
        method=inference.method,
        gained=sum(change > 0 for change in changes),
        lost=sum(change < 0 for change in changes),
        margin=task.margin,
        p_margin=inference.p_margin,
        minimum_detectable=inference.minimum_detectable,
        verdict=_verdict(changes, inference, adjusted, alpha),
    )


def _verdict(changes: Sequence[float], inference: Inference, adjusted: float | None, alpha: float) -> Verdict:
    if not any(changes):
        return Verdict.NO_DISCORDANT_PAIRS
    if adjusted is not None and adjusted < alpha:
        return Verdict.IMPROVED if sum(changes) > 0 else Verdict.REGRESSED
    if inference.p_margin is not None and inference.p_margin < alpha:
        return Verdict.NOT_WORSE
    return Verdict.INCONCLUSIVE


def _saw_the_weights(pre: Side, post: Side, pairs: Mapping[str, Sequence[Pair]]) -> list[Finding]:
    if pre.weights == post.weights or pre.responses is None or post.responses is None or not pairs:
        return []
    for task, rows in pairs.items():
        for before, _ in rows:
            if pre.responses[task][before.doc_id] != post.responses[task][before.doc_id]:
                return []
    return [
        Finding(
            rule="evaluation-did-not-see-the-weights",
            severity=Severity.ERROR,
            message=(
                f"The weights differ ({pre.weights[:19]}... and {post.weights[:19]}...), but all "
                f"{sum(map(len, pairs.values()))} responses are identical: the evaluation replayed old answers or "
                "looked at other weights."
            ),
            evidence=[*pre.evidence, *post.evidence],
        )
    ]
