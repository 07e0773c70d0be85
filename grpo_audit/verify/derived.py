"""Everything beside the log: projections are derived again, content is hashed again."""

from __future__ import annotations

from sqlalchemy import Connection

from grpo_audit.ledger.packing import unpack
from grpo_audit.ledger.event import Event, content_digest
from grpo_audit.ledger.projections import PROJECTED, ProjectionError, rows
from grpo_audit.ledger.tables import Base, ContentRow
from grpo_audit.record.events import Artifact
from grpo_audit.record.identity import bytes_digest
from grpo_audit.verify.verdict import Tally

_PAGE = 1000


class TableWalk:
    """Rows of one table in the order of their events, read as the driver gives them: no conversion hides an edit."""

    def __init__(self, connection: Connection, table: type[Base]) -> None:
        self.name: str = table.__tablename__
        self.columns = [column.name for column in table.__table__.columns]
        quote = connection.dialect.identifier_preparer.quote
        listed = ", ".join(quote(column) for column in self.columns)
        result = connection.exec_driver_sql(f"SELECT {listed} FROM {quote(self.name)} ORDER BY seq")
        self._rows = (tuple(row) for page in result.partitions(_PAGE) for row in page)
        self._next = next(self._rows, None)

    def take(self, seq: int, tally: Tally) -> list[tuple[object, ...]]:
        """The rows of an event. Rows of earlier events that nobody took are reported: no event gives them."""
        found = []
        while self._next is not None and type(self._next[0]) is int and self._next[0] <= seq:
            if self._next[0] == seq:
                found.append(self._next)
            else:
                self._report_extra(tally)
            self._next = next(self._rows, None)
        return found

    def finish(self, tally: Tally) -> None:
        """Report the rows that nobody took."""
        while self._next is not None:
            self._report_extra(tally)
            self._next = next(self._rows, None)

    def _report_extra(self, tally: Tally) -> None:
        assert self._next is not None
        tally.wrong(f"{self.name}: a row of event {self._next[0]!r:.40} that no event gives")


class Projections:
    """Step (9): derives every row again and compares in both directions: edited, missing and extra rows."""

    def __init__(self, connection: Connection, tally: Tally) -> None:
        self._walks: dict[type[Base], TableWalk] = {table: TableWalk(connection, table) for table in PROJECTED}
        self._tally = tally
        tally.nothing("no event has rows of its own")

    def follow(self, event: Event, attempt: int) -> None:
        """Compare the rows of one event."""
        try:
            derived = rows(event, attempt)
        except ProjectionError as error:
            self._tally.wrong(f"event {event.seq}: {error}")
            return
        expected: dict[type[Base], list[tuple[object, ...]]] = {}
        for table, values in derived:
            columns = self._walks[table].columns
            expected.setdefault(table, []).append(tuple(values[column] for column in columns))
        for table, wanted in expected.items():
            self._tally.saw(len(wanted))
            found = self._walks[table].take(event.seq, self._tally)
            if found != wanted:
                self._compare(self._walks[table], event.seq, wanted, found)

    def _compare(
        self,
        walk: TableWalk,
        seq: int,
        wanted: list[tuple[object, ...]],
        found: list[tuple[object, ...]],
    ) -> None:
        if len(wanted) != len(found):
            self._tally.wrong(f"{walk.name}: {len(found)} rows of event {seq}, which gives {len(wanted)}")
            return
        # rows of one event come in no particular order; their second column is the rest of the key
        pairs = zip(sorted(wanted, key=_key), sorted(found, key=_key), strict=True)
        for one, other in pairs:
            for column, derived, stored in zip(walk.columns, one, other, strict=True):
                if derived != stored:
                    self._tally.wrong(
                        f"{walk.name}.{column} of event {seq} is {stored!r:.60}, but the event says {derived!r:.60}"
                    )

    def finish(self) -> None:
        """All events are through."""
        for walk in self._walks.values():
            walk.finish(self._tally)


def _key(row: tuple[object, ...]) -> str:
    return str(row[1])


class Contents:
    """Step (10): every piece of content that an event names is there and has its digest, and there is no other."""

    def __init__(self, connection: Connection, tally: Tally) -> None:
        self._walk = TableWalk(connection, ContentRow)
        self._tally = tally
        tally.nothing("no event has content")

    def follow(self, event: Event) -> None:
        """Hash the content of one event."""
        if not event.content:
            return
        found = {row[1]: row for row in self._walk.take(event.seq, self._tally)}
        for name, digest in event.content.items():
            self._tally.saw()
            if name not in found:
                self._tally.wrong(f"content {name} of event {event.seq} is missing")
                continue
            _, _, salt, encoding, data = found.pop(name)
            try:
                plain = unpack(encoding, data)
            except ValueError as error:
                self._tally.wrong(f"content {name} of event {event.seq}: {error}")
                continue
            if not isinstance(salt, bytes) or content_digest(salt, plain) != digest:
                self._tally.wrong(f"content {name} of event {event.seq} was changed")
            elif isinstance(event.payload, Artifact) and bytes_digest(plain) != event.payload.digest:
                self._tally.wrong(f"{event.payload.name} kept in event {event.seq} is not what its digest says")
        for unnamed in found:
            self._tally.wrong(f"content {unnamed!r:.40} of event {event.seq} is not named by the event")

    def finish(self) -> None:
        """All events are through."""
        self._walk.finish(self._tally)
