"""What verification says: check by check, and as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from grpo_audit.errors import ExitCode
from grpo_audit.ledger.runs import RunState


class Outcome(StrEnum):
    """What became of one check. Having nothing to check is not passing."""

    PASSED = "passed"
    FAILED = "failed"
    NOTHING = "nothing to check"
    NOT_REACHED = "not reached"
    """An earlier failure made it impossible; counts as a failure."""


class Attestation(StrEnum):
    """Who vouches for the record besides its maker."""

    SELF_ATTESTED = "SELF-ATTESTED"
    """Nobody that the verifier knows."""
    TIMESTAMPED = "TIMESTAMPED"
    """A time-stamp authority: the head existed then. It remembers no history."""
    WITNESSED = "WITNESSED"
    """Witnesses that remember the log and refuse another history."""


class KeySource(StrEnum):
    """Where the key that the signatures were checked with comes from."""

    GIVEN = "given by the user"
    PINNED = "pinned on this machine when the record was made"
    RECORD = "the record itself"


@dataclass(frozen=True)
class Check:
    """One numbered step of the procedure."""

    number: int
    name: str
    outcome: Outcome
    detail: str
    """How many things were looked at, or what is wrong with the first ones."""

    @property
    def ok(self) -> bool:
        """Whether it does not speak against the record."""
        return self.outcome in (Outcome.PASSED, Outcome.NOTHING)


@dataclass(frozen=True)
class RunVerdict:
    """One run of the record."""

    run_id: str
    name: str
    state: RunState
    events: int

    @property
    def sealed(self) -> bool:
        """Whether its end is stated."""
        return self.state is RunState.SEALED


@dataclass(frozen=True)
class Tail:
    """The newest events that no witness has seen."""

    events: int
    seconds: float
    """Between the oldest and the newest of them, by the record's own clock."""
    newest: str
    """Time of the newest event."""


@dataclass(frozen=True)
class VerifyReport:
    """The verdict."""

    location: str
    project_id: str | None
    public_key: str | None
    """Verifier key that the signatures were checked with."""
    key_source: KeySource | None
    level: str
    attestation: Attestation
    events: int
    root: str | None
    """Root of the tree over all events, hexadecimal."""
    checks: list[Check]
    runs: list[RunVerdict]
    run: RunVerdict | None
    """The run that was asked for, else the newest."""
    tail: Tail | None
    not_shown: list[str] = field(default_factory=list)
    """What this verdict does not say."""
    witnessed: int = 0
    """Trusted witnesses that vouch for a head of this log."""
    witnesses: int = 0
    """Trusted witnesses, given or pinned."""
    verified_from: int = 0
    """Events before this one were not looked at: an incremental verification. 0 when everything was."""

    @property
    def vouched(self) -> str:
        """The attestation as the verdict prints it: ``WITNESSED(1/2)``."""
        if self.attestation is Attestation.WITNESSED:
            return f"{self.attestation}({self.witnessed}/{self.witnesses})"
        return self.attestation.value

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the record. True for an unsealed run: see ``sealed``."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def sealed(self) -> bool:
        """Whether the run's end is stated; otherwise nothing vouches for what may still be missing."""
        return self.run is not None and self.run.sealed

    @property
    def failures(self) -> list[Check]:
        """The checks that speak against the record."""
        return [check for check in self.checks if not check.ok]

    @property
    def exit_code(self) -> ExitCode:
        """How a program ends with this verdict."""
        if not self.ok:
            return ExitCode.VERIFICATION_FAILED
        return ExitCode.OK if self.sealed else ExitCode.UNSEALED


class Tally:
    """What one check has seen so far."""

    SHOWN = 3
    """Problems that are spelled out; the rest is counted."""

    def __init__(self, number: int, name: str, unit: str) -> None:
        self.number = number
        self.name = name
        self._unit = unit
        self._seen = 0
        self._problems: list[str] = []
        self._num_problems = 0
        self._remarks: list[str] = []
        self._nothing = ""

    def saw(self, count: int = 1) -> None:
        """Things were looked at."""
        self._seen += count

    def wrong(self, problem: str, count: int = 1) -> None:
        """So many of them are not as they should be, in the same way."""
        self._num_problems += count
        if len(self._problems) < self.SHOWN:
            self._problems.append(problem)

    def remark(self, text: str) -> None:
        """Something the reader should know that is no failure."""
        self._remarks.append(text)

    def nothing(self, why: str) -> None:
        """Why there was nothing to look at, when there was nothing."""
        self._nothing = why

    def add(self, other: Tally) -> None:
        """Take over what another tally of the same check has seen, as if it had happened to this one."""
        self._seen += other._seen
        self._num_problems += other._num_problems
        self._problems += other._problems[: self.SHOWN - len(self._problems)]
        self._remarks += other._remarks

    @property
    def has_failed(self) -> bool:
        """Whether anything was wrong."""
        return self._num_problems > 0

    def check(self, *, reached: bool = True) -> Check:
        """The result. ``reached`` is False when the procedure broke off before this check was complete."""
        if self._num_problems:
            more = self._num_problems - len(self._problems)
            parts = [*self._problems, f"and {more} more"] if more else self._problems
            return Check(self.number, self.name, Outcome.FAILED, "; ".join(parts))
        if not reached:
            return Check(self.number, self.name, Outcome.NOT_REACHED, "an earlier failure made it impossible")
        if not self._seen:
            parts = [self._nothing, *self._remarks]
            return Check(self.number, self.name, Outcome.NOTHING, "; ".join(part for part in parts if part))
        parts = [f"{self._seen:,} {self._unit}", *self._remarks]
        return Check(self.number, self.name, Outcome.PASSED, "; ".join(parts))
