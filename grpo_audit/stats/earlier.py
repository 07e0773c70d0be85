"""The statistics of comparisons that were recorded before secondary metrics were: level L1 computes them as they were.

They differ from today's in three figures: standard errors of clusters are the sandwich with clusters - 1 degrees of
freedom, binary pairs have the interval of a t test, and the detectable effect is that of one t test alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats
from statsmodels.regression.linear_model import OLS

from grpo_audit.stats import matched
from grpo_audit.stats.clustered import Spread
from grpo_audit.stats.inference import (
    CONFIDENCE,
    Array,
    Inference,
    detectable,
    is_binary,
    too_few,
    without_discordance,
    without_variance,
)


def infer_earlier(
    pre: Sequence[float], post: Sequence[float], clusters: Sequence[str], *, margin: float | None, alpha: float
) -> Inference:
    """As ``inference.infer`` was; a margin is needed."""
    assert margin is not None
    before, after = np.asarray(pre, dtype=np.float64), np.asarray(post, dtype=np.float64)
    difference = after - before
    units = len(set(clusters))
    if not difference.any():
        return without_discordance(len(difference))
    if units < 2:
        return Inference(None, None, None, None, None, too_few(len(difference)))
    found = _spread(difference, clusters, units)
    if found.error <= 1e-12 * max(1.0, abs(found.mean)):
        return without_variance(found, margin)
    low, high = stats.t.interval(CONFIDENCE, found.freedom, loc=found.mean, scale=found.error)
    inference = Inference(
        p=float(2 * stats.t.sf(abs(found.mean) / found.error, found.freedom)),
        p_margin=float(stats.t.sf((found.mean + margin) / found.error, found.freedom)),
        ci_low=float(low),
        ci_high=float(high),
        minimum_detectable=detectable(found, alpha),
        method=f"paired t, standard errors clustered ({units} clusters)" if found.clustered else "paired t",
    )
    if found.clustered or not (is_binary(before) and is_binary(after)):
        return inference
    counts = matched.Counts(len(difference), int((difference > 0).sum()), int((difference < 0).sum()))
    return replace(
        inference,
        p=matched.exact_p(counts),
        p_margin=matched.margin_p(counts, margin),
        method="exact McNemar; margin by Tango's score test; interval by paired t",
    )


def _spread(difference: Array, clusters: Sequence[str], units: int) -> Spread:
    clustered = units < len(difference)
    _, groups = np.unique(np.asarray(clusters), return_inverse=True)
    model = OLS(difference, np.ones((len(difference), 1)))
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True) if clustered else model.fit(use_t=True)
    return Spread(float(fit.params[0]), float(fit.bse[0]), units, units - 1.0, clustered)
