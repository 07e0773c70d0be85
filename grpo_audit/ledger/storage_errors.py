"""What storage says when it fails, as one line with a next step."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from grpo_audit.errors import StorageError


class DamagedRecordError(StorageError):
    """The file is no record any more: not a database, malformed, or with things in it that do not belong there."""


def damaged(record: str, found: str) -> DamagedRecordError:
    """The error for a record that contradicts itself."""
    return DamagedRecordError(
        f"{record} is damaged", found=found, next_step="Run grpo-audit verify to see what changed; restore a backup"
    )


_FULL = ("The disk is full", "Free some space and run again with --resume: what was recorded before is whole")
_READ_ONLY = (
    "The folder cannot be written",
    "Give yourself the right to write there, or set record.db to another folder",
)
_DAMAGED = ("The file is damaged or no SQLite database", "Restore it from a backup with everything beside it")

_BY_SQLITE: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _READ_ONLY,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_BUSY: ("Another program holds the database", "Close it and run again"),
    sqlite3.SQLITE_LOCKED: ("Another program holds the database", "Close it and run again"),
    sqlite3.SQLITE_IOERR: (
        "The disk reports an error",
        "Check the disk, its quota and its free space; what was recorded before is whole",
    ),
}
_BY_ERRNO: dict[int, tuple[str, str]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.EROFS: _READ_ONLY,
}


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn errors of the database and of the file system into a StorageError that begins with ``doing``."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise storage_error(doing, error) from error


def storage_error(doing: str, error: Exception) -> StorageError:
    """The StorageError for an error of the database or of the file system."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(cause, OSError):
        why = _BY_ERRNO.get(cause.errno or 0)
    else:
        # the low byte is the primary code: https://www.sqlite.org/rescode.html
        why = _BY_SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)
    kind = DamagedRecordError if why is _DAMAGED else StorageError
    reason, next_step = why or ("", "")
    found = f"{reason} ({cause})" if reason else f"{type(cause).__name__}: {cause}"
    return kind(doing, found=found, next_step=next_step)
