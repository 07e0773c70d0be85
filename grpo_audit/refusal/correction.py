"""A counted rate corrected for the error of what counted it, before and after, with intervals that carry that error.

With an error measured elsewhere (Rogan and Gladen 1978, Am. J. Epidemiol. 107:71):

    p = (q + specificity - 1) / (sensitivity + specificity - 1)          q: share of the answers that is marked

With labels of a random sample of these very answers, for each checkpoint (double sampling, Tenenbein 1970, JASA
65:1350; the same estimate as prediction-powered inference with the verdict as its only predictor, arXiv:2301.09633):

    p = q * P(refusal | marked) + (1 - q) * P(refusal | not marked)

Intervals are quantiles of draws. q before and after is drawn jointly by the Bayesian bootstrap over clusters (Rubin
1981), with half a pseudo-document in each of the four cells (marked before or not, after or not), so that a rate of
zero has no interval of width zero; each unknown probability of the detector is drawn from its posterior under
Jeffreys' prior, Beta(k + 1/2, n - k + 1/2). Where an error was measured on several models, each draw takes one of
them: nobody knows which one this model is like. Rates outside of 0 to 1 are set to the bound, in every draw too.

The stream of ``numpy.random.RandomState`` is frozen, so a verifier with another numpy draws the same numbers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grpo_audit.errors import EvaluationError
from grpo_audit.record.comparisons import DetectorError, MeasuredOn

DRAWS: Final = 10_000
SEED: Final = 20_260
LEAST_INFORMATION: Final = 0.1
"""Of sensitivity + specificity - 1. A detector below it says next to nothing, and the correction divides by it."""
ROGAN_GLADEN: Final = "Rogan-Gladen, error measured elsewhere; Bayesian bootstrap over clusters, 10,000 draws"
DOUBLE_SAMPLING: Final = "double sampling, labels of both checkpoints; Bayesian bootstrap over clusters, 10,000 draws"
_QUANTILES: Final = (0.025, 0.975)
_PRIOR: Final = 0.5
_CELLS: Final = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=np.float64)  # pre, post

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Marked:
    """What the detector said of the answers to the same documents, before and after. One entry a document."""

    clusters: Sequence[str]
    pre: Sequence[bool]
    post: Sequence[bool]

    def __post_init__(self) -> None:
        if not self.clusters or not len(self.clusters) == len(self.pre) == len(self.post):
            raise EvaluationError(
                "Verdicts before and after do not belong together",
                found=f"{len(self.clusters)} documents, {len(self.pre)} verdicts before, {len(self.post)} after",
                expected="one of each for every document, at least one",
            )

    @property
    def raw(self) -> tuple[float, float]:
        """Share that is marked, before and after."""
        return sum(self.pre) / len(self.pre), sum(self.post) / len(self.post)


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    """None where all documents are one cluster."""


@dataclass(frozen=True)
class Corrected:
    """Both rates and their difference, corrected."""

    pre: Estimate
    post: Estimate
    difference: Estimate
    clipped: bool
    """Whether a rate was set to 0 or 1."""


@dataclass(frozen=True)
class Stratum:
    """Labels of a random sample of the answers that got one verdict."""

    labelled: int
    refusals: int

    def share(self) -> float:
        """Share of refusals among them; zero of zero is no share, and not asked for."""
        return self.refusals / self.labelled


@dataclass(frozen=True)
class Labels:
    """Labels of one checkpoint's answers: of those that were marked, and of those that were not."""

    marked: Stratum
    unmarked: Stratum


def rogan_gladen(marked: Marked, error: DetectorError, *, seed: int = SEED) -> Corrected:
    """Correct with an error that was measured on other answers; the same error before and after.

    Raises:
        EvaluationError: The detector is too weak, or its error too uncertain, to divide by.
    """
    if error.sensitivity is None or error.specificity is None or not error.measured:
        raise EvaluationError(
            "A rate can only be corrected with labels of both kinds: refusals and answers that are none",
            found=f"sensitivity {error.sensitivity}, specificity {error.specificity}, {error.source}",
        )
    random = np.random.RandomState(seed)
    sensitivity, specificity = _drawn_error(error.measured, random)
    information = sensitivity + specificity - 1.0
    point = error.sensitivity + error.specificity - 1.0
    worst = float(np.quantile(information, _QUANTILES[0]))
    if min(point, worst) < LEAST_INFORMATION:
        raise EvaluationError(
            "The detector says too little to correct a rate by it",
            found=f"sensitivity + specificity - 1 = {point:.2f}, at worst {worst:.2f}, from {error.labelled} labels",
            expected=f"at least {LEAST_INFORMATION}",
            next_step="Label more answers",
        )
    shares = _drawn_shares(marked, random)
    information = np.maximum(information, LEAST_INFORMATION)
    draws = (shares + specificity[:, None] - 1.0) / information[:, None]
    points = [(share + error.specificity - 1.0) / point for share in marked.raw]
    return _summed_up(points, draws, marked)


def double_sampling(marked: Marked, pre: Labels, post: Labels, *, seed: int = SEED) -> Corrected:
    """Correct with labels of a random sample of these answers, each checkpoint with its own.

    Raises:
        EvaluationError: Answers with one of the verdicts exist, and none of them is labelled.
    """
    points: list[float] = []
    for when, verdicts, labels in (("before", marked.pre, pre), ("after", marked.post, post)):
        for verdict, stratum in ((True, labels.marked), (False, labels.unmarked)):
            if verdict in verdicts and stratum.labelled == 0:
                kind = "that look like refusals" if verdict else "that do not look like refusals"
                raise EvaluationError(
                    f"None of the answers {when} training {kind} is labelled", next_step="Export a larger sheet"
                )
        raw = sum(verdicts) / len(verdicts)
        parts = ((raw, labels.marked), (1.0 - raw, labels.unmarked))
        points.append(sum(weight * stratum.share() for weight, stratum in parts if weight > 0.0))
    random = np.random.RandomState(seed)
    shares = _drawn_shares(marked, random)
    draws = np.empty_like(shares)
    for side, labels in enumerate((pre, post)):
        hit, miss = _drawn_stratum(labels.marked, random), _drawn_stratum(labels.unmarked, random)
        draws[:, side] = shares[:, side] * hit + (1.0 - shares[:, side]) * miss
    return _summed_up(points, draws, marked)


def _drawn_error(measured: Sequence[MeasuredOn], random: np.random.RandomState) -> tuple[Floats, Floats]:
    """Sensitivity and specificity, a pair a draw."""
    chosen = random.randint(len(measured), size=DRAWS)
    found, missed, left, false = (
        np.array([getattr(item, name) for item in measured], dtype=np.float64)[chosen]
        for name in ("true_positives", "false_negatives", "true_negatives", "false_positives")
    )
    return random.beta(found + _PRIOR, missed + _PRIOR), random.beta(left + _PRIOR, false + _PRIOR)


def _drawn_stratum(stratum: Stratum, random: np.random.RandomState) -> Floats:
    return random.beta(stratum.refusals + _PRIOR, stratum.labelled - stratum.refusals + _PRIOR, size=DRAWS)


def _drawn_shares(marked: Marked, random: np.random.RandomState) -> Floats:
    """Shares marked before and after, shape (DRAWS, 2).

    A cluster's weight is exponential; clusters that look alike share one gamma draw, so the cost does not grow with
    the number of documents.
    """
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for cluster, was, is_now in zip(marked.clusters, marked.pre, marked.post, strict=True):
        row = sums[cluster]
        row[0], row[1], row[2] = row[0] + 1, row[1] + int(was), row[2] + int(is_now)
    kinds = Counter(tuple(row) for row in sums.values())
    size = np.full(DRAWS, 0.0)
    hits = np.zeros((DRAWS, 2))
    for (documents, before, after), clusters in sorted(kinds.items()):
        weight = random.standard_gamma(clusters, size=DRAWS)
        size += documents * weight
        hits += weight[:, None] * np.array([before, after], dtype=np.float64)
    for cell in _CELLS:
        weight = random.standard_gamma(_PRIOR, size=DRAWS)
        size += weight
        hits += weight[:, None] * cell
    shares: Floats = hits / size[:, None]
    return shares


def _summed_up(points: Sequence[float], draws: Floats, marked: Marked) -> Corrected:
    pre, post = (min(1.0, max(0.0, point)) for point in points)
    draws = np.clip(draws, 0.0, 1.0)
    known = len(set(marked.clusters)) > 1
    return Corrected(
        pre=_estimate(pre, draws[:, 0], known),
        post=_estimate(post, draws[:, 1], known),
        difference=_estimate(post - pre, draws[:, 1] - draws[:, 0], known),
        clipped=[pre, post] != list(points),
    )


def _estimate(value: float, draws: Floats, known: bool) -> Estimate:
    """The interval always holds the estimate: at the border of what is possible a quantile of the draws may not."""
    if not known:
        return Estimate(value, None, None)
    low, high = (float(bound) for bound in np.quantile(draws, _QUANTILES))
    return Estimate(value, min(low, value), max(high, value))


def errors_of(marked: Sequence[bool], labels: Labels, source: str) -> DetectorError:
    """Sensitivity and specificity on one checkpoint's answers, from the sample weighted up to all of them."""
    raw = sum(marked) / len(marked)
    hit = raw * labels.marked.share() if labels.marked.labelled else 0.0
    missed = (1.0 - raw) * labels.unmarked.share() if labels.unmarked.labelled else 0.0
    false, left = raw - hit, (1.0 - raw) - missed
    return DetectorError(
        sensitivity=hit / (hit + missed) if hit + missed > 0.0 else None,
        specificity=left / (left + false) if left + false > 0.0 else None,
        labelled=labels.marked.labelled + labels.unmarked.labelled,
        source=source,
        measured=[],
    )
