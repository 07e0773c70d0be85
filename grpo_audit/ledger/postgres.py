"""A record in a PostgreSQL schema: ``postgresql+psycopg://user@host/database?schema=NAME``.

A commit that returned is durable (``synchronous_commit=on``). Any number of processes append, one
transaction at a time. Reading is read-only and sees one state (repeatable read).
https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, BigInteger, Boolean, Connection, Engine, LargeBinary, Table, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.types import Float, Text, TypeEngine

from grpo_audit.config.location import without_password
from grpo_audit.errors import StorageError

DEFAULT_SCHEMA = "grpo_audit"
WAIT_S = 60
"""Longest wait for another writer's transaction, and longest pause in one: a stopped writer must not stop them all."""

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SETTINGS = {
    "synchronous_commit": "on",
    "lock_timeout": f"{WAIT_S}s",
    "idle_in_transaction_session_timeout": f"{WAIT_S}s",
    # what a role or a database may have set otherwise, and would change the values that are read
    "client_encoding": "UTF8",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "DateStyle": "ISO",
    "row_security": "off",
}


@dataclass(frozen=True)
class PostgresSchema:
    """The schema of a record. Several processes may write at the same time."""

    url: URL
    """Of the database, without the schema."""
    schema: str
    name: str
    """For messages; without the password."""
    is_shared = True
    """Whether other processes may append while this one has it open for writing."""

    @classmethod
    def parse(cls, location: str) -> PostgresSchema:
        """Read a URL. Raises StorageError when it is none of a PostgreSQL database."""
        shown = without_password(location)
        try:
            url = make_url(location)
        except (ArgumentError, ValueError) as error:
            raise StorageError(f"{shown} is neither a path nor a database URL") from error
        if url.drivername not in ("postgresql", "postgresql+psycopg", "postgres"):
            raise StorageError(
                f"{shown} names a database that is not supported",
                found=url.drivername,
                expected="a path (SQLite) or postgresql+psycopg://USER@HOST/DATABASE?schema=NAME",
            )
        schema = url.query.get("schema", DEFAULT_SCHEMA)
        if not isinstance(schema, str) or not _NAME.fullmatch(schema) or schema.startswith("pg_"):
            raise StorageError(
                f"{shown} names a schema that cannot be used",
                expected="one schema of lower-case letters, digits and underscores; one record is one schema",
            )
        url = url.set(drivername="postgresql+psycopg").difference_update_query(["schema"])
        if "schema" not in make_url(location).query:
            shown += f"{'&' if '?' in shown else '?'}schema={schema}"
        return cls(url, schema, shown)

    def check(self) -> None:
        """Nothing to look at before connecting."""

    def lock(self) -> None:
        """Nothing to hold while the record is open: each transaction takes its turn."""

    def engine(self, *, writing: bool) -> Engine:
        """Connections whose only schema is the record's. Raises StorageError when the driver is missing."""
        settings = {**_SETTINGS, "search_path": self.schema}
        if not writing:
            settings["default_transaction_read_only"] = "on"
        own = self.url.query.get("options", "")
        options = [*([own] if isinstance(own, str) else own), *(f"-c {key}={value}" for key, value in settings.items())]
        parameters = {"connect_timeout": "10", "application_name": "grpo-audit", **self.url.query}
        parameters["options"] = " ".join(part for part in options if part)
        try:
            engine = create_engine(
                self.url.set(query={}),
                connect_args=parameters,
                isolation_level="READ COMMITTED" if writing else "REPEATABLE READ",
                pool_size=2,
                pool_pre_ping=True,
                hide_parameters=True,
            )
        except (SQLAlchemyError, ImportError) as error:
            raise StorageError(
                "Cannot use PostgreSQL",
                found=str(error),
                next_step="Install the driver: pip install 'grpo-audit[postgres]'",
            ) from error
        return engine if writing else engine.execution_options(postgresql_readonly=True)

    def take_turn(self, connection: Connection) -> None:
        """Wait until no other transaction appends to this log; the turn ends with the transaction.

        An advisory lock asks for no right to change rows: a role that may only SELECT and INSERT can append.
        """
        key = int.from_bytes(hashlib.sha256(f"grpo-audit {self.schema}".encode()).digest()[:8], "big", signed=True)
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%(key)s::bigint)", {"key": key})

    def prepare(self, connection: Connection) -> None:
        """Make the schema when there is none. Raises StorageError for a database in another encoding."""
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise StorageError(
                f"The database of {self.name} cannot hold every text", found=str(encoding), expected="UTF8"
            )
        if not self._exists(connection):
            connection.exec_driver_sql(f"CREATE SCHEMA {self.schema}")

    def _exists(self, connection: Connection) -> bool:
        found = connection.exec_driver_sql(
            "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s", {"schema": self.schema}
        )
        return found.first() is not None

    def keep_copy(self, version: int) -> Path | None:
        """None: a copy of a schema is for pg_dump. The upgrade is one transaction."""

    def scrub(self) -> None:
        """Nothing: what the server keeps of deleted rows is its administrator's; docs/postgres.md says what."""


_COPIED: tuple[tuple[type[TypeEngine[Any]], str], ...] = (
    (BigInteger, "int8"),
    (Text, "text"),
    (LargeBinary, "bytea"),
    (Boolean, "bool"),
    (Float, "float8"),
)


def copy_rows(connection: Connection, table: Table, values: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows with COPY: half the processor time of INSERT, and the same right is needed.

    The caller commits. Raises the driver's own errors.
    """
    columns = list(table.columns)
    names = ", ".join(column.name for column in columns)
    kinds = [next(name for kind, name in _COPIED if isinstance(column.type, kind)) for column in columns]
    keys = [column.name for column in columns]
    cursor = connection.connection.cursor()
    try:
        with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(kinds)
            for row in values:
                copy.write_row([row[key] for key in keys])
    finally:
        cursor.close()
