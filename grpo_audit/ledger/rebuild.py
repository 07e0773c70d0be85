"""Projections made again from the events: after a migration, in its transaction."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, delete, select

from grpo_audit.ledger.batch import insert_rows
from grpo_audit.ledger.event import Event, parse
from grpo_audit.ledger.projections import PROJECTED, rows
from grpo_audit.ledger.runs import RuleError, RunHistory
from grpo_audit.ledger.tables import Base, EventRow

_PAGE = 1000


def rebuild(connection: Connection) -> None:
    """Empty every projection and derive its rows from the events again; page by page, in constant memory.

    Raises CanonicalError, BodyError or ProjectionError for an event that cannot be read; the caller rolls back.
    """
    for table in PROJECTED:
        connection.execute(delete(table))
    histories: dict[str, RunHistory] = {}
    start = 0
    while True:
        page = connection.execute(
            select(EventRow.seq, EventRow.body).where(EventRow.seq >= start).order_by(EventRow.seq).limit(_PAGE)
        ).all()
        derived: dict[type[Base], list[dict[str, Any]]] = defaultdict(list)
        for _, body in page:
            event = parse(body).event
            for table, values in rows(event, _attempt(event, histories)):
                derived[table].append(values)
        insert_rows(connection, derived)
        if len(page) < _PAGE:
            return
        start = page[-1].seq + 1


def _attempt(event: Event, histories: dict[str, RunHistory]) -> int:
    if event.run_id is None:
        return 0
    history = histories.setdefault(event.run_id, RunHistory(event.run_id))
    with suppress(RuleError):  # verify is what judges the order of events; here every event only gives its rows
        history.follow(event.payload)
    return history.attempt
