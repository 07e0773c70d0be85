"""(22) The rewards, by running the recorded sources again on the recorded completions."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import RunRegistered
from grpo_audit.rewards.sandbox import Isolation
from grpo_audit.verify.recompute.calls import Chunk, Runnable, recorded_source, row_of, run_again
from grpo_audit.verify.recompute.compare import shown
from grpo_audit.verify.recompute.rerun import Call, NoAnswer, NotRunnable, Value, cores, sandbox_problem
from grpo_audit.verify.recompute.step import RecordedStep
from grpo_audit.verify.recompute.texts import Texts
from grpo_audit.verify.verdict import Tally

_ROLE: Final = "reward source"
_ELSEWHERE: Final = ("judge", "reward model")
"""Kinds whose answers come from weights or a network that the record does not hold."""
_CIRCUMSTANCE: Final = (
    "took longer",
    "the process",
    "not scored",
    "could not be loaded",
    "disturbed",
    "the run is over",
)
"""How errors begin that say something about the machine, not about the row."""


@dataclass
class _Chunk(Chunk):
    """Calls that go into one sandbox together, and what the record says of them."""

    expected: list[_Expected] = field(default_factory=list)


@dataclass
class _Expected:
    """What the record says of the rows of one call."""

    where: str
    places: list[str]
    rewards: list[Mapping[str, float | None]]
    errors: list[Mapping[str, str]]


class RewardCheck:
    """Follows the steps of a run; rewards are run again chunk by chunk."""

    def __init__(
        self,
        registered: RunRegistered,
        config: RunConfig,
        texts: Texts,
        tally: Tally,
        *,
        isolation: Isolation,
        seed: int,
        sample: float | int | None,
    ) -> None:
        self._tally = tally
        self._rows_per_call = config.sampling.prompts_per_step * config.sampling.group_size
        self._chosen = _chosen_steps(config.training.steps, seed, sample)
        self._num_steps = config.training.steps
        self._chunk = _Chunk()
        self._erased = self._old = self._circumstances = 0
        self.rows = 0
        self.seconds = 0.0
        self._threads = ThreadPoolExecutor(cores())
        self._sources = self._runnable(registered, texts, isolation)

    def _runnable(self, registered: RunRegistered, texts: Texts, isolation: Isolation) -> list[Runnable]:
        found: list[Runnable] = []
        problem = sandbox_problem(isolation) if isolation == "strict" else None
        for identity in registered.rewards:
            if identity.kind in _ELSEWHERE:
                self._tally.remark(f"{identity.name} ({identity.kind}) not run again: it needs weights or a network")
                continue
            recorded = recorded_source(_ROLE, identity, texts)
            if isinstance(recorded, str):
                self._tally.remark(f"{identity.name} not run again: {recorded}")
            elif problem is not None:
                self._tally.remark(
                    f"{identity.name} not run again: no sandbox on this machine ({problem}); recorded code is run "
                    "without one only if you say that you trust it"
                )
            else:
                found.append(Runnable(recorded, isolation))
        return found

    def follow(self, step: RecordedStep) -> None:
        """Take up the calls of a step."""
        if not self._sources or (self._chosen is not None and step.figures.step not in self._chosen):
            return
        for start in range(0, len(step.rollouts), self._rows_per_call):
            self._take(step, start)
        if self._chunk.is_full:
            self._flush()

    def _take(self, step: RecordedStep, start: int) -> None:
        """One call of training: the rollouts of one round of prompts."""
        call = Call([], [], {})
        expected = _Expected(step.name, [], [], [])
        for rollout in step.rollouts[start : start + self._rows_per_call]:
            group = step.groups[rollout.data.group]
            row = row_of(group.content.get("fields"))
            completion = rollout.content.get("completion")
            if row is None or completion is None:
                self._erased += 1
                continue
            call.prompts.append(row.prompt)
            call.completions.append(completion.decode("utf-8", "replace"))
            for name, value in row.columns.items():
                call.columns.setdefault(name, []).append(value)
            expected.places.append(f"group {rollout.data.group}, sample {rollout.data.sample}")
            expected.rewards.append(rollout.data.rewards)
            expected.errors.append(rollout.data.errors)
        if not call.completions:
            return
        if any(len(values) != len(call.completions) for values in call.columns.values()):
            self._tally.wrong(f"{step.name}: its rows have different columns")
            return
        self._chunk.calls.append(call)
        self._chunk.expected.append(expected)

    def _flush(self) -> None:
        chunk, self._chunk = self._chunk, _Chunk()
        if not chunk.calls:
            return
        begin = time.monotonic()
        sources = [source for source in self._sources if not source.stopped]
        for source, outcome in zip(
            sources, self._threads.map(lambda item: run_again(item, chunk.calls), sources), strict=True
        ):
            self._judge(source, outcome, chunk)
        self.seconds += time.monotonic() - begin

    def _judge(self, source: Runnable, outcome: list[list[Value]] | NotRunnable | NoAnswer, chunk: _Chunk) -> None:
        name = source.recorded.identity.name
        if isinstance(outcome, NotRunnable):
            source.stopped = True
            self._tally.remark(f"{name} not run again: {outcome}")
            return
        if isinstance(outcome, NoAnswer):
            source.stopped = True
            self._tally.wrong(f"{name}, run again from {chunk.expected[0].where} on, did not answer: {outcome}")
            return
        for expected, values in zip(chunk.expected, outcome, strict=True):
            for place, rewards, errors, value in zip(
                expected.places, expected.rewards, expected.errors, values, strict=True
            ):
                self.rows += 1
                self._compare(f"{expected.where}, {place}: {name}", rewards.get(name), errors.get(name), value)

    def _compare(self, where: str, recorded: float | None, error: str | None, found: Value) -> None:
        """Exactly: the same code on the same text."""
        self._tally.saw()
        if error is not None:
            if isinstance(found, str):
                return
            if error.startswith(_CIRCUMSTANCE):
                self._circumstances += 1
            else:
                self._tally.wrong(f"{where} is recorded as an error ({error:.60}), run again it gives {shown(found)}")
        elif isinstance(found, str):
            self._tally.wrong(f"{where} is recorded as {shown(recorded)}, run again it fails: {found:.80}")
        elif recorded != found:
            self._tally.wrong(f"{where} is recorded as {shown(recorded)}, run again it gives {shown(found)}")

    def finish(self) -> None:
        """Run what waits, and say what could not be looked at."""
        try:
            self._flush()
        finally:
            self._threads.shutdown()
        if self._chosen is not None:
            self._tally.remark(f"on {len(self._chosen)} of {self._num_steps} steps, chosen by the seed given")
        if self._erased:
            self._tally.remark(f"{self._erased} rollouts without their text or their row (erased, or an old record)")
        if self._circumstances:
            self._tally.remark(f"{self._circumstances} errors of time or process did not occur here")
        if self.rows and self.seconds:
            self._tally.remark(f"{self.rows / self.seconds:,.0f} rewards/s")
        self._tally.nothing("no reward source could be run again")


def _chosen_steps(steps: int, seed: int, sample: float | int | None) -> set[int] | None:
    """The steps whose rewards are run again; None for all. A share of them, or a number."""
    if sample is None:
        return None
    count = sample if isinstance(sample, int) else max(1, round(sample * steps))
    order = sorted(range(steps), key=lambda step: hashlib.sha256(f"{seed}:{step}".encode()).digest())
    return set(order[:count])
