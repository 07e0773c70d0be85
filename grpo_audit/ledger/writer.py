"""Appending: what only a writer of a record needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, select

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger import keys
from grpo_audit.ledger.batch import Batch, RefusedError, Tip, build
from grpo_audit.ledger.event import NO_EVENT, NewEvent
from grpo_audit.ledger.memory import Memory, RememberedHead
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.notes import Checkpoint, NoteError, Signer, VerifierKey, open_note
from grpo_audit.ledger.runs import RunHistory, load_history
from grpo_audit.ledger.storage_errors import DamagedRecordError, damaged
from grpo_audit.ledger.store import Store
from grpo_audit.ledger.tables import CheckpointRow, EventRow
from grpo_audit.ledger.tip import keys_in_force, origin_of, read_tip
from grpo_audit.record.events import ProjectCreated


def utc_now() -> str:
    """The time as the record writes it: UTC, RFC 3339, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Outside:
    """All that the bytes of a record depend on besides its events and its key."""

    now: Callable[[], str] = utc_now
    random: Callable[[int], bytes] = os.urandom
    """Gives that many bytes: the project's id, and salts."""


@dataclass(frozen=True)
class Order:
    """What one transaction is to do, decided when it is this writer's turn."""

    compose: Callable[[Connection, int], Sequence[NewEvent]]
    """The events, given the number of the first. Raises ConfigError or RefusedError when there is nothing to do."""
    beside: Callable[[Connection], None] | None = None
    """What else to change in the same transaction."""
    next_key: Signer | None = None
    """Signs the head too, and alone from then on."""


class Writer:
    """Signs, commits and remembers; made anew for each opening."""

    def __init__(self, created: ProjectCreated, own: Sequence[keys.SigningKey], record: str, outside: Outside) -> None:
        self._origin = origin_of(created.project_id)
        self._own = [key.signer(self._origin) for key in own]
        self._record = record
        self._outside = outside
        self._signer: Signer | None = None
        self._project_id = created.project_id
        self._memory = Memory(created.project_id)
        self._memory_error: StorageError | None = None
        self._process = os.getpid()
        self.is_poisoned = False

    @property
    def verifier(self) -> VerifierKey:
        """The key in force, as far as this writer knows."""
        assert self._signer is not None, "read_tip comes first"
        return self._signer.verifier

    def read_tip(self, connection: Connection) -> Tip:
        """Where the log ends, checked against its newest signature, by the key in force.

        Raises StorageError when that key is none of this user's.
        """
        self._signer = self._choose(keys_in_force(connection, self._record)[-1].key)
        tip, note = read_tip(connection, self._record)
        try:
            text = open_note(note, self.verifier)
        except NoteError as error:
            raise damaged(self._record, str(error)) from error
        if text != Checkpoint(self._origin, tip.head.size, tip.head.root).text():
            raise damaged(self._record, "the newest checkpoint signs another head")
        return tip

    def _choose(self, wanted: VerifierKey) -> Signer:
        for signer in self._own:
            if signer.verifier == wanted:
                return signer
        mine = ", ".join(signer.verifier.key_id.hex() for signer in self._own)
        raise StorageError(
            f"{self._record} is signed by another key",
            found=f"your {'keys' if len(self._own) > 1 else 'key'} {mine}",
            expected=f"the key {wanted}",
            next_step="Use the machine or the GRPO_AUDIT_HOME that made it, or start a new record",
        )

    def check_memory(self, connection: Connection, tip: Tip, remembered: RememberedHead | None) -> None:
        """Refuse to go on with a record that lost events this machine has seen. Raises StorageError.

        ``remembered`` was recalled before the connection saw the record: what others append meanwhile is no loss.
        """
        if remembered is not None:
            root = connection.execute(
                select(CheckpointRow.root).where(CheckpointRow.size == remembered.head.size)
            ).scalar()
            if root != remembered.head.root:
                raise DamagedRecordError(
                    f"{self._record} is not what this machine saw before",
                    found=f"{tip.head.size} events",
                    expected=f"{remembered.head.size} events with root {remembered.head.root.hex()[:16]} among them",
                    next_step=f"Run grpo-audit verify. To go on with an older copy, remove {remembered.path}",
                )
        # written now, so that a folder that cannot be written shows before the first event, not after it
        self._memory.update(tip.head, read_tip(connection, self._record)[1])

    def append(self, store: Store, tip: Tip, order: Order) -> Tip:
        """One transaction; the tip after it. Raises StorageError."""
        if os.getpid() != self._process:
            raise StorageError(
                f"{self._record} was opened by process {self._process}",
                found=f"a write by its child {os.getpid()}",
                expected="one writer",
            )
        try:
            with store.transaction() as connection:
                if store.is_shared:
                    tip = self._catch_up(connection, tip)
                batch = self._build(connection, tip, order)
                batch.write(connection)
                if order.beside is not None:
                    order.beside(connection)
        except (RefusedError, ConfigError):
            raise  # before anything was written
        except BaseException:
            self.is_poisoned = True
            raise
        if order.next_key is not None:
            self._own.insert(0, order.next_key)
            self._signer = order.next_key
        try:
            self._memory.update(batch.tip.head, batch.note)
        except StorageError as error:
            self._memory_error = error  # the batch is durable: raising here would say that it is not
        return batch.tip

    def _build(self, connection: Connection, tip: Tip, order: Order) -> Batch:
        def history_of(run_id: str) -> RunHistory:
            return load_history(connection, run_id)

        assert self._signer is not None, "read_tip comes first"
        return build(
            order.compose(connection, tip.frontier.size),
            tip,
            time=self._outside.now(),
            origin=self._origin,
            signers=[self._signer, *([order.next_key] if order.next_key else [])],
            history_of=history_of,
            random=self._outside.random,
        )

    def _catch_up(self, connection: Connection, tip: Tip) -> Tip:
        """The tip after what others appended, which must go on from ours. Raises DamagedRecordError."""
        newest = connection.execute(
            select(CheckpointRow.size, CheckpointRow.root).order_by(CheckpointRow.size.desc()).limit(1)
        ).first()
        if newest is not None and (newest.size, newest.root) == (tip.head.size, tip.head.root):
            return tip
        found = self.read_tip(connection)
        frontier = tip.frontier.copy()
        new = connection.execute(
            select(EventRow.run_id, EventRow.leaf_hash).where(EventRow.seq >= frontier.size).order_by(EventRow.seq)
        )
        touched: set[str | None] = set()
        for run_id, leaf_hash in new:
            frontier.append(leaf_hash)
            touched.add(run_id)
        if (frontier.size, frontier.root()) != (found.head.size, found.head.root):
            raise damaged(self._record, f"its newest head does not go on from the {tip.head.size} events seen before")
        found.histories = {run: history for run, history in tip.histories.items() if run not in touched}
        return found

    def recover(self, store: Store) -> Tip:
        """After an error nothing in memory is believed: new connections, and the head as it is on disk."""
        store.reopen()
        with store.connect() as connection:
            tip = self.read_tip(connection)
        self.is_poisoned = False
        return tip

    def finish(self) -> None:
        """Write the memory of the head. Raises StorageError, also for an earlier failure to remember."""
        self._memory.flush()
        if self._memory_error is not None:
            raise self._memory_error


def create_project(connection: Connection, *, key: keys.SigningKey, name: str, outside: Outside) -> None:
    """The first event. The key is pinned before, so that no record of ours ever lacks its pin."""
    project_id = outside.random(16).hex()
    signer = key.signer(origin_of(project_id))
    keys.pin(project_id, signer.verifier)
    created = ProjectCreated(project_id=project_id, name=name, public_key=str(signer.verifier))
    build(
        [NewEvent(created, None)],
        Tip(Frontier(), NO_EVENT),
        time=outside.now(),
        origin=signer.verifier.name,
        signers=[signer],
        history_of=RunHistory,
        random=outside.random,
    ).write(connection)
