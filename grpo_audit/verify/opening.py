"""Step (0): what a location names is opened without being changed: a record, a record of an older version, a bundle."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from grpo_audit.ledger import schema
from grpo_audit.ledger.sqlite import SqliteFile
from grpo_audit.ledger.storage_errors import storage_errors
from grpo_audit.ledger.store import Store, place_of, sqlite_path
from grpo_audit.ledger.tables import SCHEMA_VERSION
from grpo_audit.verify.bundle import BundleSource, is_bundle_file
from grpo_audit.verify.source import DatabaseSource, Source

WAL_RESET_FIXED = (3, 51, 3)
"""SQLite before this has a bug with several connections and a write-ahead log: https://www.sqlite.org/wal.html"""


@dataclass
class Opened:
    """A source, and what the reader should know of how it was opened."""

    source: Source
    location: str | Path
    """Where other processes open it: of an older record, the upgraded copy."""
    original: str | Path
    """What was named."""
    is_shared: bool = False
    """Whether it is a database server."""
    older: int | None = None
    """Schema version of the original, when what is read is an upgraded copy."""
    remarks: list[str] = field(default_factory=list)


@contextmanager
def opened(location: str | Path) -> Iterator[Opened]:
    """Open a record or bundle for reading; nothing beside it is written. Raises StorageError."""
    bundle = bundle_path(location)
    if bundle is not None:
        with BundleSource.open(bundle) as source:
            yield Opened(source, location, location)
        return
    with ExitStack() as stack:
        original = location
        older = _older_version(location)
        if older is not None:
            location = stack.enter_context(_upgraded_copy(location))
        store = Store.read(location)
        stack.callback(store.close)
        connection = stack.enter_context(store.connect())
        found = Opened(DatabaseSource(connection, store.name), location, original, store.is_shared, older)
        if older is not None:
            found.remarks.append(
                f"written by schema version {older}: an upgraded copy was verified, the original is as it was"
            )
        if connection.dialect.name == "sqlite" and sqlite3.sqlite_version_info < WAL_RESET_FIXED:
            found.remarks.append(
                f"read with SQLite {sqlite3.sqlite_version}, older than {'.'.join(map(str, WAL_RESET_FIXED))}"
            )
        yield found


def bundle_path(location: str | Path) -> Path | None:
    """The file, when the location names a bundle."""
    if isinstance(location, str) and "://" in location:
        return None
    path = Path(location)
    return path if is_bundle_file(path) else None


def _older_version(location: str | Path) -> int | None:
    place = place_of(location)
    if not isinstance(place, SqliteFile):
        return None  # a schema of a server cannot be copied aside: Store.read says what to do
    place.check()
    store = Store(place, writing=False)
    try:
        with store.connect() as connection:
            version = schema.version(connection)
    finally:
        store.close()
    return version if version is not None and version < SCHEMA_VERSION else None


@contextmanager
def _upgraded_copy(location: str | Path) -> Iterator[Path]:
    """A copy of an older record in a temporary folder, upgraded there."""
    path = sqlite_path(location)
    assert path is not None
    with tempfile.TemporaryDirectory(prefix="grpo-audit-") as folder:
        copy = Path(folder) / path.name
        original = Store(SqliteFile(path), writing=False)
        try:
            with storage_errors(f"Cannot copy {path} to upgrade the copy"), original.connect() as connection:
                target = sqlite3.connect(copy)
                try:
                    driver = connection.connection.driver_connection
                    assert isinstance(driver, sqlite3.Connection)
                    driver.backup(target)
                finally:
                    target.close()
        finally:
            original.close()
        Store.write(copy).close()
        yield copy
