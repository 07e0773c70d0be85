"""A record in PostgreSQL is the record of SQLite: the same bytes, the same refusals."""

from __future__ import annotations

import itertools
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from ledger.test_payloads import _instances as instances
from postgres_server import PostgresServer
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from grpo_audit.errors import StorageError
from grpo_audit.export.bundle import write_bundle
from grpo_audit.ledger import postgres, shape_postgres
from grpo_audit.ledger.batch import insert_rows
from grpo_audit.ledger.event import NO_EVENT, encode
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.postgres import PostgresSchema
from grpo_audit.ledger.project import NewEvent, Outside, Project
from grpo_audit.ledger.projections import ProjectionError, rows
from grpo_audit.ledger.storage_errors import DamagedRecordError, storage_errors
from grpo_audit.ledger.store import Store
from grpo_audit.ledger.tables import ArtifactRow, Base
from grpo_audit.record.events import PAYLOADS, Annotation, Artifact, EventKind, Payload
from grpo_audit.verify.l0 import verify

BuildRecord = Callable[..., str]


def note(value: str = "v", run_id: str | None = None, **content: bytes) -> NewEvent:
    """Any event."""
    return NewEvent(Annotation(author="a", field="f", value=value, reason="r"), run_id, content)


def admin(url: str) -> psycopg.Connection[Any]:
    """A connection of somebody who may do everything, in the record's schema."""
    parsed = make_url(url)
    schema = parsed.query["schema"]
    return psycopg.connect(
        host=str(parsed.query["host"]),
        user=parsed.username,
        dbname=parsed.database,
        options=f"-c search_path={schema}",
        autocommit=True,
    )


def outside() -> Outside:
    """The same times and the same salts each time."""
    ticks = itertools.count()
    return Outside(now=lambda: f"2026-01-01T00:00:00.{next(ticks):06d}Z", random=random.Random(7).randbytes)


def everything(location: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with Project.open(location, mode="read") as project, project.session() as session:
        return {
            name: sorted((tuple(row) for row in session.execute(select(table))), key=repr)
            for name, table in Base.metadata.tables.items()
        }


@pytest.fixture
def record(postgres_url: str) -> str:
    """A record with one event."""
    Project.open(postgres_url, mode="create").close()
    return postgres_url


def test_both_databases_hold_the_same_bytes(
    tmp_path: Path, postgres_url: str, build_record: BuildRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same events with the same key, clock and salts give identical rows in every table: bodies, leaf hashes,
    roots, signatures, projections."""
    key = SigningKey.generate()
    found = []
    for name, db in (("sqlite", None), ("postgresql", postgres_url)):
        monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / name / "home"))
        path = tmp_path / name / "record.db"
        build_record(path, steps=3, prompts=2, db=db, key=key, outside=outside())
        found.append(everything(db or str(path)))
    assert found[0] == found[1]
    assert len(found[0]["event"]) > 200
    assert len(found[0]["checkpoint"]) > 10


def test_a_record_in_postgresql_verifies(tmp_path: Path, postgres_url: str, build_record: BuildRecord) -> None:
    """A whole run recorded in PostgreSQL passes every check of L0 with its files, and its runs are listed."""
    run_id = build_record(tmp_path / "record.db", steps=3, prompts=2, db=postgres_url)
    report = verify(postgres_url, run_folder=tmp_path / run_id)
    assert report.ok and report.sealed, report.failures
    with Project.open(postgres_url, mode="read") as project:
        assert [run.run_id for run in project.runs()] == [run_id]


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


def test_reading_cannot_write_and_sees_one_state(record: str) -> None:
    """A read connection refuses to write, and does not see what is appended while it looks."""
    store = Store.read(record)
    with Project.open(record, mode="write") as project:
        with store.connect() as connection:
            count = connection.exec_driver_sql("SELECT count(*) FROM event").scalar()
            project.append([note()])
            assert connection.exec_driver_sql("SELECT count(*) FROM event").scalar() == count == 1
        with store.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM event").scalar() == 2
        with pytest.raises(StorageError, match="read-only transaction"), store.connect() as connection:
            connection.exec_driver_sql("DELETE FROM event")
    store.close()


def test_commits_are_synchronous_whatever_the_role_says(record: str) -> None:
    """synchronous_commit is on for every writing connection, also where the role switched it off."""
    with admin(record) as server:
        server.execute("ALTER ROLE grpo SET synchronous_commit = off")
        server.execute("ALTER ROLE grpo SET extra_float_digits = 0")
    try:
        store = Store.write(record)
        with store.transaction() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
            assert connection.exec_driver_sql("SHOW extra_float_digits").scalar() == "1"
        store.close()
    finally:
        with admin(record) as server:
            server.execute("ALTER ROLE grpo RESET ALL")


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


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (note("lone \ud800 surrogate"), "surrogate"),
        (NewEvent(note().payload, None, {"na\x00me": b""}), "holds NUL"),
        (note(run_id="run\x00"), "holds NUL"),
        (NewEvent(Artifact(role="r", name="n", digest="sha256:" + "0" * 64, size=2**53, media_type="m", location=None),
                  None), "names none|2\\*\\*53"),
    ],
)  # fmt: skip
def test_what_has_no_canonical_form_is_refused_alike(location: str, event: NewEvent, why: str) -> None:
    """Lone surrogates and integers beyond 2^53 raise the same StorageError in both databases, before any is touched."""
    with Project.open(location, mode="create") as project:
        with pytest.raises(StorageError, match=why):
            project.append([event])
        assert project.append([note()]).size == 2


def test_hostile_text_and_large_integers_come_back_alike(
    location: str, tmp_path: Path, build_record: BuildRecord
) -> None:
    """NUL, bidi, broken UTF-8 in content and the largest integers are recorded and read back; columns show NUL as
    U+2400."""
    run_id = build_record(tmp_path / "runs.db", steps=1, prompts=1, sealed=False, db=location)
    largest = 2**53 - 1
    artifact = Artifact(
        role="nul \x00 in it", name="\u202eevil\x00", digest="sha256:" + "0" * 64, size=largest, media_type="m\x00",
        location=None,
    )  # fmt: skip
    data = b"\x00\xff\xfe" + bytes(range(256))
    with Project.open(location, mode="write") as project:
        project.append([note("a\x00b", run_id, text=data), NewEvent(artifact, run_id)])
        annotation, kept = list(project.events(run_id))[-2:]
        assert isinstance(annotation.payload, Annotation) and annotation.payload.value == "a\x00b"
        assert kept.payload == artifact
        assert project.content(annotation.seq, "text") == data
        with project.session() as session:
            row = session.scalars(select(ArtifactRow).where(ArtifactRow.seq == kept.seq)).one()
            assert (row.role, row.name, row.size) == ("nul \u2400 in it", "\u202eevil\u2400", largest)
    assert verify(location).ok


def test_views_show_text_with_nul(postgres_url: str, tmp_path: Path, build_record: BuildRecord) -> None:
    """A completion with a NUL, which no text of PostgreSQL can hold, breaks no view: it shows as U+2400."""
    build_record(tmp_path / "record.db", steps=4, prompts=1, db=postgres_url)
    with admin(postgres_url) as server:
        shown = server.execute(
            "SELECT completion FROM rollout_text UNION ALL SELECT response FROM eval_text"
        ).fetchall()
    assert any("NUL:\u2400:end" in text for (text,) in shown)
    assert any("\N{PILE OF POO}" in text for (text,) in shown)


def test_text_is_ordered_by_code_point(location: str) -> None:
    """ORDER BY gives the same order in both databases, whatever the server's locale."""
    names = ["b", "a", "B", "A", "_", "ä", "z", "Z", "-"]
    with Project.open(location, mode="create") as project:
        project.append([NewEvent(note().payload, None, dict.fromkeys(names, b"x"))])
        with project._store.connect() as connection:
            found = connection.exec_driver_sql("SELECT name FROM content ORDER BY name").scalars().all()
    assert found == sorted(names)


def test_a_password_is_shown_nowhere(postgres_server: PostgresServer, record: str) -> None:
    """Neither names nor messages have the password of a URL, whether it opens or not."""
    url = record.replace("//grpo@", "//grpo:s3cret@")
    with Project.open(url, mode="read") as project:
        assert "s3cret" not in project.name and "grpo@" in project.name
    report = verify(url)
    assert report.ok and "s3cret" not in repr(report)
    for broken in (
        url.replace("schema=", "schema=missing_"),
        url.replace("schema=", "schema=No-Such-Name"),
        url.replace("/postgres?", "/nothing?"),
        "postgresql://grpo:s3cret@127.0.0.1:1/d",
        "postgresql://grpo:s3cret@host:port/d",
        "mysql://grpo:s3cret@h/d",
        "postgresql://h/d?password=s3cret&connect_timeout=1&port=1&host=127.0.0.1",
    ):
        with pytest.raises(StorageError) as caught:
            Project.open(broken, mode="read")
        assert "s3cret" not in str(caught.value), broken
        assert "\n" not in str(caught.value)


@pytest.fixture
def restarted(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    yield postgres_server
    if subprocess.run(["test", "-e", str(postgres_server.folder / "data" / "postmaster.pid")], check=False).returncode:
        postgres_server.start()


def test_a_server_that_crashes_is_one_clear_error_and_the_record_goes_on(
    restarted: PostgresServer, postgres_url: str
) -> None:
    """While the server is down every append raises StorageError; when it is back the next one goes on from what was
    durable, with the same object."""
    with Project.open(postgres_url, mode="create") as project:
        before = project.append([note("first")])
        restarted.stop()
        for _ in range(2):
            with pytest.raises(StorageError, match=r"Cannot (write|read) postgresql.*; found The server") as caught:
                project.append([note("lost")])
            assert "\n" not in str(caught.value)
        restarted.start()
        assert project.append([note("second")]).size == before.size + 1
        values = [event.payload.value for event in project.events() if isinstance(event.payload, Annotation)]
        assert values == ["first", "second"]
    assert verify(postgres_url).ok


def test_a_connection_lost_in_the_middle_of_a_transaction_leaves_nothing(
    record: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the server ends the session after the rows were sent, nothing of the batch is there and the next goes on."""
    from grpo_audit.ledger import writer

    real = writer.Batch.write

    def cut(batch: Any, connection: Any) -> None:
        real(batch, connection)
        with admin(record) as server:
            server.execute(
                "SELECT pg_terminate_backend(%s)", (connection.connection.driver_connection.info.backend_pid,)
            )

    with Project.open(record, mode="write") as project:
        with monkeypatch.context() as patch:
            patch.setattr(writer.Batch, "write", cut)
            with pytest.raises(StorageError, match="Cannot write"):
                project.append([note("lost")])
        assert project.append([note("kept")]).size == 2
    assert verify(record).ok


def test_the_expected_views_are_read_once_a_connection(record: str) -> None:
    """Comparing the shape of an untouched record finds nothing, as often as one likes."""
    store = Store.read(record)
    with store.connect() as connection:
        assert shape_postgres.differences(connection) == shape_postgres.differences(connection) == []
    store.close()


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_payload_gives_the_same_rows_in_both(kind: EventKind, tmp_path: Path, postgres_url: str) -> None:
    """Whatever a payload holds (huge and tiny numbers, any text), its rows go into both databases and come back as they
    were derived, or it gives no rows in either."""
    Project.open(postgres_url, mode="create").close()
    Project.open(tmp_path / "record.db", mode="create").close()
    stores = [Store.write(postgres_url), Store.write(tmp_path / "record.db")]

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(instances(PAYLOADS[kind]))
    def same(payload: Payload) -> None:
        event = encode(
            NewEvent(payload, "run"), seq=7, time="2026-01-01T00:00:00.000000Z", previous=NO_EVENT, content={}
        )
        try:
            derived = rows(event, 1)
        except ProjectionError:
            return
        inserts: dict[type[Base], list[dict[str, Any]]] = {}
        for table, values in derived:
            inserts.setdefault(table, []).append(values)
        for store in stores:
            with pytest.raises(_Undo), store.transaction() as connection:
                insert_rows(connection, inserts)
                for table, expected in inserts.items():
                    found = [dict(row) for row in connection.execute(select(table.__table__)).mappings()]
                    assert sorted(found, key=repr) == sorted(
                        [{column.name: row[column.name] for column in table.__table__.columns} for row in expected],
                        key=repr,
                    )
                raise _Undo

    same()
    for store in stores:
        store.close()


class _Undo(Exception):
    """Ends a transaction without a trace."""


def test_a_bundle_is_the_same_from_both(
    tmp_path: Path, postgres_url: str, build_record: BuildRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same record gives the same bundle, byte for byte, whichever database it is in."""
    key = SigningKey.generate()
    bundles = []
    for name, db in (("sqlite", None), ("postgresql", postgres_url)):
        monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / name / "home"))
        path = tmp_path / name / "record.db"
        run_id = build_record(path, steps=2, prompts=2, db=db, key=key, outside=outside())
        target = tmp_path / f"{name}.zip"
        write_bundle(db or path, run_id, path.parent / run_id, target)
        bundles.append(target.read_bytes())
    assert bundles[0] == bundles[1]


@pytest.mark.parametrize(
    ("error", "says", "kind"),
    [
        (psycopg.errors.DiskFull("x"), "The server's disk is full", StorageError),
        (psycopg.errors.TooManyConnections("x"), "no connection to spare", StorageError),
        (psycopg.errors.LockNotAvailable("x"), "Another writer holds the log", StorageError),
        (psycopg.errors.InsufficientPrivilege("x"), "Your role has not the right", StorageError),
        (psycopg.errors.ReadOnlySqlTransaction("x"), "The transaction is read-only", StorageError),
        (psycopg.errors.AdminShutdown("x"), "The server is out of reach", StorageError),
        (psycopg.errors.ConnectionFailure("x"), "The server is out of reach", StorageError),
        (psycopg.OperationalError("the connection is lost"), "The server is out of reach", StorageError),
        (psycopg.OperationalError('password authentication failed for user "u"'), "does not let you in", StorageError),
        (psycopg.errors.DataCorrupted("x"), "damaged data", DamagedRecordError),
        (psycopg.errors.IndexCorrupted("x"), "damaged data", DamagedRecordError),
        (psycopg.errors.NumericValueOutOfRange("x"), "NumericValueOutOfRange: x", StorageError),
    ],
)
def test_each_error_of_the_server_is_one_line_with_a_next_step(
    error: psycopg.Error, says: str, kind: type[StorageError]
) -> None:
    """Whether SQLAlchemy wraps it or COPY raises it bare, an error says what it means; damage is told from the rest."""
    for raised in (error, DBAPIError("SELECT 1", {}, error)):
        with pytest.raises(StorageError, match=says) as caught, storage_errors("Cannot write x"):
            raise raised
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)


def test_a_turn_that_does_not_come_is_an_error_and_the_record_goes_on(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that waits longer than the limit for its turn raises StorageError that says so, and can go on later."""
    monkeypatch.setitem(postgres._SETTINGS, "lock_timeout", "300ms")
    with Project.open(postgres_url, mode="create") as project:
        other = Store.write(postgres_url)
        with other.transaction(), pytest.raises(StorageError, match="Another writer holds the log"):
            project.append([note("too late")])
        other.close()
        assert project.append([note("later")]).size == 2
