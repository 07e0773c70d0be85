"""The headline again on the documents that no training prompt overlaps with, and what happened on the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from grpo_audit.errors import ComparisonError
from grpo_audit.record.events import CleanComparison, Decontamination, EvaluationPlan, TaskPlan
from grpo_audit.stats.binding import Pair
from grpo_audit.stats.inference import infer
from grpo_audit.stats.primary import as_recorded, changes_of, infer_task, verdict_of

Flagged = Mapping[str, Collection[str]]
"""By task: ids of the documents that overlap with a training prompt. A task that is missing was not checked."""


def flagged_documents(plan: EvaluationPlan, found: Decontamination) -> dict[str, frozenset[str]] | None:
    """The documents that a contamination check flagged, by task; None when its controls failed: it then says nothing.

    Flagged is what shares words or characters with a prompt, contaminated or not. A document of which a prompt has
    nothing but the numbers (coverage 0: a translation, or a coincidence) is not.

    Raises:
        ComparisonError: The check looked at other documents than the plan has.
    """
    if not found.valid:
        return None
    planned = {task.task: task for task in plan.tasks}
    for checked in found.tasks:
        task = planned.get(checked.task)
        if task is not None and task.documents_digest != checked.documents_digest:
            raise ComparisonError(
                f"task {checked.task}: contamination was looked for in other documents than were evaluated",
                found=checked.documents_digest,
                expected=task.documents_digest,
            )
    flagged: dict[str, set[str]] = {checked.task: set() for checked in found.tasks if checked.task in planned}
    for overlap in found.overlaps:
        if overlap.task in flagged and (overlap.contaminated or overlap.coverage > 0):
            flagged[overlap.task].add(overlap.doc_id)
    return {task: frozenset(documents) for task, documents in flagged.items()}


def clean_comparisons(
    tasks: Sequence[TaskPlan], pairs: Mapping[str, Sequence[Pair]], flagged: Flagged, alpha: float
) -> list[CleanComparison]:
    """One entry for each task that was checked for contamination, in the order of the plan. Nothing is corrected for
    the number of tasks: what is asked is whether the verdict of the headline holds without the flagged documents."""
    return [_clean(task, pairs[task.task], flagged[task.task], alpha) for task in tasks if task.task in flagged]


def _clean(task: TaskPlan, pairs: Sequence[Pair], flagged: Collection[str], alpha: float) -> CleanComparison:
    known = {before.doc_id for before, _ in pairs}
    if unknown := sorted(set(flagged) - known):
        raise ComparisonError(f"task {task.task}: a flagged document was not evaluated", found=f"{unknown[0]!r:.100}")
    clean = [pair for pair in pairs if pair[0].doc_id not in flagged]
    others = [pair for pair in pairs if pair[0].doc_id in flagged]
    flagged_pre, flagged_post = _means(task, others)
    pre, post = _means(task, clean)
    if pre is None or post is None:
        return CleanComparison(
            task=task.task,
            clean=0,
            flagged=len(others),
            pre=None,
            post=None,
            difference=None,
            ci_low=None,
            ci_high=None,
            p=None,
            method="every document is flagged: nothing is left to test",
            flagged_pre=flagged_pre,
            flagged_post=flagged_post,
            verdict=None,
        )
    inference = infer_task(task, clean, alpha, infer)
    low, high = as_recorded(task, inference)
    return CleanComparison(
        task=task.task,
        clean=len(clean),
        flagged=len(others),
        pre=pre,
        post=post,
        difference=post - pre,
        ci_low=low,
        ci_high=high,
        p=inference.p,
        method=inference.method,
        flagged_pre=flagged_pre,
        flagged_post=flagged_post,
        verdict=verdict_of(changes_of(task, clean), inference, inference.p, alpha),
    )


def _means(task: TaskPlan, pairs: Sequence[Pair]) -> tuple[float | None, float | None]:
    if not pairs:
        return None, None
    return fmean(one.metrics[task.metric] for one, _ in pairs), fmean(two.metrics[task.metric] for _, two in pairs)
