"""What a replay reads from the record: which rollouts there are, which are drawn, and what each one claims.

The claims are not trusted: a trace of the wrong length or a token that no vocabulary has is a finding about the
rollout, never an exception of ours.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from sqlalchemy import text

from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError, VerificationError
from grpo_audit.ledger.event import parse
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.tables import EventRow
from grpo_audit.record.events import EventKind, Group, Payload, Rollout, RunRegistered, Snapshot, Step

Key = TypeVar("Key")
_PLACE = re.compile(r"(\d{1,9})/(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Which rollout: step, position of its group in the step, position in the group; all from 0."""

    step: int
    group: int
    sample: int

    def __str__(self) -> str:
        return f"{self.step}/{self.group}/{self.sample}"

    @classmethod
    def parse(cls, value: str) -> Place:
        """``STEP/GROUP/SAMPLE``. Raises ConfigError."""
        found = _PLACE.fullmatch(value.strip())
        if found is None:
            raise ConfigError(f"{value[:60]!r} names no rollout", expected="STEP/GROUP/SAMPLE, e.g. 0/3/1")
        return cls(*(int(part) for part in found.groups()))


@dataclass(frozen=True, slots=True)
class RunIndex:
    """One run, without the contents."""

    run_id: str
    registered: RunRegistered
    config: RunConfig
    sealed_leaf: bytes | None
    """Leaf hash of ``run.sealed``; None when the run is not sealed."""
    rollouts: dict[Place, int]
    """Number of the rollout's event; of the attempt that counts."""
    groups: dict[tuple[int, int], int]
    """(step, group) to the number of the group's event."""
    noise_groups: dict[tuple[int, int], int]
    """(step, group) to how many groups of the same prompt come before it in the step."""
    attempts: dict[int, int]
    """Step to the attempt that counts."""
    snapshots: tuple[Snapshot, ...]
    """All recorded snapshots, oldest first."""

    def snapshot_before(self, step: int) -> Snapshot | None:
        """The recorded weights that drew the rollouts of a step; None when no snapshot was taken there. The snapshot
        after the last step drew none."""
        newest = self.attempts.get(step, max(self.attempts.values(), default=0))
        found = [item for item in self.snapshots if item.step == step and item.attempt <= newest]
        return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class Recorded:
    """One rollout as the record has it."""

    place: Place
    seq: int
    prompt_id: str
    noise_sample: int
    """Sample index of its noise: goes on counting when a prompt comes again within a step."""
    prompt: str
    prompt_tokens: int
    text: bytes
    tokens: NDArray[np.uint32]
    logp: NDArray[np.float32]
    """Log-probabilities as the sampler recorded them."""
    finish_reason: str


class Erased(Exception):
    """The content of a rollout is no longer in the record."""


class Malformed(Exception):
    """A rollout contradicts itself."""


def read_index(project: Project, run_id: str) -> RunIndex:
    """Read what runs through a whole run. Raises VerificationError when it cannot be replayed at all."""
    registered = _last(project, run_id, EventKind.RUN_REGISTERED)
    if not isinstance(registered, RunRegistered):
        raise VerificationError(f"Run {run_id} has no registration", next_step="grpo-audit verify says what is wrong")
    sealed = project.last(run_id, EventKind.RUN_SEALED)
    snapshots = [event.payload for event in project.events(run_id, kinds={EventKind.SNAPSHOT})]
    rollouts: dict[Place, int] = {}
    groups: dict[tuple[int, int], int] = {}
    noise_groups: dict[tuple[int, int], int] = {}
    with project.session() as session:
        attempts = {
            row.step: row.attempt
            for row in session.execute(
                text("select step, attempt from effective_step where run_id = :run"), {"run": run_id}
            )
        }
        seen: Counter[tuple[int, str]] = Counter()
        for row in session.execute(
            text(
                "select seq, step, attempt, group_index, prompt_id from rollout_group where run_id = :run "
                "order by step, group_index, seq"
            ),
            {"run": run_id},
        ):
            if attempts.get(row.step) == row.attempt:
                key = (row.step, row.group_index)
                _once(groups, key, row.seq, f"group {row.step}/{row.group_index}")
                noise_groups[key] = seen[row.step, row.prompt_id]
                seen[row.step, row.prompt_id] += 1
        for row in session.execute(
            text("select seq, step, group_index, sample from effective_rollout where run_id = :run"), {"run": run_id}
        ):
            place = Place(row.step, row.group_index, row.sample)
            _once(rollouts, place, row.seq, f"rollout {place}")
    return RunIndex(
        run_id,
        registered,
        _configuration(registered, run_id),
        sealed.leaf_hash if sealed else None,
        rollouts,
        groups,
        noise_groups,
        attempts,
        tuple(item for item in snapshots if isinstance(item, Snapshot)),
    )


def read_rollout(project: Project, index: RunIndex, place: Place) -> Recorded:
    """The claims of one rollout. Raises Erased, or Malformed when they contradict each other."""
    seq, group_seq = index.rollouts[place], index.groups.get((place.step, place.group))
    if group_seq is None:
        raise Malformed("its group is not in the record")
    rollout, group = payload(project, seq), payload(project, group_seq)
    assert isinstance(rollout, Rollout) and isinstance(group, Group)  # the tables are derived from these events
    contents = [project.content(*item) for item in ((group_seq, "prompt"), (seq, "completion"), (seq, "trace"))]
    if any(item is None for item in contents):
        names = ("prompt", "completion", "trace")
        raise Erased(", ".join(name for name, item in zip(names, contents, strict=True) if item is None))
    prompt, completion, trace = (item or b"" for item in contents)
    count, limit = rollout.completion_tokens, index.config.sampling.max_completion_tokens
    if not 1 <= count <= limit:
        raise Malformed(f"{count} completion tokens where 1 to {limit} are possible")
    if len(trace) != 8 * count:
        raise Malformed(f"a trace of {len(trace)} bytes where {count} tokens need {8 * count}")
    try:
        prompt_text = prompt.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("a prompt that is not UTF-8") from error
    size = index.config.sampling.group_size
    return Recorded(
        place=place,
        seq=seq,
        prompt_id=group.prompt_id,
        noise_sample=index.noise_groups[place.step, place.group] * size + place.sample,
        prompt=prompt_text,
        prompt_tokens=group.prompt_tokens,
        text=completion,
        tokens=np.frombuffer(trace[: 4 * count], "<u4"),
        logp=np.frombuffer(trace[4 * count :], "<f4"),
        finish_reason=rollout.finish_reason,
    )


def read_steps(project: Project, index: RunIndex) -> dict[int, Step]:
    """The steps that count, by number."""
    steps = (event.payload for event in project.events(index.run_id, kinds={EventKind.STEP}))
    return {
        item.step: item for item in steps if isinstance(item, Step) and index.attempts.get(item.step) == item.attempt
    }


def seed_of(index: RunIndex, root: str) -> tuple[str, str]:
    """The seed that draws the rollouts, and where it comes from: the seal, else the newest signed head (``root``)."""
    origin = "seal of the run" if index.sealed_leaf else "newest signed head (the run is not sealed)"
    leaf = index.sealed_leaf.hex() if index.sealed_leaf else root
    return hashlib.sha256(f"grpo-audit replay\n{index.run_id}\n{leaf}\n".encode()).hexdigest(), origin


def drawn(places: Iterable[Place], seed: str) -> list[Place]:
    """All places in the order in which the seed draws them: by SHA-256 of seed and place."""
    return sorted(places, key=lambda place: hashlib.sha256(f"{seed}\n{place}\n".encode()).digest())


def _once(table: dict[Key, int], key: Key, seq: int, what: str) -> None:
    if key in table:
        raise VerificationError(
            f"The record has two entries for {what}", found=f"events {table[key]} and {seq}", expected="one"
        )
    table[key] = seq


def _configuration(registered: RunRegistered, run_id: str) -> RunConfig:
    try:
        return RunConfig.model_validate(registered.config, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VerificationError(
            f"The recorded configuration of run {run_id} cannot be read", found=f"{where}: {first['msg']}"
        ) from error


def _last(project: Project, run_id: str, kind: EventKind) -> Payload | None:
    event = project.last(run_id, kind)
    return event.payload if event else None


def payload(project: Project, seq: int) -> Payload:
    """Payload of an event whose number comes from the tables."""
    with project.session() as session:
        row = session.get(EventRow, seq)
        assert row is not None  # its number was just read from a table derived from it
        return parse(row.body).event.payload
