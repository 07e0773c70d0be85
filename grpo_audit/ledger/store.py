"""The database under a record: opening, settings, one writer, transactions.

SQLite in WAL mode with ``synchronous=FULL``: a commit that returned survives a power cut. Reading goes through
connections that cannot write. https://www.sqlite.org/pragma.html
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from grpo_audit.errors import StorageError
from grpo_audit.ledger import schema
from grpo_audit.ledger.storage_errors import DamagedRecordError, storage_errors
from grpo_audit.ledger.tables import SCHEMA_VERSION

_MAGIC = b"SQLite format 3\x00"
_WRITING = ("journal_mode=WAL", "synchronous=FULL", "mmap_size=0", "trusted_schema=OFF")
# no mmap: an I/O error would be a signal, and SQLite before 3.51.3 has bugs there
_READING = ("query_only=ON", "mmap_size=0", "trusted_schema=OFF", "cell_size_check=ON")


class Store:
    """An open database, to be made by ``create``, ``write`` or ``read``."""

    def __init__(self, name: str, reading: Engine, writing: Engine | None, lock: FileLock | None) -> None:
        self.name = name
        self.reading = reading
        self._writing = writing
        self._lock = lock

    @classmethod
    def create(cls, location: str | Path, begin: Callable[[Store], None]) -> Store:
        """Open for writing. A record that does not exist yet is made, and ``begin`` writes its first event.

        A file appears under its name only when it is a whole record. Raises StorageError.
        """
        path = sqlite_path(location)
        if path is None:
            return cls._open_for_writing(location, None, None, begin)
        with storage_errors(f"Cannot create {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            if not path.exists() or path.stat().st_size == 0:
                cls._make(path, begin)
        except BaseException:
            lock.release()
            raise
        return cls._open_for_writing(path, path, lock, None)

    @classmethod
    def _make(cls, path: Path, begin: Callable[[Store], None]) -> None:
        """Make the record under another name. A process killed in here leaves a file that the next one removes."""
        unfinished = path.with_name(f".{path.name}.unfinished")
        with storage_errors(f"Cannot create {path}"):
            try:
                _remove(unfinished)
                cls._open_for_writing(unfinished, unfinished, None, begin).close()
                unfinished.replace(path)
                _sync_folder(path.parent)
            except BaseException:
                _remove(unfinished)
                raise

    @classmethod
    def write(cls, location: str | Path) -> Store:
        """Open an existing record for writing, upgraded to this schema version. Raises StorageError."""
        path = sqlite_path(location)
        if path is None:
            return cls._open_for_writing(location, None, None, None)
        _check_file(path)
        return cls._open_for_writing(path, path, _lock(path), None)

    @classmethod
    def read(cls, location: str | Path) -> Store:
        """Open without any way to write. Raises StorageError; DamagedRecordError when the file is no whole record."""
        path = sqlite_path(location)
        if path is not None:
            _check_file(path)
        name = str(path or make_url(str(location)).render_as_string())
        store = cls(name, _engine(location, path, writing=False), None, None)
        try:
            with store.connect() as connection:
                found = schema.version(connection)
                if found is None:
                    raise DamagedRecordError(f"{name} holds no tables", expected="a record")
                schema.check_version(found)
                if found < SCHEMA_VERSION:
                    raise StorageError(
                        f"{name} has the older schema version {found}",
                        next_step="Open it for writing once to upgrade it; keep a copy",
                    )
                store._check_shape(connection)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def _open_for_writing(
        cls, location: str | Path, path: Path | None, lock: FileLock | None, begin: Callable[[Store], None] | None
    ) -> Store:
        name = str(path or make_url(str(location)).render_as_string())
        try:
            if path is not None and begin is None:
                _check_file(path)
            store = cls(name, _engine(location, path, writing=False), _engine(location, path, writing=True), lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        try:
            with store.transaction() as connection:
                found = schema.version(connection)
                if found is None and begin is None:
                    raise DamagedRecordError(f"{name} holds no tables", expected="a record")
                if found is not None:
                    schema.check_version(found)
                if found is None or found < SCHEMA_VERSION:
                    schema.upgrade(connection)
                store._check_shape(connection)
            if found is None and begin is not None:
                begin(store)
        except BaseException:
            store.close()
            raise
        return store

    def _check_shape(self, connection: Connection) -> None:
        if connection.dialect.name != "sqlite":
            return
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
        """A connection for writing: durable at the end of the block, or rolled back. Raises StorageError."""
        if self._writing is None:
            raise StorageError(f"{self.name} is open for reading only")
        with storage_errors(f"Cannot write {self.name}"), self._writing.begin() as connection:
            yield connection

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


def sqlite_path(location: str | Path) -> Path | None:
    """The file of a SQLite record; None when the location is the URL of another database. Raises StorageError."""
    if isinstance(location, Path) or "://" not in location:
        return Path(location).resolve()
    try:
        url = make_url(location)
    except ArgumentError as error:
        raise StorageError(f"{location} is neither a path nor a database URL") from error
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise StorageError("A record in memory is lost with the process", expected="a file")
    return Path(url.database).resolve()


def _check_file(path: Path) -> None:
    """Refuse what SQLite would silently replay or create. Raises StorageError."""
    with storage_errors(f"Cannot read {path}"):
        if not path.exists():
            raise StorageError(
                f"There is no record at {path}", next_step="Name it with --db, or start a run to create one"
            )
        if not path.is_file():
            raise StorageError(f"{path} is no file", expected="a SQLite database")
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise DamagedRecordError(f"{path} is no SQLite database", next_step="Name the record with --db")
    journal = path.with_name(path.name + "-journal")
    if journal.exists():
        # a rollback journal is never ours (we write ahead); SQLite would write its pages into the record
        raise DamagedRecordError(
            f"A stray {journal.name} lies beside {path}",
            expected="no rollback journal: records use a write-ahead log",
            next_step="Find out where it comes from and move it away",
        )


def _lock(path: Path) -> FileLock:
    """The one writer's lock, in a file beside the record that also says who holds it. Raises StorageError."""
    lock_file = path.with_name(path.name + ".lock")
    lock = FileLock(lock_file, thread_local=False)
    with storage_errors(f"Cannot write {path}"):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            holder = lock_file.read_text(encoding="utf-8").strip() or "unknown"
            raise StorageError(
                f"{path} is being written by another process",
                found=f"process {holder}",
                next_step="Wait for it to end, or name another record with --db",
            ) from error
        try:
            lock_file.write_text(f"{os.getpid()}\n", encoding="utf-8")
        except BaseException:
            lock.release()
            raise
    return lock


def _remove(path: Path) -> None:
    """Take away a database that was never finished."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder durable."""
    if os.name != "posix":
        return  # Windows cannot open folders, and does this by itself
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _engine(location: str | Path, path: Path | None, *, writing: bool) -> Engine:
    if path is None:
        try:
            engine = create_engine(str(location))
        except (SQLAlchemyError, ImportError) as error:
            raise StorageError(
                "Cannot use this database", found=str(error), next_step="Install its driver, or give a path for SQLite"
            ) from error
        return engine if writing else engine.execution_options(postgresql_readonly=True)
    engine = create_engine(
        "sqlite://", creator=lambda: _connect(path, writing=writing), poolclass=QueuePool, pool_size=2
    )
    # sqlite3 would begin transactions by itself, and only before some statements
    begin = "BEGIN IMMEDIATE" if writing else "BEGIN"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _connect(path: Path, *, writing: bool) -> sqlite3.Connection:
    parameters = "mode=rwc" if writing else "mode=ro"
    if not writing and _is_closed_for_good(path):
        parameters += "&immutable=1"
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{parameters}", uri=True, isolation_level=None, check_same_thread=False, timeout=10
    )
    try:
        for pragma in _WRITING if writing else _READING:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _is_closed_for_good(path: Path) -> bool:
    """Whether nobody can be writing: the folder is read-only and there is no write-ahead log.

    SQLite cannot open a WAL database there otherwise, because it must create the shared-memory file.
    """
    wal = path.with_name(path.name + "-wal")
    effective = os.access in os.supports_effective_ids
    return not os.access(path.parent, os.W_OK, effective_ids=effective) and not wal.exists()
