"""Appending: what only the one writer of a record needs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, select

from grpo_audit.errors import StorageError
from grpo_audit.ledger import keys
from grpo_audit.ledger.batch import Batch, Tip, build
from grpo_audit.ledger.event import NO_EVENT, NewEvent
from grpo_audit.ledger.memory import Memory, recall
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.notes import Checkpoint, NoteError, Signer, open_note
from grpo_audit.ledger.runs import RunHistory, load_history
from grpo_audit.ledger.storage_errors import DamagedRecordError, damaged
from grpo_audit.ledger.store import Store
from grpo_audit.ledger.tables import CheckpointRow
from grpo_audit.ledger.tip import origin_of, read_tip
from grpo_audit.record.events import ProjectCreated


class Writer:
    """Signs, commits and remembers; made anew for each opening."""

    def __init__(self, created: ProjectCreated, signer: Signer, record: str) -> None:
        if str(signer.verifier) != created.public_key:
            raise StorageError(
                f"{record} is signed by another key",
                found=f"your key {signer.verifier.key_id.hex()}",
                expected=f"the key {created.public_key}",
                next_step="Use the machine or the GRPO_AUDIT_HOME that made it, or start a new record",
            )
        self._created = created
        self._signer = signer
        self._record = record
        self._memory = Memory(created.project_id)
        self._memory_error: StorageError | None = None
        self._process = os.getpid()
        self.is_poisoned = False

    def read_tip(self, connection: Connection) -> Tip:
        """Where the log ends, checked against its newest signature."""
        tip, note = read_tip(connection, self._record)
        try:
            text = open_note(note, self._signer.verifier)
        except NoteError as error:
            raise damaged(self._record, str(error)) from error
        if text != Checkpoint(self._signer.verifier.name, tip.head.size, tip.head.root).text():
            raise damaged(self._record, "the newest checkpoint signs another head")
        return tip

    def check_memory(self, connection: Connection, tip: Tip) -> None:
        """Refuse to go on with a record that lost events this machine has seen. Raises StorageError."""
        remembered = recall(self._created.project_id)
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

    def append(self, store: Store, tip: Tip, events: Sequence[NewEvent]) -> Tip:
        """One transaction; the tip after it. Raises StorageError."""
        if os.getpid() != self._process:
            raise StorageError(
                f"{self._record} was opened by process {self._process}",
                found=f"a write by its child {os.getpid()}",
                expected="one writer",
            )
        batch = self._build(store, tip, events)
        try:
            with store.transaction() as connection:
                batch.write(connection)
        except BaseException:
            self.is_poisoned = True
            raise
        try:
            self._memory.update(batch.tip.head, batch.note)
        except StorageError as error:
            self._memory_error = error  # the batch is durable: raising here would say that it is not
        return batch.tip

    def _build(self, store: Store, tip: Tip, events: Sequence[NewEvent]) -> Batch:
        def history_of(run_id: str) -> RunHistory:
            with store.connect() as connection:
                return load_history(connection, run_id)

        return build(
            events,
            tip,
            time=utc_now(),
            origin=self._signer.verifier.name,
            signer=self._signer,
            history_of=history_of,
        )

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


def create_project(store: Store, key: keys.SigningKey, name: str) -> None:
    """The first event. The key is pinned before, so that no record of ours ever lacks its pin."""
    project_id = secrets.token_hex(16)
    signer = key.signer(origin_of(project_id))
    keys.pin(project_id, signer.verifier)
    created = ProjectCreated(project_id=project_id, name=name, public_key=str(signer.verifier))
    batch = build(
        [NewEvent(created, None)],
        Tip(Frontier(), NO_EVENT),
        time=utc_now(),
        origin=signer.verifier.name,
        signer=signer,
        history_of=RunHistory,
    )
    with store.transaction() as connection:
        batch.write(connection)


def utc_now() -> str:
    """The time as the record writes it: UTC, RFC 3339, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
