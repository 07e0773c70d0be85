"""Every attack on a record that the threat model names, and which check says so.

An attacker here can write the database and every file, and knows the format; what they lack is the private key, unless
a test says that they have it.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grpo_audit.errors import StorageError
from grpo_audit.ledger import canonical
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.merkle import Frontier, leaf_hash
from grpo_audit.ledger.notes import Checkpoint, Note, sign
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation
from grpo_audit.verify import KeySource, Outcome, VerifyReport, verify

BuildRecord = Callable[..., str]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, build_record: BuildRecord) -> Iterator[Path]:
    """A sealed record with its own home; copied for each test."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        build_record(folder / "runs" / "record.db", steps=2, prompts=2, group_size=2)
        assert verify(folder / "runs" / "record.db").ok
    yield folder


@pytest.fixture
def record(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record on the machine that made it: its key is pinned and its head remembered."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / "home"))
    return tmp_path / "runs" / "record.db"


@pytest.fixture
def foreign(record: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same record on a machine that has never seen it."""
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(own_home))
    return record


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """The database as anybody can open it; committed at the end."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def failed(report: VerifyReport) -> set[str]:
    """Names of the failed checks."""
    assert report.ok is not bool(report.failures)
    return {check.name for check in report.failures if check.outcome is Outcome.FAILED}


def body_of(connection: sqlite3.Connection, seq: int) -> bytes:
    """The stored body."""
    body: bytes = connection.execute("SELECT body FROM event WHERE seq = ?", (seq,)).fetchone()[0]
    return body


def seq_of(connection: sqlite3.Connection, kind: str) -> int:
    """The first event of a kind."""
    seq: int = connection.execute("SELECT min(seq) FROM event WHERE kind = ?", (kind,)).fetchone()[0]
    return seq


def rehash(connection: sqlite3.Connection, key: SigningKey | None = None, origin: str | None = None) -> None:
    """What a careful attacker does after an edit: fix every link, hash, root and frontier, and sign with ``key``."""
    tree, previous, roots = Frontier(), "0" * 64, {}
    for seq, body in connection.execute("SELECT seq, body FROM event ORDER BY seq").fetchall():
        value = canonical.loads(body)
        value["prev"], value["seq"] = previous, tree.size
        body = canonical.dumps(value)
        tree.append(leaf_hash(body))
        previous = leaf_hash(body).hex()
        roots[tree.size] = (tree.root(), tree.to_bytes())
        connection.execute(
            "UPDATE event SET body = ?, leaf_hash = ?, seq = ? WHERE seq = ?",
            (body, leaf_hash(body), tree.size - 1, seq),
        )
    for (size,) in connection.execute("SELECT size FROM checkpoint").fetchall():
        if size not in roots:
            connection.execute("DELETE FROM checkpoint WHERE size = ?", (size,))
            continue
        root, frontier = roots[size]
        connection.execute("UPDATE checkpoint SET root = ?, frontier = ? WHERE size = ?", (root, frontier, size))
        if key is not None and origin is not None:
            note = sign(Checkpoint(origin, size, root).text(), key.signer(origin))
            connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (note, size))


def own_key(record: Path) -> tuple[SigningKey, str]:
    """The maker's key, stolen, and the origin it signs for."""
    with Project.open(record, mode="read") as project:
        origin = f"grpo-audit/{project.project_id}"
    return SigningKey.load_or_create(), origin


def test_an_untouched_record_passes(record: Path) -> None:
    """The record every attack starts from holds: each check passes, but for witnesses and signed annotations, of which there are none."""
    report = verify(record)
    assert report.ok and report.sealed
    assert {check.name for check in report.checks if check.outcome is not Outcome.PASSED} == {"witnesses", "signed annotations"}
    assert report.key_source is KeySource.PINNED


# --- the log ---------------------------------------------------------------------------------------------------------


def test_editing_a_body(record: Path) -> None:
    """A body with one figure changed no longer has its leaf hash, link and root."""
    with database(record) as connection:
        seq = seq_of(connection, "rollout")
        body = body_of(connection, seq).replace(b'"accuracy":"0.0"', b'"accuracy":"1.0"')
        assert body != body_of(connection, seq)
        connection.execute("UPDATE event SET body = ? WHERE seq = ?", (body, seq))
    assert {"leaf hashes", "columns and links", "signed heads", "projections"} <= failed(verify(record))


def test_editing_a_body_and_its_leaf_hash(record: Path) -> None:
    """Fixing the leaf hash as well does not help: the link of the next event and the signed root remain."""
    with database(record) as connection:
        seq = seq_of(connection, "step")
        body = body_of(connection, seq).replace(b'"grad_norm":"0.', b'"grad_norm":"1.')
        connection.execute("UPDATE event SET body = ?, leaf_hash = ? WHERE seq = ?", (body, leaf_hash(body), seq))
    names = failed(verify(record))
    assert "leaf hashes" not in names
    assert {"columns and links", "signed heads"} <= names


def test_editing_a_body_and_every_hash_after_it(record: Path) -> None:
    """With all links, hashes and roots made consistent, the signatures still do not hold."""
    with database(record) as connection:
        seq = seq_of(connection, "eval.task")
        value = canonical.loads(body_of(connection, seq))
        value["data"]["seconds"] = "0.5"
        connection.execute("UPDATE event SET body = ? WHERE seq = ?", (canonical.dumps(value), seq))
        connection.execute("UPDATE eval_task SET seconds = 0.5 WHERE seq = ?", (seq,))
        rehash(connection)
    assert failed(verify(record)) == {"signed heads", "remembered head"}


def test_deleting_an_event(record: Path) -> None:
    """An event taken out of the middle leaves a gap."""
    with database(record) as connection:
        connection.execute("DELETE FROM event WHERE seq = ?", (seq_of(connection, "finding"),))
    assert {"numbering", "columns and links", "signed heads", "projections", "seals"} <= failed(verify(record))


def test_deleting_an_event_with_its_rows_and_renumbering(record: Path) -> None:
    """Without a gap, the tree is another one."""
    with database(record) as connection:
        seq = seq_of(connection, "finding")
        for table in ("event", "finding", "content"):
            connection.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))
        rehash(connection)
    assert {"signed heads", "remembered head", "seals"} <= failed(verify(record))


def test_swapping_two_events(record: Path) -> None:
    """Two bodies exchanged between their numbers."""
    with database(record) as connection:
        first = seq_of(connection, "rollout")
        rows = connection.execute(
            "SELECT body, leaf_hash FROM event WHERE seq IN (?, ?) ORDER BY seq", (first, first + 1)
        ).fetchall()
        for seq, row in zip((first + 1, first), rows, strict=True):
            connection.execute("UPDATE event SET body = ?, leaf_hash = ? WHERE seq = ?", (*row, seq))
    assert {"columns and links", "signed heads"} <= failed(verify(record))


def test_inserting_an_event(record: Path) -> None:
    """An event squeezed in, with everything after it renumbered."""
    with database(record) as connection:
        seq = seq_of(connection, "finding")
        row = connection.execute("SELECT run_id, kind, body, leaf_hash FROM event WHERE seq = ?", (seq,)).fetchone()
        connection.execute("UPDATE event SET seq = -seq - 1 WHERE seq >= ?", (seq,))
        connection.execute("UPDATE event SET seq = -seq WHERE seq < 0")
        connection.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?)", (seq, *row))
    assert {"columns and links", "signed heads", "projections", "seals"} <= failed(verify(record))


def test_appending_a_forged_tail(record: Path) -> None:
    """An event after the newest checkpoint, well-formed but signed by nobody."""
    with database(record) as connection:
        seq, body = connection.execute("SELECT seq, body FROM event ORDER BY seq DESC LIMIT 1").fetchone()
        value = canonical.loads(body)
        value.update(seq=seq + 1, prev=leaf_hash(body).hex(), content={})
        forged = canonical.dumps(value)
        connection.execute(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?)",
            (seq + 1, value["run"], value["kind"], forged, leaf_hash(forged)),
        )
    assert failed(verify(record)) == {"coverage", "projections"}


def test_appending_a_forged_tail_with_a_checkpoint_of_another_key(record: Path) -> None:
    """A tail under a checkpoint that another key signed."""
    _, origin = own_key(record)
    thief = SigningKey.generate()
    with database(record) as connection:
        seq, body = connection.execute("SELECT seq, body FROM event ORDER BY seq DESC LIMIT 1").fetchone()
        value = canonical.loads(body)
        value.update(seq=seq + 1, prev=leaf_hash(body).hex(), content={})
        forged = canonical.dumps(value)
        connection.execute(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?)",
            (seq + 1, value["run"], value["kind"], forged, leaf_hash(forged)),
        )
        frontier = Frontier.from_bytes(
            seq + 1, connection.execute("SELECT frontier FROM checkpoint ORDER BY size DESC").fetchone()[0]
        )
        frontier.append(leaf_hash(forged))
        note = sign(Checkpoint(origin, frontier.size, frontier.root()).text(), thief.signer(origin))
        connection.execute(
            "INSERT INTO checkpoint VALUES (?, ?, ?, ?)",
            (frontier.size, frontier.root(), note, frontier.to_bytes()),
        )
    assert failed(verify(record)) == {"signed heads", "projections"}


@pytest.mark.parametrize("column", ["kind", "run_id"])
def test_editing_a_column_beside_the_body(record: Path, column: str) -> None:
    """Columns that queries use must say what the body says."""
    with database(record) as connection:
        connection.execute(f"UPDATE event SET {column} = 'x' WHERE kind = 'finding'")
    assert failed(verify(record)) == {"columns and links"}


def test_a_body_that_is_not_canonical(record: Path) -> None:
    """The same value spelled with a space is another body, even when every hash is made to fit and signed."""
    key, origin = own_key(record)
    with database(record) as connection:
        seq = connection.execute("SELECT max(seq) FROM event").fetchone()[0]
        body = body_of(connection, seq).replace(b'"v":1', b'"v": 1')
        frontier = Frontier()
        for (data,) in connection.execute("SELECT body FROM event WHERE seq < ? ORDER BY seq", (seq,)).fetchall():
            frontier.append(leaf_hash(data))
        frontier.append(leaf_hash(body))
        connection.execute("UPDATE event SET body = ?, leaf_hash = ? WHERE seq = ?", (body, leaf_hash(body), seq))
        note = sign(Checkpoint(origin, seq + 1, frontier.root()).text(), key.signer(origin))
        connection.execute(
            "UPDATE checkpoint SET root = ?, note = ?, frontier = ? WHERE size = ?",
            (frontier.root(), note, frontier.to_bytes(), seq + 1),
        )
    assert failed(verify(record)) == {"bodies", "projections", "remembered head"}


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(v=2),
        lambda value: value.update(extra=1),
        lambda value: value.update(kind="unheard.of"),
        lambda value: value["data"].update(step="not a number"),
        lambda value: value["data"].update(unknown=1),
        lambda value: value.update(time="yesterday"),
    ],
)
def test_a_body_that_says_nothing_valid(record: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Unknown versions, kinds and fields, and wrong types fail by name, whoever signed them."""
    key, origin = own_key(record)
    with database(record) as connection:
        seq = seq_of(connection, "step")
        value = canonical.loads(body_of(connection, seq))
        change(value)
        connection.execute("UPDATE event SET body = ? WHERE seq = ?", (canonical.dumps(value), seq))
        rehash(connection, key, origin)
    assert {"bodies", "remembered head"} <= failed(verify(record))


def test_an_event_of_another_run_of_another_record(record: Path, tmp_path: Path, build_record: BuildRecord) -> None:
    """An event of run B put into run A: its body names B, its link another event."""
    other = build_record(tmp_path / "other" / "record.db", steps=1, prompts=1, seed=7)
    with database(tmp_path / "other" / "record.db") as connection:
        stolen = connection.execute("SELECT body, leaf_hash FROM event WHERE kind = 'rollout'").fetchone()
    with database(record) as connection:
        seq = seq_of(connection, "rollout")
        connection.execute("UPDATE event SET body = ?, leaf_hash = ? WHERE seq = ?", (*stolen, seq))
    report = verify(record)
    assert {"columns and links", "signed heads", "order of events"} <= failed(report)
    assert any(other in check.detail for check in report.failures)


# --- cutting, going back, rewriting ----------------------------------------------------------------------------------


def test_cutting_the_newest_events_but_not_their_checkpoints(foreign: Path) -> None:
    """The checkpoints left behind speak of events that are missing, also on a machine that never saw them."""
    with database(foreign) as connection:
        last = connection.execute("SELECT max(seq) FROM event").fetchone()[0]
        connection.execute("DELETE FROM event WHERE seq > ?", (last - 5,))
    assert "coverage" in failed(verify(foreign))


def cut(record: Path, events: int) -> None:
    """Take away the newest events with everything derived from them and every checkpoint over them."""
    with database(record) as connection:
        sizes = [row[0] for row in connection.execute("SELECT size FROM checkpoint ORDER BY size")]
        last = connection.execute("SELECT max(seq) FROM event").fetchone()[0]
        size = max(item for item in sizes if item <= last + 1 - events)
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table not in ("checkpoint", "alembic_version", "witness"):
                connection.execute(f"DELETE FROM {table} WHERE seq >= ?", (size,))
        connection.execute("DELETE FROM checkpoint WHERE size > ?", (size,))


def test_cutting_the_newest_events_with_their_checkpoints(record: Path) -> None:
    """What is left is consistent and truly signed; only this machine's memory of the head shows the cut."""
    cut(record, 1)
    assert failed(verify(record)) == {"remembered head"}


def test_cutting_them_cannot_be_seen_on_another_machine(foreign: Path) -> None:
    """A machine that never saw the newer head cannot notice, and the verdict says so instead of staying silent."""
    cut(foreign, 1)
    report = verify(foreign)
    assert report.ok
    assert any("newest events were not cut off" in text for text in report.not_shown)
    assert any("comes from the record itself" in text for text in report.not_shown)


def test_a_cut_after_a_first_verification_is_seen(foreign: Path) -> None:
    """Verifying once makes this machine a witness: it remembers the head."""
    assert verify(foreign).ok
    cut(foreign, 1)
    assert failed(verify(foreign)) == {"remembered head"}


def test_putting_back_an_older_database(record: Path) -> None:
    """An earlier copy of the file is a true record of an earlier time; the memory shows that it is not the newest."""
    older = record.read_bytes()
    with Project.open(record, mode="write") as project:
        project.append([NewEvent(Annotation(author="a", field="f", value="v", reason="r"), None)])
    assert verify(record).ok
    record.write_bytes(older)
    assert failed(verify(record)) == {"remembered head"}


def test_two_histories_from_one_copy(record: Path, tmp_path: Path) -> None:
    """A copy that goes its own way has another root at the remembered size."""
    copy = tmp_path / "copy.db"
    shutil.copy(record, copy)
    event = [NewEvent(Annotation(author="a", field="f", value="v", reason="r"), None)]
    with Project.open(copy, mode="write") as project:
        project.append(event)
    with pytest.raises(StorageError, match="not what this machine saw"):
        Project.open(record, mode="write")
    assert failed(verify(record)) == {"remembered head"}


def rewrite(record: Path, key: SigningKey, *, rename: bool) -> None:
    """Change a result and make everything consistent, signed with ``key``; ``rename`` puts it into the record, too."""
    with Project.open(record, mode="read") as project:
        origin = f"grpo-audit/{project.project_id}"
    with database(record) as connection:
        if rename:
            value = canonical.loads(body_of(connection, 0))
            value["data"]["public_key"] = str(key.signer(origin).verifier)
            connection.execute("UPDATE event SET body = ? WHERE seq = 0", (canonical.dumps(value),))
        seq = seq_of(connection, "eval.task")
        value = canonical.loads(body_of(connection, seq))
        value["data"]["seconds"] = "0.5"
        connection.execute("UPDATE event SET body = ? WHERE seq = ?", (canonical.dumps(value), seq))
        connection.execute("UPDATE eval_task SET seconds = 0.5 WHERE seq = ?", (seq,))
        rehash(connection, key, origin)


def test_rewriting_everything_with_another_key(record: Path) -> None:
    """A new key in the record is not the key pinned on this machine."""
    rewrite(record, SigningKey.generate(), rename=True)
    assert failed(verify(record)) == {"key", "signed heads", "remembered head"}


def test_rewriting_everything_with_another_key_elsewhere(foreign: Path, original: Path) -> None:
    """Where nothing is pinned, the key known from elsewhere (--key) shows it; without one the verdict names the gap."""
    with Project.open(original / "runs" / "record.db", mode="read") as project:
        key = project.public_key
    assert verify(foreign, key=key).key_source is KeySource.GIVEN
    rewrite(foreign, SigningKey.generate(), rename=True)
    assert {"key", "signed heads"} <= failed(verify(foreign, key=key))
    report = verify(foreign)
    assert report.key_source is KeySource.RECORD
    assert "remembered head" in failed(report)


def test_rewriting_everything_with_the_stolen_key(record: Path) -> None:
    """With the private key every signature holds; the memory of the head still differs."""
    key, _ = own_key(record)
    rewrite(record, key, rename=False)
    assert failed(verify(record)) == {"remembered head"}


def test_swapping_the_key_in_the_record_only(record: Path) -> None:
    """Naming another key in event 0 changes the first body."""
    with database(record) as connection:
        value = canonical.loads(body_of(connection, 0))
        value["data"]["public_key"] = str(SigningKey.generate().signer("grpo-audit/" + "0" * 32).verifier)
        connection.execute("UPDATE event SET body = ? WHERE seq = 0", (canonical.dumps(value),))
    assert {"key", "leaf hashes", "columns and links", "signed heads"} <= failed(verify(record))


# --- signatures ------------------------------------------------------------------------------------------------------


def test_stripping_a_signature(record: Path) -> None:
    """A checkpoint whose note carries no signature is no checkpoint."""
    with database(record) as connection:
        size, note = connection.execute("SELECT size, note FROM checkpoint LIMIT 1").fetchone()
        text = Note.parse(note).text
        connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (text.encode(), size))
    assert failed(verify(record)) == {"signed heads"}


def test_signing_another_head(record: Path) -> None:
    """A true signature over the head of another size does not cover this one."""
    with database(record) as connection:
        rows = connection.execute("SELECT size, note FROM checkpoint ORDER BY size LIMIT 2").fetchall()
        connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (rows[0][1], rows[1][0]))
    report = verify(record)
    assert failed(report) == {"signed heads"}
    assert any("signs another head" in check.detail for check in report.failures)


@pytest.mark.parametrize("column", ["root", "frontier"])
def test_editing_a_checkpoint(record: Path, column: str) -> None:
    """Root and frontier beside the note must be those of the tree."""
    with database(record) as connection:
        connection.execute(f"UPDATE checkpoint SET {column} = zeroblob(32) WHERE size = 1")
    assert failed(verify(record)) == {"signed heads"}


def test_removing_all_checkpoints(record: Path) -> None:
    """A record without signatures does not pass for want of something to check."""
    with database(record) as connection:
        connection.execute("DELETE FROM checkpoint")
    assert "coverage" in failed(verify(record))


# --- projections, content and schema ---------------------------------------------------------------------------------


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
        "DELETE FROM finding",
        "DELETE FROM reward WHERE source = 'format'",
        "DELETE FROM rollout WHERE seq = (SELECT max(seq) FROM rollout)",
        "INSERT INTO finding SELECT 0, run_id, rule, severity, message FROM finding LIMIT 1",
        "INSERT INTO reward SELECT seq, 'bonus', 1.0, NULL FROM rollout LIMIT 1",
        "INSERT INTO snapshot SELECT 999999, run_id, attempt, step, fingerprint, 'x' FROM step LIMIT 1",
        "UPDATE step SET seq = seq + 1000000 WHERE step = 0",
    ],
)
def test_touching_only_a_projection(record: Path, statement: str) -> None:
    """An edited, missing or extra row beside an untouched log is found, whatever its type."""
    with database(record) as connection:
        assert connection.execute(statement).rowcount > 0
    assert failed(verify(record)) == {"projections"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE content SET data = 'nice' WHERE name = 'completion'",
        "UPDATE content SET data = CAST('nice' AS BLOB) WHERE name = 'completion'",
        "UPDATE content SET salt = zeroblob(16) WHERE name = 'prompt'",
        "UPDATE content SET encoding = 'zlib' WHERE name = 'response'",
        "UPDATE content SET encoding = 'rot13' WHERE name = 'response'",
        "UPDATE content SET name = 'other' WHERE name = 'trace'",
        "DELETE FROM content WHERE name = 'trace' AND seq = (SELECT min(seq) FROM content WHERE name = 'trace')",
        "DELETE FROM content",
        "INSERT INTO content SELECT seq, 'more', salt, encoding, data FROM content WHERE name = 'prompt'",
        "INSERT INTO content SELECT 0, name, salt, encoding, data FROM content LIMIT 1",
    ],
)
def test_touching_content(record: Path, statement: str) -> None:
    """Changed, missing and extra content is found."""
    with database(record) as connection:
        assert connection.execute(statement).rowcount > 0
    assert failed(verify(record)) == {"content"}


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM finding; END",
        "CREATE VIEW more AS SELECT 1",
        "CREATE TABLE more (x)",
    ],
)
def test_adding_to_the_schema(record: Path, statement: str) -> None:
    """A foreign trigger, view or table is a failure of the database check, and nothing else is claimed."""
    with database(record) as connection:
        connection.execute(statement)
    report = verify(record)
    assert failed(report) == {"database"}
    assert not report.ok
    assert [check.outcome for check in report.checks[1:15]] == [Outcome.NOT_REACHED] * 14


def test_text_that_is_no_text(record: Path) -> None:
    """Bytes that are not UTF-8 in a text column are a failed check, not a crash."""
    with database(record) as connection:
        connection.execute("UPDATE event SET kind = CAST(x'ff' AS TEXT) WHERE seq = 5")
    report = verify(record)
    assert not report.ok and "database" in failed(report)


def test_damaged_pages(record: Path) -> None:
    """Overwritten pages of the file are a failed check with SQLite's reason."""
    data = bytearray(record.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 8192] = bytes(8192)
    record.write_bytes(bytes(data))
    report = verify(record)
    assert not report.ok and "database" in failed(report)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A text file in place of the record is a failed check, and nothing passes."""
    (tmp_path / "record.db").write_text("hello")
    report = verify(tmp_path / "record.db")
    assert failed(report) == {"database"} and not report.ok
    assert not any(check.outcome is Outcome.PASSED for check in report.checks)


# --- files beside the database ---------------------------------------------------------------------------------------


def test_a_stray_journal(record: Path) -> None:
    """A rollback journal beside the record is refused before SQLite can play it back."""
    record.with_name("record.db-journal").write_bytes(b"x")
    assert failed(verify(record)) == {"database"}


def test_a_stale_write_ahead_log_beside_another_database(record: Path, tmp_path: Path) -> None:
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
