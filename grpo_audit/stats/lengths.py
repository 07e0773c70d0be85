"""Whether the answers got longer or shorter, and whether the metric moved where they did not."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from grpo_audit.record.events import LengthShift, TaskPlan
from grpo_audit.stats.binding import Pair

Array = npt.NDArray[np.float64]

MATCHED = 0.1
"""Two answers match in length when they differ by at most this share of the longer one."""


def length_shifts(tasks: Sequence[TaskPlan], pairs: Mapping[str, Sequence[Pair]]) -> list[LengthShift]:
    """One entry for each task whose every answer was generated, in the order of the plan."""
    found: list[LengthShift] = []
    for task in tasks:
        lengths = [
            (before.completion_tokens, after.completion_tokens)
            for before, after in pairs[task.task]
            if before.completion_tokens is not None and after.completion_tokens is not None
        ]
        if lengths and len(lengths) == len(pairs[task.task]):
            found.append(_shift(task, pairs[task.task], np.asarray(lengths, dtype=np.float64)))
    return found


def _shift(task: TaskPlan, pairs: Sequence[Pair], lengths: Array) -> LengthShift:
    before, after = lengths[:, 0], lengths[:, 1]
    matched = np.abs(after - before) <= MATCHED * np.maximum(before, after)
    changes = [
        two.metrics[task.metric] - one.metrics[task.metric]
        for (one, two), close in zip(pairs, matched, strict=True)
        if close
    ]
    units = _by_cluster(pairs, lengths)
    moved = units[:, 1] - units[:, 0]
    return LengthShift(
        task=task.task,
        documents=len(pairs),
        pre_mean=float(before.mean()),
        post_mean=float(after.mean()),
        pre_median=float(np.median(before)),
        post_median=float(np.median(after)),
        p_shift=float(stats.wilcoxon(moved).pvalue) if moved.any() else None,
        p_distribution=_kolmogorov_smirnov(units) if len(units) > 1 else None,
        matched_documents=len(changes),
        matched_difference=sum(changes) / len(changes) if changes else None,
    )


def _kolmogorov_smirnov(units: Array) -> float:
    """Two-sample test of the columns. Where the exact distribution overflows, scipy takes the asymptotic one, with a
    warning that is for us."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        return float(stats.ks_2samp(units[:, 0], units[:, 1]).pvalue)


def _by_cluster(pairs: Sequence[Pair], lengths: Array) -> Array:
    """Mean lengths of each cluster: both tests want independent units."""
    rows: dict[str, list[int]] = defaultdict(list)
    for place, (one, _) in enumerate(pairs):
        rows[one.cluster].append(place)
    return np.asarray([lengths[places].mean(axis=0) for places in rows.values()])
