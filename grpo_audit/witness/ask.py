"""Showing tree heads to the witnesses of a project, and keeping what they say beside the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import Project, SignedHead
from grpo_audit.ledger.proofs import RecordLeaves, prove_consistency, prove_inclusion
from grpo_audit.ledger.tip import KeyPeriod, origin_of
from grpo_audit.witness import kinds, pins
from grpo_audit.witness.pins import Pin
from grpo_audit.witness.protocol import RotationProof, Submission, Witness, WitnessRefused, WitnessUnavailable

_TRIES = 3


@dataclass(frozen=True)
class Asked:
    """What came of asking one witness."""

    name: str
    kind: str
    size: int
    """Events in the head it was shown."""
    problem: WitnessUnavailable | None
    """Why there is no statement; None when one was kept."""


def add(project_id: str, spec: str) -> Pin:
    """Make a witness one of the project's, and pin what its statements will be checked with.

    Raises ConfigError for a specification that names none; WitnessUnavailable when it cannot be reached; WitnessRefused
    when another witness, or the same with another key, is pinned under that name.
    """
    spec = kinds.settled(spec)
    kind, rest = kinds.split(spec)
    witness = kind.witness(rest)
    pin = Pin(spec, witness.name, kind.name, witness.anchor())
    for known in pins.read(project_id):
        if known.name == pin.name and known.anchor != pin.anchor:
            raise WitnessRefused(
                f"Another witness is pinned as {pin.name}",
                found=pin.anchor[:200],
                expected=known.anchor[:200],
                next_step=f"If that is right, first: grpo-audit witness remove {known.name}",
            )
        if known.spec == spec and known.name != pin.name:
            raise WitnessRefused(
                f"The witness at {spec} is another one than before",
                found=pin.name,
                expected=known.name,
                next_step=f"If that is right, first: grpo-audit witness remove {known.name}",
            )
    pins.keep(project_id, pin)
    return pin


def ask_all(project: Project, specs: Sequence[str] = (), *, size: int | None = None) -> list[Asked]:
    """Show the newest head (or the one over ``size`` events) to every witness of the project, and keep what they say.

    ``specs`` are added first. A witness that cannot be reached is in the result with its problem. Raises
    WitnessRefused, after all were asked, when one of them remembers another history; ConfigError for a specification
    that names none.
    """
    results: list[Asked] = []
    refusal: WitnessRefused | None = None
    known = {pin.spec for pin in pins.read(project.project_id)}
    for spec in dict.fromkeys(map(kinds.settled, specs)):
        if spec not in known:
            try:
                add(project.project_id, spec)
            except WitnessUnavailable as error:
                results.append(Asked(spec, kinds.split(spec)[0].name, 0, error))
    for pin in pins.read(project.project_id):
        try:
            results.append(Asked(pin.name, pin.kind, ask(project, _open(pin), size=size), None))
        except WitnessUnavailable as error:
            results.append(Asked(pin.name, pin.kind, 0, error))
        except WitnessRefused as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return results


def ask(project: Project, witness: Witness, *, size: int | None = None) -> int:
    """Show a head to one witness and keep its statement; the size of that head.

    Raises WitnessRefused, WitnessUnavailable, ConfigError for a head that it has left behind.
    """
    seen, statement = show(project, witness, size=size)
    project.keep_witness(seen, witness.name, witness.kind, statement)
    return seen


def show(project: Project, witness: Witness, *, size: int | None = None) -> tuple[int, bytes]:
    """Show a head to one witness; the size of that head, and what the witness says. The record may be open for reading.

    Others may write to the same project: when the witness has seen a newer head than the one that was just read, the
    newest is read again. Raises WitnessRefused, WitnessUnavailable, ConfigError for a head that it has left behind.
    """
    for attempt in range(_TRIES):
        head = project.checkpoint(size)
        old_size = witness.remembers(origin_of(project.project_id))
        if size is not None and old_size > size:
            raise ConfigError(
                f"{witness.name} has seen {old_size} events and does not go back",
                found=f"--size {size}",
                next_step="Ask about the newest head, without --size",
            )
        try:
            statement = b""
            for submission in _submissions(project, head, old_size):
                statement = witness.see(submission)
            return head.size, statement
        except (WitnessRefused, WitnessUnavailable):
            is_overtaken = size is None and project.checkpoint().size > head.size
            if not is_overtaken or attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _open(pin: Pin) -> Witness:
    """The witness behind a pin, unless it is another one by now. Raises WitnessRefused, WitnessUnavailable."""
    try:
        kind, rest = kinds.split(pin.spec)
        witness = kind.witness(rest)
    except ConfigError as error:  # it was there when it was added
        raise WitnessUnavailable(error.what, found=error.found, next_step=error.next_step) from error
    if witness.anchor() != pin.anchor:
        raise WitnessRefused(
            f"The witness at {pin.spec} is not the one that was added",
            found=witness.anchor()[:200],
            expected=pin.anchor[:200],
            next_step=f"Find out who replaced it; if it was you: grpo-audit witness remove {pin.name}, then add it",
        )
    return witness


def _submissions(project: Project, head: SignedHead, old_size: int) -> Iterator[Submission]:
    """The heads that lead the witness from what it remembers to ``head``: each rotation of the key, then the head."""
    leaves = RecordLeaves(project)
    periods = project.keys_in_force()
    shown = old_size
    if 0 < old_size < head.size:
        for before, after in pairwise(periods):
            handover = _head_over(project, after)
            if old_size < handover.size <= head.size:
                yield Submission(
                    note=handover.note,
                    old_size=shown,
                    proof=tuple(prove_consistency(leaves, shown, handover.size, handover.root)),
                    log_key=before.key,
                    rotation=_rotation(project, leaves, after, handover),
                )
                shown = handover.size
    if shown == head.size and shown != old_size:
        return  # the newest head is itself a handover
    proof = prove_consistency(leaves, shown, head.size, head.root) if shown <= head.size else []
    in_force = [period for period in periods if period.from_seq < head.size]
    yield Submission(note=head.note, old_size=shown, proof=tuple(proof), log_key=in_force[-1].key)


def _head_over(project: Project, period: KeyPeriod) -> SignedHead:
    """The head of the transaction that put a key in force."""
    return project.checkpoint(period.from_seq + 1)


def _rotation(project: Project, leaves: RecordLeaves, period: KeyPeriod, head: SignedHead) -> RotationProof:
    event = next(project.events(start=period.from_seq))
    path = prove_inclusion(leaves, event.seq, head.size, head.root)
    return RotationProof(body=event.body, index=event.seq, path=tuple(path))
