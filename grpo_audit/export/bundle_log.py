"""The log of a bundle: which events it discloses, and the members they make."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sqlalchemy import Connection

from grpo_audit.export.bundle_files import RunFiles
from grpo_audit.ledger import canonical
from grpo_audit.ledger.event import BodyError, Event, parse
from grpo_audit.ledger.merkle import Frontier, leaf_hash
from grpo_audit.ledger.notes import Checkpoint, Note, NoteError
from grpo_audit.ledger.packing import unpack
from grpo_audit.ledger.storage_errors import DamagedRecordError, damaged
from grpo_audit.ledger.tip import read_created
from grpo_audit.record.events import EventKind
from grpo_audit.verify import manifest as layout
from grpo_audit.verify.bundle import is_text
from grpo_audit.verify.source import DatabaseSource, StoredContent

OF_EVERY_RUN = frozenset(
    {
        EventKind.RUN_REGISTERED,
        EventKind.RUN_RESUMED,
        EventKind.RUN_SEALED,
        EventKind.RUN_ABORTED,
        EventKind.RUN_ABANDONED,
        EventKind.ERASURE,
    }
)
"""Kinds disclosed also of other runs: what became of every run of the project. The project's own events always are."""
TEXT_KINDS = (EventKind.EVAL_SAMPLE, EventKind.GROUP, EventKind.REWARD_PROBED, EventKind.ROLLOUT)
"""Events whose content is what somebody or a model said: text, or token ids that stand for it."""
_BLOCK = 1 << 16


class _Disclosed(NamedTuple):
    seq: int
    kind: str


class BundledLog:
    """The log of one record as a bundle about one run gives it, through one connection: one state of the record.

    Raises DamagedRecordError for a log that does not hold together: a bundle of it would only be refused elsewhere.
    """

    def __init__(self, connection: Connection, record: str, run_id: str, *, without_text: bool) -> None:
        self._source = DatabaseSource(connection, record)
        self._run_id = run_id
        self.withheld_contents = [kind.value for kind in TEXT_KINDS] if without_text else []
        self.created = read_created(connection, record)
        self.num_events = self._newest_size()
        self.num_withheld = 0
        self.named_files = RunFiles()
        self._read_through()

    def members(self) -> dict[str, Callable[[], Iterator[bytes]]]:
        """Name to what makes its bytes, as often as it is called."""
        return {
            layout.CHECKPOINTS: self._checkpoints,
            layout.CONTENTS: self._contents,
            layout.EVENTS: self._events,
            layout.LEAVES: self._leaves,
            layout.WITNESS: self._witness,
        }

    def _newest_size(self) -> int:
        newest: object = None
        for row in self._source.checkpoints():
            newest = row.size
        if not isinstance(newest, int):
            raise damaged(self._source.name, "no checkpoint")
        if self._source.count() != newest:
            raise damaged(self._source.name, f"{self._source.count()} events, the newest checkpoint covers {newest}")
        return newest

    def _is_disclosed(self, run_id: str | None, kind: str) -> bool:
        return run_id is None or run_id == self._run_id or kind in OF_EVERY_RUN

    def _read_through(self) -> None:
        """Recompute the tree, count what is withheld, and collect what the run says of its files."""
        tree = Frontier()
        has_run = False
        for row in self._source.events(0, self.num_events):
            body = row.body
            if row.seq != tree.size or not isinstance(body, bytes) or row.leaf_hash != leaf_hash(body):
                raise damaged(self._source.name, f"event {row.seq} is not what its leaf hash says")
            tree.append(leaf_hash(body))
            event = self._parse(tree.size - 1, body)
            if (row.run_id, row.kind) != (event.run_id, event.kind.value):
                raise damaged(self._source.name, f"the columns of event {event.seq} are not what its body says")
            if not self._is_disclosed(event.run_id, event.kind):
                self.num_withheld += 1
            elif event.run_id == self._run_id:
                has_run = True
                self.named_files.follow(event.payload)
        newest = list(self._source.checkpoints(self.num_events - 1, self.num_events))
        if tree.size != self.num_events or not newest or newest[0].root != tree.root():
            raise damaged(self._source.name, "the newest checkpoint is not that of the events")
        if not has_run:
            raise damaged(self._source.name, f"run {self._run_id} has no events")

    def _parse(self, seq: int, body: bytes) -> Event:
        try:
            return parse(body).event
        except (canonical.CanonicalError, BodyError) as error:
            raise damaged(self._source.name, f"event {seq}: {error}") from error

    # --- members ----------------------------------------------------------------------------------------------------

    def _events(self) -> Iterator[bytes]:
        for row in self._source.events(0, self.num_events):
            assert isinstance(row.body, bytes)  # as read before, in the same transaction
            if self._is_disclosed(row.run_id, str(row.kind)):  # type: ignore[arg-type]
                yield row.body + b"\n"

    def _leaves(self) -> Iterator[bytes]:
        block = bytearray()
        for row in self._source.events(0, self.num_events):
            assert isinstance(row.leaf_hash, bytes)
            block += row.leaf_hash
            if len(block) >= _BLOCK:
                yield bytes(block)
                block.clear()
        yield bytes(block)

    def _checkpoints(self) -> Iterator[bytes]:
        for row in self._source.checkpoints(0, self.num_events):
            note = row.note
            try:
                if not isinstance(note, bytes):
                    raise NoteError("no bytes")
                head = Checkpoint.parse(Note.parse(note).text)
            except NoteError as error:
                raise damaged(self._source.name, f"checkpoint {row.size}: {error}") from error
            yield _line({"note": note.decode(), "root": head.root.hex(), "size": row.size})

    def _contents(self) -> Iterator[bytes]:
        disclosed = (
            _Disclosed(row.seq, str(row.kind))  # type: ignore[arg-type]
            for row in self._source.events(0, self.num_events)
            if self._is_disclosed(row.run_id, str(row.kind))  # type: ignore[arg-type]
        )
        event = next(disclosed, None)
        for row in self._source.contents(0, self.num_events):
            seq = row.seq
            assert isinstance(seq, int)
            while event is not None and event.seq < seq:
                event = next(disclosed, None)
            if event is not None and event.seq == seq and event.kind not in self.withheld_contents:
                yield self._content(row)

    def _content(self, row: StoredContent) -> bytes:
        try:
            plain = unpack(row.encoding, row.data)
            if not isinstance(row.salt, bytes):
                raise ValueError("no salt")
        except ValueError as error:
            raise damaged(self._source.name, f"content {row.name} of event {row.seq}: {error}") from error
        encoding, data = ("text", plain.decode()) if is_text(plain) else ("base64", base64.b64encode(plain).decode())
        line = {"data": data, "encoding": encoding, "name": row.name, "salt": row.salt.hex(), "seq": row.seq}
        try:
            return _line(line)
        except canonical.CanonicalError as error:
            raise DamagedRecordError(
                f"Content {row.name} of event {row.seq} is too large for a bundle", found=str(error)
            ) from error

    def _witness(self) -> Iterator[bytes]:
        for row in self._source.witnesses():
            if not isinstance(row.statement, bytes) or not isinstance(row.size, int):
                raise damaged(self._source.name, f"the statement of witness {row.name!r:.40}")
            if row.size <= self.num_events:
                statement = base64.b64encode(row.statement).decode()
                yield _line(
                    {"at": row.at, "kind": row.kind, "name": row.name, "size": row.size, "statement": statement}
                )


def _line(value: dict[str, object]) -> bytes:
    return canonical.dumps(value) + b"\n"
