"""The one way into a record: create it, append to it, read it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from sqlalchemy import ColumnElement, Connection, func, select
from sqlalchemy.orm import Session

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger import erasure, keys, runs
from grpo_audit.ledger.batch import Tip
from grpo_audit.ledger.event import Event, NewEvent
from grpo_audit.ledger.heads import SignedHead, keep_statement, leaf_hashes, signed_head
from grpo_audit.ledger.memory import Head, recall
from grpo_audit.ledger.packing import unpack
from grpo_audit.ledger.runs import RunOverview, load_history
from grpo_audit.ledger.storage_errors import DamagedRecordError
from grpo_audit.ledger.store import Store
from grpo_audit.ledger.tables import ContentRow, EventRow, RunRow
from grpo_audit.ledger.tip import KeyPeriod, keys_in_force, origin_of, parse_stored, read_created, read_tip
from grpo_audit.ledger.writer import Order, Outside, Writer, create_project, utc_now
from grpo_audit.record.events import EventKind, KeyRotated, ProjectCreated, RunSealed

__all__ = ["Event", "Head", "KeyPeriod", "NewEvent", "Outside", "Project", "RunOverview", "SignedHead"]

_PAGE = 2000
"""Events fetched at once when streaming."""


class Project:
    """A record: every event of every run. A context manager; one thread appends at a time, any thread may read.

    ``head``, ``project_id`` and ``public_key`` describe what was opened. In PostgreSQL other processes may append too:
    ``head`` is the newest that this object made or saw. After a StorageError from ``append``, it is read again at the
    next ``append``: the batch may have become durable although the commit failed.
    """

    def __init__(self, store: Store, created: ProjectCreated, tip: Tip, writer: Writer | None) -> None:
        self._store = store
        self._created = created
        self._tip = tip
        self._writer = writer
        self._appending = threading.Lock()

    @classmethod
    def open(
        cls,
        location: str | Path,
        *,
        mode: Literal["create", "write", "read"],
        key: keys.SigningKey | None = None,
        name: str = "grpo-audit",
        outside: Outside | None = None,
    ) -> Project:
        """Open a record at a path or database URL.

        ``create`` makes one when there is none, ``write`` demands one, ``read`` cannot change it. ``key`` is the only
        key to sign with; unless given, the one of the user's keys that is in force. ``name`` is the name of a new
        project. ``outside`` replaces the clock and the source of salts.

        Raises StorageError: missing, damaged, locked by another process, written by a newer version, signed by another
        key, older than what this machine has seen, full disk, read-only folder, server out of reach.
        """
        if mode == "read":
            return cls._open_for_reading(location)
        outside = outside or Outside()
        own = [key] if key else keys.all_private()
        if mode == "create":
            store = Store.create(location, partial(create_project, key=own[0], name=name, outside=outside))
        else:
            store = Store.write(location)
        try:
            with store.connect() as connection:
                created = read_created(connection, store.name)
            remembered = recall(created.project_id)  # before the record is looked at: others may be appending
            with store.connect() as connection:
                writer = Writer(created, own, store.name, outside)
                tip = writer.read_tip(connection)
                writer.check_memory(connection, tip, remembered)
            return cls(store, created, tip, writer)
        except BaseException:
            store.close()
            raise

    @classmethod
    def _open_for_reading(cls, location: str | Path) -> Project:
        store = Store.read(location)
        try:
            with store.connect() as connection:
                created = read_created(connection, store.name)
                tip = read_tip(connection, store.name)[0]
            return cls(store, created, tip, None)
        except BaseException:
            store.close()
            raise

    @property
    def project_id(self) -> str:
        """32 hexadecimal digits."""
        return self._created.project_id

    @property
    def public_key(self) -> str:
        """Verifier key in signed-note form that the project began with; ``keys_in_force`` gives all."""
        return self._created.public_key

    @property
    def head(self) -> Head:
        """Size and root of the newest signed tree head that this object knows."""
        return self._tip.head

    @property
    def name(self) -> str:
        """Where the record is, for messages."""
        return self._store.name

    def append(self, events: Sequence[NewEvent]) -> Head:
        """Append events in one transaction, with a signed tree head over them; durable when this returns.

        Raises StorageError, and then nothing of the batch is visible; ValueError for an empty batch.
        """
        if not events and self._writer is not None:
            raise ValueError("a transaction needs at least one event")
        return self._append(Order(lambda _connection, _first: events))

    def append_from(self, compose: Callable[[int], Sequence[NewEvent]]) -> Head:
        """Append events that name each other: ``compose`` is given the number that the first of them gets.

        It is called while no other process can append, so it must be quick and must not append. Raises as ``append``.
        """
        return self._append(Order(lambda _, first: compose(first)))

    def seal(self, run_id: str, weights_digest: str | None) -> Head:
        """Append ``run.sealed``, which states what the run holds at that moment: others may have annotated it.

        Raises StorageError.
        """

        def compose(connection: Connection, _: int) -> list[NewEvent]:
            counts = {kind.value: count for kind, count in load_history(connection, run_id).counts.items() if count}
            runs = connection.execute(select(func.count()).select_from(RunRow)).scalar()
            seal = RunSealed(events=sum(counts.values()), by_kind=counts, weights_digest=weights_digest, runs=runs)
            return [NewEvent(seal, run_id)]

        return self._append(Order(compose))

    def rotate_key(self, new: keys.SigningKey, *, author: str, reason: str) -> Head:
        """Sign with another key from here on. The head over ``key.rotated`` is signed by both keys.

        ``new`` must be kept before this is called: without it nothing can be appended afterwards. It is pinned for this
        machine. Raises StorageError; ConfigError when the key was in force before.
        """
        signer = new.signer(origin_of(self.project_id))

        def compose(connection: Connection, _: int) -> list[NewEvent]:
            periods = keys_in_force(connection, self.name)
            if any(period.key == signer.verifier for period in periods):
                raise ConfigError("The key was in force before", expected="a key that this project never had")
            old, new_key = str(periods[-1].key), str(signer.verifier)
            return [NewEvent(KeyRotated(author=author, reason=reason, old_key=old, new_key=new_key), None)]

        head = self._append(Order(compose, next_key=signer))
        keys.pin(self.project_id, signer.verifier)
        return head

    def keys_in_force(self) -> list[KeyPeriod]:
        """Every key of the project with the event that put it in force; the last is in force now.

        Raises DamagedRecordError when the rotations contradict each other.
        """
        with self._store.connect() as connection:
            return keys_in_force(connection, self.name)

    def erase(self, run_id: str, items: erasure.Items, *, author: str, reason: str) -> Head:
        """Remove contents of a run, given as (event, names of contents), and record that, in one transaction.

        In SQLite the file is then written anew, so that no erased byte is left in it or its log; that takes room for
        another copy. When only this fails, a StorageError says so: the erasure stands, and ``scrub`` does the rest.

        Raises ConfigError, and nothing is erased, when a name does not exist, is gone already or is of another run.
        """
        names = erasure.wanted(items)

        def compose(connection: Connection, _: int) -> list[NewEvent]:
            return erasure.compose(connection, run_id, names, author=author, reason=reason, record=self.name)

        head = self._append(Order(compose, beside=lambda connection: erasure.remove(connection, names)))
        self.scrub()
        return head

    def scrub(self) -> None:
        """Leave no deleted byte in a SQLite file and its log. In PostgreSQL nothing: that is the server's affair.

        Raises StorageError: too little space, another program is reading.
        """
        with self._appending:
            self._store.scrub()

    def _append(self, order: Order) -> Head:
        if self._writer is None:
            raise StorageError(f"{self.name} is open for reading only")
        with self._appending:
            if self._writer.is_poisoned:
                self._tip = self._writer.recover(self._store)
            self._tip = self._writer.append(self._store, self._tip, order)
            return self.head

    def events(
        self, run_id: str | None = None, kinds: Collection[EventKind] | None = None, start: int = 0
    ) -> Iterator[Event]:
        """Events in order, from ``start``, streamed; of one run or kind when asked for.

        Raises DamagedRecordError when a body cannot be read.
        """
        conditions: list[ColumnElement[bool]] = []
        if run_id is not None:
            conditions.append(EventRow.run_id == run_id)
        if kinds is not None:
            conditions.append(EventRow.kind.in_([kind.value for kind in kinds]))
        while True:
            # page by page, so that no transaction stays open while the caller works
            with self._store.connect() as connection:
                page = connection.execute(
                    select(EventRow.seq, EventRow.body)
                    .where(EventRow.seq >= start, *conditions)
                    .order_by(EventRow.seq)
                    .limit(_PAGE)
                ).all()
            for seq, body in page:
                yield parse_stored(seq, body, self.name)
            if len(page) < _PAGE:
                return
            start = page[-1].seq + 1

    def last(self, run_id: str, kind: EventKind) -> Event | None:
        """The newest event of a kind of a run."""
        with self._store.connect() as connection:
            row = connection.execute(
                select(EventRow.seq, EventRow.body)
                .where(EventRow.run_id == run_id, EventRow.kind == kind.value)
                .order_by(EventRow.seq.desc())
                .limit(1)
            ).first()
        return None if row is None else parse_stored(row.seq, row.body, self.name)

    def content(self, seq: int, name: str) -> bytes | None:
        """Plain bytes of an event's content; None when there is none (or it was erased)."""
        with self._store.connect() as connection:
            row = connection.execute(
                select(ContentRow.encoding, ContentRow.data).where(ContentRow.seq == seq, ContentRow.name == name)
            ).first()
        if row is None:
            return None
        try:
            return unpack(row.encoding, row.data)
        except ValueError as error:
            raise DamagedRecordError(f"Content {name} of event {seq} cannot be read", found=str(error)) from error

    def counts(self, run_id: str) -> dict[EventKind, int]:
        """Events of a run by kind: what ``run.sealed`` must state."""
        with self._store.connect() as connection:
            return {kind: count for kind, count in load_history(connection, run_id).counts.items() if count}

    def checkpoint(self, size: int | None = None) -> SignedHead:
        """Size, root and signed note of a tree head: the newest, or the one over ``size`` events.

        Raises StorageError when there is none of that size.
        """
        with self._store.connect() as connection:
            return signed_head(connection, size, self.name)

    def leaf_hashes(self, start: int, stop: int) -> Iterator[bytes]:
        """Leaf hashes of the events with start <= seq < stop, streamed. Raises DamagedRecordError for a missing one."""
        return leaf_hashes(self._store, start, stop)

    def keep_witness(self, size: int, name: str, kind: str, statement: bytes) -> None:
        """Keep what a witness said of the head over ``size`` events; an older statement of that name and size goes.

        Durable when this returns, in a transaction of its own. Raises StorageError: open for reading, no such head.
        """
        keep_statement(self._store, size=size, name=name, kind=kind, statement=statement, at=utc_now())

    def session(self) -> Session:
        """A session for reading the projections; it cannot write."""
        return Session(self._store.reading)

    def runs(self) -> list[RunOverview]:
        """Every run ever registered, oldest first."""
        with self._store.connect() as connection:
            return runs.overviews(connection)

    def find_run(self, reference: str | None) -> RunOverview:
        """The run a user means: None is the newest, else an id, a unique prefix of one, or a unique name.

        Raises ConfigError that lists what there is.
        """
        return runs.choose(self.runs(), reference, self.name)

    def close(self) -> None:
        """Remember the head, close the database and release the lock. Raises StorageError."""
        try:
            if self._writer is not None:
                self._writer.finish()
        finally:
            self._store.close()

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
