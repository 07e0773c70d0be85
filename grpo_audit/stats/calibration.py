"""Is a model as often right as it is sure? Calibration over documents with one confidence each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo_audit.errors import EvaluationError

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Documents whose confidence lies between two bounds."""

    low: float
    high: float
    """The upper bound belongs to the bin only where it is 1."""
    documents: int
    confidence: float
    """Mean confidence."""
    accuracy: float
    """Share of right answers."""


def curve(confidence: Sequence[float], correct: Sequence[float], bins: int = BINS) -> list[Bin]:
    """The calibration curve: bins of equal width over 0 to 1, empty ones left out.

    Args:
        confidence: Probability of the answer that was given; [documents].
        correct: 1 where it was right, else 0; [documents].
        bins: How many.

    Raises:
        EvaluationError: No documents, different lengths, or a value out of range.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if len(sure) == 0 or len(sure) != len(right) or bins < 1:
        raise EvaluationError(
            "A calibration curve needs a confidence and a verdict for each document",
            found=f"{len(sure)} and {len(right)}, in {bins} bins",
        )
    if not bool(((sure >= 0) & (sure <= 1) & (right >= 0) & (right <= 1)).all()):
        raise EvaluationError("A calibration curve needs confidences and verdicts from 0 to 1")
    places = np.minimum((sure * bins).astype(int), bins - 1)
    members = [places == place for place in range(bins)]
    return [
        Bin(place / bins, (place + 1) / bins, int(at.sum()), float(sure[at].mean()), float(right[at].mean()))
        for place, at in enumerate(members)
        if at.any()
    ]


def expected_error(found: Sequence[Bin]) -> float:
    """Expected calibration error (Naeini et al. 2015): mean distance of confidence and accuracy, by documents.

    Raises EvaluationError for an empty curve.
    """
    total = sum(item.documents for item in found)
    if total == 0:
        raise EvaluationError("An empty calibration curve has no error")
    return sum(item.documents * abs(item.confidence - item.accuracy) for item in found) / total
