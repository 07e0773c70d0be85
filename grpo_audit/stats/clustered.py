"""Mean and standard error of differences that come in clusters.

The usual sandwich (Liang and Zeger 1986) with clusters - 1 degrees of freedom errs more than twice as often as it says
when clusters differ in size (``benchmarks/comparison_power.py`` shows it). Here: the cluster jackknife (MacKinnon,
Nielsen and Webb 2023, J. Applied Econometrics 38:671), which for the mean is a closed form, with the degrees of
freedom of Bell and McCaffrey 2002 (Survey Methodology 28:169) for that estimate. With clusters of equal
size both are the plain t test on the means of the clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Mean difference, its standard error, and what the error rests on."""

    mean: float
    error: float
    units: int
    """Independent units: clusters, or documents that have none."""
    freedom: float
    """Degrees of freedom of the t distribution that mean / error is compared with."""
    clustered: bool


def spread(difference: Array, clusters: Sequence[str]) -> Spread:
    """Spread of at least two differences, shape (n,), from at least two clusters."""
    _, groups = np.unique(np.asarray(clusters), return_inverse=True)
    sizes = np.bincount(groups).astype(np.float64)
    count, units = len(difference), len(sizes)
    mean = float(difference.mean())
    if units == count:
        return Spread(mean, float(stats.sem(difference)), units, units - 1.0, clustered=False)
    residuals = np.bincount(groups, weights=difference - mean)
    # What the mean moves by when cluster g is left out: - residual_g / (count - size_g).
    moves = residuals / (count - sizes)
    error = float(np.sqrt((units - 1) / units * (moves**2).sum()))
    return Spread(mean, error, units, _freedom(sizes), clustered=True)


def _freedom(sizes: Array) -> float:
    """Satterthwaite's degrees of freedom of the jackknife variance, if the differences were independent.

    The moves are linear in the differences, with covariance K; the variance is their sum of squares, so its degrees of
    freedom are (tr K)^2 / tr K^2.
    """
    count = sizes.sum()
    weights = 1.0 / (count - sizes)
    diagonal = weights**2 * sizes * (1.0 - sizes / count)
    # tr K^2 = sum over g, h of (a_g a_h (n_g [g = h] - n_g n_h / count))^2, without the matrix
    products = (weights * sizes) ** 2
    off = (products.sum() ** 2 - (products**2).sum()) / count**2
    return float(diagonal.sum() ** 2 / ((diagonal**2).sum() + off))
