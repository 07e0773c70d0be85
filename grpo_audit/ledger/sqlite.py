"""A record in a SQLite file: WAL mode with ``synchronous=FULL``, so that a commit that returned survives a power cut.

Reading goes through connections that cannot write. https://www.sqlite.org/pragma.html
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from grpo_audit.config.location import without_password
from grpo_audit.errors import StorageError
from grpo_audit.ledger.folders import sync_folder
from grpo_audit.ledger.storage_errors import DamagedRecordError, storage_errors

_MAGIC = b"SQLite format 3\x00"
_WRITING = ("journal_mode=WAL", "synchronous=FULL", "mmap_size=0", "trusted_schema=OFF", "secure_delete=ON")
# no mmap: an I/O error would be a signal, and SQLite before 3.51.3 has bugs there
_READING = ("query_only=ON", "mmap_size=0", "trusted_schema=OFF", "cell_size_check=ON")


def sqlite_path(location: str | Path) -> Path | None:
    """The file of a SQLite record; None when the location is the URL of another database. Raises StorageError."""
    if isinstance(location, Path) or "://" not in location:
        return Path(location).resolve()
    try:
        url = make_url(location)
    except (ArgumentError, ValueError) as error:
        raise StorageError(f"{without_password(location)} is neither a path nor a database URL") from error
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise StorageError("A record in memory is lost with the process", expected="a file")
    return Path(url.database).resolve()


@dataclass(frozen=True)
class SqliteFile:
    """The file of a record. One process writes at a time."""

    path: Path
    is_shared = False
    """Whether other processes may append while this one has it open for writing."""

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.path)

    def check(self) -> None:
        """Refuse what SQLite would silently replay or create. Raises StorageError."""
        path = self.path
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

    def lock(self) -> FileLock:
        """The one writer's lock, in a file beside the record that also says who holds it. Raises StorageError."""
        lock_file = self.path.with_name(self.path.name + ".lock")
        lock = FileLock(lock_file, thread_local=False)
        with storage_errors(f"Cannot write {self.path}"):
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                holder = lock_file.read_text(encoding="utf-8").strip() or "unknown"
                raise StorageError(
                    f"{self.path} is being written by another process",
                    found=f"process {holder}",
                    next_step="Wait for it to end, or name another record with --db",
                ) from error
            try:
                lock_file.write_text(f"{os.getpid()}\n", encoding="utf-8")
            except BaseException:
                lock.release()
                raise
        return lock

    def engine(self, *, writing: bool) -> Engine:
        """Connections to the file."""
        engine = create_engine(
            "sqlite://", creator=lambda: self._connect(writing=writing), poolclass=QueuePool, pool_size=2
        )
        # sqlite3 would begin transactions by itself, and only before some statements
        begin = "BEGIN IMMEDIATE" if writing else "BEGIN"
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine

    def take_turn(self, connection: Connection) -> None:
        """Nothing to do: BEGIN IMMEDIATE and the lock keep others out."""

    def prepare(self, connection: Connection) -> None:
        """Nothing to do before the tables are made."""

    def keep_copy(self, version: int) -> Path:
        """Copy the record beside itself, as it is before an upgrade from ``version``. Raises StorageError.

        A copy that is already there is left alone: it is older still.
        """
        copy = self.path.with_name(f"{self.path.name}.schema-{version}")
        if copy.exists():
            return copy
        unfinished = copy.with_name(f".{copy.name}.unfinished")
        with storage_errors(f"Cannot keep a copy of {self.path} before its upgrade"):
            try:
                remove(unfinished)
                with closing(self._connect(writing=False)) as source, closing(sqlite3.connect(unfinished)) as target:
                    source.backup(target)
                    target.execute("PRAGMA journal_mode=DELETE")
                unfinished.replace(copy)
                sync_folder(copy.parent)
            except BaseException:
                remove(unfinished)
                raise
        return copy

    def scrub(self) -> None:
        """Write the file anew and empty the write-ahead log, so that no deleted byte is left in either.

        Needs free space for another copy of the record. Raises StorageError, also while another program reads.
        """
        doing = f"Erased, but old bytes may still be in {self.path}"
        with storage_errors(doing), closing(self._connect(writing=True)) as connection:
            # deleting zeroes what it frees (secure_delete), but moving rows between pages leaves copies behind
            connection.execute("VACUUM")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StorageError(
                doing,
                found="another program reads the record and keeps its write-ahead log",
                next_step="Close it, then open the record for writing once more: the last to leave empties the log",
            )

    def _connect(self, *, writing: bool) -> sqlite3.Connection:
        parameters = "mode=rwc" if writing else "mode=ro"
        if not writing and _is_closed_for_good(self.path):
            parameters += "&immutable=1"
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?{parameters}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=10,
        )
        try:
            for pragma in _WRITING if writing else _READING:
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


@contextmanager
def made_whole(path: Path) -> Iterator[Path]:
    """Another name to make a record under; it gets its own name at the end of the block, or is removed.

    A process killed in the block leaves a file that the next one removes. Raises StorageError.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    with storage_errors(f"Cannot create {path}"):
        try:
            remove(unfinished)
            yield unfinished
            unfinished.replace(path)
            sync_folder(path.parent)
        except BaseException:
            remove(unfinished)
            raise


def remove(path: Path) -> None:
    """Take away a database that was never finished."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_closed_for_good(path: Path) -> bool:
    """Whether nobody can be writing: the folder is read-only and there is no write-ahead log.

    SQLite cannot open a WAL database there otherwise, because it must create the shared-memory file.
    """
    wal = path.with_name(path.name + "-wal")
    effective = os.access in os.supports_effective_ids
    return not os.access(path.parent, os.W_OK, effective_ids=effective) and not wal.exists()
