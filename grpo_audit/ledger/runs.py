"""Runs as the record knows them: their states, and the rules of what may follow what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from sqlalchemy import Connection, func, select, text

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.tables import EventRow, RunStateRow
from grpo_audit.record.events import EventKind, Payload, RunResumed, RunSealed


class RunState(StrEnum):
    """What became of a run."""

    REGISTERED = "registered"
    RESUMED = "resumed"
    SEALED = "sealed"
    ABORTED = "aborted"
    ABANDONED = "abandoned"


@dataclass(frozen=True)
class RunOverview:
    """One run at a glance."""

    run_id: str
    name: str
    state: RunState
    attempt: int
    registered_at: str
    changed_at: str
    """When it came into its state."""
    preset: str
    seed: int
    model: str
    weights_digest: str
    """Of the base model."""
    detail: str


AFTER_SEAL = frozenset({EventKind.ANNOTATION, EventKind.ERASURE})
"""What may follow the seal of a run."""
PROJECT_WIDE = frozenset({EventKind.PROJECT_CREATED, EventKind.ANNOTATION, EventKind.KEY_ROTATED})
"""What may belong to no run."""
NEVER_OF_A_RUN = frozenset({EventKind.PROJECT_CREATED, EventKind.KEY_ROTATED})


class RuleError(ValueError):
    """An event stands where it must not."""


class SealError(RuleError):
    """A seal states something else than what it seals, or was broken."""


@dataclass
class RunHistory:
    """What has been seen of one run, event by event."""

    run_id: str
    counts: Counter[EventKind] = field(default_factory=Counter)
    attempt: int = 0
    """0 before the registration."""

    @property
    def sealed(self) -> bool:
        """Whether the run has been sealed."""
        return self.counts[EventKind.RUN_SEALED] > 0

    def follow(self, payload: Payload) -> None:
        """Take the next event into account. Raises RuleError when it breaks a rule; it is counted all the same."""
        try:
            self._check(payload)
        finally:
            self.counts[payload.kind] += 1
            if payload.kind is EventKind.RUN_REGISTERED:
                self.attempt = 1
            elif isinstance(payload, RunResumed):
                self.attempt = payload.attempt

    def _check(self, payload: Payload) -> None:
        kind = payload.kind
        if kind in NEVER_OF_A_RUN:
            raise RuleError(f"{kind} belongs to the project, not to run {self.run_id}")
        registered = self.counts[EventKind.RUN_REGISTERED] > 0
        if kind is EventKind.RUN_REGISTERED and registered:
            raise RuleError(f"run {self.run_id} is registered twice")
        if kind is not EventKind.RUN_REGISTERED and not registered:
            raise RuleError(f"{kind} comes before the registration of run {self.run_id}")
        if self.sealed and kind not in AFTER_SEAL:
            raise SealError(
                f"{kind} comes after the seal of run {self.run_id}; only annotations and erasures may follow"
            )
        if isinstance(payload, RunResumed) and payload.attempt != self.attempt + 1:
            raise RuleError(f"run {self.run_id} resumes as attempt {payload.attempt} after attempt {self.attempt}")
        if isinstance(payload, RunSealed):
            self._check_seal(payload)

    def _check_seal(self, seal: RunSealed) -> None:
        counts = {kind.value: count for kind, count in self.counts.items() if count}
        if seal.by_kind != counts or seal.events != sum(counts.values()):
            raise SealError(
                f"the seal of run {self.run_id} states {seal.events} events {seal.by_kind}, "
                f"but there are {sum(counts.values())}: {counts}"
            )

    def copy(self) -> RunHistory:
        """An independent history."""
        return RunHistory(self.run_id, self.counts.copy(), self.attempt)


def load_history(connection: Connection, run_id: str) -> RunHistory:
    """What the record holds of a run so far."""
    counts = connection.execute(
        select(EventRow.kind, func.count()).where(EventRow.run_id == run_id).group_by(EventRow.kind)
    )
    attempt = connection.execute(
        select(RunStateRow.attempt).where(RunStateRow.run_id == run_id).order_by(RunStateRow.seq.desc()).limit(1)
    ).scalar()
    return RunHistory(run_id, Counter({EventKind(kind): count for kind, count in counts}), attempt or 0)


def overviews(connection: Connection) -> list[RunOverview]:
    """Every run ever registered, oldest first."""
    found = connection.execute(
        text(
            "SELECT run_overview.*, run.seq FROM run_overview JOIN run ON run.run_id = run_overview.run_id "
            "ORDER BY run.seq"
        )
    ).mappings()
    return [
        RunOverview(
            run_id=row["run_id"],
            name=row["name"],
            state=RunState(row["state"]),
            attempt=row["attempt"],
            registered_at=row["registered_at"],
            changed_at=row["changed_at"],
            preset=row["preset"],
            seed=row["seed"],
            model=row["model"],
            weights_digest=row["weights_digest"],
            detail=row["detail"],
        )
        for row in found
    ]


class _Named(Protocol):
    @property
    def run_id(self) -> str: ...
    @property
    def name(self) -> str: ...


AnyRun = TypeVar("AnyRun", bound=_Named)


def choose(runs: Sequence[AnyRun], reference: str | None, record: str) -> AnyRun:
    """The run a user means: None is the newest, else its id, a unique prefix of it, or a unique name.

    Raises ConfigError that lists what there is.
    """
    if not runs:
        raise ConfigError(f"{record} holds no run", next_step="Start one with: grpo-audit run RECIPE.yaml")
    if reference is None:
        return runs[-1]
    for candidates in (
        [run for run in runs if run.run_id == reference],
        [run for run in runs if reference and run.run_id.startswith(reference)],
        [run for run in runs if run.name == reference],
    ):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise ConfigError(
                f"Run {reference!r} is ambiguous in {record}", found=_names(candidates), next_step="Give more of the id"
            )
    raise ConfigError(f"There is no run {reference!r} in {record}", expected=f"one of {_names(runs)}")


def _names(runs: Sequence[_Named]) -> str:
    newest = [run.run_id for run in reversed(runs)][:8]
    return ", ".join(newest) + (f" and {len(runs) - 8} more" if len(runs) > 8 else "")
