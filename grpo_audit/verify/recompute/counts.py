"""(27) Nothing is missing and nothing is twice: steps, groups, samples, tokens."""

from __future__ import annotations

import numpy as np

from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import RunResumed
from grpo_audit.verify.recompute.step import RecordedRollout, RecordedStep
from grpo_audit.verify.verdict import Tally

_ROUNDING = 1e-5
"""Nats by which a log-probability in float32 may exceed 0."""
_BYTES_PER_TOKEN = 8


class CountCheck:
    """Follows the steps of a run."""

    def __init__(self, config: RunConfig, tally: Tally) -> None:
        self._tally = tally
        self._sampling = config.sampling
        self._steps = config.training.steps
        self._attempt, self._next = 1, 0
        self._done: set[int] = set()
        self._erased = 0

    def resumed(self, payload: RunResumed) -> None:
        """A new attempt begins where a snapshot stands, which is not behind what was done."""
        self._tally.saw()
        if payload.from_step > self._next and payload.from_step not in {step + 1 for step in self._done}:
            self._tally.wrong(f"attempt {payload.attempt} starts at step {payload.from_step}, which was never reached")
        self._attempt, self._next = payload.attempt, payload.from_step

    def follow(self, step: RecordedStep) -> bool:
        """Count a step; False when its rollouts are not G for each group, so that nothing else can be computed."""
        self._tally.saw()
        figures, size = step.figures, self._sampling.group_size
        if figures.attempt != self._attempt or figures.step != self._next or figures.step >= self._steps:
            self._tally.wrong(
                f"{step.name}: expected step {self._next} of attempt {self._attempt}, below {self._steps} in all"
            )
        self._next = figures.step + 1
        self._done.add(figures.step)
        parts = [group.data for group in step.groups] + [rollout.data for rollout in step.rollouts]
        if any(part.step != figures.step or part.attempt != figures.attempt for part in parts):
            self._tally.wrong(f"{step.name}: groups or rollouts of another step or attempt stand before it")
        expected = figures.rounds * self._sampling.prompts_per_step
        if len(step.groups) != expected or figures.rounds > self._sampling.max_rounds:
            self._tally.wrong(f"{step.name}: {len(step.groups)} groups, expected {expected}")
        whole = bool(step.groups) and step.is_rectangular(size)
        if not whole:
            self._tally.wrong(
                f"{step.name}: {len(step.rollouts)} rollouts of {len(step.groups)} groups are not samples 0 to "
                f"{size - 1} of each, in order"
            )
        for rollout in step.rollouts:
            self._tokens(step.name, rollout)
        return whole

    def _tokens(self, where: str, rollout: RecordedRollout) -> None:
        self._tally.saw()
        data, limit = rollout.data, self._sampling.max_completion_tokens
        where = f"{where}: group {data.group}, sample {data.sample}"
        at_limit = data.completion_tokens == limit
        if not 1 <= data.completion_tokens <= limit or (data.finish_reason == "length" and not at_limit):
            self._tally.wrong(
                f"{where} has {data.completion_tokens} tokens of {limit} and ended by {data.finish_reason}"
            )
        trace = rollout.content.get("trace")
        if trace is None:
            self._erased += 1
            return
        if len(trace) != _BYTES_PER_TOKEN * data.completion_tokens:
            self._tally.wrong(
                f"{where}: its trace holds {len(trace) / _BYTES_PER_TOKEN:g} tokens, recorded {data.completion_tokens}"
            )
            return
        logp = np.frombuffer(trace, dtype="<f4", offset=len(trace) // 2)
        if not (np.isfinite(logp).all() and (logp <= _ROUNDING).all()):
            self._tally.wrong(f"{where}: a sampling log-probability is above 0 or no number")

    def finish(self, *, sealed: bool, trained: bool, left: int) -> None:
        """``left``: groups and rollouts that no step event follows. A sealed run has made every step."""
        if left:
            self._tally.wrong(f"{left} groups and rollouts at the end belong to no step")
        missing = sorted(set(range(self._steps)) - self._done)
        if (sealed or trained) and missing:
            self._tally.wrong(f"steps {missing[:5]} of {self._steps} are missing")
        if self._erased:
            self._tally.remark(f"{self._erased} traces erased")
        self._tally.nothing("no step was recorded")
