"""Paired evaluations with a planted effect, for what the statistics claim about error rates and power."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pairs = tuple[Array, Array, list[str]]
"""Values before, values after, clusters."""


@dataclass(frozen=True)
class Design:
    """One kind of evaluation."""

    name: str
    margin: float
    make: Callable[[np.random.Generator, float], Pairs]
    """One evaluation with this true difference."""
    exact: bool = True
    """Whether the predicted power is that of the test itself. Elsewhere it is promised from below: with unequal
    clusters the standard error is on the safe side, and what is right or wrong spreads less the larger the effect."""


def binary(size: int, discordant: float) -> Callable[[np.random.Generator, float], Pairs]:
    """Right or wrong; this share of pairs differs, whatever the effect (at least as many as the effect needs)."""

    def make(rng: np.random.Generator, effect: float) -> Pairs:
        rate = max(discordant, abs(effect))
        change = rng.choice([-1, 0, 1], size=size, p=[(rate - effect) / 2, 1 - rate, (rate + effect) / 2])
        right = (rng.random(size) < 0.5).astype(float)
        before = np.where(change == 0, right, (change < 0).astype(float))
        return before, before + change, [str(item) for item in range(size)]

    return make


def numbers(size: int) -> Callable[[np.random.Generator, float], Pairs]:
    """Scores whose differences have standard deviation 1."""

    def make(rng: np.random.Generator, effect: float) -> Pairs:
        before = rng.normal(0, 2, size)
        return before, before + effect + rng.normal(0, 1, size), [str(item) for item in range(size)]

    return make


def clustered(sizes: Sequence[int], shared: float) -> Callable[[np.random.Generator, float], Pairs]:
    """Scores in clusters; ``shared`` is the share of the differences' variance that a cluster has in common."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    clusters = [str(group) for group in groups]

    def make(rng: np.random.Generator, effect: float) -> Pairs:
        before = rng.normal(0, 2, len(groups))
        common = rng.normal(0, np.sqrt(shared), len(sizes))[groups]
        own = rng.normal(0, np.sqrt(1 - shared), len(groups))
        return before, before + effect + common + own, clusters

    return make


def clustered_binary(clusters: int, size: int, discordant: float) -> Callable[[np.random.Generator, float], Pairs]:
    """One problem in several languages: half of the clusters change as one, in the others each document by itself."""
    names = [str(item) for item in np.repeat(np.arange(clusters), size)]

    def make(rng: np.random.Generator, effect: float) -> Pairs:
        rate = max(discordant, abs(effect))
        odds = [(rate - effect) / 2, 1 - rate, (rate + effect) / 2]
        each = rng.choice([-1, 0, 1], size=(clusters, size), p=odds)
        change = np.where(rng.random((clusters, 1)) < 0.5, each[:, :1], each).reshape(-1)
        before = np.where(change == 0, 1.0, (change < 0).astype(float))
        return before, before + change, names

    return make


UNEQUAL = [1] * 12 + [2] * 8 + [4] * 6 + [12] * 3 + [30]
DESIGNS = (
    Design("right or wrong, 200 documents, a quarter differ", 0.1, binary(200, 0.25)),
    Design("right or wrong, 200 documents, few differ", 0.05, binary(200, 0.06)),
    Design("scores, 60 documents", 0.3, numbers(60)),
    Design("scores, 25 clusters of 4", 0.3, clustered([4] * 25, 0.5)),
    Design("scores, 30 clusters of 1 to 30", 0.3, clustered(UNEQUAL, 0.5), exact=False),
    Design("scores, 6 clusters of 2 to 20", 0.5, clustered([2, 2, 4, 4, 8, 20], 0.5), exact=False),
    Design("right or wrong, 50 problems in 4 languages", 0.1, clustered_binary(50, 4, 0.25), exact=False),
)
"""What evaluations look like."""
