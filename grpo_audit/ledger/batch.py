"""One transaction's worth of events, made into rows before the database is touched."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, insert

from grpo_audit.errors import StorageError
from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import Event, NewEvent, content_digest, encode
from grpo_audit.ledger.memory import Head
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.notes import Checkpoint, Signer, sign
from grpo_audit.ledger.packing import pack
from grpo_audit.ledger.postgres import copy_rows
from grpo_audit.ledger.projections import ProjectionError, rows
from grpo_audit.ledger.runs import PROJECT_WIDE, RuleError, RunHistory
from grpo_audit.ledger.tables import Base, CheckpointRow, ContentRow, EventRow
from grpo_audit.record.events import EventKind

SALT_BYTES = 16


class RefusedError(StorageError):
    """The caller's event breaks a rule; nothing was written."""


@dataclass
class Tip:
    """Where the log ends: all that is needed to append to it."""

    frontier: Frontier
    previous: bytes
    """Leaf hash of the newest event."""
    histories: dict[str, RunHistory] = field(default_factory=dict)

    @property
    def head(self) -> Head:
        """Size and root."""
        return Head(self.frontier.size, self.frontier.root())


@dataclass
class Batch:
    """Rows to insert, and the tip as it is once they are committed."""

    tip: Tip
    note: bytes
    inserts: dict[type[Base], list[dict[str, Any]]]

    def write(self, connection: Connection) -> None:
        """Insert everything. The caller commits."""
        insert_rows(connection, self.inserts)


def insert_rows(connection: Connection, inserts: Mapping[type[Base], list[dict[str, Any]]]) -> None:
    """Insert rows by table. The caller commits."""
    if connection.dialect.name == "postgresql":
        for table, values in inserts.items():
            copy_rows(connection, table.metadata.tables[table.__tablename__], values)
        return
    for table, values in inserts.items():
        statement, pick = _insert(table, connection.dialect)
        # straight to the driver: converting each value first costs a quarter of the time, and all are plain already
        connection.exec_driver_sql(statement, values if pick is None else [pick(row) for row in values])


@lru_cache(maxsize=64)
def _insert(table: type[Base], dialect: Dialect) -> tuple[str, Callable[[dict[str, Any]], tuple[Any, ...]] | None]:
    """The statement, and what picks its parameters from a row where the driver wants them by position."""
    compiled = insert(table).compile(dialect=dialect)
    return str(compiled), None if compiled.positiontup is None else itemgetter(*compiled.positiontup)


def build(
    events: Sequence[NewEvent],
    tip: Tip,
    *,
    time: str,
    origin: str,
    signers: Sequence[Signer],
    history_of: Callable[[str], RunHistory],
    random: Callable[[int], bytes] = os.urandom,
) -> Batch:
    """Number, encode, hash, project and sign. ``tip`` is not changed; ``random`` gives the salts.

    Raises StorageError when an event breaks a rule or has no canonical form.
    """
    frontier = tip.frontier.copy()
    previous = tip.previous
    histories: dict[str, RunHistory] = {}
    inserts: dict[type[Base], list[dict[str, Any]]] = defaultdict(list)
    salts = _salts(sum(len(new.content) for new in events), random)
    for new in events:
        seq = frontier.size
        try:
            attempt = _follow(new, seq, histories, tip, history_of)
            digests = {}
            for name, data in new.content.items():
                salt = next(salts)
                digests[name] = content_digest(salt, data)
                inserts[ContentRow].append(_content_row(seq, name, salt, data))
            event = encode(new, seq=seq, time=time, previous=previous, content=digests)
            for table, values in rows(event, attempt):
                inserts[table].append(values)
        except (RuleError, CanonicalError, ProjectionError) as error:
            raise RefusedError(
                f"Cannot record {new.payload.kind}", found=str(error), next_step="Nothing of it was written"
            ) from error
        inserts[EventRow].append(_event_row(event))
        frontier.append(event.leaf_hash)
        previous = event.leaf_hash
    after = Tip(frontier, previous, {**tip.histories, **histories})
    note = sign(Checkpoint(origin, frontier.size, after.head.root).text(), *signers)
    inserts[CheckpointRow].append(
        {"size": frontier.size, "root": after.head.root, "note": note, "frontier": frontier.to_bytes()}
    )
    return Batch(after, note, dict(inserts))


def _salts(count: int, random: Callable[[int], bytes]) -> Iterator[bytes]:
    drawn = random(SALT_BYTES * count)
    return (drawn[at : at + SALT_BYTES] for at in range(0, len(drawn), SALT_BYTES))


def _follow(
    new: NewEvent,
    seq: int,
    histories: dict[str, RunHistory],
    tip: Tip,
    history_of: Callable[[str], RunHistory],
) -> int:
    """Check the event against what came before; its run's attempt."""
    kind, run_id = new.payload.kind, new.run_id
    check_place(kind, run_id, seq)
    if any("\x00" in name for name in (run_id or "", *new.content)):
        raise RuleError("a run id or a name of content holds NUL, which PostgreSQL cannot")
    if run_id is None:
        return 0
    if run_id not in histories:
        known = tip.histories.get(run_id)
        histories[run_id] = known.copy() if known else history_of(run_id)
    histories[run_id].follow(new.payload)
    return histories[run_id].attempt


def check_place(kind: EventKind, run_id: str | None, seq: int) -> None:
    """Rules that need no history. Raises RuleError."""
    if (kind is EventKind.PROJECT_CREATED) != (seq == 0):
        raise RuleError(f"{EventKind.PROJECT_CREATED} is the first event, and nothing else is; found {kind} at {seq}")
    if run_id is None and kind not in PROJECT_WIDE:
        raise RuleError(f"{kind} belongs to a run, but names none")


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "run_id": event.run_id,
        "kind": event.payload.kind.value,
        "body": event.body,
        "leaf_hash": event.leaf_hash,
    }


def _content_row(seq: int, name: str, salt: bytes, data: bytes) -> dict[str, Any]:
    encoding, stored = pack(data)
    return {"seq": seq, "name": name, "salt": salt, "encoding": encoding, "data": stored}
