"""A bundle as a record that the report can be collected from: its events in a temporary database, projections derived.

Events of other runs, which a bundle withholds, are not in it; so it is for reading one run, and for nothing else.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from grpo_audit.errors import StorageError
from grpo_audit.ledger.batch import insert_rows
from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, parse
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.projections import ProjectionError, rows
from grpo_audit.ledger.runs import RuleError, RunHistory
from grpo_audit.ledger.store import Store
from grpo_audit.ledger.tables import Base, CheckpointRow, ContentRow, EventRow
from grpo_audit.verify.source import Source, StoredEvent

_PAGE = 1000

Rows = dict[type[Base], list[dict[str, Any]]]


@contextmanager
def project_of(source: Source) -> Iterator[Project]:
    """The run in a verified bundle as a project, open for reading. Raises StorageError when an event cannot be read."""
    with tempfile.TemporaryDirectory(prefix="grpo-audit-bundle-") as folder:
        path = Path(folder) / "record.db"
        try:
            Store.create(path, lambda connection: _fill(connection, source)).close()
        except (CanonicalError, BodyError, ProjectionError) as error:
            raise StorageError(f"{source.name} cannot be read", found=str(error)) from error
        with Project.open(path, mode="read") as project:
            yield project


def _fill(connection: Connection, source: Source) -> None:
    total, frontier = source.count(), Frontier()
    histories: dict[str, RunHistory] = {}
    found: Rows = defaultdict(list)
    for stored in source.events():
        frontier.append(_bytes(stored.leaf_hash))
        if stored.body is not None or stored.seq == total - 1:
            _add(found, stored, histories)
        if len(found[EventRow]) >= _PAGE:
            insert_rows(connection, found)
            found = defaultdict(list)
    for checkpoint in source.checkpoints():
        values = {"size": checkpoint.size, "root": checkpoint.root, "note": checkpoint.note}
        found[CheckpointRow].append(values | {"frontier": frontier.to_bytes() if checkpoint.size == total else b""})
    insert_rows(connection, found)
    found = defaultdict(list)
    for content in source.contents():
        found[ContentRow].append(content._asdict())
        if len(found[ContentRow]) >= _PAGE:
            insert_rows(connection, found)
            found = defaultdict(list)
    insert_rows(connection, found)


def _add(found: Rows, stored: StoredEvent, histories: dict[str, RunHistory]) -> None:
    """The rows of an event. The last one of the log must be there, since the newest tree head is over it: where it is
    withheld it stands as an event that says nothing."""
    values = {"seq": stored.seq, "leaf_hash": stored.leaf_hash}
    if stored.body is None:
        found[EventRow].append(values | {"run_id": None, "kind": "withheld", "body": b""})
        return
    event = parse(_bytes(stored.body)).event
    found[EventRow].append(values | {"run_id": event.run_id, "kind": event.kind.value, "body": event.body})
    attempt = 0
    if event.run_id is not None:
        history = histories.setdefault(event.run_id, RunHistory(event.run_id))
        with suppress(RuleError):  # level L0 judges the order of events
            history.follow(event.payload)
        attempt = history.attempt
    for table, row in rows(event, attempt):
        found[table].append(row)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise BodyError(f"{type(value).__name__} where bytes belong")
    return value
