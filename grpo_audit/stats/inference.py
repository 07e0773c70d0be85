"""The paired statistics of one task: oriented differences in, p values, interval and detectable effect out.

Everything is a call into statsmodels or scipy; what is decided here is which call is valid for which data. Sources:
McNemar 1947 (exact, binary pairs), Tango 1998, Statistics in Medicine 17:891 (margin, binary pairs), Miller 2024,
arXiv 2411.00640 (paired differences, clustered standard errors).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.tools.sm_exceptions import ConvergenceWarning

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
    """One-sided, against a loss of the margin or more."""
    ci_low: float | None
    ci_high: float | None
    minimum_detectable: float | None
    method: str


@dataclass(frozen=True)
class _Spread:
    """Mean difference, its standard error, and the number of independent units behind it."""

    mean: float
    error: float
    units: int
    clustered: bool

    @property
    def freedom(self) -> int:
        return self.units - 1


def infer(
    pre: Sequence[float], post: Sequence[float], clusters: Sequence[str], *, margin: float, alpha: float
) -> Inference:
    """Compare paired values. Larger is better: the caller turns the sign of a metric that is better when small.

    Args:
        pre: Value of each document before, shape (n,).
        post: Value of the same documents after, shape (n,).
        clusters: Documents that share a source share a cluster, shape (n,).
        margin: Loss that still counts as "not worse", > 0, in units of the metric.
        alpha: Level at which the minimum detectable effect is stated.
    """
    before, after = np.asarray(pre, dtype=np.float64), np.asarray(post, dtype=np.float64)
    difference = after - before
    units = len(set(clusters))
    if not difference.any():
        return _without_discordance(len(difference))
    if units < 2:
        return Inference(None, None, None, None, None, _too_few(len(difference)))
    spread = _spread(difference, clusters, units)
    independent = not spread.clustered
    if spread.error <= 1e-12 * max(1.0, abs(spread.mean)):
        return _without_variance(spread, margin)
    binary = _is_binary(before) and _is_binary(after)
    low, high = stats.t.interval(CONFIDENCE, spread.freedom, loc=spread.mean, scale=spread.error)
    if binary and independent:
        # With few discordant pairs a t test against the margin errs twice as often as it says (0 gained, 6 lost of
        # 200 against 5 points: 0.05 by t, 0.10 by the score test), so binary pairs take the score test.
        p, p_margin = _mcnemar(before, after), _tango(before, after, margin)
        method = "exact McNemar; margin by Tango's score test; interval by paired t"
    else:
        p_margin = float(stats.t.sf((spread.mean + margin) / spread.error, spread.freedom))
        p = float(2 * stats.t.sf(abs(spread.mean) / spread.error, spread.freedom))
        method = "paired t" if independent else f"paired t, standard errors clustered ({units} clusters)"
    return Inference(
        p=p,
        p_margin=p_margin,
        ci_low=float(low),
        ci_high=float(high),
        minimum_detectable=_detectable(spread, alpha),
        method=method,
    )


def _spread(difference: Array, clusters: Sequence[str], units: int) -> _Spread:
    clustered = units < len(difference)
    _, groups = np.unique(np.asarray(clusters), return_inverse=True)
    model = OLS(difference, np.ones((len(difference), 1)))
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True) if clustered else model.fit(use_t=True)
    return _Spread(float(fit.params[0]), float(fit.bse[0]), units, clustered)


def _is_binary(values: Array) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all() or np.isin(values, (0.0, -1.0)).all())


def _mcnemar(before: Array, after: Array) -> float:
    gained, lost = int((after > before).sum()), int((after < before).sum())
    return min(1.0, float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue))


def _tango(before: Array, after: Array, margin: float) -> float:
    """One-sided score test of H0: P(gained) - P(lost) = -margin, with P(lost) at its restricted maximum likelihood."""
    if margin >= 1:
        return 0.0  # a difference of rates cannot be that large
    size, gained, lost = len(before), int((after > before).sum()), int((after < before).sum())
    linear = -gained - lost - (2 * size - gained + lost) * margin
    constant = lost * margin * (1 + margin)
    loss_rate = (math.sqrt(linear**2 - 8 * size * constant) - linear) / (4 * size)
    deviation = math.sqrt(size * (2 * loss_rate - margin * (1 + margin)))
    return float(stats.norm.sf((gained - lost + size * margin) / deviation))


def _detectable(spread: _Spread, alpha: float) -> float | None:
    """Smallest true difference this design would have found with the stated power, given the spread that was seen."""
    effect = _standard_effect(spread.units, alpha)
    return None if effect is None else effect * spread.error * math.sqrt(spread.units)


@cache
def _standard_effect(units: int, alpha: float) -> float | None:
    """Detectable effect in standard deviations; None where the search does not converge (two or three units)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # non-convergence is seen in the value
        effect = TTestPower().solve_power(nobs=units, alpha=alpha, power=POWER, alternative="two-sided")
    size = float(np.asarray(effect).reshape(-1)[0])
    return size if math.isfinite(size) and size > 0 else None


def _without_discordance(documents: int) -> Inference:
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


def _without_variance(spread: _Spread, margin: float) -> Inference:
    """All units moved by the same amount: a t statistic would be infinite, the sign test is exact."""
    kept = spread.units if spread.mean > -margin else 0
    moved = abs(spread.mean) > 1e-12  # clusters may also move by nothing, when what they gain they lose
    return Inference(
        p=float(stats.binomtest(0, spread.units).pvalue) if moved else 1.0,
        p_margin=float(stats.binomtest(kept, spread.units, alternative="greater").pvalue),
        ci_low=None,
        ci_high=None,
        minimum_detectable=None,
        method=f"exact sign test ({spread.units} units, all moved alike: no interval)",
    )


def _too_few(documents: int) -> str:
    if documents < 2:
        return "one document only: nothing can be tested"
    return "one cluster only: a clustered standard error does not exist, so nothing is tested"
