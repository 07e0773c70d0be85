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
_SERVER = (
    "The server is out of reach or ended the session",
    "Start it again, or check host, port and network; what was recorded before is whole",
)
_BY_SQLSTATE: dict[str, tuple[str, str]] = {
    # a whole code, or its class: https://www.postgresql.org/docs/current/errcodes-appendix.html
    "53100": ("The server's disk is full", "Free some space there and run again with --resume"),
    "53300": ("The server has no connection to spare", "Close some clients, or raise its max_connections"),
    "55P03": (
        "Another writer holds the log",
        "Wait for it: the server cuts off a writer that hangs for a minute",
    ),
    "42501": (
        "Your role has not the right",
        "Ask the schema's owner for it; docs/postgres.md says which",
    ),
    "25006": ("The transaction is read-only", "Write through the primary server, with a connection for writing"),
    "28": ("The server does not let you in", "Check user and password: ~/.pgpass, PGPASSWORD or the URL"),
    "3D": ("There is no such database", "Create it with createdb: only the schema is made here"),
    "08": _SERVER,
    "57": _SERVER,
    "XX": ("The server reports damaged data", "Restore the database from a backup"),
}
_BY_ERRNO: dict[int, tuple[str, str]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.EROFS: _READ_ONLY,
}


def _by_sqlstate(cause: BaseException) -> tuple[str, str] | None:
    """What a server's error means; one without a code comes from a connection that failed or broke."""
    code = getattr(cause, "sqlstate", None)
    if code is None:
        said = str(cause)  # a login that was refused has no code either: libpq only passes the text on
        for part, meaning in (
            ("authentication failed", "28"),
            ("no password supplied", "28"),
            ('role "', "28"),
            ('" does not exist', "3D"),
        ):
            if part in said:
                return _BY_SQLSTATE[meaning]
        return _SERVER if type(cause).__name__ in ("OperationalError", "InterfaceError") else None
    return _BY_SQLSTATE.get(code, _BY_SQLSTATE.get(code[:2]))


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn errors of the database and of the file system into a StorageError that begins with ``doing``."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise storage_error(doing, error) from error
    except Exception as error:
        if not type(error).__module__.startswith("psycopg"):  # the driver is optional, so its class has no name here
            raise
        raise storage_error(doing, error) from error


def storage_error(doing: str, error: Exception) -> StorageError:
    """The StorageError for an error of the database or of the file system."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if isinstance(cause, OSError):
        why = _BY_ERRNO.get(cause.errno or 0)
    elif isinstance(cause, UnicodeDecodeError):
        why = _DAMAGED  # a text column or a name that holds no text
    elif hasattr(cause, "sqlstate"):
        why = _by_sqlstate(cause)
    else:
        # the low byte is the primary code: https://www.sqlite.org/rescode.html
        why = _BY_SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)
    kind = DamagedRecordError if why in (_DAMAGED, _BY_SQLSTATE["XX"]) else StorageError
    reason, next_step = why or ("", "")
    found = f"{reason} ({cause})" if reason else f"{type(cause).__name__}: {cause}"
    return kind(doing, found=found, next_step=next_step)
