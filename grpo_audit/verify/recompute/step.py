"""One step of a run, put together from its events: what the checks of training look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from grpo_audit.record.events import Group, Rollout, Step

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

NO_SIGNAL = "no signal: the group's rewards are equal"
SURPLUS = "the step was full"
"""What a rollout's ``reason`` says where dynamic sampling dropped its group."""


@dataclass(frozen=True, slots=True)
class RecordedGroup:
    """A group event."""

    seq: int
    data: Group
    content: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class RecordedRollout:
    """A rollout event."""

    seq: int
    data: Rollout
    content: Mapping[str, bytes]


@dataclass(slots=True)
class RecordedStep:
    """P groups of G rollouts each, in the order of the record, and the figures of the step."""

    groups: list[RecordedGroup] = field(default_factory=list)
    rollouts: list[RecordedRollout] = field(default_factory=list)
    seq: int = -1
    step: Step | None = None

    @property
    def figures(self) -> Step:
        """The step event; only there once the step is complete."""
        assert self.step is not None
        return self.step

    @property
    def name(self) -> str:
        """For messages."""
        return f"step {self.figures.step} (attempt {self.figures.attempt}, event {self.seq})"

    def is_rectangular(self, group_size: int) -> bool:
        """Whether the rollouts are G for each group, in order: else nothing can be recomputed from the step."""
        places = [(rollout.data.group, rollout.data.sample) for rollout in self.rollouts]
        return [group.data.group for group in self.groups] == list(range(len(self.groups))) and places == [
            (group, sample) for group in range(len(self.groups)) for sample in range(group_size)
        ]

    def dropped(self) -> list[str]:
        """[P]: why dynamic sampling dropped a group, as its rollouts say; empty where it did not."""
        size = len(self.rollouts) // max(1, len(self.groups))
        reasons = [self.rollouts[group * size].data.reason for group in range(len(self.groups))]
        return [reason if reason in (NO_SIGNAL, SURPLUS) else "" for reason in reasons]

    def table(self, values: list[float | None]) -> FloatArray:
        """[P, G] of a value a rollout; NaN where there is none."""
        plain = [np.nan if value is None else value for value in values]
        return np.array(plain, dtype=np.float64).reshape(len(self.groups), -1)
