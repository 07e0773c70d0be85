"""What does not belong into a record in PostgreSQL is found, and who may do what to one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from postgres_server import PostgresServer, admin
from sqlalchemy.engine import make_url

from grpo_audit.errors import StorageError
from grpo_audit.ledger import shape_postgres
from grpo_audit.ledger.postgres import PostgresSchema
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.store import Store
from grpo_audit.record.events import Annotation, EventKind
from grpo_audit.verify.l0 import verify

BuildRecord = Callable[..., str]


def note(value: str = "v", run_id: str | None = None, **content: bytes) -> NewEvent:
    """Any event."""
    return NewEvent(Annotation(author="a", field="f", value=value, reason="r"), run_id, content)


@pytest.fixture
def record(postgres_url: str) -> str:
    """A record with one event."""
    Project.open(postgres_url, mode="create").close()
    return postgres_url


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ("UPDATE event SET body = body || '\\x20'::bytea WHERE seq = 3", 3),
        ("UPDATE event SET kind = 'finding' WHERE seq = 3", 4),
        ("UPDATE event SET leaf_hash = '\\x00'::bytea WHERE seq = 3", 5),
        ("UPDATE checkpoint SET root = '\\x00'::bytea WHERE size = 1", 6),
        ("DELETE FROM checkpoint WHERE size = (SELECT max(size) FROM checkpoint)", 7),
        ("UPDATE step SET reward_mean = reward_mean + 1e-9 WHERE reward_mean IS NOT NULL", 9),
        ("DELETE FROM reward WHERE ctid = (SELECT min(ctid) FROM reward)", 9),
        ("INSERT INTO finding SELECT seq + 1, run_id, 'r', 'info', 'm' FROM event WHERE seq = 3", 9),
        ("UPDATE content SET data = data || '\\x20'::bytea WHERE encoding = 'plain' AND name = 'completion'", 10),
        ("DELETE FROM content WHERE seq = (SELECT min(seq) FROM content)", 10),
    ],
)
def test_an_edit_in_postgresql_is_found(
    tmp_path: Path, postgres_url: str, build_record: BuildRecord, change: str, number: int
) -> None:
    """An event, a projection, content or a head that somebody edited with SQL fails the check that is about it."""
    build_record(tmp_path / "record.db", steps=1, prompts=1, db=postgres_url)
    assert verify(postgres_url).ok
    with admin(postgres_url) as server:
        done = server.execute(change)  # type: ignore[call-overload]
        assert done.rowcount > 0
    assert number in [check.number for check in verify(postgres_url).failures]


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TABLE notes (x text)", "unknown table notes"),
        ("CREATE VIEW nice AS SELECT 1 AS x", "unknown view nice"),
        ("CREATE MATERIALIZED VIEW nice AS SELECT 1 AS x", "unknown relation nice"),
        ("CREATE SEQUENCE numbers", "unknown relation numbers"),
        ("CREATE INDEX fast ON event (kind)", "unknown index fast"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "unknown function f"),
        ("CREATE DOMAIN d AS text", "unknown type d"),
        ("CREATE RULE r AS ON INSERT TO finding DO INSTEAD NOTHING", "unknown rule r"),
        ("CREATE POLICY p ON event USING (seq < 5)", "unknown policy p"),
        ("ALTER TABLE event ENABLE ROW LEVEL SECURITY", "changed table event"),
        ("ALTER TABLE event ADD CHECK (seq < 1000000)", "unknown constraint event_seq_check"),
        ("ALTER TABLE step ADD COLUMN loss2 float8 GENERATED ALWAYS AS (loss * 2) STORED", "changed table step"),
        ("ALTER TABLE finding ALTER COLUMN severity SET DEFAULT 'info'", "changed table finding"),
        ("ALTER TABLE finding ALTER COLUMN severity DROP NOT NULL", "changed table finding"),
        ("ALTER TABLE finding SET UNLOGGED", "changed table finding"),
        ("ALTER TABLE event DROP CONSTRAINT event_pkey", "missing index event_pkey"),
        ("DROP INDEX step_run", "missing index step_run"),
        ("DROP INDEX step_run; CREATE INDEX step_run ON step (run_id) WHERE step > 5", "changed index step_run"),
        ("DROP VIEW run_overview", "missing view run_overview"),
        ("CREATE OR REPLACE VIEW effective_step AS SELECT * FROM step WHERE loss < 1", "changed view effective_step"),
        ("DROP TABLE finding", "missing table finding"),
        ("CREATE SCHEMA IF NOT EXISTS elsewhere; CREATE TABLE IF NOT EXISTS elsewhere.more () INHERITS (step)",
         "unknown child table more"),
        ("CREATE FUNCTION public.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
         "CREATE TRIGGER t BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION public.t()", "unknown trigger t"),
    ],
)  # fmt: skip
def test_anything_added_taken_or_changed_is_refused(record: str, statement: str, named: str) -> None:
    """What could change the answer to a query or the effect of an insert is named, in every mode and by verify."""
    with admin(record) as server:
        server.execute(statement)  # type: ignore[call-overload]
    try:
        for mode in ("read", "write", "create"):
            with pytest.raises(StorageError, match=named):
                Project.open(record, mode=mode)  # type: ignore[arg-type]
        assert named in verify(record).failures[0].detail
    finally:
        with admin(record) as server:
            server.execute("DROP SCHEMA IF EXISTS elsewhere CASCADE; DROP FUNCTION IF EXISTS public.t() CASCADE")


def test_the_database_of_another_program_is_not_touched(postgres_url: str) -> None:
    """create refuses a schema with foreign tables and adds nothing to it."""
    schema = make_url(postgres_url).query["schema"]
    with admin(postgres_url) as server:
        server.execute(f"CREATE SCHEMA {schema}")  # type: ignore[arg-type]
        server.execute("CREATE TABLE photos (x int)")
        with pytest.raises(StorageError, match="no grpo-audit record; found tables photos"):
            Project.open(postgres_url, mode="create")
        tables = server.execute("SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace", (schema,))
        assert tables.fetchall() == [("photos",)]


def test_records_of_one_database_are_apart(postgres_server: PostgresServer) -> None:
    """One record is one schema; the default one has the program's name."""
    first, second = postgres_server.url(), postgres_server.url()
    with Project.open(first, mode="create") as one, Project.open(second, mode="create") as other:
        one.append([note()])
        assert (one.head.size, other.head.size) == (2, 1)
        assert one.project_id != other.project_id
    assert PostgresSchema.parse("postgresql://h/d").schema == "grpo_audit"


def test_there_is_no_record_where_none_was_made(postgres_server: PostgresServer) -> None:
    """Reading or writing a schema that does not exist raises StorageError and makes none."""
    url = postgres_server.url()
    for mode in ("read", "write"):
        with pytest.raises(StorageError, match="There is no record at postgresql"):
            Project.open(url, mode=mode)  # type: ignore[arg-type]
    with admin(url) as server:
        found = server.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (make_url(url).query["schema"],))
        assert found.fetchone() == (0,)


def test_a_newer_record_is_refused(record: str) -> None:
    """A schema version that this program does not know raises StorageError that says to upgrade."""
    with admin(record) as server:
        server.execute("UPDATE alembic_version SET version_num = '0099'")
    for mode in ("read", "write", "create"):
        with pytest.raises(StorageError, match=r"schema version 99, .*Upgrade grpo-audit"):
            Project.open(record, mode=mode)  # type: ignore[arg-type]


def test_a_role_that_may_only_insert_can_append(record: str) -> None:
    """Appending needs USAGE on the schema, SELECT and INSERT; such a role can neither edit nor delete."""
    schema = make_url(record).query["schema"]
    role = f"w_{schema}"
    with admin(record) as server:
        server.execute(f"CREATE ROLE {role} LOGIN")  # type: ignore[arg-type]
        server.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")  # type: ignore[arg-type]
        server.execute(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA {schema} TO {role}")  # type: ignore[arg-type]
    url = record.replace("//grpo@", f"//{role}@")
    with Project.open(url, mode="write") as project:
        assert project.append([note()]).size == 2
        with pytest.raises(StorageError, match="permission denied"):
            project.keep_witness(2, "w", "directory", b"x")
    with admin(url) as server, pytest.raises(psycopg.errors.InsufficientPrivilege):
        server.execute("DELETE FROM event")
    assert verify(record).ok


def test_each_task_needs_the_rights_that_the_documentation_says(
    tmp_path: Path, postgres_url: str, build_record: BuildRecord
) -> None:
    """SELECT is enough to read and verify; DELETE on ``content`` to erase; DELETE on ``witness`` to keep statements;
    without the right each raises StorageError that names it, and nothing is changed."""
    run_id = build_record(tmp_path / "record.db", steps=1, prompts=1, db=postgres_url)
    schema = make_url(postgres_url).query["schema"]
    reader, writer = f"r_{schema}", f"w_{schema}"
    with admin(postgres_url) as server:
        for role, rights in ((reader, "SELECT"), (writer, "SELECT, INSERT")):
            server.execute(f"CREATE ROLE {role} LOGIN")  # type: ignore[arg-type]
            server.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")  # type: ignore[arg-type]
            server.execute(f"GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {role}")  # type: ignore[arg-type]
    assert verify(postgres_url.replace("//grpo@", f"//{reader}@")).ok
    with (
        Project.open(postgres_url.replace("//grpo@", f"//{reader}@"), mode="write") as project,
        pytest.raises(StorageError, match="has not the right"),
    ):
        project.append([note()])
    with Project.open(postgres_url.replace("//grpo@", f"//{writer}@"), mode="write") as project:
        seq = next(event.seq for event in project.events(run_id, [EventKind.ROLLOUT]))
        before = project.head
        with pytest.raises(StorageError, match="has not the right"):
            project.erase(run_id, [(seq, ["completion"])], author="a", reason="r")
        with admin(postgres_url) as server:
            server.execute(f"GRANT DELETE ON content, witness TO {writer}")  # type: ignore[arg-type]
        head = project.erase(run_id, [(seq, ["completion"])], author="a", reason="r")
        assert head.size == before.size + 1
        project.keep_witness(head.size, "w", "directory", b"x")
    assert verify(postgres_url).ok


def test_the_expected_views_are_read_once_a_connection(record: str) -> None:
    """Comparing the shape of an untouched record finds nothing, as often as one likes."""
    store = Store.read(record)
    with store.connect() as connection:
        assert shape_postgres.differences(connection) == shape_postgres.differences(connection) == []
    store.close()
