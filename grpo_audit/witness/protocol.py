"""What a witness is to us: somebody else who remembers tree heads, and how their memory is checked later.

A kind of witness is one object (``WitnessKind``). It makes the two ends: a ``Witness``, which the writer of a record
asks, and an ``Anchor``, which a verifier trusts. Kinds of our own are directory, rfc3161 and git; others come through
the entry point group ``grpo_audit.witnesses`` (see ``kinds.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from grpo_audit.errors import StorageError
from grpo_audit.ledger.notes import Checkpoint, VerifierKey


class WitnessRefused(StorageError):
    """A witness remembers another history than the one it was shown. Whoever asked it must stop."""


class WitnessUnavailable(StorageError):
    """A witness could not be reached, or cannot answer now. Nothing is wrong with the record."""


@dataclass(frozen=True)
class RotationProof:
    """That the log handed over to another key: a ``key.rotated`` event, proved to be in the submitted head."""

    body: bytes
    """Canonical bytes of the event."""
    index: int
    path: tuple[bytes, ...]
    """Inclusion proof of the event in the submitted head."""


@dataclass(frozen=True)
class Submission:
    """A head as it is shown to a witness (as of https://c2sp.org/tlog-witness, ``add-checkpoint``)."""

    note: bytes
    """The checkpoint, signed."""
    old_size: int
    """Size of the head the witness remembers, 0 when it has seen none."""
    proof: tuple[bytes, ...]
    """Consistency proof from ``old_size`` to this head; empty from 0."""
    log_key: VerifierKey | None = None
    """The log's key in force, for a witness that sees this log for the first time; later it knows better."""
    rotation: RotationProof | None = None
    """Given with the head that both keys signed, so that the witness can follow the log to its next key."""


class Witness(Protocol):
    """Somebody to be shown tree heads."""

    @property
    def name(self) -> str:
        """What statements of this witness are kept under."""

    @property
    def kind(self) -> str:
        """Name of its ``WitnessKind``."""

    def remembers(self, origin: str) -> int:
        """Size of the newest head it has seen of this log; 0 for none. Raises WitnessUnavailable."""

    def see(self, head: Submission) -> bytes:
        """Its statement about a head. Raises WitnessRefused for a history that is not the one it remembers,
        WitnessUnavailable when it cannot answer.
        """

    def anchor(self) -> str:
        """What a verifier needs to trust it later, as text for ``WitnessKind.anchor``: pinned when it is added."""


class Judgement(StrEnum):
    """What a trusted anchor says of a statement."""

    HOLDS = "holds"
    BROKEN = "broken"
    """It is, or claims to be, about this anchor, and it does not hold."""
    OTHER = "other"
    """It is about another witness than this anchor."""


@dataclass(frozen=True)
class Judged:
    """A judgement with its reason."""

    judgement: Judgement
    detail: str
    at: str | None = None
    """When the witness saw the head, UTC, RFC 3339, by the witness' own clock."""


@dataclass(frozen=True)
class Remembered:
    """A head that a witness was found to remember, asked directly."""

    head: Checkpoint
    at: str | None


class Anchor(Protocol):
    """What a verifier trusts about one witness."""

    @property
    def label(self) -> str:
        """What to call it in a message."""

    def judge(self, name: str, statement: bytes, head: Checkpoint) -> Judged:
        """Whether the statement, kept under ``name``, is about exactly this head. Statement and name may be hostile."""

    def memory(self, origin: str) -> Remembered | None:
        """The newest head the witness itself remembers of this log, where it can be asked here and now.

        Raises WitnessUnavailable when it should be there but cannot be read.
        """


class WitnessKind(Protocol):
    """One kind of witness. Written in specifications as ``PREFIX:REST``."""

    @property
    def name(self) -> str:
        """What is stored as ``witness.kind``."""

    @property
    def prefix(self) -> str:
        """How a specification begins."""

    def settled(self, rest: str) -> str:
        """The same ``rest``, whatever the working directory will be."""

    def witness(self, rest: str) -> Witness:
        """The witness that ``PREFIX:rest`` names. Raises ConfigError when it names none, WitnessUnavailable when it is
        not there.
        """

    def trusted(self, rest: str) -> Anchor:
        """The anchor that a verifier means by ``rest``, or that ``Witness.anchor`` gave. Raises ConfigError."""

    def contradiction(self, statement: bytes, head: Checkpoint) -> str | None:
        """Why the statement cannot be about this head, whoever made it; None when it may be."""
