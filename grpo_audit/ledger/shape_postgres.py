"""What a PostgreSQL schema consists of, as far as it can change the answer to a query or the effect of an insert."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import Connection, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from grpo_audit.errors import StorageError
from grpo_audit.ledger.tables import Base
from grpo_audit.ledger.views import VIEWS, for_postgresql

Things = dict[tuple[str, str], str]
"""Kind and name to what it is."""

KNOWN_KINDS = frozenset({"table", "index", "view"})
"""Kinds that a record has; anything of another kind does not belong."""

_HERE = "(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema())"
_TABLES = f"""
SELECT c.relname, c.relpersistence, c.relrowsecurity OR c.relforcerowsecurity,
       (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod),
               CASE WHEN a.attnotnull THEN 'not null' END, CASE WHEN a.atthasdef THEN 'default' END,
               nullif(a.attidentity, ''), nullif(a.attgenerated, ''),
               CASE WHEN o.collname <> 'default' THEN o.collname END), ', ' ORDER BY a.attname COLLATE "C")
        FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_catalog.pg_class c WHERE c.relnamespace = {_HERE} AND c.relkind = 'r'"""
_INDEXES = f"""
SELECT c.relname, t.relname, m.amname, i.indisunique, i.indpred IS NOT NULL OR i.indexprs IS NOT NULL, i.indisvalid,
       (SELECT string_agg(a.attname, ', ' ORDER BY k.place)
        FROM unnest(i.indkey) WITH ORDINALITY AS k(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
JOIN pg_catalog.pg_am m ON m.oid = c.relam
WHERE t.relnamespace = {_HERE}"""
_VIEWS = f"""
SELECT c.relname, pg_get_viewdef(c.oid) FROM pg_catalog.pg_class c
WHERE c.relnamespace = {_HERE} AND c.relkind = 'v'"""
_OTHERS = (
    f"SELECT 'relation', relname FROM pg_catalog.pg_class WHERE relnamespace = {_HERE} "
    "AND relkind NOT IN ('r', 'i', 'v')",
    "SELECT 'trigger', g.tgname FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid "
    f"WHERE c.relnamespace = {_HERE} AND NOT g.tgisinternal",
    "SELECT 'rule', r.rulename FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class "
    f"WHERE c.relnamespace = {_HERE} AND r.rulename <> '_RETURN'",
    "SELECT 'policy', p.polname FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid "
    f"WHERE c.relnamespace = {_HERE}",
    # rows of a child table appear in its parent
    "SELECT 'child table', c.relname FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid "
    f"JOIN pg_catalog.pg_class p ON p.oid = h.inhparent WHERE p.relkind = 'r' "
    f"AND (p.relnamespace = {_HERE} OR c.relnamespace = {_HERE})",
    f"SELECT 'constraint', conname FROM pg_catalog.pg_constraint WHERE connamespace = {_HERE} "
    "AND contype NOT IN ('p','u','n')",
    # a function or an operator here can be taken for one of the system's
    f"SELECT 'function', proname FROM pg_catalog.pg_proc WHERE pronamespace = {_HERE}",
    f"SELECT 'operator', oprname FROM pg_catalog.pg_operator WHERE oprnamespace = {_HERE}",
    f"SELECT 'type', typname FROM pg_catalog.pg_type WHERE typnamespace = {_HERE} AND typrelid = 0 AND typelem = 0",
)


def things(connection: Connection) -> Things:
    """Everything in the connection's schema."""
    found: Things = {}
    for name, persistence, secured, columns in connection.exec_driver_sql(_TABLES):
        marks = (" not durable" if persistence != "p" else "") + (" row security" if secured else "")
        found["table", name] = f"{columns}{marks}"
    for name, table, method, unique, partial, valid, columns in connection.exec_driver_sql(_INDEXES):
        marks = (" partial" if partial else "") + ("" if valid else " invalid")
        found["index", name] = f"{'unique ' if unique else ''}{method} {table} ({columns}){marks}"
    for name, definition in connection.exec_driver_sql(_VIEWS):
        found["view", name] = definition
    for query in _OTHERS:
        for kind, name in connection.exec_driver_sql(query):
            found[kind, name] = ""
    return found


@lru_cache(maxsize=1)
def _expected_tables() -> Things:
    expected: Things = {
        ("table", "alembic_version"): "version_num character varying(32) not null",
        ("index", "alembic_version_pkc"): "unique btree alembic_version (version_num)",
    }
    for table in Base.metadata.tables.values():
        expected["table", table.name] = _columns(table)
        key = ", ".join(column.name for column in table.primary_key)
        expected["index", f"{table.name}_pkey"] = f"unique btree {table.name} ({key})"
        for constraint in table.constraints:
            if isinstance(constraint, UniqueConstraint):
                names = [column.name for column in constraint.columns]
                name = f"{table.name}_{'_'.join(names)}_key"
                expected["index", name] = f"unique btree {table.name} ({', '.join(names)})"
        for index in table.indexes:
            names = [column.name for column in index.columns]
            expected["index", str(index.name)] = f"btree {table.name} ({', '.join(names)})"
    return expected


def _columns(table: Table) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    described = []
    for column in sorted(table.columns, key=lambda column: column.name):
        kind = column.type.compile(dialect=dialect).lower()
        kind = "double precision" if kind in ("float", "double") else kind
        parts = [column.name, kind, "" if column.nullable else "not null", "C" if kind == "text" else ""]
        described.append(" ".join(part for part in parts if part))
    return ", ".join(described)


def differences(connection: Connection) -> list[str]:
    """How a record in PostgreSQL differs from what its schema version says; empty when it does not."""
    found = things(connection)
    wanted = _expected_tables()
    views = {("view", name): "" for name in VIEWS}
    problems = [f"unknown {kind} {name}" for kind, name in sorted(found.keys() - wanted.keys() - views.keys())]
    problems += [f"missing {kind} {name}" for kind, name in sorted((wanted.keys() | views.keys()) - found.keys())]
    problems += [
        f"changed {key[0]} {key[1]}" for key in sorted(found.keys() & wanted.keys()) if found[key] != wanted[key]
    ]
    if problems:
        return problems  # without its tables no view could be spelled
    spelled = _spelled(connection)
    return [f"changed view {name}" for name in VIEWS if found["view", name] != spelled[name]]


def _spelled(connection: Connection) -> dict[str, str]:
    """Our views as this server writes them back: it keeps no text, so ours must make the same way."""
    if "views" not in connection.info:
        try:
            connection.info["views"] = (
                _read_only_spelled(connection) if _is_read_only(connection) else _make_and_read(connection)
            )
        except DBAPIError as error:
            raise StorageError(
                "The views of the record cannot be compared with what they must be",
                found=str(error.orig).splitlines()[0],
                expected="the right to create temporary views on a server that is no standby",
                next_step="GRANT TEMPORARY ON DATABASE ... TO ...",
            ) from error
    spelled: dict[str, str] = connection.info["views"]
    return spelled


def _is_read_only(connection: Connection) -> bool:
    return connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"


def _read_only_spelled(connection: Connection) -> dict[str, str]:
    with connection.engine.connect() as other:
        other.exec_driver_sql("SET TRANSACTION READ WRITE")
        return _make_and_read(other)


def _make_and_read(connection: Connection) -> dict[str, str]:
    spelled: dict[str, str] = {}
    with connection.begin_nested() as savepoint:
        for name, text in VIEWS.items():
            temporary = for_postgresql(text).replace("CREATE VIEW", "CREATE TEMPORARY VIEW", 1)
            connection.exec_driver_sql(temporary.replace("%", "%%"))
            definition = connection.exec_driver_sql(f"SELECT pg_get_viewdef('pg_temp.{name}'::regclass)").scalar()
            spelled[name] = str(definition)
        savepoint.rollback()
    return spelled
