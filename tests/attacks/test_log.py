"""Attacks on the log: edit a body, delete, reorder, insert, a forged tail, another spelling. On records and bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from attacks.bundles import read_members, write_consistent
from attacks.conftest import Judge
from attacks.forgery import (
    body_of,
    database,
    edit_value,
    failed,
    forge_bundle,
    own_key,
    rehash,
    rehash_raw,
    seq_of,
    set_body,
)

from grpo_audit.ledger import canonical
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.merkle import Frontier, leaf_hash
from grpo_audit.ledger.notes import Checkpoint, sign
from grpo_audit.verify import KeySource, Outcome, verify

BuildRecord = Callable[..., str]


def test_an_untouched_record_passes(record: Path, judge: Judge) -> None:
    """What every attack starts from holds, and each check has something to check, but for what there is nothing of."""
    report = judge(record)
    assert report.ok and report.sealed
    nothing = {check.name for check in report.checks if check.outcome is not Outcome.PASSED}
    expected = {"witnesses", "signed annotations"} | ({"projections", "files"} if judge.is_bundle else set())
    assert nothing == expected
    assert report.key_source is KeySource.PINNED


def test_editing_a_body(record: Path, judge: Judge) -> None:
    """A body with one figure changed no longer has its leaf hash, and the next event not its link."""
    with database(record) as connection:
        seq = seq_of(connection, "rollout")
        body = body_of(connection, seq).replace(b'"accuracy":"0.0"', b'"accuracy":"1.0"')
        assert body != body_of(connection, seq)
        connection.execute("UPDATE event SET body = ? WHERE seq = ?", (body, seq))
    judge.fails_at_least(record, "leaf hashes")


def test_editing_a_body_and_its_leaf_hash(record: Path, judge: Judge) -> None:
    """Fixing the leaf hash as well does not help: the link of the next event and the signed root remain."""
    with database(record) as connection:
        seq = seq_of(connection, "step")
        set_body(connection, seq, body_of(connection, seq).replace(b'"grad_norm":"0.', b'"grad_norm":"1.'))
    names = failed(judge(record))
    assert "leaf hashes" not in names
    assert {"columns and links", "signed heads"} <= names


def test_editing_a_body_and_every_hash_after_it(record: Path, judge: Judge) -> None:
    """With all links, hashes and roots made consistent, the signatures still do not hold."""
    with database(record) as connection:
        seq = seq_of(connection, "eval.task")
        edit_value(connection, seq, lambda value: value["data"].update(seconds="0.5"))
        connection.execute("UPDATE eval_task SET seconds = 0.5 WHERE seq = ?", (seq,))
        rehash(connection)
    judge.fails(record, "signed heads", "remembered head")


def test_deleting_an_event(record: Path, judge: Judge) -> None:
    """An event taken out of the middle leaves a gap; a bundle with a gap is refused."""
    with database(record) as connection:
        connection.execute("DELETE FROM event WHERE seq = ?", (seq_of(connection, "finding"),))
    if judge.is_bundle:
        judge.fails_at_least(record, "database")
    else:
        judge.fails_at_least(record, "numbering", "signed heads", "projections", "seals")


def test_deleting_an_event_with_its_rows_and_renumbering(record: Path, judge: Judge) -> None:
    """Without a gap, the tree is another one."""
    with database(record) as connection:
        seq = seq_of(connection, "finding")
        for table in ("event", "finding", "content"):
            connection.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))
        rehash(connection)
    judge.fails_at_least(record, "signed heads", "remembered head", "seals")


def test_withholding_an_event_of_the_run(record: Path, tmp_path: Path) -> None:
    """A bundle that gives only the hash of one of the run's events contradicts the run's seal."""
    forge_bundle(record, tmp_path / "b.zip")
    members = read_members(tmp_path / "b.zip")
    lines = members["events.jsonl"].splitlines(keepends=True)
    gone = next(line for line in lines if b'"kind":"finding"' in line)
    write_consistent(tmp_path / "b.zip", {**members, "events.jsonl": b"".join(x for x in lines if x != gone)})
    assert failed(verify(tmp_path / "b.zip")) == {"seals"}


def test_withholding_content_without_saying_so(record: Path, tmp_path: Path) -> None:
    """A text that an event names and the bundle lacks fails, unless the manifest says so; then the verdict does."""
    forge_bundle(record, tmp_path / "b.zip")
    members = read_members(tmp_path / "b.zip")
    lines = members["contents.jsonl"].splitlines(keepends=True)
    kept = b"".join(line for line in lines if b'"name":"completion"' not in line)
    write_consistent(tmp_path / "b.zip", {**members, "contents.jsonl": kept})
    assert failed(verify(tmp_path / "b.zip")) == {"content"}
    write_consistent(
        tmp_path / "b.zip",
        {**members, "contents.jsonl": kept},
        lambda manifest: manifest["withheld"].update(contents=["rollout"]),  # type: ignore[attr-defined]
    )
    report = verify(tmp_path / "b.zip")
    assert report.ok
    assert any("texts of rollout" in text for text in report.not_shown)


def test_swapping_two_events(record: Path, judge: Judge) -> None:
    """Two bodies exchanged between their numbers."""
    with database(record) as connection:
        first = seq_of(connection, "rollout")
        rows = connection.execute(
            "SELECT body, leaf_hash FROM event WHERE seq IN (?, ?) ORDER BY seq", (first, first + 1)
        ).fetchall()
        for seq, row in zip((first + 1, first), rows, strict=True):
            connection.execute("UPDATE event SET body = ?, leaf_hash = ? WHERE seq = ?", (*row, seq))
    if judge.is_bundle:
        judge.fails_at_least(record, "database")
    else:
        judge.fails_at_least(record, "columns and links", "signed heads")


def test_swapping_two_events_with_all_hashes(record: Path, judge: Judge) -> None:
    """Two bodies exchanged, renumbered and linked: the signed roots are of the other order."""
    with database(record) as connection:
        first = seq_of(connection, "finding")
        bodies = [body_of(connection, first), body_of(connection, first + 1)]
        for seq, body in zip((first + 1, first), bodies, strict=True):
            connection.execute("UPDATE event SET body = ? WHERE seq = ?", (body, seq))
        rehash(connection)
    judge.fails_at_least(record, "signed heads", "remembered head")


def test_inserting_an_event(record: Path, judge: Judge) -> None:
    """An event squeezed in, with everything after it renumbered in the columns."""
    with database(record) as connection:
        seq = seq_of(connection, "finding")
        row = connection.execute("SELECT run_id, kind, body, leaf_hash FROM event WHERE seq = ?", (seq,)).fetchone()
        connection.execute("UPDATE event SET seq = -seq - 1 WHERE seq >= ?", (seq,))
        connection.execute("UPDATE event SET seq = -seq WHERE seq < 0")
        connection.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?)", (seq, *row))
    if judge.is_bundle:
        judge.fails_at_least(record, "database")
    else:
        judge.fails_at_least(record, "columns and links", "signed heads", "projections", "seals")


def test_inserting_an_event_with_all_hashes(record: Path, judge: Judge) -> None:
    """The same with every number, link, hash and root made to fit."""
    with database(record) as connection:
        seq = seq_of(connection, "finding")
        row = connection.execute("SELECT run_id, kind, body, leaf_hash FROM event WHERE seq = ?", (seq,)).fetchone()
        connection.execute("UPDATE event SET seq = -seq - 1 WHERE seq >= ?", (seq,))
        connection.execute("UPDATE event SET seq = -seq WHERE seq < 0")
        connection.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?)", (seq, *row))
        rehash(connection)
    judge.fails_at_least(record, "signed heads", "remembered head", "projections", "seals")


def forge_tail(record: Path) -> tuple[int, bytes]:
    """A well-formed event after the newest one."""
    with database(record) as connection:
        seq, body = connection.execute("SELECT seq, body FROM event ORDER BY seq DESC LIMIT 1").fetchone()
        value = canonical.loads(body)
        value.update(seq=seq + 1, prev=leaf_hash(body).hex(), content={})
        forged = canonical.dumps(value)
        connection.execute(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?)",
            (seq + 1, value["run"], value["kind"], forged, leaf_hash(forged)),
        )
        for row in connection.execute("SELECT * FROM annotation WHERE seq = ?", (seq,)).fetchall():
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO annotation VALUES ({marks})", (seq + 1, *row[1:]))
    return seq + 1, forged


def test_appending_a_forged_tail(record: Path, judge: Judge) -> None:
    """An event after the newest checkpoint, well-formed but signed by nobody."""
    forge_tail(record)
    judge.fails(record, "coverage")


def test_appending_a_forged_tail_with_a_checkpoint_of_another_key(record: Path, judge: Judge) -> None:
    """A tail under a checkpoint that another key signed."""
    _, origin = own_key(record)
    seq, forged = forge_tail(record)
    with database(record) as connection:
        frontier = Frontier.from_bytes(
            seq, connection.execute("SELECT frontier FROM checkpoint ORDER BY size DESC").fetchone()[0]
        )
        frontier.append(leaf_hash(forged))
        note = sign(Checkpoint(origin, frontier.size, frontier.root()).text(), SigningKey.generate().signer(origin))
        connection.execute(
            "INSERT INTO checkpoint VALUES (?, ?, ?, ?)",
            (frontier.size, frontier.root(), note, frontier.to_bytes()),
        )
    judge.fails(record, "signed heads")


@pytest.mark.parametrize("column", ["kind", "run_id"])
def test_editing_a_column_beside_the_body(record: Path, column: str) -> None:
    """Columns that queries use must say what the body says. A bundle has no such columns."""
    with database(record) as connection:
        connection.execute(f"UPDATE event SET {column} = 'x' WHERE kind = 'finding'")
    assert "columns and links" in failed(verify(record))


# --- spelling --------------------------------------------------------------------------------------------------------


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """The body with one thing spelled in another way."""

    def edit(body: bytes) -> bytes:
        assert old in body
        return body.replace(old, new, 1)

    return edit


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "a space": replaced(b'"v":1', b'"v": 1'),
    "keys in another order": replaced(b'"v":1}', b'"V":1}'),
    "a duplicate key": replaced(b'"kind":', b'"kind":"finding","kind":'),
    "a duplicate key inside": replaced(b'"reason":', b'"reason":"x","reason":'),
    "NaN": replaced(b'"v":1', b'"v":NaN'),
    "Infinity": replaced(b'"v":1', b'"v":Infinity'),
    "-0.0": replaced(b'"v":1', b'"v":-0.0'),
    "-0": replaced(b'"v":1', b'"v":-0'),
    "1e2 for 100": replaced(b'"v":1', b'"v":1e0'),
    "1.0 for 1": replaced(b'"v":1', b'"v":1.0'),
    "a large integer": replaced(b'"v":1', b'"v":9007199254740993'),
    "a lone surrogate": replaced(b'"author":"', b'"author":"\\ud800'),
    "an escape that is not needed": replaced(b'"author":"B', b'"author":"\\u0042'),
    "bytes that are not UTF-8": replaced(b'"author":"', b'"author":"\xff'),
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "something behind": lambda body: body + b" ",
    "a second value behind": lambda body: body + b"{}",
    "nested too deep": replaced(b'"author":"', b'"author":' + b"[" * 100 + b"]" * 100 + b',"x":"'),
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_of_a_body(record: Path, judge: Judge, spelling: str) -> None:
    """What is not canonical fails even when every hash fits and the maker's own key signed it."""
    key, origin = own_key(record)
    with database(record) as connection:
        seq = connection.execute("SELECT max(seq) FROM event").fetchone()[0]
        body = SPELLINGS[spelling](body_of(connection, seq))
        connection.execute("UPDATE event SET body = ? WHERE seq = ?", (body, seq))
        rehash_raw(connection, key, origin)
    names = failed(judge(record))
    assert "bodies" in names or "database" in names, names
    assert "signed heads" not in names


def test_a_text_in_another_normal_form(record: Path, judge: Judge) -> None:
    """NFC and NFD of one word are two texts: to swap them is an edit like any other."""
    key, origin = own_key(record)
    with database(record) as connection:
        seq = connection.execute("SELECT max(seq) FROM event").fetchone()[0]
        edit_value(connection, seq, lambda value: value["data"].update(author="Ren\u00e9e"))
        connection.execute("UPDATE annotation SET author = ? WHERE seq = ?", ("Ren\u00e9e", seq))
        rehash(connection, key, origin)
    judge.fails(record, "remembered head")
    with database(record) as connection:
        edit_value(connection, seq, lambda value: value["data"].update(author="Rene\u0301e"))
    assert "leaf hashes" in failed(judge(record))


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
def test_a_body_that_says_nothing_valid(
    record: Path, judge: Judge, change: Callable[[dict[str, object]], None]
) -> None:
    """Unknown versions, kinds and fields, and wrong types fail by name, whoever signed them."""
    key, origin = own_key(record)
    with database(record) as connection:
        edit_value(connection, seq_of(connection, "step"), change)
        rehash(connection, key, origin)
    judge.fails_at_least(record, "bodies", "remembered head")


# --- runs ------------------------------------------------------------------------------------------------------------


def test_an_event_of_a_run_of_another_record(
    record: Path, judge: Judge, tmp_path: Path, build_record: BuildRecord
) -> None:
    """An event of run B put into run A: its body names B, its link another event."""
    other = build_record(tmp_path / "other" / "record.db", steps=1, prompts=1, seed=7)
    with database(tmp_path / "other" / "record.db") as connection:
        stolen = connection.execute("SELECT body, leaf_hash FROM event WHERE kind = 'rollout'").fetchone()
    with database(record) as connection:
        seq = seq_of(connection, "rollout")
        connection.execute("UPDATE event SET body = ?, leaf_hash = ? WHERE seq = ?", (*stolen, seq))
    report = judge(record)
    if judge.is_bundle:
        assert not report.ok
    else:
        assert {"columns and links", "signed heads", "order of events"} <= failed(report)
        assert any(other in check.detail for check in report.failures)


def test_an_event_of_another_run_made_to_fit(
    record: Path, judge: Judge, tmp_path: Path, build_record: BuildRecord
) -> None:
    """The same with run, number, link and hashes made to fit: the tree is another one, signed by nobody."""
    build_record(tmp_path / "other" / "record.db", steps=1, prompts=1, seed=7)
    with database(tmp_path / "other" / "record.db") as connection:
        stolen = body_of(connection, seq_of(connection, "rollout"))
    with database(record) as connection:
        seq = seq_of(connection, "rollout")
        value = canonical.loads(stolen)
        value["run"] = canonical.loads(body_of(connection, seq))["run"]
        connection.execute("UPDATE event SET body = ? WHERE seq = ?", (canonical.dumps(value), seq))
        rehash(connection)
    judge.fails_at_least(record, "signed heads", "remembered head")
