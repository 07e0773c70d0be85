"""Erasing content: what goes, what stays, what is refused."""

from __future__ import annotations

import random
import sqlite3
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.tables import ContentRow, ErasedRow
from grpo_audit.record.events import Annotation, Erasure, EventKind
from grpo_audit.verify.l0 import verify

BuildRecord = Callable[..., str]


def texts(run_id: str, lengths: list[int], rng: random.Random) -> list[NewEvent]:
    """Annotations with random letters as content: long enough to be recognised wherever they lie."""
    return [
        NewEvent(
            Annotation(author="a", field="f", value="v", reason="r"),
            run_id,
            {"text": "".join(rng.choices(string.ascii_letters, k=length)).encode(), "trace": rng.randbytes(length)},
        )
        for length in lengths
    ]


def in_files(path: Path, needles: list[bytes]) -> list[tuple[str, bytes]]:
    """Which of the needles are in any file beside the record."""
    files = [file for file in path.parent.iterdir() if file.is_file()]
    assert path in files
    return [(file.name, needle[:20]) for file in files for needle in needles if needle in file.read_bytes()]


def pieces(data: bytes) -> list[bytes]:
    """Parts of a text, so that a torn copy shows, too."""
    return [data[at : at + 24] for at in range(0, len(data) - 24, 60)] or [data]


def test_an_erasure_removes_text_and_salt_and_the_tree_stays(
    location: str, tmp_path: Path, build_record: BuildRecord
) -> None:
    """After erase on a sealed run the named contents are gone, others are not, the events and the earlier heads are the
    same bytes, the record verifies and says what was erased, by whom and why."""
    run_id = build_record(tmp_path / "runs.db", steps=2, prompts=1, db=location)
    with Project.open(location, mode="write") as project:
        rollouts = [event.seq for event in project.events(run_id, [EventKind.ROLLOUT])]
        bodies = [event.body for event in project.events()]
        heads = project.checkpoint()
        head = project.erase(
            run_id,
            [(rollouts[0], ["completion", "trace"]), (rollouts[1], ["completion"])],
            author="A",
            reason="asked for",
        )
        assert head.size == heads.size + 1
        assert project.checkpoint(heads.size) == heads
        assert [event.body for event in project.events()][:-1] == bodies
        said = project.last(run_id, EventKind.ERASURE)
        assert said is not None and isinstance(said.payload, Erasure) and said.payload.reason == "asked for"
        assert project.content(rollouts[0], "completion") is project.content(rollouts[0], "trace") is None
        assert project.content(rollouts[1], "completion") is None
        assert project.content(rollouts[1], "trace") and project.content(rollouts[2], "completion")
        with project.session() as session:
            gone = session.scalars(select(ErasedRow).order_by(ErasedRow.content_seq, ErasedRow.name)).all()
            assert [(row.content_seq, row.name, row.author) for row in gone] == [
                (rollouts[0], "completion", "A"),
                (rollouts[0], "trace", "A"),
                (rollouts[1], "completion", "A"),
            ]
        assert project.append([NewEvent(Annotation(author="a", field="f", value="v", reason="r"), run_id)])
    report = verify(location)
    assert report.ok and report.sealed, report.failures


def test_erased_bytes_are_nowhere_in_the_files(tmp_path: Path, build_record: BuildRecord) -> None:
    """Neither text nor array nor salt of what was erased is in the database, its write-ahead log or a file beside it,
    whole or torn: for contents of many sizes, erased bit by bit while others stay, with the record still open."""
    path = tmp_path / "here" / "record.db"
    run_id = build_record(tmp_path / "runs" / "record.db", steps=1, prompts=1, db=str(path))
    rng = random.Random(3)
    with Project.open(path, mode="write") as project:
        first = project.head.size
        for _ in range(6):
            project.append(texts(run_id, [rng.choice([30, 200, 900, 3900, 5000, 20_000]) for _ in range(8)], rng))
        seqs = list(range(first, project.head.size))
        with project.session() as session:
            secrets = {
                (row.seq, row.name): [bytes(row.salt), *pieces(bytes(row.data))]
                for row in session.scalars(select(ContentRow).where(ContentRow.seq >= first))
            }
        everything = [needle for needles in secrets.values() for needle in needles]
        assert len(in_files(path, everything)) > 0.9 * len(everything), "not there before"
        gone: list[bytes] = []
        for _ in range(4):
            chosen = rng.sample(seqs, 6)
            seqs = [seq for seq in seqs if seq not in chosen]
            project.erase(run_id, [(seq, ["text", "trace"]) for seq in chosen], author="A", reason="r")
            gone += [needle for seq in chosen for name in ("text", "trace") for needle in secrets[seq, name]]
            assert in_files(path, gone) == []
        for seq in seqs:
            for name in ("text", "trace"):
                assert project.content(seq, name) is not None
    assert in_files(path, gone) == []
    assert verify(path).ok


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("nothing", "Nothing was named"),
        ("no names", "Nothing was named"),
        ("another run", "none of run .*it belongs to demo-0001"),
        ("no such event", "there is no such event"),
        ("the project's", "it belongs to the project"),
        ("no such name", "has no content nonsense; expected one of completion, trace"),
        ("no content", "expected an event with content"),
        ("gone already", "is gone already"),
        ("only one is bad", "is gone already"),
    ],
)
def test_what_cannot_be_erased_is_refused_whole(
    location: str, tmp_path: Path, build_record: BuildRecord, case: str, why: str
) -> None:
    """A name that does not exist, is gone already or belongs to another run raises ConfigError; nothing is erased and
    nothing is appended."""
    run_id = build_record(tmp_path / "runs.db", steps=1, prompts=1, db=location)
    other = build_record(tmp_path / "runs.db", steps=1, prompts=1, seed=1, db=location)
    with Project.open(location, mode="write") as project:
        mine = [event.seq for event in project.events(run_id, [EventKind.ROLLOUT])]
        theirs = next(event.seq for event in project.events(other, [EventKind.ROLLOUT]))
        sealed = next(event.seq for event in project.events(run_id, [EventKind.RUN_SEALED]))
        project.erase(run_id, [(mine[0], ["completion"])], author="A", reason="r")
        items = {
            "nothing": [],
            "no names": [(mine[1], [])],
            "another run": [(theirs, ["completion"])],
            "no such event": [(10**6, ["completion"])],
            "the project's": [(0, ["completion"])],
            "no such name": [(mine[1], ["nonsense"])],
            "no content": [(sealed, ["text"])],
            "gone already": [(mine[0], ["completion"])],
            "only one is bad": [(mine[1], ["completion"]), (mine[0], ["completion"])],
        }[case]
        before = project.head
        with pytest.raises(ConfigError, match=why):
            project.erase(run_id, items, author="A", reason="r")
        assert project.head == before
        assert project.checkpoint()[:2] == (before.size, before.root)
        assert project.content(mine[1], "completion") is not None
        assert project.append([NewEvent(Annotation(author="a", field="f", value="v", reason="r"), None)])


def test_a_reader_in_the_way_is_said_and_the_erasure_stands(
    tmp_path: Path, build_record: BuildRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another program holds an old state open, the write-ahead log cannot be emptied: erase raises a StorageError
    that says so, the erasure is recorded, and once the reader is gone nothing is left in the files."""
    path = tmp_path / "here" / "record.db"
    run_id = build_record(tmp_path / "runs" / "record.db", steps=1, prompts=1, db=str(path))
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: real(*args, **{**kwargs, "timeout": 0.2}))
    with Project.open(path, mode="write") as project:
        project.append(texts(run_id, [900], random.Random(5)))
        seq = project.head.size - 1
        with project.session() as session:
            row = session.scalars(select(ContentRow).where(ContentRow.seq == seq, ContentRow.name == "text")).one()
            secret = [bytes(row.salt), *pieces(bytes(row.data))]
        reader = real(path)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM event").fetchone()
        with pytest.raises(StorageError, match="Erased, but old bytes may still be in"):
            project.erase(run_id, [(seq, ["text"])], author="A", reason="r")
        assert project.content(seq, "text") is None
        assert in_files(path, secret) != []
        reader.close()
        project.scrub()
        assert in_files(path, secret) == []
    assert verify(path).ok


def test_a_killed_erasure_is_whole_or_none(
    location: str, tmp_path: Path, build_record: BuildRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the transaction breaks after the rows were deleted, the content is still there, no erasure is recorded."""
    from grpo_audit.ledger import erasure

    run_id = build_record(tmp_path / "runs.db", steps=1, prompts=1, db=location)
    with Project.open(location, mode="write") as project:
        seq = next(event.seq for event in project.events(run_id, [EventKind.ROLLOUT]))
        real = erasure.remove

        def breaks(connection: object, names: object) -> None:
            real(connection, names)  # type: ignore[arg-type]
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(erasure, "remove", breaks)
            with pytest.raises(StorageError):
                project.erase(run_id, [(seq, ["completion"])], author="A", reason="r")
        assert project.content(seq, "completion") is not None
        assert project.last(run_id, EventKind.ERASURE) is None
        project.erase(run_id, [(seq, ["completion"])], author="A", reason="r")
    assert verify(location).ok
