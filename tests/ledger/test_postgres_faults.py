"""A server that goes away, says no or keeps one waiting."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from postgres_server import PostgresServer, admin
from sqlalchemy.exc import DBAPIError

from grpo_audit.errors import StorageError
from grpo_audit.ledger import postgres
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.storage_errors import DamagedRecordError, storage_errors
from grpo_audit.ledger.store import Store
from grpo_audit.record.events import Annotation
from grpo_audit.verify.l0 import verify


def note(value: str = "v", run_id: str | None = None, **content: bytes) -> NewEvent:
    """Any event."""
    return NewEvent(Annotation(author="a", field="f", value=value, reason="r"), run_id, content)


@pytest.fixture
def record(postgres_url: str) -> str:
    """A record with one event."""
    Project.open(postgres_url, mode="create").close()
    return postgres_url


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
