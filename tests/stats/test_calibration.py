"""Calibration curves, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.calibration import calibration_curve

from grpo_audit.errors import EvaluationError
from grpo_audit.stats.calibration import Bin, curve, expected_error

PAIRS = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=50)


@given(PAIRS)
def test_every_document_is_in_one_bin_that_holds_its_confidence(pairs: list[tuple[float, bool]]) -> None:
    """Nothing is lost at the edges, and the means lie within the bounds."""
    found = curve([sure for sure, _ in pairs], [float(right) for _, right in pairs])
    assert sum(item.documents for item in found) == len(pairs)
    assert all(item.low - 1e-9 <= item.confidence <= item.high + 1e-9 for item in found)
    total = sum(item.documents * item.accuracy for item in found)
    assert total == pytest.approx(sum(right for _, right in pairs))
    assert 0 <= expected_error(found) <= 1


def test_the_curve_is_that_of_scikit_learn() -> None:
    """Same bins, same means, on confidences that lie on no edge."""
    rng = np.random.default_rng(0)
    sure = rng.uniform(size=500)
    right = (rng.uniform(size=500) < sure).astype(float)
    accuracy, confidence = calibration_curve(right, sure, n_bins=10)
    found = curve(sure.tolist(), right.tolist())
    assert [item.accuracy for item in found] == pytest.approx(accuracy.tolist())
    assert [item.confidence for item in found] == pytest.approx(confidence.tolist())


def test_error_by_hand() -> None:
    """Always sure and right half the time: 0.5. As sure as right: 0."""
    assert expected_error(curve([1.0, 1.0], [1.0, 0.0])) == 0.5
    assert expected_error(curve([0.75] * 4, [1.0, 1.0, 1.0, 0.0])) == 0.0
    assert curve([0.5], [1.0]) == [Bin(0.5, 0.6, 1, 0.5, 1.0)]


@pytest.mark.parametrize(("sure", "right"), [([], []), ([0.5], []), ([1.5], [1.0]), ([float("nan")], [1.0])])
def test_nothing_and_nonsense_are_refused(sure: list[float], right: list[float]) -> None:
    """No documents are no perfect calibration."""
    with pytest.raises(EvaluationError):
        curve(sure, right)
    with pytest.raises(EvaluationError):
        expected_error([])
