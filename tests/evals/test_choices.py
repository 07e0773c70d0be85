"""Multiple choice as probabilities, against scikit-learn's Brier score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import brier_score_loss

from grpo_audit_evals.choices import probabilities, scores

LIKELIHOODS = st.lists(st.floats(-50, 0), min_size=2, max_size=6)


@given(LIKELIHOODS, st.data())
def test_brier_is_that_of_scikit_learn(values: list[float], data: st.DataObject) -> None:
    """The sum over the choices; for two choices twice what is computed for one of them."""
    gold = data.draw(st.integers(0, len(values) - 1))
    pairs = [(value, False) for value in values]
    p = probabilities(pairs)
    truth = np.eye(len(values))[gold]
    expected = sum(brier_score_loss([int(t)], [min(q, 1.0)], pos_label=1) for t, q in zip(truth, p, strict=True))
    assert scores(pairs, gold)["brier"] == pytest.approx(expected)


@given(LIKELIHOODS, st.floats(-30, 30))
def test_a_constant_changes_nothing(values: list[float], shift: float) -> None:
    """Only differences between the choices count, so a longer prompt makes nobody surer."""
    one = scores([(value, False) for value in values], 0)
    two = scores([(value + shift, False) for value in values], 0)
    assert one["brier"] == pytest.approx(two["brier"], abs=1e-9)
    assert one["confidence"] == pytest.approx(two["confidence"], abs=1e-9)


def test_questions_may_have_different_numbers_of_choices() -> None:
    """lm-eval's own Brier score fails on them, after everything was generated."""
    assert scores([(0.0, False)] * 2, 0)["brier"] == pytest.approx(0.5)
    assert scores([(0.0, False)] * 5, 0)["brier"] == pytest.approx(0.8)
