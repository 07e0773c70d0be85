"""Multiple choice as probabilities: right or wrong, how sure, and how far from the truth.

lm-eval's own Brier score is one figure for the whole task, and fails where questions have different numbers of choices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax


def probabilities(results: Sequence[tuple[float, bool]]) -> np.ndarray:
    """Softmax of the log-likelihoods of the choices, in their order; shape [choices]."""
    return np.asarray(softmax([loglikelihood for loglikelihood, _ in results]))


def scores(results: Sequence[tuple[float, bool]], gold: int) -> dict[str, float]:
    """Metrics of one document.

    ``acc``: the likeliest choice is the right one. ``confidence``: its probability. ``brier``: squared distance of the
    probabilities from certainty of the right choice, summed over the choices, 0 to 2 (Brier 1950); lower is better.
    Accuracy against confidence over many documents is the calibration curve.
    """
    p = probabilities(results)
    best = int(np.argmax([loglikelihood for loglikelihood, _ in results]))
    truth = np.eye(len(p))[gold]
    return {
        "acc": float(best == gold),
        "brier": float(((p - truth) ** 2).sum()),
        "confidence": float(p[best]),
    }
