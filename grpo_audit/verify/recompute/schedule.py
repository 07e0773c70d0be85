"""(26) The learning rate of each step, by the formula of the configuration."""

from __future__ import annotations

import math

from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import TrainingConfig
from grpo_audit.verify.recompute.compare import shown
from grpo_audit.verify.recompute.step import RecordedStep
from grpo_audit.verify.verdict import Tally

_TOLERANCE = 1e-12
"""Relative: a handful of float64 operations, and the cosine of another mathematics library."""


def learning_rate(training: TrainingConfig, step: int) -> float:
    """Of step s of N, from 0, with W steps of warm-up and n = s + 1: L n / W while n < W. Then with
    x = (n - max(W, 1)) / max(1, N + 1 - max(W, 1)): L (constant), L (1 - x) (linear), L (1 + cos(pi x)) / 2 (cosine).
    """
    number, start = step + 1, max(training.warmup_steps, 1)
    if number < training.warmup_steps:
        return training.learning_rate * number / training.warmup_steps
    x = (number - start) / max(1, training.steps + 1 - start)
    factor = {"constant": 1.0, "linear": 1.0 - x, "cosine": 0.5 + 0.5 * math.cos(math.pi * x)}[training.schedule]
    return training.learning_rate * factor


class ScheduleCheck:
    """Follows the steps of a run."""

    def __init__(self, config: RunConfig, tally: Tally) -> None:
        self._tally = tally
        self._training = config.training

    def follow(self, step: RecordedStep) -> None:
        """One learning rate."""
        self._tally.saw()
        found = learning_rate(self._training, step.figures.step)
        if abs(step.figures.learning_rate - found) > _TOLERANCE * self._training.learning_rate:
            self._tally.wrong(f"{step.name}: learning rate {shown(step.figures.learning_rate)}, found {shown(found)}")

    def finish(self) -> None:
        """Nothing is left out."""
        self._tally.nothing("no step was recorded")
