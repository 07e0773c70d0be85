"""Where verification reads from: a record in a database, or a bundle. The procedure is the same for both.

Nothing that comes out of a source is believed: types and values are as they were found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from sqlalchemy import Connection

_PAGE = 1000


class StoredEvent(NamedTuple):
    """An entry of the log as stored."""

    seq: object
    run_id: object
    kind: object
    body: object
    """Canonical bytes. None where a bundle withholds the event and gives its leaf hash only: a database never may."""
    leaf_hash: object


class StoredCheckpoint(NamedTuple):
    """A signed tree head as stored."""

    size: object
    root: object
    note: object
    frontier: object
    """None in a bundle, where nobody appends."""


class StoredContent(NamedTuple):
    """A piece of content as stored."""

    seq: object
    name: object
    salt: object
    encoding: object
    data: object


class StoredWitness(NamedTuple):
    """What a witness said, as stored."""

    size: object
    name: object
    kind: object
    statement: object
    at: object


class Source(Protocol):
    """One state of a record, readable front to back. All iterators are in order of ``seq`` or ``size``, streamed."""

    @property
    def name(self) -> str:
        """Where it is, for messages."""

    @property
    def is_bundle(self) -> bool:
        """Whether it is a bundle: no projections, and events of other runs may be withheld."""

    def count(self) -> int:
        """Number of events, withheld ones included."""

    def events(self, start: int = 0, stop: int | None = None) -> Iterator[StoredEvent]:
        """Events with start <= seq < stop."""

    def checkpoints(self, start: int = 0, stop: int | None = None) -> Iterator[StoredCheckpoint]:
        """Tree heads with start < size <= stop."""

    def contents(self, start: int = 0, stop: int | None = None) -> Iterator[StoredContent]:
        """Content of events with start <= seq < stop."""

    def witnesses(self) -> Iterator[StoredWitness]:
        """Every statement of a witness."""


class DatabaseSource:
    """A record in a database, through one connection: one transaction, one state of the record."""

    is_bundle = False

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.name = name

    def count(self) -> int:
        """Number of rows of ``event``."""
        return self.connection.exec_driver_sql("SELECT count(*) FROM event").scalar() or 0

    def events(self, start: int = 0, stop: int | None = None) -> Iterator[StoredEvent]:
        """Rows of ``event``."""
        columns = "seq, run_id, kind, body, leaf_hash"
        return map(StoredEvent._make, self._rows("event", columns, "seq", _range("seq", start, stop)))

    def checkpoints(self, start: int = 0, stop: int | None = None) -> Iterator[StoredCheckpoint]:
        """Rows of ``checkpoint``."""
        where = f"size > {int(start)}" + ("" if stop is None else f" AND size <= {int(stop)}")
        return map(StoredCheckpoint._make, self._rows("checkpoint", "size, root, note, frontier", "size", where))

    def contents(self, start: int = 0, stop: int | None = None) -> Iterator[StoredContent]:
        """Rows of ``content``."""
        columns = "seq, name, salt, encoding, data"
        return map(StoredContent._make, self._rows("content", columns, "seq, name", _range("seq", start, stop)))

    def witnesses(self) -> Iterator[StoredWitness]:
        """Rows of ``witness``."""
        return map(
            StoredWitness._make,
            self._rows("witness", "size, name, kind, statement, at", "size, name", "1 = 1"),
        )

    def _rows(self, table: str, columns: str, order: str, where: str) -> Iterator[tuple[object, ...]]:
        result = self.connection.exec_driver_sql(f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {order}")
        for page in result.partitions(_PAGE):
            for row in page:
                yield tuple(row)


def _range(column: str, start: int, stop: int | None) -> str:
    return f"{column} >= {int(start)}" + ("" if stop is None else f" AND {column} < {int(stop)}")
