"""Everything beside the log, the plain way: projections are derived again, content is hashed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grpo_audit.ledger.event import Event, content_digest
from grpo_audit.ledger.packing import unpack
from grpo_audit.ledger.projections import PROJECTED, ProjectionError, rows
from grpo_audit.ledger.tables import Base, ContentRow, RunStateRow
from grpo_audit.record.events import Artifact
from grpo_audit.record.identity import bytes_digest
from grpo_audit.verify.rebuilt import Agreement
from grpo_audit.verify.verdict import Tally

Row = tuple[Any, ...]

COLUMNS: dict[type[Base], list[str]] = {
    table: [column.name for column in table.__table__.columns] for table in PROJECTED
}
"""Names of the columns of each projection, in the order in which rows are read."""
SEGMENTED = tuple(table for table in PROJECTED if table is not RunStateRow)
"""Projections whose rows follow from the event alone. A run's state has its attempt, which follows from the course."""


class Beside:
    """What is stored beside the events of a segment; each event takes its own, and what is left belongs to none."""

    def __init__(
        self, contents: Sequence[Row], tables: Mapping[type[Base], Sequence[Row]] | None, agreement: Agreement
    ) -> None:
        self.is_bundle = tables is None
        """Whether there are no projections."""
        self._rows: dict[type[Base], dict[object, list[Row]]] = {}
        self.num_agreed_rows = 0
        """Rows of the events that are known to agree."""
        for table, stored in (tables or {}).items():
            agreed = agreement.of(table)
            left = [row for row in stored if row[0] not in agreed] if agreed else stored
            self.num_agreed_rows += len(stored) - len(left)
            self._rows[table] = _by_event(left)
        agreed = agreement.of(ContentRow)
        left = [row for row in contents if row[0] not in agreed]
        self.num_agreed_contents = len(contents) - len(left)
        """The same for content."""
        self._contents = _by_event(left)

    def compare(self, event: Event, tally: Tally) -> None:
        """(9) Derive the rows of an event and compare, in both directions: edited, missing and extra rows."""
        if self.is_bundle:
            return
        try:
            derived = rows(event, 0)
        except ProjectionError as error:
            tally.wrong(f"event {event.seq}: {error}")
            return
        expected: dict[type[Base], list[Row]] = {}
        for table, values in derived:
            if table is not RunStateRow:
                expected.setdefault(table, []).append(tuple(values[column] for column in COLUMNS[table]))
        for table, wanted in expected.items():
            tally.saw(len(wanted))
            found = self._rows[table].pop(event.seq, [])
            if found != wanted:
                compare_rows(table, event.seq, wanted, found, tally)

    def hash_contents(self, event: Event, tally: Tally) -> list[str]:
        """(10) Hash the content of one event; the names of what is missing."""
        if not event.content:
            return []
        found = {row[1]: row for row in self._contents.pop(event.seq, [])}
        missing = []
        for name, digest in event.content.items():
            if name not in found:
                missing.append(name)
                continue
            tally.saw()
            problem = _content_problem(event, digest, found.pop(name))
            if problem:
                tally.wrong(problem)
        for unnamed in found:
            tally.wrong(f"content {unnamed!r:.40} of event {event.seq} is not named by the event")
        return missing

    def finish(self, projections: Tally, content: Tally) -> None:
        """Report what nobody took."""
        for table, left in self._rows.items():
            for seq, stored in left.items():
                report_extra(table.__tablename__, seq, len(stored), projections)
        for seq, stored in self._contents.items():
            report_extra("content", seq, len(stored), content)


def report_extra(table: str, seq: object, count: int, tally: Tally) -> None:
    """Rows that no event gives."""
    tally.wrong(f"{table}: a row of event {seq!r:.40} that no event gives", count)


def compare_rows(table: type[Base], seq: int, wanted: list[Row], found: list[Row], tally: Tally) -> None:
    """Say how the stored rows of an event differ from the derived ones, if they do."""
    name = table.__tablename__
    if len(wanted) != len(found):
        tally.wrong(f"{name}: {len(found)} rows of event {seq}, which gives {len(wanted)}")
        return
    # rows of one event come in no particular order; what follows their number is the rest of the key
    for one, other in zip(sorted(wanted, key=_key), sorted(found, key=_key), strict=True):
        for column, derived, stored in zip(COLUMNS[table], one, other, strict=True):
            if derived != stored:
                tally.wrong(f"{name}.{column} of event {seq} is {stored!r:.60}, but the event says {derived!r:.60}")


def _key(row: Row) -> tuple[str, str]:
    return str(row[1]), str(row[2]) if len(row) > 2 else ""


def _by_event(rows: Iterable[Row]) -> dict[object, list[Row]]:
    grouped: dict[object, list[Row]] = {}
    for row in rows:
        seq = row[0] if type(row[0]) is int else repr(row[0])  # 5.0 is no event number, though it equals 5
        grouped.setdefault(seq, []).append(row)
    return grouped


def _content_problem(event: Event, digest: str, row: Row) -> str:
    _, name, salt, encoding, data = row
    try:
        plain = unpack(encoding, data)
    except ValueError as error:
        return f"content {name} of event {event.seq}: {error}"
    if not isinstance(salt, bytes) or content_digest(salt, plain) != digest:
        return f"content {name} of event {event.seq} was changed"
    if isinstance(event.payload, Artifact) and bytes_digest(plain) != event.payload.digest:
        return f"{event.payload.name} kept in event {event.seq} is not what its digest says"
    return ""
