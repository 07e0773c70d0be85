"""Comparison of any two evaluations: two phases of a run, the same phase of two runs, or anything else evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo_audit.errors import ComparisonError
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Comparison, EvaluationPlan, Finding, Phase
from grpo_audit.stats.evaluated import Evaluated, read_evaluation
from grpo_audit.stats.paired import compare
from grpo_audit.stats.protocol import directions, protocol_difference

__all__ = ["Evaluated", "Flip", "RunComparison", "against", "compare_evaluations", "compare_runs", "read_evaluation"]

_NAMED = 3
"""Differences of protocols that a refusal names."""


@dataclass(frozen=True)
class Flip:
    """A document whose primary metric changed."""

    task: str
    doc_id: str
    improved: bool
    pre: float
    post: float
    target: str
    pre_prediction: str
    post_prediction: str
    pre_seq: int | None
    """Events to look the full texts up in: content ``prompt`` and ``response``. None for what is in no record."""
    post_seq: int | None
    generated: bool = True
    """Whether the answers are texts, rather than likelihoods of choices."""


@dataclass(frozen=True)
class RunComparison:
    """Two evaluations, paired."""

    comparison: Comparison
    findings: tuple[Finding, ...]
    flips: tuple[Flip, ...]
    """Documents that got worse first, each in the order of the suite."""


@dataclass(frozen=True)
class Against:
    """What became of the comparison with one other run."""

    run_id: str
    """The other run; the one at hand is what it is compared with."""
    result: RunComparison | None
    refused: str
    """Why there is none, in words; else empty."""


def compare_runs(
    project: Project, first: str, second: str, *, first_phase: Phase = "post", second_phase: Phase = "post"
) -> RunComparison:
    """Compare an evaluation of one run with that of another (or of the same run, in another phase).

    Margins and level are those that the second run fixed before its step 0. The clean subset is that of the recorded
    contamination checks: without the documents that overlap with the prompts of either run.

    Raises:
        ComparisonError: A run has no such evaluation, or an unfinished one, or protocol, documents or prompts differ;
            the message says in what.
    """
    return compare_evaluations(
        read_evaluation(project, first, first_phase), read_evaluation(project, second, second_phase)
    )


def compare_evaluations(before: Evaluated, after: Evaluated) -> RunComparison:
    """Pair two evaluations under the plan of the second. Raises ComparisonError naming what differs."""
    check_protocols(bound(before), bound(after))
    result = compare(
        after.plan,
        before.side,
        after.side,
        flagged=_flagged(before, after),
        directions=directions(after.protocol or before.protocol),
    )
    return RunComparison(result.comparison, result.findings, _flips(before, after))


def against(project: Project, run_id: str, others: Sequence[str]) -> list[Against]:
    """Compare the trained weights of other runs (first) with those of a run (second), one entry each, in order.

    A run that cannot be compared has the reason in place of figures. Raises ComparisonError when the run itself has no
    finished evaluation.
    """
    own = read_evaluation(project, run_id, "post")
    found: list[Against] = []
    for other in others:
        try:
            result = compare_evaluations(read_evaluation(project, other, "post"), own)
        except ComparisonError as error:
            found.append(Against(other, None, str(error)))
        else:
            found.append(Against(other, result, ""))
    return found


@dataclass(frozen=True)
class Bound:
    """What binds an evaluation that may not have been made yet: its plan, and its protocol in full where at hand."""

    name: str
    plan: EvaluationPlan
    protocol: bytes | None


def check_protocols(before: Bound, after: Bound) -> None:
    """Raises ComparisonError naming the first differences, when the two stand under different protocols."""
    if before.plan.protocol_digest == after.plan.protocol_digest:
        return
    what = f"{before.name} and {after.name} were evaluated under different protocols"
    next_step = "Evaluate both again with the same suite and the same version of the harness"
    if before.protocol is None or after.protocol is None:
        missing = before.name if before.protocol is None else after.name
        raise ComparisonError(
            f"{what}, and in what they differ cannot be told: the record does not hold the protocol of {missing}",
            found=f"{after.plan.protocol_digest[:19]}... ({after.plan.harness}, suite {after.plan.suite})",
            expected=f"{before.plan.protocol_digest[:19]}... ({before.plan.harness}, suite {before.plan.suite})",
            next_step=next_step,
        )
    differences = protocol_difference(before.protocol, after.protocol)
    named = "; ".join(differences[:_NAMED])
    more = len(differences) - _NAMED
    raise ComparisonError(f"{what}: {named}{f'; and {more} more differences' if more > 0 else ''}", next_step=next_step)


def bound(evaluated: Evaluated) -> Bound:
    """Of an evaluation that was made."""
    return Bound(evaluated.run_id, evaluated.plan, evaluated.protocol)


def _flagged(before: Evaluated, after: Evaluated) -> Mapping[str, frozenset[str]] | None:
    """Flagged by either, for the tasks that were checked by either; None when neither was checked."""
    checks = [side.flagged for side in (before, after) if side.flagged is not None]
    if not checks:
        return None
    tasks = [task.task for task in after.plan.tasks if any(task.task in check for check in checks)]
    return {task: frozenset[str]().union(*(check.get(task, frozenset()) for check in checks)) for task in tasks}


def _flips(before: Evaluated, after: Evaluated) -> tuple[Flip, ...]:
    found: list[Flip] = []
    for task in after.plan.tasks:
        later = {sample.doc_id: sample for sample in after.side.samples[task.task]}
        for sample in before.side.samples[task.task]:
            other = later[sample.doc_id]
            pre, post = sample.metrics[task.metric], other.metrics[task.metric]
            if pre != post:
                place = (task.task, sample.doc_id)
                found.append(
                    Flip(
                        task=task.task,
                        doc_id=sample.doc_id,
                        improved=(post > pre) == task.higher_is_better,
                        pre=pre,
                        post=post,
                        target=sample.target,
                        pre_prediction=sample.prediction,
                        post_prediction=other.prediction,
                        pre_seq=before.sequence.get(place),
                        post_seq=after.sequence.get(place),
                        generated=other.finish_reason != "likelihood",
                    )
                )
    return tuple(sorted(found, key=lambda flip: flip.improved))
