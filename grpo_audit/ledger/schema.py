"""Which tables and views a record has: its version, its upgrade, and the check that it has nothing else.

The version is alembic's: revision ``0001`` is schema version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.pool import StaticPool

from grpo_audit.errors import StorageError
from grpo_audit.ledger import shape_postgres
from grpo_audit.ledger.rebuild import rebuild
from grpo_audit.ledger.storage_errors import DamagedRecordError
from grpo_audit.ledger.tables import SCHEMA_VERSION, Base
from grpo_audit.ledger.views import VIEWS

VERSION_TABLE = "alembic_version"


def version(connection: Connection) -> int | None:
    """Schema version of a record; None for a database without any table.

    Raises StorageError when the database belongs to something else.
    """
    tables = _table_names(connection)
    if not tables:
        return None
    found = (
        connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all()
        if VERSION_TABLE in tables
        else []
    )
    if "event" not in tables or len(found) != 1 or not str(found[0]).isdecimal():
        raise StorageError(
            "This database is no grpo-audit record",
            found=f"tables {', '.join(sorted(map(str, tables))[:5])}",
            next_step="Name another place: nothing is added to the database of another program",
        )
    return int(found[0])


def _table_names(connection: Connection) -> set[str]:
    if connection.dialect.name == "sqlite":
        return set(inspect(connection).get_table_names())
    return {name for kind, name in shape_postgres.things(connection) if kind == "table"}


def check_version(found: int) -> None:
    """Raises StorageError for a record that this program is too old to read."""
    if found > SCHEMA_VERSION:
        raise StorageError(
            f"The record has schema version {found}, but this version understands at most {SCHEMA_VERSION}",
            next_step="Upgrade grpo-audit",
        )


def upgrade(connection: Connection) -> None:
    """Bring an empty or older record to the newest schema, inside the caller's transaction, and derive its rows anew.

    Raises DamagedRecordError when an event cannot be read.
    """
    older = version(connection) is not None
    # alembic takes as long to import as everything else here together, and only this function needs it
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "grpo_audit.ledger:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    if older:
        try:
            rebuild(connection)
        except ValueError as error:
            raise DamagedRecordError(
                "The record cannot be brought to the newest schema",
                found=str(error),
                next_step="Verify it with the version that wrote it; nothing was changed",
            ) from error


def refuse_foreign(connection: Connection, record: str) -> None:
    """Before an upgrade: what no version of a record has could act while it is changed. Raises DamagedRecordError."""
    if connection.dialect.name == "sqlite":
        foreign = sorted(shape(connection).others)
    else:
        known = shape_postgres.KNOWN_KINDS
        foreign = [f"{kind} {name}" for kind, name in sorted(shape_postgres.things(connection)) if kind not in known]
    if foreign:
        raise DamagedRecordError(
            f"{record} holds what no record has",
            found=", ".join(f"unknown {item}" for item in foreign[:5]),
            next_step="Remove what was added, or restore a backup",
        )


@dataclass(frozen=True)
class Shape:
    """What a SQLite database consists of, as far as it can change the answer to a query."""

    tables: dict[str, tuple[tuple[object, ...], ...]]
    """Name to columns: name, affinity, not null, position in the primary key, hidden."""
    indexes: dict[str, str]
    """Name to table."""
    views: dict[str, str]
    """Name to text."""
    others: frozenset[str]
    """Triggers, virtual tables and whatever else there is."""


def shape(connection: Connection) -> Shape:
    """Read the shape of a SQLite database."""
    tables: dict[str, tuple[tuple[object, ...], ...]] = {}
    indexes: dict[str, str] = {}
    views: dict[str, str] = {}
    others: set[str] = set()
    rows = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master").all()
    for kind, name, table, sql in rows:
        if kind == "table" and not str(sql).upper().startswith("CREATE VIRTUAL"):
            columns = connection.exec_driver_sql("SELECT * FROM pragma_table_xinfo(?)", (name,)).all()
            tables[name] = tuple((row[1], _affinity(row[2]), row[3], row[5], row[6]) for row in columns)
        elif kind == "index":
            indexes[name] = table
        elif kind == "view":
            views[name] = sql
        else:
            others.add(f"{kind} {name}")
    return Shape(tables, indexes, views, frozenset(others))


def _affinity(declared: str) -> str:
    """https://www.sqlite.org/datatype3.html#determination_of_column_affinity; SQLAlchemy 2.0 says FLOAT, 2.1 DOUBLE."""
    name = declared.upper()
    for parts, affinity in (
        (("INT",), "INTEGER"),
        (("CHAR", "CLOB", "TEXT"), "TEXT"),
        (("BLOB",), "BLOB"),
        (("REAL", "FLOA", "DOUB"), "REAL"),
    ):
        if any(part in name for part in parts):
            return affinity
    return "NUMERIC" if name else "BLOB"


@lru_cache(maxsize=1)
def expected_shape() -> Shape:
    """The shape of a record of this schema version; a test holds the migrations to it."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        connection.exec_driver_sql(
            f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, PRIMARY KEY (version_num))"
        )
        for view in VIEWS.values():
            connection.exec_driver_sql(view)
        found = shape(connection)
    engine.dispose()
    return found


def differences(connection: Connection) -> list[str]:
    """How a record differs from what its schema version says; empty when it does not.

    A trigger, a foreign view or a generated column could make the record answer differently from what was verified.
    """
    if connection.dialect.name != "sqlite":
        return shape_postgres.differences(connection)
    found, expected = shape(connection), expected_shape()
    problems = [f"unknown {item}" for item in sorted(found.others)]
    for kind, have, want in (
        ("table", found.tables, expected.tables),
        ("index", found.indexes, expected.indexes),
        ("view", found.views, expected.views),
    ):
        problems += [f"unknown {kind} {name}" for name in sorted(have.keys() - want.keys())]
        problems += [f"missing {kind} {name}" for name in sorted(want.keys() - have.keys())]
        problems += [f"changed {kind} {name}" for name in sorted(have.keys() & want.keys()) if have[name] != want[name]]
    return problems
