"""Attacks beside the log: projections, content, schema, files of SQLite, artifacts and weights."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks.bundles import Contents, read_members, write_consistent
from attacks.conftest import Judge
from attacks.forgery import database, edit_value, failed, own_key, rehash

from grpo_audit.export.bundle import BundleOptions, write_bundle
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation
from grpo_audit.verify import Outcome, verify


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE comparison SET verdict = 'improved'",
        "UPDATE step SET reward_mean = reward_mean + 0.001",
        "UPDATE step SET kl = NULL WHERE kl IS NOT NULL",
        "UPDATE rollout SET used = 2 WHERE used = 1",
        "UPDATE rollout SET advantage = x'00'",
        "UPDATE reward SET value = 1.0 WHERE value = 0.0",
        "UPDATE reward SET source = 'zzz' WHERE source = 'accuracy'",
        "UPDATE run SET config = replace(config, '6e-05', '1e-06')",
        "UPDATE run_state SET state = 'sealed' WHERE state = 'aborted'",
        "UPDATE finding SET severity = 'info'",
        "UPDATE eval_sample SET metrics = '{}' WHERE task = 'countdown'",
        "UPDATE annotation SET value = 'yes'",
        "DELETE FROM finding",
        "DELETE FROM annotation",
        "DELETE FROM reward WHERE source = 'format'",
        "DELETE FROM rollout WHERE seq = (SELECT max(seq) FROM rollout)",
        "INSERT INTO finding SELECT 0, run_id, rule, severity, message FROM finding LIMIT 1",
        "INSERT INTO reward SELECT seq, 'bonus', 1.0, NULL FROM rollout LIMIT 1",
        "INSERT INTO snapshot SELECT 999999, run_id, attempt, step, fingerprint, 'x' FROM step LIMIT 1",
        "UPDATE step SET seq = seq + 1000000 WHERE step = 0",
    ],
)
def test_touching_only_a_projection(record: Path, judge: Judge, statement: str) -> None:
    """An edited, missing or extra row beside an untouched log is found, whatever its type. A bundle is made of the log
    alone, so such an edit cannot get into one."""
    with database(record) as connection:
        assert connection.execute(statement).rowcount > 0
    if judge.is_bundle:
        report = judge(record)
        assert report.ok
        check = next(check for check in report.checks if check.name == "projections")
        assert check.outcome is Outcome.NOTHING
    else:
        judge.fails(record, "projections")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE content SET data = CAST('nice' AS BLOB) WHERE name = 'completion'",
        "UPDATE content SET salt = zeroblob(16) WHERE name = 'prompt'",
        "UPDATE content SET salt = x'' WHERE name = 'prompt'",
        "UPDATE content SET encoding = 'zlib' WHERE name = 'response'",
        "UPDATE content SET encoding = 'zstd' WHERE name = 'response'",
        "UPDATE content SET encoding = 'rot13' WHERE name = 'response'",
        "UPDATE content SET name = 'other' WHERE name = 'trace'",
        "DELETE FROM content WHERE name = 'trace' AND seq = (SELECT min(seq) FROM content WHERE name = 'trace')",
        "DELETE FROM content",
        "INSERT INTO content SELECT seq, 'more', salt, encoding, data FROM content WHERE name = 'prompt'",
        "INSERT INTO content SELECT 0, name, salt, encoding, data FROM content LIMIT 1",
    ],
)
def test_touching_content(record: Path, judge: Judge, statement: str) -> None:
    """Changed, missing and extra content is found."""
    with database(record) as connection:
        assert connection.execute(statement).rowcount > 0
    judge.fails(record, "content")


def test_content_of_another_type(record: Path) -> None:
    """A text where bytes belong is found, though SQLite would show the same."""
    with database(record) as connection:
        connection.execute("UPDATE content SET data = CAST(data AS TEXT) WHERE name = 'completion'")
    assert failed(verify(record)) == {"content"}


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM finding; END",
        "CREATE VIEW more AS SELECT 1",
        "CREATE TABLE more (x)",
        "CREATE INDEX more ON event (kind)",
    ],
)
def test_adding_to_the_schema(record: Path, statement: str) -> None:
    """A foreign trigger, view or table is a failure of the database check, and nothing else is claimed."""
    with database(record) as connection:
        connection.execute(statement)
    report = verify(record)
    assert failed(report) == {"database"}
    assert not any(check.outcome is Outcome.PASSED for check in report.checks[1:15])


def test_text_that_is_no_text(record: Path) -> None:
    """Bytes that are not UTF-8 in a text column are a failed check, not a crash."""
    with database(record) as connection:
        connection.execute("UPDATE event SET kind = CAST(x'ff' AS TEXT) WHERE seq = 5")
    assert not verify(record).ok


def test_damaged_pages(record: Path) -> None:
    """Overwritten pages of the file are a failed check with SQLite's reason."""
    data = bytearray(record.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 8192] = bytes(8192)
    record.write_bytes(bytes(data))
    report = verify(record)
    assert not report.ok and "database" in failed(report)


@pytest.mark.parametrize("name", ["record.db", "bundle.zip"])
def test_a_file_that_is_neither(tmp_path: Path, name: str) -> None:
    """A text file in place of a record or a bundle is a failed check, and nothing passes."""
    (tmp_path / name).write_text("hello")
    report = verify(tmp_path / name)
    assert failed(report) == {"database"}
    assert not any(check.outcome is Outcome.PASSED for check in report.checks)


# --- files of SQLite -------------------------------------------------------------------------------------------------


def test_a_stray_journal(record: Path) -> None:
    """A rollback journal beside the record is refused before SQLite can play it back."""
    record.with_name("record.db-journal").write_bytes(b"x")
    assert failed(verify(record)) == {"database"}


def test_a_stale_write_ahead_log_beside_a_restored_database(record: Path, tmp_path: Path) -> None:
    """A -wal of an earlier time beside a later database: SQLite mixes their pages, and verification notices."""

    def annotate(project: Project, number: int) -> None:
        annotation = Annotation(author="a", field="f", value="v" * 2000, reason=str(number))
        project.append([NewEvent(annotation, None, {"text": hashlib.sha256(bytes([number])).digest() * 400})])

    with Project.open(record, mode="write") as project:
        for number in range(3):
            annotate(project, number)
        stale = tmp_path / "stale-wal"
        shutil.copy(record.with_name("record.db-wal"), stale)
    with Project.open(record, mode="write") as project:
        for number in range(30):
            annotate(project, number)
    assert verify(record).ok
    for suffix in ("-shm", "-wal"):
        record.with_name("record.db" + suffix).unlink(missing_ok=True)
    shutil.copy(stale, record.with_name("record.db-wal"))
    assert not verify(record).ok


def test_a_database_copied_without_its_write_ahead_log(record: Path, tmp_path: Path) -> None:
    """A .db copied while it is written lacks the newest events; SQLite calls it intact, the memory does not."""
    with Project.open(record, mode="write") as project:
        project.append([NewEvent(Annotation(author="a", field="f", value="v", reason="r"), None)])
        copy = tmp_path / "copy.db"
        shutil.copy(record, copy)
    with database(copy) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert failed(verify(copy)) == {"remembered head"}


# --- artifacts and weights -------------------------------------------------------------------------------------------


def weights(fill: int) -> bytes:
    """Other weights of the same shape."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([fill]) * 64


Change = Callable[[Contents], Contents]


def put(name: str, data: bytes) -> Change:
    """A file put in, or put in place of another."""
    return lambda files: {**files, name: data}


def take(name: str) -> Change:
    """A file taken away."""
    return lambda files: {key: data for key, data in files.items() if key != name}


FILES: dict[str, Change] = {
    "weights swapped": put("model/model.safetensors", weights(7)),
    "weights cut": put("model/model.safetensors", weights(99)[:-1]),
    "weights that are none": put("model/model.safetensors", b"hello"),
    "weights taken away": take("model/model.safetensors"),
    "more weights": put("model/more.safetensors", weights(7)),
    "tokenizer swapped": put("model/tokenizer.json", b"{}"),
    "a tokenizer added": put("model/vocab.json", b"{}"),
    "a chat template added": put("model/chat_template.jinja", b"{{ evil }}"),
    "configuration swapped": put("model/config.json", b"{}"),
    "an artifact swapped": put("recipe.yaml", b"model: {path: other}\n"),
}


@pytest.mark.parametrize("swap", FILES)
@pytest.mark.parametrize("form", ["record", "bundle"])
def test_swapping_files(record: Path, tmp_path: Path, swap: str, form: str) -> None:
    """Weights, tokenizer, template, configuration and artifacts are those recorded, each by its digest."""
    run = next(record.parent.glob("demo-*"))
    if form == "record":
        before = {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}
        after = FILES[swap](before)
        for name in before.keys() - after.keys():
            (run / name).unlink()
        for name, data in after.items():
            (run / name).write_bytes(data)
        assert failed(verify(record)) == {"files"}
        return
    write_bundle(record, run.name, run, tmp_path / "b.zip", BundleOptions(with_weights=True))
    assert verify(tmp_path / "b.zip").ok
    members = read_members(tmp_path / "b.zip")
    inside = {name.removeprefix("files/"): data for name, data in members.items() if name.startswith("files/")}
    rest = {name: data for name, data in members.items() if not name.startswith("files/")}
    changed = {f"files/{name}": data for name, data in FILES[swap](inside).items()}
    write_consistent(tmp_path / "b.zip", {**rest, **changed})
    assert failed(verify(tmp_path / "b.zip")) == {"files"}


def test_a_file_that_nobody_recorded_in_a_bundle(record: Path, tmp_path: Path) -> None:
    """A file slipped into a bundle beside the recorded ones fails, unless it is the rendered report or card."""
    run = next(record.parent.glob("demo-*"))
    (run / "report.html").write_text("<p>report</p>")
    write_bundle(record, run.name, run, tmp_path / "b.zip")
    report = verify(tmp_path / "b.zip")
    assert report.ok and any("rendered" in text and "report.html" in text for text in report.not_shown)
    members = read_members(tmp_path / "b.zip")
    write_consistent(tmp_path / "b.zip", {**members, "files/APPROVED.pdf": b"x"})
    assert failed(verify(tmp_path / "b.zip")) == {"files"}


def test_swapping_a_reward_source(record: Path, judge: Judge) -> None:
    """The reward source kept in the record is content under a digest; its own digest in the event counts, too."""
    other = b"def accuracy(completions, **columns):\n    return [1.0 for _ in completions]\n"
    with database(record) as connection:
        seq, salt = connection.execute("SELECT seq, salt FROM content WHERE name = 'text'").fetchone()
        connection.execute("UPDATE content SET data = ?, encoding = 'plain' WHERE seq = ?", (other, seq))
    judge.fails(record, "content")
    key, origin = own_key(record)
    with database(record) as connection:
        salted = "sha256:" + hashlib.sha256(salt + other).hexdigest()
        edit_value(connection, seq, lambda value: value["content"].update(text=salted))
        rehash(connection, key, origin)
    judge.fails(record, "content", "remembered head")


def test_evaluating_other_weights_than_the_released_ones(record: Path, judge: Judge) -> None:
    """An evaluation "after" of weights that were never saved is named, whoever signed it."""
    key, origin = own_key(record)
    with database(record) as connection:
        seq = connection.execute("SELECT max(seq) FROM event WHERE kind = 'eval.task'").fetchone()[0]
        other = "sha256:" + "5" * 64
        edit_value(connection, seq, lambda value: value["data"].update(weights_digest=other))
        connection.execute("UPDATE eval_task SET weights_digest = ? WHERE seq = ?", (other, seq))
        rehash(connection, key, origin)
    judge.fails(record, "weights", "remembered head")
