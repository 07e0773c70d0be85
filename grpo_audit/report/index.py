"""The evidence index: every event that a report cites, with its leaf hash, so that each can be looked up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from grpo_audit.ledger.event import parse
from grpo_audit.ledger.tables import EventRow
from grpo_audit.report.evidence import Source
from grpo_audit.report.model import IndexRow, ReportData

_AT_ONCE = 500  # below SQLite's limit of bound parameters


def sources(value: object) -> Iterator[Source]:
    """Every ``Source`` anywhere inside report data."""
    if isinstance(value, Source):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from sources(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from sources(getattr(value, field.name))


def cited(data: ReportData) -> list[int]:
    """Sequence numbers of all events that the report names, in order."""
    return sorted({seq for source in sources(data) for seq in source.named})


def evidence_index(session: Session, data: ReportData) -> tuple[IndexRow, ...]:
    """One row per cited event; none for one that a bundle withholds, whose body is empty."""
    wanted = cited(data)
    rows: list[IndexRow] = []
    for start in range(0, len(wanted), _AT_ONCE):
        statement = (
            select(EventRow.seq, EventRow.kind, EventRow.run_id, EventRow.body, EventRow.leaf_hash)
            .where(EventRow.seq.in_(wanted[start : start + _AT_ONCE]))
            .order_by(EventRow.seq)
        )
        for seq, kind, run_id, body, leaf_hash in session.execute(statement):
            if body:
                rows.append(IndexRow(seq, kind, run_id, parse(body).event.time, leaf_hash.hex()))
    return tuple(rows)
