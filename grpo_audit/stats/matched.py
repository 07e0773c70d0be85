"""Binary pairs: the exact test against no difference, the score test against a margin, the interval, and the power.

McNemar 1947 (exact: a binomial over the discordant pairs), Tango 1998, Statistics in Medicine 17:891 (score test and
interval of the difference). With few discordant pairs a t test errs twice as often as it says against a margin, and its
interval holds the truth in 86 % instead of 95 %. Where McNemar's exact test is more careful than the score test, the
interval may shut out 0 although p is above 5 %.

Pairs that share clusters: the score test at the effective number of pairs (Rao and Scott 1992, Biometrics 48:577). A
t test against a margin would err up to three times as often as it says there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from grpo_audit.stats.clustered import Array, Spread

_DOUBT = 0.2
"""Chance that a design effect is larger than is taken here, if it varies like a variance."""
_SHARP = 1e-12
"""How closely roots are searched, as a difference of rates."""


@dataclass(frozen=True)
class Counts:
    """What binary pairs come down to."""

    size: float
    """Pairs; effective ones where they share clusters."""
    gained: float
    lost: float


def exact_p(counts: Counts) -> float:
    """Two-sided exact McNemar test."""
    return min(1.0, float(mcnemar([[0, counts.gained], [counts.lost, 0]], exact=True).pvalue))


def margin_p(counts: Counts, margin: float) -> float:
    """One-sided score test of H0: P(gained) - P(lost) <= -margin, for a margin above 0."""
    if margin >= 1:  # a difference of rates cannot be lower than -1
        return 1.0 if margin == 1 and counts.lost == counts.size else 0.0
    return float(stats.norm.sf(_score(counts, -margin)))


def clustered_margin_p(difference: Array, clusters: Sequence[str], found: Spread, margin: float) -> float:
    """The same for pairs that share clusters; at least two clusters, at least one pair that differs.

    All counts are divided by the design effect. That is known as well as clusters that changed are many, so its upper
    80 % limit is taken, and the t distribution of so many; or its largest possible value, sum n_g^2 / n, at which each
    cluster changes as one and nothing is left to be unsure of: whichever says more.
    """
    names = np.asarray(clusters)
    sizes = np.unique(names, return_counts=True)[1]
    freedom = min(found.freedom, len(np.unique(names[difference != 0])) - 1.0)
    size = len(difference)
    largest = float((sizes**2).sum()) / size

    def at(effect: float) -> Counts:
        return Counts(size / effect, (difference > 0).sum() / effect, (difference < 0).sum() / effect)

    worst = margin_p(at(largest), margin)
    if margin >= 1 or freedom <= 0:  # one cluster changed: nothing else is known about how many would
        return worst
    ratio = found.error**2 / (difference.var(ddof=1) / size)
    effect = min(max(1.0, ratio * freedom / float(stats.chi2.ppf(_DOUBT, freedom))), largest)
    return min(worst, float(stats.t.sf(_score(at(effect), -margin), freedom)))


def interval(counts: Counts, confidence: float) -> tuple[float, float]:
    """Score interval of P(gained) - P(lost)."""
    critical = float(stats.norm.isf((1 - confidence) / 2))
    observed = (counts.gained - counts.lost) / counts.size
    edge = 1 - 1e-9

    def end(bound: float, sign: float) -> float:
        if abs(observed - bound) < 1e-9:
            return bound
        return float(
            optimize.brentq(lambda value: _score(counts, value) - sign * critical, bound * edge, observed, xtol=_SHARP)
        )

    return end(-1.0, 1.0), end(1.0, -1.0)


def _score(counts: Counts, difference: float) -> float:
    """Score statistic of H0: P(gained) - P(lost) = difference, with P(lost) at its restricted maximum likelihood."""
    size, gained, lost = counts.size, counts.gained, counts.lost
    linear = -gained - lost + (2 * size - gained + lost) * difference
    constant = -lost * difference * (1 - difference)
    loss_rate = (math.sqrt(linear**2 - 8 * size * constant) - linear) / (4 * size)
    variance = size * (2 * loss_rate + difference * (1 - difference))
    distance = gained - lost - size * difference
    if variance <= 0.0:  # no discordant pair, tested against none
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


@cache
def detectable(size: int, discordant: int, alpha: float, power: float) -> float | None:
    """Smallest true difference that the exact test finds with this power, at the share of discordant pairs seen.

    The power is exact: over all numbers of discordant pairs, and all ways they may fall. None where no difference,
    however large, would be found so often: too few pairs.
    """

    def missing(difference: float) -> float:
        return _power(size, max(discordant / size, difference), difference, alpha) - power

    if missing(1.0) < 0:
        return None
    return float(optimize.brentq(missing, 0.0, 1.0, xtol=_SHARP))


def _power(size: int, rate: float, difference: float, alpha: float) -> float:
    """P(exact p < alpha) when a share ``rate`` of pairs is discordant and P(gained) - P(lost) = difference."""
    low, high = stats.binom.ppf([1e-10, 1 - 1e-10], size, rate)
    pairs = np.arange(low, high + 1)
    largest = stats.binom.ppf(alpha / 2, pairs, 0.5) - 1  # as few against the trend as this, and it is significant
    gain = (1 + difference / rate) / 2
    found = stats.binom.cdf(largest, pairs, gain) + stats.binom.sf(pairs - largest - 1, pairs, gain)
    return float((stats.binom.pmf(pairs, size, rate) * np.where(largest >= 0, found, 0.0)).sum())
