"""The paired statistics of one task: oriented differences in, p values, interval and detectable effect out.

What is decided here is which call is valid for which data. Binary pairs: ``matched``. Anything else, and binary pairs
that share clusters: t tests on ``clustered.spread`` (Miller 2024, arXiv 2411.00640), the latter with a score test
against the margin.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import special, stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from grpo_audit.stats import matched
from grpo_audit.stats.clustered import Spread, spread

CONFIDENCE = 0.95
"""Coverage of every interval."""
POWER = 0.8
"""Power at which the minimum detectable effect is stated."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Inference:
    """What the data of one task support. A quantity that they do not support is None, and ``method`` says why."""

    p: float | None
    """Two-sided, against no difference."""
    p_margin: float | None
    """One-sided, against a loss of the margin or more; None where no margin was given, too."""
    ci_low: float | None
    ci_high: float | None
    minimum_detectable: float | None
    method: str


def infer(
    pre: Sequence[float], post: Sequence[float], clusters: Sequence[str], *, margin: float | None, alpha: float
) -> Inference:
    """Compare paired values. Larger is better: the caller turns the sign of a metric that is better when small.

    Args:
        pre: Value of each document before, shape (n,).
        post: Value of the same documents after, shape (n,).
        clusters: Documents that share a source share a cluster, shape (n,).
        margin: Loss that still counts as "not worse", > 0, in units of the metric; None leaves that test out.
        alpha: Level at which the minimum detectable effect is stated.
    """
    before, after = np.asarray(pre, dtype=np.float64), np.asarray(post, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        difference = after - before
    units = len(set(clusters))
    if not difference.any():
        return without_discordance(len(difference))
    if units < 2:
        return Inference(None, None, None, None, None, too_few(len(difference)))
    binary = is_binary(before) and is_binary(after)
    if binary and units == len(difference):
        return _binary(difference, margin, alpha)
    with np.errstate(over="ignore", invalid="ignore"):
        found = spread(difference, clusters)
    if not math.isfinite(found.mean) or not math.isfinite(found.error):
        return Inference(None, None, None, None, None, "the values are too large for their variance to be a number")
    if found.error <= 1e-12 * max(1.0, abs(found.mean)):
        return without_variance(found, margin)
    # special.stdtr and stdtrit are the t distribution's cdf and quantile, without the cost of stats.t
    reach = found.error * float(special.stdtrit(found.freedom, (1 + CONFIDENCE) / 2))
    p_margin: float | None = None
    if margin is not None and binary:
        p_margin = matched.clustered_margin_p(difference, clusters, found, margin)
    elif margin is not None:
        p_margin = float(special.stdtr(found.freedom, -(found.mean + margin) / found.error))
    return Inference(
        p=float(2 * special.stdtr(found.freedom, -abs(found.mean) / found.error)),
        p_margin=p_margin,
        ci_low=max(found.mean - reach, -1.0) if binary else found.mean - reach,
        ci_high=min(found.mean + reach, 1.0) if binary else found.mean + reach,
        minimum_detectable=detectable(found, alpha),
        method=_t_method(found, score=binary and margin is not None),
    )


def _t_method(found: Spread, *, score: bool) -> str:
    if not found.clustered:
        return "paired t"
    method = f"paired t, standard errors clustered (jackknife over {found.units} clusters, {found.freedom:.1f} df)"
    return f"{method}; margin by Tango's score test at the effective number of pairs" if score else method


def _binary(difference: Array, margin: float | None, alpha: float) -> Inference:
    counts = matched.Counts(len(difference), int((difference > 0).sum()), int((difference < 0).sum()))
    low, high = matched.interval(counts, CONFIDENCE)
    return Inference(
        p=matched.exact_p(counts),
        p_margin=None if margin is None else matched.margin_p(counts, margin),
        ci_low=low,
        ci_high=high,
        minimum_detectable=matched.detectable(counts.size, counts.gained + counts.lost, alpha, POWER),
        method="exact McNemar; margin and interval by Tango's score test"
        if margin is not None
        else "exact McNemar; interval by Tango's score test",
    )


def is_binary(values: Array) -> bool:
    """Whether all are 0 or 1, or all 0 or -1 (a rate that is better when small)."""
    return bool(np.isin(values, (0.0, 1.0)).all() or np.isin(values, (0.0, -1.0)).all())


def detectable(found: Spread, alpha: float) -> float | None:
    """Smallest true difference this design would have found with the stated power, given the spread that was seen."""
    effect = _standard_effect(found.freedom + 1, alpha)
    return None if effect is None else effect * found.error * math.sqrt(found.freedom + 1)


@cache
def _standard_effect(units: float, alpha: float) -> float | None:
    """Detectable effect in standard deviations; None where the search does not converge (two or three units)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # non-convergence is seen in the value
        effect = TTestPower().solve_power(nobs=units, alpha=alpha, power=POWER, alternative="two-sided")
    size = float(np.asarray(effect).reshape(-1)[0])
    return size if math.isfinite(size) and size > 0 else None


def without_discordance(documents: int) -> Inference:
    """Nothing moved: no p value at all, and what could still differ."""
    # Identical answers give p = nan from a t test and p = 0 ("equivalent") from an equivalence test: both are wrong.
    _, upper = proportion_confint(0, documents, alpha=1 - CONFIDENCE, method="beta")
    return Inference(
        None,
        None,
        None,
        None,
        None,
        f"no pair differs; up to {upper:.1%} of pairs could (Clopper-Pearson, 95 %)",
    )


def without_variance(found: Spread, margin: float | None) -> Inference:
    """All units moved by the same amount: a t statistic would be infinite, the sign test is exact."""
    moved = abs(found.mean) > 1e-12  # clusters may also move by nothing, when what they gain they lose
    kept = found.units if margin is not None and found.mean > -margin else 0
    return Inference(
        p=float(stats.binomtest(0, found.units).pvalue) if moved else 1.0,
        p_margin=None if margin is None else float(stats.binomtest(kept, found.units, alternative="greater").pvalue),
        ci_low=None,
        ci_high=None,
        minimum_detectable=None,
        method=f"exact sign test ({found.units} units, all moved alike: no interval)",
    )


def too_few(documents: int) -> str:
    """Why nothing is tested."""
    if documents < 2:
        return "one document only: nothing can be tested"
    return "one cluster only: a clustered standard error does not exist, so nothing is tested"
