"""What a run cost, phase by phase: tokens, FLOP, wall-clock, device-hours, energy. Interrupted work counts: it was
paid for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from grpo_audit.catalogue.compute import FALLBACK_FLOP, GUIDELINE, Modifier, TrainingFlop, add_step, shape_of
from grpo_audit.catalogue.evidence import Span
from grpo_audit.catalogue.reader import Entry
from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import Phase, PhaseFinished, RunRegistered, RunResumed, Step

PHASES: Final[tuple[Phase, ...]] = ("pre", "train", "post")

EvalTokens = Mapping[str, tuple[int, tuple[int, int], int]]
"""By phase: completion tokens, first and last sample, number of samples."""


@dataclass(frozen=True)
class PhaseCost:
    """One phase. None: not recorded."""

    phase: Phase
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    """Wall-clock of finished attempts, and the steps of unfinished ones."""
    device_seconds: float | None
    """Wall-clock times the processes that were held."""
    flop: float | None
    joules: float | None
    """As counted by the machine."""
    energy_method: str
    energy_boundary: str
    finished: tuple[int, ...]
    """The ``phase.finished`` events."""
    tokens_from: Span | None
    """The events that state the tokens."""
    unfinished: bool
    """Whether an attempt did not reach the end of the phase."""


@dataclass(frozen=True)
class Energy:
    """Energy of the whole run in joules, and how it is known."""

    joules: float
    measured: bool
    method: str
    boundary: str

    def __str__(self) -> str:
        how = "measured" if self.measured else "estimated"
        return f"{self.joules / 3.6e6:.3g} kWh ({self.joules:.3g} J), {how}: {self.method}; {self.boundary}"


@dataclass
class StepSums:
    """Sums over every executed step, in one pass."""

    config: RunConfig
    registered: RunRegistered
    executed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    flop: TrainingFlop = field(default_factory=TrainingFlop)
    seconds: dict[int, float] = field(default_factory=dict)
    """By attempt."""
    first: int | None = None
    last: int | None = None

    def add(self, entry: Entry[Step]) -> None:
        """Take one more step into account."""
        step = entry.payload
        shape = shape_of(self.registered, self.config)
        add_step(self.flop, shape, self.config, step)
        self.executed += 1
        self.prompt_tokens += step.prompt_tokens
        self.completion_tokens += step.completion_tokens
        self.seconds[step.attempt] = self.seconds.get(step.attempt, 0.0) + sum(step.seconds.values())
        self.first = entry.seq if self.first is None else self.first
        self.last = entry.seq

    @property
    def span(self) -> Span | None:
        """The step events."""
        if self.first is None or self.last is None:
            return None
        return Span(self.first, self.last, self.executed)


@dataclass(frozen=True)
class Cost:
    """The whole run."""

    phases: tuple[PhaseCost, ...]
    flop_by_part: TrainingFlop
    base_flop: float | None
    base_source: str
    watts: float | None
    watts_source: str
    pue: float | None

    @property
    def flop(self) -> float | None:
        """Of all phases; None when no tokens were recorded."""
        return _sum(row.flop for row in self.phases)

    @property
    def seconds(self) -> float | None:
        """Wall-clock of all phases."""
        return _sum(row.seconds for row in self.phases)

    @property
    def device_seconds(self) -> float | None:
        """Seconds of all devices that were held."""
        return _sum(row.device_seconds for row in self.phases)

    @property
    def modifier(self) -> Modifier | None:
        """The run against the original model; None when the run's FLOP are not known."""
        if self.flop is None:
            return None
        if self.base_flop is None:
            return Modifier(self.flop, FALLBACK_FLOP, GUIDELINE, is_known=False)
        return Modifier(self.flop, self.base_flop, self.base_source, is_known=True)

    @property
    def energy(self) -> Energy | None:
        """Measured where every phase was measured; else estimated from stated watts; else None."""
        measured = [row for row in self.phases if row.joules is not None]
        if measured and len(measured) == len(self.phases) and not any(row.unfinished for row in self.phases):
            methods = " and ".join(dict.fromkeys(row.energy_method for row in measured))
            boundary = "; ".join(dict.fromkeys(row.energy_boundary for row in measured))
            return Energy(sum(row.joules or 0.0 for row in measured), True, methods, boundary)
        if self.watts is None or not self.device_seconds:
            return None
        pue = 1.0 if self.pue is None else self.pue
        overhead = "without the data centre's overhead" if self.pue is None else f"times a PUE of {self.pue:g}"
        return Energy(
            self.device_seconds * self.watts * pue,
            False,
            f"device-hours times {self.watts:g} W a device ({self.watts_source})",
            f"every device held by the run, {overhead}",
        )


def cost(
    registered: RunRegistered,
    config: RunConfig,
    steps: StepSums,
    finished: Iterable[Entry[PhaseFinished]],
    resumed: Iterable[Entry[RunResumed]],
    tokens: EvalTokens,
) -> Cost:
    """The cost of a run, from its events."""
    processes = {1: registered.environment.processes}
    processes.update({entry.payload.attempt: entry.payload.processes for entry in resumed})
    by_phase: dict[str, list[Entry[PhaseFinished]]] = defaultdict(list)
    for entry in finished:
        by_phase[entry.payload.phase].append(entry)
    rows = [_phase(phase, registered, config, steps, by_phase[phase], processes, tokens) for phase in PHASES]
    base, source = base_flop(config)
    return Cost(
        phases=tuple(row for row in rows if row is not None),
        flop_by_part=steps.flop,
        base_flop=base,
        base_source=source,
        watts=config.budget.watts_per_device,
        watts_source=config.budget.watts_source or "",
        pue=config.budget.pue,
    )


def base_flop(config: RunConfig) -> tuple[float | None, str]:
    """The original model's compute and who says so: the recipe's number, else the sum of its stages."""
    if config.model.training_flop is not None:
        return config.model.training_flop, config.model.training_flop_source or ""
    stages = [stage for stage in config.lineage if stage.flop is not None]
    if not any(stage.kind == "pre-training" for stage in stages):
        return None, ""  # without pre-training the sum would be far too small, and the ratio far too large
    sources = "; ".join(f"{stage.name}: {stage.flop_source}" for stage in stages)
    return sum(stage.flop or 0.0 for stage in stages), f"sum of {len(stages)} stages ({sources})"


def _phase(
    phase: Phase,
    registered: RunRegistered,
    config: RunConfig,
    steps: StepSums,
    finished: list[Entry[PhaseFinished]],
    processes: Mapping[int, int],
    tokens: EvalTokens,
) -> PhaseCost | None:
    by_attempt: dict[int, float] = defaultdict(float)
    for entry in finished:
        by_attempt[entry.payload.attempt] += entry.payload.seconds
    prompt: int | None = None
    completion: int | None = None
    flop: float | None = None
    span: Span | None = None
    unfinished = not finished
    if phase == "train" and steps.executed:
        prompt, completion, flop, span = steps.prompt_tokens, steps.completion_tokens, steps.flop.total, steps.span
        broken = {attempt: seconds for attempt, seconds in steps.seconds.items() if attempt not in by_attempt}
        unfinished = bool(broken)
        by_attempt.update(broken)
    elif phase in tokens:
        completion, (first, last), count = tokens[phase]
        span = Span(first, last, count)
        shape = shape_of(registered, config)
        flop = shape.forward(completion, completion / max(1, count))
    if not finished and completion is None:
        return None
    joules = [entry.payload.energy.joules for entry in finished if entry.payload.energy is not None]
    whole = bool(finished) and len(joules) == len(finished)
    energy = [entry.payload.energy for entry in finished if entry.payload.energy is not None]
    return PhaseCost(
        phase=phase,
        prompt_tokens=prompt,
        completion_tokens=completion,
        seconds=sum(by_attempt.values()) if by_attempt else None,
        device_seconds=(
            sum(seconds * processes.get(attempt, 1) for attempt, seconds in by_attempt.items()) if by_attempt else None
        ),
        flop=flop,
        joules=sum(joules) if whole and not unfinished else None,
        energy_method=" and ".join(dict.fromkeys(item.method for item in energy)),
        energy_boundary="; ".join(dict.fromkeys(item.boundary for item in energy)),
        finished=tuple(entry.seq for entry in finished),
        tokens_from=span,
        unfinished=unfinished,
    )


def _sum(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) if found else None
