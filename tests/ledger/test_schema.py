"""The tables are what tables.py says, and a record has nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine

from grpo_audit.errors import StorageError
from grpo_audit.ledger import schema, schema_doc
from grpo_audit.ledger.projections import PROJECTED
from grpo_audit.ledger.tables import SCHEMA_VERSION, Base, CheckpointRow, ContentRow, EventRow, WitnessRow

DOCS = Path(__file__).parents[2] / "docs"


def _migrated() -> Connection:
    connection = create_engine("sqlite://").connect()
    schema.upgrade(connection)
    return connection


def test_migrations_make_the_tables_of_the_code() -> None:
    """A record upgraded from nothing has exactly the tables, columns, keys, indexes and views the code expects."""
    connection = _migrated()
    assert schema.differences(connection) == []
    assert schema.shape(connection) == schema.expected_shape()
    found = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert found == []


def test_the_newest_migration_is_the_schema_version() -> None:
    """SCHEMA_VERSION is the number of the last revision."""
    assert schema.version(_migrated()) == SCHEMA_VERSION


def test_every_table_is_either_the_record_or_a_projection() -> None:
    """No table escapes verification."""
    covered = {table.__tablename__ for table in (*PROJECTED, EventRow, ContentRow, CheckpointRow, WitnessRow)}
    assert covered == set(Base.metadata.tables)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM event; END", "trigger t"),
        ("CREATE VIEW nice AS SELECT 1", "view nice"),
        ("CREATE TABLE notes (x TEXT)", "table notes"),
        ("CREATE VIRTUAL TABLE search USING fts5(x)", "table search"),
        ("CREATE INDEX fast ON event (seq) WHERE seq > 5", "index fast"),
        ("ALTER TABLE step ADD COLUMN loss2 REAL GENERATED ALWAYS AS (loss * 2)", "table step"),
        ("DROP VIEW run_overview", "view run_overview"),
        ("DROP INDEX event_run_kind", "index event_run_kind"),
        ("DROP TABLE finding", "table finding"),
    ],
)
def test_anything_added_taken_or_changed_shows(statement: str, named: str) -> None:
    """differences() names triggers, views, tables, virtual tables, indexes and generated columns that do not belong."""
    connection = _migrated()
    connection.exec_driver_sql(statement)
    assert any(named in problem for problem in schema.differences(connection))


def test_a_view_with_another_text_shows() -> None:
    """A view of the right name that answers something else is a changed view."""
    connection = _migrated()
    connection.exec_driver_sql("DROP VIEW run_overview")
    connection.exec_driver_sql("CREATE VIEW run_overview AS SELECT 'sealed' AS state")
    assert schema.differences(connection) == ["changed view run_overview"]


def test_the_database_of_another_program_is_refused() -> None:
    """A database with other tables is no record, and neither is one with a broken version."""
    connection = create_engine("sqlite://").connect()
    assert schema.version(connection) is None
    connection.exec_driver_sql("CREATE TABLE photos (x)")
    with pytest.raises(StorageError, match=r"no grpo-audit record; found tables photos"):
        schema.version(connection)


def test_a_newer_version_is_refused() -> None:
    """The message says both versions and what to do."""
    with pytest.raises(StorageError, match=rf"version 99, but .* at most {SCHEMA_VERSION}\. Upgrade"):
        schema.check_version(99)


def test_the_schema_page_is_current() -> None:
    """docs/schema.md is what ``python -m grpo_audit.ledger.schema_doc`` prints."""
    assert (DOCS / "schema.md").read_text(encoding="utf-8") == schema_doc.render()


def test_every_column_is_described() -> None:
    """No column without a comment."""
    for table in Base.metadata.tables.values():
        for column in table.columns:
            assert column.comment, f"{table.name}.{column.name}"
