"""The one way into a record: create it, append to it, read it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from grpo_audit.errors import StorageError
from grpo_audit.ledger import keys, runs
from grpo_audit.ledger.batch import Tip, unpack
from grpo_audit.ledger.event import Event, NewEvent
from grpo_audit.ledger.heads import SignedHead, keep_statement, leaf_hashes, signed_head
from grpo_audit.ledger.memory import Head
from grpo_audit.ledger.runs import RunOverview, load_history
from grpo_audit.ledger.storage_errors import DamagedRecordError
from grpo_audit.ledger.store import Store
from grpo_audit.ledger.tables import ContentRow, EventRow
from grpo_audit.ledger.tip import origin_of, parse_stored, read_created, read_tip
from grpo_audit.ledger.writer import Writer, create_project, utc_now
from grpo_audit.record.events import EventKind, ProjectCreated

__all__ = ["Event", "Head", "NewEvent", "Project", "RunOverview"]

_PAGE = 2000
"""Events fetched at once when streaming."""


class Project:
    """A record: every event of every run. A context manager; one thread appends, any thread may read.

    ``head``, ``project_id`` and ``public_key`` describe what was opened. After a StorageError from ``append``, ``head``
    is read again from disk at the next ``append``: the batch may have become durable although the commit failed.
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
    ) -> Project:
        """Open a record at a path or database URL.

        ``create`` makes one when there is none, ``write`` demands one, ``read`` cannot change it. ``key`` is the user's
        key unless given; ``name`` is the name of a new project.

        Raises StorageError: missing, damaged, locked by another process, written by a newer version, signed by another
        key, older than what this machine has seen, full disk, read-only folder.
        """
        if mode == "read":
            return cls._open_for_reading(location)
        key = key or keys.SigningKey.load_or_create()
        if mode == "create":
            store = Store.create(location, partial(create_project, key=key, name=name))
        else:
            store = Store.write(location)
        try:
            with store.connect() as connection:
                created = read_created(connection, store.name)
                writer = Writer(created, key.signer(origin_of(created.project_id)), store.name)
                tip = writer.read_tip(connection)
                writer.check_memory(connection, tip)
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
        """Verifier key in signed-note form, as the record states it."""
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
        if self._writer is None:
            raise StorageError(f"{self.name} is open for reading only")
        if not events:
            raise ValueError("a transaction needs at least one event")
        with self._appending:
            if self._writer.is_poisoned:
                self._tip = self._writer.recover(self._store)
            self._tip = self._writer.append(self._store, self._tip, events)
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
