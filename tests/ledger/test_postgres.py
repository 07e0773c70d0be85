"""A record in PostgreSQL is the record of SQLite: the same bytes, the same rows, the same refusals."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from ledger.test_payloads import _instances as instances
from postgres_server import PostgresServer, admin
from sqlalchemy import select

from grpo_audit.errors import StorageError
from grpo_audit.export.bundle import write_bundle
from grpo_audit.ledger.batch import insert_rows
from grpo_audit.ledger.event import NO_EVENT, encode
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.project import NewEvent, Outside, Project
from grpo_audit.ledger.projections import ProjectionError, rows
from grpo_audit.ledger.store import Store
from grpo_audit.ledger.tables import ArtifactRow, Base
from grpo_audit.record.events import PAYLOADS, Annotation, Artifact, EventKind, Payload
from grpo_audit.verify.l0 import verify

BuildRecord = Callable[..., str]


def note(value: str = "v", run_id: str | None = None, **content: bytes) -> NewEvent:
    """Any event."""
    return NewEvent(Annotation(author="a", field="f", value=value, reason="r"), run_id, content)


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
