"""Reading a source segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection

from grpo_audit.ledger.tables import Base
from grpo_audit.verify.derived import COLUMNS, SEGMENTED
from grpo_audit.verify.segment import Reader, SegmentRows
from grpo_audit.verify.source import DatabaseSource, Source

Row = tuple[Any, ...]


def reader_of(source: Source) -> Reader:
    """The way to read a source."""
    return DatabaseReader(source.connection) if isinstance(source, DatabaseSource) else StreamReader(source)


class DatabaseReader:
    """Reads ranges of tables with the driver's own cursor: values as stored, so that no conversion hides an edit."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        quote = connection.dialect.identifier_preparer.quote
        self._projections: dict[type[Base], str] = {
            table: f"SELECT {', '.join(map(quote, COLUMNS[table]))} FROM {quote(table.__tablename__)}"
            for table in SEGMENTED
        }

    def rows(self, start: int, stop: int) -> SegmentRows:
        """See Reader."""
        within = f"WHERE seq >= {start} AND seq < {stop} ORDER BY seq"
        newest = self.fetch(f"SELECT max(size) FROM checkpoint WHERE size <= {start}")[0][0]
        return SegmentRows(
            events=self.fetch(f"SELECT seq, run_id, kind, body, leaf_hash FROM event {within}"),
            checkpoints=self.fetch(
                "SELECT size, root, note, frontier FROM checkpoint "
                f"WHERE size > {start} AND size <= {stop} ORDER BY size"
            ),
            contents=self.fetch(f"SELECT seq, name, salt, encoding, data FROM content {within}, name"),
            tables={
                table: self.fetch(f"{query} {within}" + (", source" if table.__tablename__ == "reward" else ""))
                for table, query in self._projections.items()
            },
            previous_head=newest or 0,
        )

    def fetch(self, query: str) -> list[Row]:
        """All rows of a query."""
        if self._connection.dialect.name != "sqlite":
            return [tuple(row) for row in self._connection.exec_driver_sql(query)]
        cursor = self._connection.connection.cursor()  # SQLAlchemy's own rows cost twice the time
        try:
            cursor.execute(query)
            return list(cursor.fetchall())
        finally:
            cursor.close()


class StreamReader:
    """Reads a source once, front to back: what a bundle is made for."""

    def __init__(self, source: Source) -> None:
        self._events = _Cursor(source.events(), lambda row: row[0])
        self._contents = _Cursor(source.contents(), lambda row: row[0])
        self._checkpoints = _Cursor(source.checkpoints(), lambda row: row[0] - 1)
        self._previous_head = 0

    def rows(self, start: int, stop: int) -> SegmentRows:  # noqa: ARG002
        """See Reader."""
        checkpoints = self._checkpoints.take(stop)
        before, self._previous_head = self._previous_head, checkpoints[-1][0] if checkpoints else self._previous_head
        return SegmentRows(self._events.take(stop), checkpoints, self._contents.take(stop), None, before)


class _Cursor:
    """A peekable iterator."""

    def __init__(self, rows: Iterator[Row], place: Callable[[Row], Any]) -> None:
        self._rows = rows
        self._place = place
        self._next = next(rows, None)

    def take(self, stop: int) -> list[Row]:
        """The rows that stand before ``stop``."""
        taken = []
        while self._next is not None and self._place(self._next) < stop:
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken

    def left(self) -> int:
        """How many rows are left."""
        count = 0
        while self._next is not None:
            count, self._next = count + 1, next(self._rows, None)
        return count
