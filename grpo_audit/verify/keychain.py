"""Steps (1) and (6): which key must have signed which head, through every rotation."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, parse
from grpo_audit.ledger.notes import NoteError, VerifierKey
from grpo_audit.record.events import EventKind, KeyRotated
from grpo_audit.verify.source import DatabaseSource, Source


@dataclass(frozen=True)
class KeyChain:
    """The keys of a log, oldest first, and the events that rotated them."""

    keys: tuple[VerifierKey, ...]
    rotations: tuple[int, ...] = ()
    """Sequence numbers; one less than keys."""

    def required(self, previous: int, size: int) -> tuple[VerifierKey, ...]:
        """The keys that sign the head over ``size`` events when the head before is over ``previous``.

        One, except over a rotation: then the old and the new one.
        """
        return self.keys[bisect_left(self.rotations, previous) : bisect_left(self.rotations, size) + 1]


@dataclass(frozen=True)
class Rotation:
    """A rotation as the log states it."""

    seq: int
    old: VerifierKey
    new: VerifierKey


def rotations(source: Source) -> tuple[list[Rotation], list[str]]:
    """Every rotation of the key that the log states, in order, and what is wrong with those that cannot be read."""
    found: list[Rotation] = []
    problems: list[str] = []
    for seq, body in _rotated(source):
        try:
            payload = parse(body if isinstance(body, bytes) else b"").event.payload
            if not isinstance(payload, KeyRotated) or not isinstance(seq, int):
                raise BodyError("it rotates no key")
            found.append(Rotation(seq, VerifierKey.parse(payload.old_key), VerifierKey.parse(payload.new_key)))
        except (CanonicalError, BodyError, NoteError) as error:
            problems.append(f"event {seq} rotates the key, but cannot be read: {error}")
    return found, problems


def _rotated(source: Source) -> list[tuple[object, object]]:
    if isinstance(source, DatabaseSource):
        # by the index over run, kind and seq; a rotation hidden from it by its columns fails step (4)
        query = "SELECT seq, body FROM event WHERE run_id IS NULL AND kind = 'key.rotated' ORDER BY seq"
        return [tuple(row) for row in source.connection.exec_driver_sql(query)]
    return [(event.seq, event.body) for event in source.events() if event.kind == EventKind.KEY_ROTATED.value]


def chain_of(stated: VerifierKey, found: list[Rotation]) -> tuple[KeyChain, list[str]]:
    """The chain from the key that the first event states, and where a rotation does not continue it."""
    keys, places, problems = [stated], [], []
    for rotation in found:
        if rotation.old != keys[-1]:
            problems.append(f"event {rotation.seq} rotates the key {rotation.old}, but {keys[-1]} is in force")
        if rotation.new.name != stated.name:
            problems.append(f"event {rotation.seq} rotates to a key of another name, {rotation.new.name}")
        keys.append(rotation.new)
        places.append(rotation.seq)
    return KeyChain(tuple(keys), tuple(places)), problems
