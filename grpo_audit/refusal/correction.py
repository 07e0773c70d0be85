"""A counted rate corrected for the error of what counted it, before and after, with intervals that carry that error.

With an error measured elsewhere (Rogan and Gladen 1978, Am. J. Epidemiol. 107:71):

    p = (q + specificity - 1) / (sensitivity + specificity - 1)          q: share of the answers that is marked

With labels of a random sample of these very answers, for each checkpoint (double sampling, Tenenbein 1970, JASA
65:1350; the same estimate as prediction-powered inference with the verdict as its only predictor, arXiv:2301.09633):

    p = q * P(refusal | marked) + (1 - q) * P(refusal | not marked)

within the answers that training did not change (which count alike before and after, so they add nothing to the
difference), and within the changed ones before, and after.

Intervals are quantiles of draws. q before and after is drawn jointly by the Bayesian bootstrap over clusters (Rubin
1981), with half a pseudo-document in each of the four cells (marked before or not, after or not), so that a rate of
zero has no interval of width zero; each unknown probability of the detector is drawn from its posterior under
Jeffreys' prior, Beta(k + 1/2, n - k + 1/2). Where an error was measured on several models, each draw takes one of
them: nobody knows which one this model is like. Rates outside of 0 to 1 are set to the bound, in every draw too.

The stream of ``numpy.random.RandomState`` is frozen, so a verifier with another numpy draws the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

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
Side = Literal["pre", "post"]
Kind = Literal["same", "pre", "post"]
"""Answers that training did not change; changed ones, before and after."""
SIDES: Final[tuple[Side, Side]] = ("pre", "post")


@dataclass(frozen=True)
class Marked:
    """What the detector said of the answers to the same documents, before and after. One entry a document."""

    clusters: Sequence[str]
    pre: Sequence[bool]
    post: Sequence[bool]
    same: Sequence[bool] = ()
    """Whether the very same text was answered; empty where that is not known, which counts as no."""

    def __post_init__(self) -> None:
        lengths = {len(self.clusters), len(self.pre), len(self.post), len(self.same or self.clusters)}
        if not self.clusters or len(lengths) != 1:
            raise EvaluationError(
                "Verdicts before and after do not belong together",
                found=f"{len(self.clusters)} documents, {len(self.pre)} verdicts before, {len(self.post)} after",
                expected="one of each for every document, at least one",
            )
        rows = zip(self.same, self.pre, self.post, strict=True) if self.same else ()
        if any(same and before != after for same, before, after in rows):
            raise EvaluationError("The same answer has two verdicts")

    @property
    def changed(self) -> Sequence[bool]:
        """Whether the text differs, or may."""
        return [not same for same in self.same] if self.same else [True] * len(self.clusters)

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


@dataclass(frozen=True)
class Pair:
    """Labels of the answers that were marked, and of those that were not."""

    marked: Stratum = Stratum(0, 0)
    unmarked: Stratum = Stratum(0, 0)

    def stratum(self, verdict: bool) -> Stratum:
        """The labels of one verdict."""
        return self.marked if verdict else self.unmarked

    def share(self, verdict: bool) -> float:
        """Share of refusals among the labels of one verdict. Without labels it is 0, and has no answers to weigh."""
        found = self.stratum(verdict)
        return found.refusals / found.labelled if found.labelled else 0.0


@dataclass(frozen=True)
class Labels:
    """Labels of one task: of answers that did not change, and of changed ones before and after."""

    same: Pair = Pair()
    pre: Pair = Pair()
    post: Pair = Pair()

    @property
    def of(self) -> Mapping[Kind, Pair]:
        """By kind."""
        return {"same": self.same, "pre": self.pre, "post": self.post}


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
    shares = _drawn_shares(marked, np.stack([np.array(marked.pre), np.array(marked.post)], axis=1), _CELLS, random)
    information = np.maximum(information, LEAST_INFORMATION)
    draws = (shares + specificity[:, None] - 1.0) / information[:, None]
    points = [(share + error.specificity - 1.0) / point for share in marked.raw]
    return _summed_up(points, draws, marked)


def double_sampling(marked: Marked, labels: Labels, *, seed: int = SEED) -> Corrected:
    """Correct with labels of a random sample of these answers, each checkpoint with its own.

    Raises:
        EvaluationError: Answers of a kind and verdict exist, and none of them is labelled.
    """
    _all_labelled(marked, labels)
    before, after = ((*_shares(marked, "same"), *_shares(marked, kind)) for kind in SIDES)
    points = [
        _mixed(shares, [pair.share(verdict) for pair in (labels.same, labels.of[kind]) for verdict in (True, False)])
        for shares, kind in zip((before, after), SIDES, strict=True)
    ]
    random = np.random.RandomState(seed)
    changed = np.array(marked.changed)
    pre, post = np.array(marked.pre), np.array(marked.post)
    table = np.stack([~changed & pre, ~changed & ~pre, changed & pre, changed & post, changed], axis=1)
    pseudo = np.concatenate([np.zeros((4, 2)), _CELLS, np.ones((4, 1))], axis=1)
    same_marked, same_unmarked, pre_marked, post_marked, changed_share = _drawn_shares(marked, table, pseudo, random).T
    drawn = {kind: _drawn_pair(pair, random) for kind, pair in labels.of.items()}
    unchanged = same_marked * drawn["same"][0] + same_unmarked * drawn["same"][1]
    draws = np.stack(
        [
            unchanged + share * drawn[kind][0] + (changed_share - share) * drawn[kind][1]
            for kind, share in zip(SIDES, (pre_marked, post_marked), strict=True)
        ],
        axis=1,
    )
    return _summed_up(points, draws, marked)


def errors_of(marked: Marked, labels: Labels, side: Side, source: str) -> DetectorError:
    """Sensitivity and specificity on one checkpoint's answers, from the sample weighted up to all of them.

    Raises:
        EvaluationError: Answers of a kind and verdict exist, and none of them is labelled.
    """
    _all_labelled(marked, labels)
    hit = missed = false = left = 0.0
    labelled = 0
    for kind in ("same", side):
        yes, no = _shares(marked, kind)
        pair = labels.of[kind]
        hit, false = hit + yes * pair.share(True), false + yes * (1.0 - pair.share(True))
        missed, left = missed + no * pair.share(False), left + no * (1.0 - pair.share(False))
        labelled += pair.marked.labelled + pair.unmarked.labelled
    return DetectorError(
        sensitivity=hit / (hit + missed) if hit + missed > 0.0 else None,
        specificity=left / (left + false) if left + false > 0.0 else None,
        labelled=labelled,
        source=source,
        measured=[],
    )


def _shares(marked: Marked, kind: Kind) -> tuple[float, float]:
    """Of all documents: the share whose answer is of this kind and marked, and of this kind and not."""
    verdicts = marked.post if kind == "post" else marked.pre
    found = [verdict for verdict, changed in zip(verdicts, marked.changed, strict=True) if changed == (kind != "same")]
    return sum(found) / len(verdicts), (len(found) - sum(found)) / len(verdicts)


def _mixed(shares: Sequence[float], refusals: Sequence[float]) -> float:
    return sum(share * refusal for share, refusal in zip(shares, refusals, strict=True))


def _all_labelled(marked: Marked, labels: Labels) -> None:
    words = {"same": "that training did not change", "pre": "before training", "post": "after training"}
    for kind, pair in labels.of.items():
        for verdict, share in zip((True, False), _shares(marked, kind), strict=True):
            if share > 0.0 and pair.stratum(verdict).labelled == 0:
                raise EvaluationError(
                    f"None of the answers {words[kind]} that {'look' if verdict else 'do not look'} like refusals is "
                    "labelled",
                    next_step="Export a larger sheet",
                )


def _drawn_error(measured: Sequence[MeasuredOn], random: np.random.RandomState) -> tuple[Floats, Floats]:
    """Sensitivity and specificity, a pair a draw."""
    chosen = random.randint(len(measured), size=DRAWS)
    found, missed, left, false = (
        np.array([getattr(item, name) for item in measured], dtype=np.float64)[chosen]
        for name in ("true_positives", "false_negatives", "true_negatives", "false_positives")
    )
    return random.beta(found + _PRIOR, missed + _PRIOR), random.beta(left + _PRIOR, false + _PRIOR)


def _drawn_pair(pair: Pair, random: np.random.RandomState) -> tuple[Floats, Floats]:
    """Share of refusals among the marked and among the unmarked answers."""
    hit, miss = (
        random.beta(stratum.refusals + _PRIOR, stratum.labelled - stratum.refusals + _PRIOR, size=DRAWS)
        for stratum in (pair.marked, pair.unmarked)
    )
    return hit, miss


def _drawn_shares(marked: Marked, table: NDArray[np.bool_], pseudo: Floats, random: np.random.RandomState) -> Floats:
    """Share of the documents of which each column holds, shape (DRAWS, columns).

    A cluster's weight is exponential; clusters that look alike share one gamma draw, so the cost does not grow with
    the number of documents.

    Args:
        table: One row a document, shape (documents, columns).
        pseudo: The rows of the pseudo-documents, half a document each.
    """
    sums: dict[str, tuple[int, ...]] = {}
    nothing = (0,) * (1 + table.shape[1])
    for cluster, row in zip(marked.clusters, table.astype(int).tolist(), strict=True):
        sums[cluster] = tuple(map(sum, zip(sums.get(cluster, nothing), (1, *row), strict=True)))
    size = np.zeros(DRAWS)
    hits = np.zeros((DRAWS, table.shape[1]))
    for (documents, *row), clusters in sorted(Counter(sums.values()).items()):
        weight = random.standard_gamma(clusters, size=DRAWS)
        size += documents * weight
        hits += weight[:, None] * np.array(row, dtype=np.float64)
    for cell in pseudo:
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
