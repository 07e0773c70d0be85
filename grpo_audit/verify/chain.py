"""The log itself: numbering, bodies, hashes, tree heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection

from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import NO_EVENT, BodyError, Event, parse
from grpo_audit.ledger.memory import Head
from grpo_audit.ledger.merkle import Frontier, leaf_hash
from grpo_audit.ledger.notes import Checkpoint, NoteError, VerifierKey, open_note
from grpo_audit.verify.verdict import Tally

_PAGE = 1000


class EventColumns(NamedTuple):
    """A row of ``event`` as stored; nothing about it is believed."""

    seq: int
    run_id: object
    kind: object
    body: object
    leaf_hash: object


def stored_events(connection: Connection) -> Iterator[EventColumns]:
    """Every row of ``event`` in order, streamed."""
    result = connection.exec_driver_sql("SELECT seq, run_id, kind, body, leaf_hash FROM event ORDER BY seq")
    for page in result.partitions(_PAGE):
        for row in page:
            yield EventColumns(*row)


class Chain:
    """Steps (2) to (5): follows the events one by one and grows the tree."""

    def __init__(self, numbering: Tally, bodies: Tally, columns: Tally, hashes: Tally) -> None:
        self._numbering = numbering
        self._bodies = bodies
        self._columns = columns
        self._hashes = hashes
        self._previous = NO_EVENT
        self.tree = Frontier()

    def follow(self, row: EventColumns) -> Event | None:
        """Take the next row; the event it holds, or None when its body cannot be read."""
        # (2) Numbers run from 0 without a gap.
        expected = self.tree.size
        self._numbering.saw()
        if row.seq != expected:
            self._numbering.wrong(f"event {row.seq} stands where event {expected} belongs")
        # (3) The body is canonical and says what its kind says.
        self._bodies.saw()
        body = row.body
        if not isinstance(body, bytes):
            self._bodies.wrong(f"event {row.seq}: the body is {type(body).__name__}, not bytes")
            body = b""
        try:
            parsed = parse(body)
        except (CanonicalError, BodyError) as error:
            self._bodies.wrong(f"event {row.seq}: {error}")
            parsed = None
        hashed = parsed.event.leaf_hash if parsed else leaf_hash(body)
        if parsed is not None:
            # (4) The columns beside the body, and its link to the event before, agree with it.
            self._columns.saw()
            event = parsed.event
            for name, stored, said in (
                ("seq", row.seq, event.seq),
                ("run", row.run_id, event.run_id),
                ("kind", row.kind, event.payload.kind.value),
                ("prev", self._previous.hex(), parsed.previous),
            ):
                if stored != said:
                    self._columns.wrong(f"event {row.seq}: {name} is {stored!r:.70}, but the body says {said!r:.70}")
        # (5) The leaf hash is that of the body.
        self._hashes.saw()
        if row.leaf_hash != hashed:
            self._hashes.wrong(f"event {row.seq}: the leaf hash is not that of the body")
        self._previous = hashed
        self.tree.append(hashed)
        return parsed.event if parsed else None


class TreeHeads:
    """Steps (6) and (7): compares the growing tree with every signed tree head."""

    def __init__(self, connection: Connection, key: VerifierKey | None, signatures: Tally, coverage: Tally) -> None:
        result = connection.exec_driver_sql("SELECT size, root, note, frontier FROM checkpoint ORDER BY size")
        self._rows = (row for page in result.partitions(_PAGE) for row in page)
        self._next = next(self._rows, None)
        self._key = key
        self._signatures = signatures
        self._coverage = coverage
        self._newest = 0
        self.newest_note = b""

    def follow(self, tree: Frontier) -> None:
        """The tree has grown by one leaf."""
        while self._next is not None and self._next[0] <= tree.size:
            size, root, note, frontier = self._next
            if size < tree.size:
                self._signatures.wrong(f"checkpoint {size} stands at no event")
            else:
                self._compare(tree, root, note, frontier)
                self._newest = size
            self._next = next(self._rows, None)

    def _compare(self, tree: Frontier, root: object, note: object, frontier: object) -> None:
        # (6) The head is that of the events, and the pinned key signed it.
        self._signatures.saw()
        size, computed = tree.size, tree.root()
        if root != computed:
            self._signatures.wrong(f"checkpoint {size}: its root is not that of the first {size} events")
        if frontier != tree.to_bytes():
            self._signatures.wrong(f"checkpoint {size}: its frontier is not that of the first {size} events")
        if self._key is None:
            self._signatures.wrong(f"checkpoint {size}: there is no key to check it with")
            return
        if not isinstance(note, bytes):
            self._signatures.wrong(f"checkpoint {size}: the note is {type(note).__name__}, not bytes")
            return
        try:
            said = Checkpoint.parse(open_note(note, self._key))
        except NoteError as error:
            self._signatures.wrong(f"checkpoint {size}: {error}")
            return
        if said != Checkpoint(self._key.name, size, computed):
            self._signatures.wrong(f"checkpoint {size}: the note signs another head (size {said.size})")
        self.newest_note = note

    def finish(self, tree: Frontier) -> None:
        """(7) The newest head covers every event, and no head speaks of events that are not there."""
        self._coverage.saw(tree.size)
        if self._newest < tree.size:
            self._coverage.wrong(f"events {self._newest} to {tree.size - 1} stand under no checkpoint")
        while self._next is not None:
            self._coverage.wrong(f"checkpoint {self._next[0]} speaks of events that are missing; there are {tree.size}")
            self._next = next(self._rows, None)


class Remembered:
    """Step (8): the head this machine saw last must be a head of this log."""

    def __init__(self, head: Head | None, tally: Tally) -> None:
        self._head = head
        self._tally = tally
        if head is None:
            tally.nothing("this machine has not seen this record before")

    def follow(self, tree: Frontier) -> None:
        """The tree has grown by one leaf."""
        if self._head is not None and tree.size == self._head.size:
            self._tally.saw()
            if tree.root() != self._head.root:
                self._tally.wrong(
                    f"the first {tree.size} events are not the ones this machine saw: history was rewritten, "
                    "or this is another copy that went its own way"
                )

    def finish(self, tree: Frontier) -> None:
        """All events are in the tree."""
        if self._head is not None and tree.size < self._head.size:
            missing = self._head.size - tree.size
            self._tally.wrong(f"the newest {missing} events are missing: this machine has seen {self._head.size}")
