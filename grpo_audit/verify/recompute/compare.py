"""When a number that was computed a second time counts as the same."""

from __future__ import annotations

import math

SUM_TOLERANCE = 1e-11
"""Relative, for sums and means of float64 numbers in another order: n * 2^-53 for the largest n that occurs (10^4
rollouts, 1.1e-12), with a factor of ten to spare. Absolute below 1."""

QUOTIENT_TOLERANCE = 1e-8
"""For advantages: relative to the largest of the step, at least 1. Both sides are float64; what is subtracted and
divided may cancel. Rewards of a group that do not count as equal differ by more than 2^-20 of their size, so the
rounding of 2^-53 grows by 2^20 at most and, in sums over a thousand rollouts, stays below 1e-8. A float32 quotient
(1e-7) would not pass."""


def same(recorded: float | None, found: float | None, tolerance: float = SUM_TOLERANCE, scale: float = 1.0) -> bool:
    """Whether two figures agree; None (no number) equals None only, and NaN nothing."""
    if recorded is None or found is None:
        return recorded is None and found is None
    return abs(recorded - found) <= tolerance * max(1.0, scale, abs(found)) and math.isfinite(found)


def shown(value: float | None) -> str:
    """A number for a message."""
    return "none" if value is None else f"{value:.10g}"
