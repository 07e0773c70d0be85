"""How numbers are written."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from grpo_audit.report import numbers

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.figure(-0.0004), "0.000"),
        (numbers.figure(-0.25), "−0.250"),
        (numbers.signed(0.19), "+0.190"),
        (numbers.signed(-0.19), "−0.190"),
        (numbers.signed(0.0), "0.000"),
        (numbers.whole(1234567), "1,234,567"),
        (numbers.significant(6e-5), "6e−05"),
        (numbers.significant(0.04), "0.04"),
        (numbers.probability(0.0004), "< 0.001"),
        (numbers.probability(0.0416), "0.042"),
        (numbers.share(0.0833), "8.3 %"),
        (numbers.duration(12.54), "12.5 s"),
        (numbers.duration(61), "1 min 01 s"),
        (numbers.duration(3600 * 25 + 61), "25 h 01 min"),
        (numbers.size(100), "100 B"),
        (numbers.size(8 << 30), "8 GiB"),
        (numbers.powers(1.234e15), "1.23 × 10¹⁵"),
        (numbers.powers(999), "999"),
    ],
)
def test_examples(shown: str, expected: str) -> None:
    """Numbers are written as a reader expects them."""
    assert shown == expected


@given(FINITE)
def test_a_sign_is_never_lost(value: float) -> None:
    """A written difference reads back within half of its last digit, sign included."""
    text = numbers.signed(value).replace(numbers.MINUS, "-")
    assert abs(float(text) - value) <= 0.0005 + 1e-9
    assert text.startswith("+") == (float(text) > 0)
