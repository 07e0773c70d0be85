"""Every metric of a task that is not its primary one: exploratory, with the false discovery rate controlled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from statsmodels.stats.multitest import multipletests

from grpo_audit.record.events import SecondaryComparison, TaskPlan
from grpo_audit.stats.binding import Pair
from grpo_audit.stats.inference import Inference, infer


@dataclass(frozen=True)
class _Tested:
    """One metric of one task."""

    task: TaskPlan
    metric: str
    pre: list[float]
    post: list[float]
    inference: Inference


def secondary_comparisons(
    tasks: Sequence[TaskPlan],
    pairs: Mapping[str, Sequence[Pair]],
    *,
    alpha: float,
    directions: Mapping[str, Mapping[str, bool]],
) -> list[SecondaryComparison]:
    """Each secondary metric, paired and clustered as the primary ones; in the order of the plan, then by name.

    A metric takes part when every document has it on both sides. The family of the Benjamini-Hochberg correction is all
    of them, also those that cannot be tested: they count as p = 1, which never helps the others.

    Args:
        directions: By task and metric, whether larger is better, where the task says so.
    """
    tested = [
        _tested(task, metric, pairs[task.task], alpha) for task in tasks for metric in _metrics(task, pairs[task.task])
    ]
    adjusted = benjamini_hochberg([item.inference.p for item in tested])
    return [
        _row(item, value, alpha, directions.get(item.task.task, {}))
        for item, value in zip(tested, adjusted, strict=True)
    ]


def _plain(metric: str) -> str:
    """The task's own name of a metric: without its filter, and without the k of ``pass@k``."""
    return metric.split(" pass@", 1)[0].split(",", 1)[0]


def benjamini_hochberg(values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p values, in the order given; None stays None and counts as 1."""
    if not values:
        return []
    adjusted = multipletests([1.0 if value is None else value for value in values], method="fdr_bh")[1]
    return [None if value is None else float(found) for value, found in zip(values, adjusted, strict=True)]


def _metrics(task: TaskPlan, pairs: Sequence[Pair]) -> list[str]:
    common = set(pairs[0][0].metrics)
    for before, after in pairs:
        common &= before.metrics.keys() & after.metrics.keys()
    return sorted(common - {task.metric})


def _tested(task: TaskPlan, metric: str, pairs: Sequence[Pair], alpha: float) -> _Tested:
    pre = [before.metrics[metric] for before, _ in pairs]
    post = [after.metrics[metric] for _, after in pairs]
    return _Tested(
        task, metric, pre, post, infer(pre, post, [before.cluster for before, _ in pairs], margin=None, alpha=alpha)
    )


def _row(item: _Tested, adjusted: float | None, alpha: float, directions: Mapping[str, bool]) -> SecondaryComparison:
    inference, documents = item.inference, len(item.pre)
    pre, post = sum(item.pre) / documents, sum(item.post) / documents
    changes = [after - before for before, after in zip(item.pre, item.post, strict=True)]
    return SecondaryComparison(
        task=item.task.task,
        metric=item.metric,
        behaviour=item.task.behaviour,
        higher_is_better=directions.get(item.metric, directions.get(_plain(item.metric))),
        documents=documents,
        pre=pre,
        post=post,
        difference=post - pre,
        ci_low=inference.ci_low,
        ci_high=inference.ci_high,
        p=inference.p,
        p_adjusted=adjusted,
        method=inference.method,
        gained=sum(change > 0 for change in changes),
        lost=sum(change < 0 for change in changes),
        changed=None if adjusted is None else adjusted < alpha,
    )
