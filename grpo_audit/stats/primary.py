"""The primary metric of each task: tested, corrected over the family, and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from statsmodels.stats.multitest import multipletests

from grpo_audit.record.events import EvalSample, TaskComparison, TaskPlan, Verdict
from grpo_audit.stats.binding import Pair
from grpo_audit.stats.inference import Inference


class Infer(Protocol):
    """``inference.infer``, or what it was for earlier records."""

    def __call__(
        self,
        pre: Sequence[float],
        post: Sequence[float],
        clusters: Sequence[str],
        *,
        margin: float | None,
        alpha: float,
    ) -> Inference:
        """Compare paired values, larger being better."""


def oriented(task: TaskPlan) -> Callable[[EvalSample], float]:
    """The metric such that larger is better."""
    sign = 1.0 if task.higher_is_better else -1.0
    return lambda sample: sign * sample.metrics[task.metric]


def infer_task(task: TaskPlan, pairs: Sequence[Pair], alpha: float, infer: Infer) -> Inference:
    """Test one task. Raises ValueError where there are no pairs."""
    value = oriented(task)
    return infer(
        [value(before) for before, _ in pairs],
        [value(after) for _, after in pairs],
        [before.cluster for before, _ in pairs],
        margin=task.margin,
        alpha=alpha,
    )


def holm(inferences: Mapping[str, Inference], alpha: float) -> dict[str, float | None]:
    """Adjusted p values by task. One that cannot be tested still counts in the family: p = 1 never helps the others."""
    raw = [1.0 if item.p is None else item.p for item in inferences.values()]
    adjusted = multipletests(raw, alpha=alpha, method="holm")[1] if raw else []
    return {
        name: None if item.p is None else float(value)
        for (name, item), value in zip(inferences.items(), adjusted, strict=True)
    }


def compare_task(
    task: TaskPlan, pairs: Sequence[Pair], inference: Inference, adjusted: float | None, alpha: float
) -> TaskComparison:
    """The figures of one task and its verdict."""
    changes = changes_of(task, pairs)
    pre, post = (sum(pair[side].metrics[task.metric] for pair in pairs) / len(pairs) for side in (0, 1))
    low, high = as_recorded(task, inference)
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
        ci_low=low,
        ci_high=high,
        p=inference.p,
        p_adjusted=adjusted,
        method=inference.method,
        gained=sum(change > 0 for change in changes),
        lost=sum(change < 0 for change in changes),
        margin=task.margin,
        p_margin=inference.p_margin,
        minimum_detectable=inference.minimum_detectable,
        verdict=verdict_of(changes, inference, adjusted, alpha),
    )


def changes_of(task: TaskPlan, pairs: Sequence[Pair]) -> list[float]:
    """What each document gained, larger being better."""
    value = oriented(task)
    return [value(after) - value(before) for before, after in pairs]


def as_recorded(task: TaskPlan, inference: Inference) -> tuple[float | None, float | None]:
    """The interval of post - pre in the metric's own direction."""
    low, high = inference.ci_low, inference.ci_high
    if task.higher_is_better or low is None or high is None:
        return low, high
    return -high, -low


def verdict_of(changes: Sequence[float], inference: Inference, p: float | None, alpha: float) -> Verdict:
    """What a test says, by the p value that counts: the corrected one for the headline.

    A decline that is significant is called ``regressed`` even when it is smaller than the margin; ``p_margin`` tells
    the two apart.
    """
    if not any(changes):
        return Verdict.NO_DISCORDANT_PAIRS
    if p is not None and p < alpha:
        return Verdict.IMPROVED if sum(changes) > 0 else Verdict.REGRESSED
    if inference.p_margin is not None and inference.p_margin < alpha:
        return Verdict.NOT_WORSE
    return Verdict.INCONCLUSIVE
