"""The database under a record: opening, upgrading, transactions. A file of SQLite or a schema of PostgreSQL.

What differs between the two is in ``sqlite.py`` and ``postgres.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from sqlalchemy import Connection, Engine

from grpo_audit.errors import StorageError
from grpo_audit.ledger import schema
from grpo_audit.ledger.postgres import PostgresSchema
from grpo_audit.ledger.sqlite import SqliteFile, made_whole, sqlite_path
from grpo_audit.ledger.storage_errors import DamagedRecordError, storage_errors
from grpo_audit.ledger.tables import SCHEMA_VERSION

__all__ = ["Place", "Store", "place_of", "sqlite_path"]

Place = SqliteFile | PostgresSchema
Begin = Callable[[Connection], None]
"""Writes the first event of a new record, in the transaction that makes its tables."""


def place_of(location: str | Path) -> Place:
    """What a path or a URL names. Raises StorageError when it can hold no record."""
    path = sqlite_path(location)
    return PostgresSchema.parse(str(location)) if path is None else SqliteFile(path)


class Store:
    """An open database, to be made by ``create``, ``write`` or ``read``."""

    def __init__(self, place: Place, lock: FileLock | None = None, *, writing: bool) -> None:
        self.place = place
        self.reading = place.engine(writing=False)
        self._writing: Engine | None = place.engine(writing=True) if writing else None
        self._lock = lock

    @property
    def name(self) -> str:
        """Where the record is, for messages; without a password."""
        return self.place.name

    @property
    def is_shared(self) -> bool:
        """Whether other processes may append while this one is open for writing."""
        return self.place.is_shared

    @classmethod
    def create(cls, location: str | Path, begin: Begin) -> Store:
        """Open for writing. A record that does not exist yet is made, and ``begin`` writes its first event.

        A record appears only as a whole. Raises StorageError.
        """
        place = place_of(location)
        if not isinstance(place, SqliteFile):
            return cls._open_for_writing(place, None, begin)
        path = place.path
        with storage_errors(f"Cannot create {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = place.lock()
        try:
            if not path.exists() or path.stat().st_size == 0:
                with made_whole(path) as unfinished:
                    cls._open_for_writing(SqliteFile(unfinished), None, begin).close()
            place.check()
        except BaseException:
            lock.release()
            raise
        return cls._open_for_writing(place, lock, None)

    @classmethod
    def write(cls, location: str | Path) -> Store:
        """Open an existing record for writing, upgraded to this schema version. Raises StorageError.

        The file of an older version is copied beside it first, as ``NAME.schema-VERSION``.
        """
        place = place_of(location)
        place.check()
        return cls._open_for_writing(place, place.lock(), None)

    @classmethod
    def read(cls, location: str | Path) -> Store:
        """Open without any way to write. Raises StorageError; DamagedRecordError when the file is no whole record."""
        place = place_of(location)
        place.check()
        store = cls(place, writing=False)
        try:
            with store.connect() as connection:
                found = schema.version(connection)
                if found is None:
                    raise store._empty()
                schema.check_version(found)
                if found < SCHEMA_VERSION:
                    raise StorageError(
                        f"{store.name} has the older schema version {found}",
                        expected=f"version {SCHEMA_VERSION}",
                        next_step="Bring it up to date with grpo-audit upgrade; a copy is kept",
                    )
                store._check_shape(connection)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def _open_for_writing(cls, place: Place, lock: FileLock | None, begin: Begin | None) -> Store:
        try:
            store = cls(place, lock, writing=True)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        try:
            store._make_current(begin)
        except BaseException:
            store.close()
            raise
        return store

    def _make_current(self, begin: Begin | None) -> None:
        """Begin or upgrade the record, in one transaction: a process killed in here leaves it as it was."""
        if begin is None:
            self._keep_copy()
        with self.transaction() as connection:
            if begin is not None:
                self.place.prepare(connection)
            found = schema.version(connection)
            if found is None and begin is None:
                raise self._empty()
            if found is not None:
                schema.check_version(found)
            if found is None or found < SCHEMA_VERSION:
                schema.refuse_foreign(connection, self.name)
                schema.upgrade(connection)
            self._check_shape(connection)
            if found is None and begin is not None:
                begin(connection)

    def _keep_copy(self) -> None:
        with self.connect() as connection:
            found = schema.version(connection)
        if found is not None and found < SCHEMA_VERSION:
            self.place.keep_copy(found)

    def _empty(self) -> StorageError:
        if self.is_shared:
            return StorageError(
                f"There is no record at {self.name}", next_step="Name it with --db, or start a run to create one"
            )
        return DamagedRecordError(f"{self.name} holds no tables", expected="a record")

    def _check_shape(self, connection: Connection) -> None:
        problems = schema.differences(connection)
        if problems:
            raise DamagedRecordError(
                f"{self.name} is not as its schema version says",
                found=", ".join(problems[:5]),
                expected="only the tables, indexes and views of a record",
                next_step="Remove what was added, or restore a backup",
            )

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection for reading: one transaction, one state of the record. Raises StorageError."""
        with storage_errors(f"Cannot read {self.name}"), self.reading.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection for writing, when it is this writer's turn: durable at the end of the block, or rolled back.

        Raises StorageError.
        """
        if self._writing is None:
            raise StorageError(f"{self.name} is open for reading only")
        with storage_errors(f"Cannot write {self.name}"), self._writing.begin() as connection:
            self.place.take_turn(connection)
            yield connection

    def scrub(self) -> None:
        """Leave no deleted byte in the files, as far as that is ours to do. Raises StorageError."""
        if self._writing is None:
            raise StorageError(f"{self.name} is open for reading only")
        self.place.scrub()

    def reopen(self) -> None:
        """Drop all connections: after an error, an old one may show what is not on disk."""
        self.reading.dispose()
        if self._writing is not None:
            self._writing.dispose()

    def close(self) -> None:
        """Fold the write-ahead log into the database, close and release the lock."""
        try:
            self.reading.dispose()
            if self._writing is not None:
                self._writing.dispose()  # the last connection to leave folds the log in
        finally:
            if self._lock is not None:
                self._lock.release()


def upgrade(location: str | Path) -> tuple[int, int, Path | None]:
    """Bring a record to this schema version; needs no key, for no event is added.

    Returns the version before, the version after, and the copy of the older file (None when nothing was to do, or when
    the record is in PostgreSQL). Raises StorageError.
    """
    place = place_of(location)
    place.check()
    looking = Store(place, writing=False)
    try:
        with looking.connect() as connection:
            before = schema.version(connection)
    finally:
        looking.close()
    Store.write(location).close()
    if before is None or before >= SCHEMA_VERSION:
        return SCHEMA_VERSION, SCHEMA_VERSION, None
    return before, SCHEMA_VERSION, place.keep_copy(before)
