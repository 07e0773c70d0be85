"""Rotated keys, erased content, signed annotations, older schemas: what verification makes of them."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from grpo_audit.ledger import canonical
from grpo_audit.ledger.annotations import sign_annotation
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.merkle import Frontier, leaf_hash
from grpo_audit.ledger.notes import Checkpoint, VerifierKey, sign
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation, EventKind
from grpo_audit.verify import KeySource, Outcome, VerifyReport, verify
from grpo_audit.verify.keychain import KeyChain

BuildRecord = Callable[..., str]
GOLDEN = Path(__file__).parents[1] / "ledger" / "golden" / "schema_1.db.gz"


def failed(report: VerifyReport) -> set[str]:
    """Names of the failed checks."""
    return {check.name for check in report.checks if check.outcome is Outcome.FAILED}


def detail(report: VerifyReport, number: int) -> str:
    """What a check says."""
    return report.checks[number].detail


def note(**more: str) -> NewEvent:
    """An annotation of the project."""
    return NewEvent(Annotation(author="A", field="f", value="v", reason="r", **more), None)


@pytest.fixture
def rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str], list[SigningKey]]:
    """A record whose key was rotated twice; its verifier keys and signing keys, oldest first."""
    path, signing = tmp_path / "record.db", [SigningKey.generate() for _ in range(3)]
    with Project.open(path, mode="create", key=signing[0]) as project:
        origin = f"grpo-audit/{project.project_id}"
        project.append([note()])
        for key in signing[1:]:
            project.rotate_key(key, author="A", reason="yearly")
            project.append([note()])
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / "elsewhere"))
    return path, [str(key.signer(origin).verifier) for key in signing], signing


@pytest.mark.parametrize("known", [0, 1, 2, None])
def test_any_key_of_the_chain_opens_the_record(
    rotated: tuple[Path, list[str], list[SigningKey]], known: int | None
) -> None:
    """Whoever knows the first, a middle or the newest key accepts the record; the verdict says how often it rotated."""
    path, keys, _ = rotated
    report = verify(path, key=None if known is None else keys[known], width=2)
    assert report.ok
    assert report.key_source is (KeySource.RECORD if known is None else KeySource.GIVEN)
    assert "rotated 2 times" in detail(report, 1) and keys[-1] in detail(report, 1)


def test_a_key_that_never_was_in_the_chain(rotated: tuple[Path, list[str], list[SigningKey]]) -> None:
    """Another key under the project's name fails key and signatures."""
    path, keys, _ = rotated
    other = str(SigningKey.generate().signer(VerifierKey.parse(keys[0]).name).verifier)
    assert {"key", "signed heads"} <= failed(verify(path, key=other))


@pytest.mark.parametrize(
    ("size", "signers"),
    [(3, [0]), (3, [1]), (4, [0]), (5, [0, 1]), (6, [1]), (6, [0, 1]), (2, [1])],
)
def test_a_head_signed_by_the_wrong_keys(
    rotated: tuple[Path, list[str], list[SigningKey]], size: int, signers: list[int]
) -> None:
    """Over a rotation both keys must sign, before it the old one, after it the new one: an old key cannot go on."""
    path, keys, signing = rotated
    origin = VerifierKey.parse(keys[0]).name
    connection = sqlite3.connect(path)
    with connection:
        (root,) = connection.execute("SELECT root FROM checkpoint WHERE size = ?", (size,)).fetchone()
        text = Checkpoint(origin, size, root).text()
        made = sign(text, *(signing[place].signer(origin) for place in signers))
        connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (made, size))
    connection.close()
    for key in keys:
        assert failed(verify(path, key=key)) == {"signed heads"}


def test_a_thief_cannot_rotate_to_a_key_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forged key.rotated, with everything after it signed by the new key, lacks the old key's signature over it."""
    path, thief = tmp_path / "record.db", SigningKey.generate()
    with Project.open(path, mode="create") as project:
        project.append([note()])
        known = project.public_key
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    with Project.open(copy, mode="write") as project:
        project.rotate_key(thief, author="T", reason="mine now")
        project.append([note()])
    connection = sqlite3.connect(copy)
    origin = VerifierKey.parse(known).name
    with connection:
        for size, root in connection.execute("SELECT size, root FROM checkpoint WHERE size > 2").fetchall():
            made = sign(Checkpoint(origin, size, root).text(), thief.signer(origin))
            connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (made, size))
    connection.close()
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / "elsewhere"))
    assert failed(verify(copy, key=known)) == {"signed heads"}
    assert failed(verify(copy, key=str(thief.signer(origin).verifier))) == {"signed heads"}


@given(st.sets(st.integers(1, 30), max_size=5), st.sets(st.integers(1, 40), min_size=1, max_size=8))
def test_every_head_is_signed_by_the_keys_in_force_since_the_last(rotations: set[int], sizes: set[int]) -> None:
    """For any rotations and heads: the key in force before, and each that came into force under the head."""
    keys = tuple(VerifierKey("k", bytes([n]) * 32) for n in range(len(rotations) + 1))
    chain, places = KeyChain(keys, tuple(sorted(rotations))), [0, *sorted(sizes)]
    for previous, size in pairwise(places):
        in_force = sum(seq < previous for seq in rotations)
        new = [n + 1 for n, seq in enumerate(sorted(rotations)) if previous <= seq < size]
        assert chain.required(previous, size) == tuple(keys[n] for n in [in_force, *new])


# --- erased content ---------------------------------------------------------------------------------------------------


@pytest.fixture
def erased(tmp_path: Path, build_record: BuildRecord) -> tuple[Path, str, list[int]]:
    """A sealed record of which two completions were erased; the run and their events."""
    path = tmp_path / "record.db"
    run_id = build_record(path, steps=2, prompts=2, group_size=2)
    with Project.open(path, mode="write") as project:
        found = [event.seq for event in project.events(run_id, kinds=[EventKind.ROLLOUT])][:2]
        project.erase(run_id, [(seq, ["completion", "trace"]) for seq in found], author="DPO", reason="Art. 17")
    return path, run_id, found


def changed(path: Path, statement: str, *values: object) -> None:
    """Change the database by a statement of SQL."""
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


@pytest.mark.parametrize("width", [16, 1024])
def test_an_erasure_is_reported_and_no_failure(erased: tuple[Path, str, list[int]], width: int) -> None:
    """The record still verifies, and the verdict says how much was erased, by whom and why."""
    report = verify(erased[0], width=width)
    assert report.ok and report.sealed
    assert "4 contents erased by DPO: Art. 17" in detail(report, 10)


def test_content_that_nobody_erased_is_missing(erased: tuple[Path, str, list[int]]) -> None:
    """Beside an erasure, content that just vanished still fails."""
    path, _, found = erased
    changed(path, "DELETE FROM content WHERE name = 'completion' AND seq > ?", found[-1] + 1)
    report = verify(path)
    assert failed(report) == {"content"}
    assert "is missing" in detail(report, 10)


def test_erased_content_that_is_there_fails(erased: tuple[Path, str, list[int]]) -> None:
    """Content put back after its erasure, or never removed, is a failure, even with its right digest or another."""
    path, _, found = erased
    changed(path, "INSERT INTO content VALUES (?, 'trace', zeroblob(16), 'plain', x'00')", found[0])
    report = verify(path)
    assert failed(report) == {"content"}
    assert "still there or never was" in detail(report, 10)


def test_erased_content_of_earlier_events_is_looked_up_by_new(erased: tuple[Path, str, list[int]]) -> None:
    """With --new, too, an erasure of content that is still there is found."""
    path, run_id, found = erased
    assert verify(path).ok
    with Project.open(path, mode="write") as project:
        later = found[1] + 1
        project.erase(run_id, [(later, _content_names(path, later)[:1])], author="DPO", reason="again")
    name = _erased_name(path, later)
    remembered = verify(path, new=True)
    assert remembered.ok
    changed(path, "INSERT INTO content VALUES (?, ?, zeroblob(16), 'plain', x'00')", later, name)
    assert not verify(path).ok


def _content_names(path: Path, seq: int) -> list[str]:
    connection = sqlite3.connect(path)
    names = [row[0] for row in connection.execute("SELECT name FROM content WHERE seq = ?", (seq,))]
    connection.close()
    return names


def _erased_name(path: Path, seq: int) -> str:
    connection = sqlite3.connect(path)
    (name,) = connection.execute("SELECT name FROM erased WHERE content_seq = ?", (seq,)).fetchone()
    connection.close()
    return str(name)


# --- signed annotations -----------------------------------------------------------------------------------------------


def test_a_signed_annotation_is_checked(tmp_path: Path) -> None:
    """A signature over the very words passes; over others it fails although the log's own key signed the event."""
    path, key = tmp_path / "record.db", SigningKey.generate()
    with Project.open(path, mode="create") as project:
        signed, public = sign_annotation(key, project.project_id, None, "A", "f", "v", "r")
        project.append([note(signed=signed, public_key=public)])
    report = verify(path)
    assert report.ok and report.checks[16].outcome is Outcome.PASSED
    with Project.open(path, mode="write") as project:
        other = Annotation(author="A", field="f", value="w", reason="r", signed=signed, public_key=public)
        project.append([NewEvent(other, None)])
    assert failed(verify(path)) == {"signed annotations"}


# --- older schemas ----------------------------------------------------------------------------------------------------


def test_an_older_schema_is_verified_as_an_upgraded_copy(tmp_path: Path) -> None:
    """A record of version 1 verifies, is not changed by a byte, and the verdict says what was not compared."""
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress(GOLDEN.read_bytes()))
    before = path.read_bytes()
    report = verify(path)
    assert report.ok
    assert "schema version 1" in detail(report, 0)
    assert any("derived anew" in text for text in report.not_shown)
    assert path.read_bytes() == before
    assert {item.name for item in tmp_path.iterdir()} <= {"old.db", "old.db-shm", "old.db-wal"}


def test_an_edit_of_an_older_schema_is_found(tmp_path: Path) -> None:
    """The log of an older record is held to its hashes and signatures as that of a new one."""
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress(GOLDEN.read_bytes()))
    connection = sqlite3.connect(path)
    with connection:
        seq, body = connection.execute("SELECT seq, body FROM event WHERE kind = 'eval.task'").fetchone()
        value = canonical.loads(body)
        value["data"]["seconds"] = "0.5"
        connection.execute("UPDATE event SET body = ? WHERE seq = ?", (canonical.dumps(value), seq))
    connection.close()
    assert {"leaf hashes", "columns and links", "signed heads"} <= failed(verify(path))


def test_a_gap_in_a_rotated_log(rotated: tuple[Path, list[str], list[SigningKey]]) -> None:
    """A rotation taken out of the log leaves later heads without a key that vouches for theirs."""
    path, keys, _ = rotated
    connection = sqlite3.connect(path)
    tree, previous = Frontier(), "0" * 64
    with connection:
        connection.execute("DELETE FROM event WHERE kind = 'key.rotated' AND seq = 2")
        for seq, body in connection.execute("SELECT seq, body FROM event ORDER BY seq").fetchall():
            value = canonical.loads(body) | {"prev": previous, "seq": tree.size}
            body = canonical.dumps(value)
            connection.execute(
                "UPDATE event SET seq = ?, body = ?, leaf_hash = ? WHERE seq = ?",
                (tree.size, body, leaf_hash(body), seq),
            )
            tree.append(leaf_hash(body))
            previous = leaf_hash(body).hex()
    connection.close()
    assert {"key", "signed heads"} <= failed(verify(path, key=keys[0]))
