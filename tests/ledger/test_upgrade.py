"""Records of released schema versions, brought to the newest."""

from __future__ import annotations

import gzip
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, create_engine, insert, select

from grpo_audit.errors import StorageError
from grpo_audit.ledger.event import parse
from grpo_audit.ledger.postgres import PostgresSchema
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.projections import PROJECTED, rows
from grpo_audit.ledger.runs import RunHistory
from grpo_audit.ledger.store import Store, upgrade
from grpo_audit.ledger.tables import SCHEMA_VERSION, Base
from grpo_audit.verify.l0 import verify

GOLDEN = Path(__file__).parent / "golden"
RECORD = ("event", "content", "checkpoint")
"""Tables that an upgrade must not change."""


def dump(path: Path, tables: tuple[str, ...] = RECORD) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of these tables, without going through our code."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {table: sorted(database.execute(f"SELECT * FROM {table}").fetchall()) for table in tables}


@pytest.fixture(params=sorted(GOLDEN.glob("schema_*.db.gz")), ids=lambda path: path.name.split(".")[0])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A record as an earlier version wrote it: two runs."""
    path = tmp_path / "record.db"
    path.write_bytes(gzip.decompress(request.param.read_bytes()))
    return path


def version_of(path: Path) -> int:
    """Schema version of a record."""
    return int(dump(path, ("alembic_version",))["alembic_version"][0][0])


def derived(location: str | Path) -> tuple[Counter[str], Counter[str]]:
    """Rows of every projection as stored, and as the code derives them from the events."""
    stored: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    store = Store.read(location)
    with store.connect() as connection:
        for table in PROJECTED:
            for row in connection.execute(select(table)).mappings():
                stored[f"{table.__tablename__} {sorted(row.items())!r}"] += 1
        histories: dict[str, RunHistory] = {}
        for (body,) in connection.exec_driver_sql("SELECT body FROM event ORDER BY seq"):
            event = parse(body).event
            attempt = 0
            if event.run_id is not None:
                history = histories.setdefault(event.run_id, RunHistory(event.run_id))
                history.follow(event.payload)
                attempt = history.attempt
            for table, values in rows(event, attempt):
                expected[f"{table.__tablename__} {sorted(values.items())!r}"] += 1
    store.close()
    return stored, expected


def test_an_older_record_is_brought_up_to_date_without_a_key(older: Path) -> None:
    """upgrade() leaves events, contents and heads as they are, derives every projection as the code does now, and the
    record verifies with the key in it; a copy of the older file is kept."""
    before = dump(older)
    found, now, copy = upgrade(older)
    assert found < now == SCHEMA_VERSION
    assert dump(older) == before
    stored, expected = derived(older)
    assert stored == expected and sum(stored.values()) > 100
    report = verify(older)
    assert report.ok, report.failures
    assert report.events == len(before["event"])
    assert copy is not None and copy.name == f"record.db.schema-{found}"
    assert dump(copy) == before
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchone() == (f"{found:04d}",)


def test_an_upgrade_is_done_once(older: Path) -> None:
    """A second upgrade does nothing, changes no byte and leaves the kept copy alone."""
    _, _, copy = upgrade(older)
    assert copy is not None
    files = {path: path.read_bytes() for path in (older, copy)}
    assert upgrade(older) == (SCHEMA_VERSION, SCHEMA_VERSION, None)
    assert {path: path.read_bytes() for path in (older, copy)} == files


def test_reading_an_older_record_says_what_to_do(older: Path) -> None:
    """Nothing is changed by opening it for reading; the error names the command."""
    before = older.read_bytes()
    with pytest.raises(StorageError, match=rf"older schema version {version_of(older)}; .* grpo-audit upgrade"):
        Project.open(older, mode="read")
    assert older.read_bytes() == before


def test_opening_for_writing_upgrades_and_keeps_a_copy(older: Path) -> None:
    """Whoever may write upgrades by opening, also when the key then turns out to be another's."""
    first = version_of(older)
    with pytest.raises(StorageError, match="signed by another key"):
        Project.open(older, mode="write")
    assert older.with_name(f"record.db.schema-{first}").exists()
    assert verify(older).ok


def test_an_event_that_cannot_be_read_stops_the_upgrade(older: Path) -> None:
    """An older record with a broken body stays as it was, and the error says which event."""
    with closing(sqlite3.connect(older)) as database:
        database.execute("UPDATE event SET body = x'7b7d' WHERE seq = 5")
        database.commit()
    before = dump(older, (*RECORD, "alembic_version", "step"))
    with pytest.raises(StorageError, match="cannot be brought to the newest schema"):
        upgrade(older)
    assert dump(older, (*RECORD, "alembic_version", "step")) == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON rollout BEGIN DELETE FROM event WHERE seq > 5; END",
        "CREATE VIRTUAL TABLE search USING fts5(x)",
        "CREATE TABLE notes (x)",
        "CREATE VIEW nice AS SELECT 1",
    ],
)
def test_a_foreign_thing_stops_the_upgrade(older: Path, statement: str) -> None:
    """What does not belong into an older record is named, and the record stays as it was."""
    with closing(sqlite3.connect(older)) as database:
        database.execute(statement)
        database.commit()
    before, first = dump(older), version_of(older)
    with pytest.raises(StorageError, match="unknown"):
        upgrade(older)
    assert dump(older) == before
    assert version_of(older) == first


def test_a_copy_that_does_not_fit_stops_the_upgrade(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no copy can be kept, nothing is upgraded."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = older.read_bytes()
    monkeypatch.setattr("grpo_audit.ledger.sqlite.sync_folder", full)
    with pytest.raises(StorageError, match=r"Cannot keep a copy of .*The disk is full"):
        upgrade(older)
    assert older.read_bytes() == before


@pytest.mark.slow
def test_a_killed_upgrade_leaves_the_old_record_or_the_new_one(older: Path) -> None:
    """Killed with SIGKILL at any moment, the record has the old version and its rows or the new one and its rows; the
    next upgrade finishes."""
    original, first = older.read_bytes(), version_of(older)
    before = dump(older)
    script = (
        "import sys; from grpo_audit.ledger.store import upgrade; from grpo_audit.ledger import schema\n"
        "import alembic.command, alembic.config\n"  # before it says that it begins: importing takes longest
        "print('begins', flush=True); upgrade(sys.argv[1]); print('done', flush=True)"
    )
    outcomes: Counter[str] = Counter()
    whole_s = 0.0
    kills = 10
    for attempt in range(kills + 1):
        for path in older.parent.iterdir():
            if path.is_file():
                path.unlink()
        older.write_bytes(original)
        process = subprocess.Popen([sys.executable, "-c", script, str(older)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        started = time.monotonic()
        if attempt == 0:
            assert process.stdout.readline() == "done\n"
            whole_s = time.monotonic() - started
        else:
            time.sleep(whole_s * (attempt - 1) / kills)
            process.send_signal(signal.SIGKILL)
        process.communicate()
        version = dump(older, ("alembic_version",))["alembic_version"]
        outcomes[version[0][0]] += 1
        assert dump(older) == before
        upgrade(older)
        stored, expected = derived(older)
        assert stored == expected
    assert outcomes[f"{first:04d}"] >= 2, outcomes
    assert outcomes.keys() == {f"{first:04d}", f"{SCHEMA_VERSION:04d}"}


def to_postgresql(path: Path, url: str, version: int) -> None:
    """Copy a record of a schema version, row by row, into a schema of that version."""
    place = PostgresSchema.parse(url)
    target, source = place.engine(writing=True), create_engine(f"sqlite:///{path}")
    with target.begin() as connection, source.connect() as reading:
        place.prepare(connection)
        config = Config()
        config.set_main_option("script_location", "grpo_audit.ledger:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, f"{version:04d}")
        metadata = MetaData()
        metadata.reflect(connection)
        older = MetaData()
        older.reflect(reading)
        for name, table in older.tables.items():
            if name != "alembic_version":
                found = [dict(row) for row in reading.execute(select(table)).mappings()]
                for row in found:
                    row.update({key: bool(row[key]) for key in ("used",) if name == "rollout"})
                connection.execute(insert(metadata.tables[name]), found) if found else None
    target.dispose()
    source.dispose()


def test_an_older_record_in_postgresql_is_brought_up_to_date(older: Path, postgres_url: str) -> None:
    """The same golden record in PostgreSQL upgrades to the same rows in every table as in SQLite, and verifies."""
    version = version_of(older)
    to_postgresql(older, postgres_url, version)
    with pytest.raises(StorageError, match=f"older schema version {version}"):
        Project.open(postgres_url, mode="read")
    assert upgrade(postgres_url) == (version, SCHEMA_VERSION, None)
    upgrade(older)
    stored, expected = derived(postgres_url)
    assert stored == expected == derived(older)[0]
    found = []
    for location in (older, postgres_url):
        store = Store.read(location)
        with store.connect() as connection:
            found.append(
                {
                    name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
                    for name, table in Base.metadata.tables.items()
                }
            )
        store.close()
    assert found[0] == found[1]
    assert verify(postgres_url).ok


def test_a_newer_record_is_not_touched(older: Path) -> None:
    """upgrade refuses a version it does not know."""
    with closing(sqlite3.connect(older)) as database:
        database.execute("UPDATE alembic_version SET version_num = '0099'")
        database.commit()
    with pytest.raises(StorageError, match=r"schema version 99, .*Upgrade grpo-audit"):
        upgrade(older)
    assert dump(older, ("alembic_version",))["alembic_version"] == [("0099",)]


def test_there_is_a_golden_record_of_every_earlier_version() -> None:
    """A released schema version never goes without a record that was made by it."""
    assert [path.name for path in sorted(GOLDEN.glob("schema_*.db.gz"))] == [
        f"schema_{number}.db.gz" for number in range(1, SCHEMA_VERSION)
    ]
