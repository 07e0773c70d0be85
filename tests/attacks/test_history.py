"""Attacks on the history: cutting, going back, rewriting, showing two histories; what memory and witnesses say, and the
one that cannot be detected, which must be reported.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from attacks.bundles import read_members, write_consistent
from attacks.conftest import Judge
from attacks.forgery import cut, database, edit_value, failed, forge_bundle, own_key, rehash, rewrite, seq_of

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger import writer
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation
from grpo_audit.verify import Attestation, verify
from grpo_audit.witness.ask import ask
from grpo_audit.witness.directory import open_folder
from grpo_audit.witness.protocol import WitnessRefused

BuildRecord = Callable[..., str]


def annotate(record: Path, reason: str = "r") -> None:
    """One more event."""
    with Project.open(record, mode="write") as project:
        project.append([NewEvent(Annotation(author="a", field="f", value="v", reason=reason), None)])


def witness(record: Path) -> str:
    """Show the newest head to a directory witness; how a verifier names it."""
    folder = record.parent.parent / "mount"
    folder.mkdir(exist_ok=True)
    with Project.open(record, mode="write") as project:
        ask(project, open_folder(folder))
    return f"dir:{folder}"


def move_away(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """From here on this is a machine that has seen nothing."""
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(home))


# --- cutting ---------------------------------------------------------------------------------------------------------


def test_cutting_the_newest_events_but_not_their_checkpoints(foreign: Path, judge: Judge) -> None:
    """The checkpoints left behind speak of events that are missing, also on a machine that never saw them."""
    with database(foreign) as connection:
        last = connection.execute("SELECT max(seq) FROM event").fetchone()[0]
        connection.execute("DELETE FROM event WHERE seq > ?", (last - 5,))
    judge.fails_at_least(foreign, "coverage")


def test_cutting_the_newest_events_with_their_checkpoints(record: Path, judge: Judge) -> None:
    """What is left is consistent and truly signed; only this machine's memory of the head shows the cut."""
    cut(record, 1)
    judge.fails(record, "remembered head")


def test_cutting_them_with_a_witness(
    record: Path, judge: Judge, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A witness that saw the newer head shows the cut to somebody who never saw the record."""
    named = witness(record)
    report = judge(record, witness=[named])
    assert report.ok and report.attestation is Attestation.WITNESSED
    cut(record, 1)
    move_away(monkeypatch, own_home)
    judge.fails(record, "witnesses", witness=[named])


def test_a_truncation_newer_than_the_last_witness_is_not_detectable_and_reported_as_such(
    record: Path, judge: Judge, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that no witness saw can be cut unseen. The verdict passes, says so, and prints the tail that would be
    missed: how many events, over what time."""
    named = witness(record)
    before = verify(record).events
    annotate(record, "to be cut")
    annotate(record, "stays")
    cut(record, 1)
    move_away(monkeypatch, own_home)
    report = judge(record, witness=[named])
    assert report.ok and report.events == before + 1
    assert report.attestation is Attestation.WITNESSED
    assert report.tail is not None and report.tail.events == 1 and report.tail.seconds >= 0
    assert any("cut off" in text for text in report.not_shown)


def test_without_witness_the_whole_record_is_the_tail(foreign: Path, judge: Judge) -> None:
    """A machine that never saw the newer head cannot notice a cut, and the verdict says so."""
    cut(foreign, 1)
    report = judge(foreign)
    assert report.ok and report.attestation is Attestation.SELF_ATTESTED
    assert report.tail is not None and report.tail.events == report.events
    assert any("newest events were not cut off" in text for text in report.not_shown)
    assert any("comes from the record itself" in text for text in report.not_shown)


def test_a_cut_after_a_first_verification_is_seen(foreign: Path, judge: Judge) -> None:
    """Verifying once makes this machine a witness: it remembers the head."""
    assert judge(foreign).ok
    cut(foreign, 1)
    judge.fails(foreign, "remembered head")


# --- going back, and two histories -----------------------------------------------------------------------------------


def test_putting_back_an_older_database(record: Path, judge: Judge) -> None:
    """An earlier copy of the file is a true record of an earlier time; the memory shows that it is not the newest."""
    older = record.read_bytes()
    annotate(record)
    assert judge(record).ok
    record.write_bytes(older)
    judge.fails(record, "remembered head")


def test_putting_back_an_older_database_with_a_witness(
    record: Path, judge: Judge, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The witness shows the same to a stranger."""
    older = record.read_bytes()
    annotate(record)
    named = witness(record)
    record.write_bytes(older)
    move_away(monkeypatch, own_home)
    judge.fails(record, "witnesses", witness=[named])


def test_two_histories_from_one_copy(record: Path, judge: Judge, tmp_path: Path) -> None:
    """A copy that goes its own way has another root at the remembered size."""
    copy = tmp_path / "copy.db"
    shutil.copy(record, copy)
    annotate(copy)
    with pytest.raises(StorageError, match="not what this machine saw"):
        Project.open(record, mode="write")
    judge.fails(record, "remembered head")


def test_two_histories_shown_to_two_people(
    record: Path, judge: Judge, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The witness that saw the one refuses the other, and whoever is shown the other finds that out by the witness."""
    copy = record.with_name("copy.db")
    shutil.copy(record, copy)
    state = tmp_path / "home" / "state"
    shutil.copytree(state, tmp_path / "state")
    annotate(record, "one history")
    named = witness(record)
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "state", state)
    annotate(copy, "the other")
    with pytest.raises(WitnessRefused):
        witness(copy)
    move_away(monkeypatch, own_home)
    assert judge(record, witness=[named]).ok
    shutil.rmtree(own_home, ignore_errors=True)
    judge.fails(copy, "witnesses", witness=[named])


# --- rewriting -------------------------------------------------------------------------------------------------------


def test_rewriting_everything_without_the_key(record: Path, judge: Judge) -> None:
    """A new key in the record is not the key pinned on this machine."""
    rewrite(record, SigningKey.generate(), rename=True)
    judge.fails_at_least(record, "key", "remembered head")


def test_rewriting_everything_without_the_key_elsewhere(foreign: Path, original: Path, judge: Judge) -> None:
    """Where nothing is pinned, the key known from elsewhere (--key) shows it; without one the verdict names the gap."""
    with Project.open(original / "runs" / "record.db", mode="read") as project:
        key = project.public_key
    rewrite(foreign, SigningKey.generate(), rename=True)
    judge.fails_at_least(foreign, "key", key=key)
    report = judge(foreign)
    assert report.ok
    assert any("comes from the record itself" in text for text in report.not_shown)


def test_rewriting_everything_with_the_stolen_key(record: Path, judge: Judge) -> None:
    """With the private key every signature holds; the memory of the head still differs."""
    key, _ = own_key(record)
    rewrite(record, key, rename=False)
    judge.fails(record, "remembered head")


def test_rewriting_everything_with_the_stolen_key_under_a_witness(
    record: Path, judge: Judge, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The witness cosigned another root: its statement does not hold for the rewritten log."""
    named = witness(record)
    key, _ = own_key(record)
    rewrite(record, key, rename=False)
    move_away(monkeypatch, own_home)
    judge.fails(record, "witnesses", witness=[named])


def test_a_run_left_out(
    record: Path, judge: Judge, build_record: BuildRecord, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bad run taken out of the log, the good one kept and everything signed again with the stolen key: memory and
    witness know a longer log."""
    bad = build_record(record, steps=1, prompts=1, seed=3)
    named = witness(record)
    key, origin = own_key(record)
    with database(record) as connection:
        gone = [row[0] for row in connection.execute("SELECT seq FROM event WHERE run_id = ?", (bad,))]
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table not in ("checkpoint", "witness", "alembic_version"):
                connection.execute(f"DELETE FROM {table} WHERE seq >= ?", (gone[0],))
        connection.execute("DELETE FROM witness")
        rehash(connection, key, origin)
    judge.fails_at_least(record, "remembered head")
    move_away(monkeypatch, own_home)
    assert "witnesses" in failed(judge(record, witness=[named]))


def test_a_run_left_out_of_a_bundle_that_was_registered_before_the_seal(
    tmp_path: Path, build_record: BuildRecord
) -> None:
    """The seal counts the runs registered up to it, so a bundle that withholds the bad one among them does not hold."""
    path = tmp_path / "record.db"
    bad = build_record(path, steps=1, prompts=1, seed=3, sealed=False)
    forge_bundle(path, tmp_path / "b.zip", run=build_record(path, steps=1, prompts=1))
    assert verify(tmp_path / "b.zip").ok
    members = read_members(tmp_path / "b.zip")
    lines = members["events.jsonl"].splitlines(keepends=True)
    kept = b"".join(line for line in lines if f'"run":"{bad}"'.encode() not in line)
    write_consistent(tmp_path / "b.zip", {**members, "events.jsonl": kept})
    report = verify(tmp_path / "b.zip")
    assert [check.name for check in report.failures] == ["seals"]
    assert "2 runs were registered in the project, but 1 are shown" in report.failures[0].detail


def test_a_run_left_out_of_a_bundle_after_the_seal_is_reported_as_not_shown(
    record: Path, tmp_path: Path, build_record: BuildRecord
) -> None:
    """A bundle that withholds a later run's registration cannot be told from one with nothing to hide: the verdict says
    that withheld events may be just that, and how many they are."""
    bad = build_record(record, steps=1, prompts=1, seed=3)
    forge_bundle(record, tmp_path / "b.zip")
    honest = verify(tmp_path / "b.zip")
    assert honest.ok and any(run.run_id == bad for run in honest.runs)
    with pytest.raises(ConfigError, match="The bundle is about run"):
        verify(tmp_path / "b.zip", run=bad)
    members = read_members(tmp_path / "b.zip")
    lines = members["events.jsonl"].splitlines(keepends=True)
    kept = b"".join(line for line in lines if f'"run":"{bad}"'.encode() not in line)
    write_consistent(tmp_path / "b.zip", {**members, "events.jsonl": kept})
    report = verify(tmp_path / "b.zip")
    assert report.ok and not any(run.run_id == bad for run in report.runs)
    assert any("registration" in text and "hash only" in text for text in report.not_shown)


def test_thresholds_moved_after_step_0(record: Path, judge: Judge) -> None:
    """The margin of a gate changed in the registration is an edited body; with the stolen key, another history."""
    with database(record) as connection:
        edit_value(
            connection,
            seq_of(connection, "run.registered"),
            lambda value: value["data"]["evaluation"]["tasks"][0].update(margin="0.5"),
        )
    judge.fails_at_least(record, "leaf hashes")
    key, origin = own_key(record)
    with database(record) as connection:
        rehash(connection, key, origin)
    judge.fails(record, "remembered head")


def test_thresholds_stated_again_after_step_0(record: Path, judge: Judge) -> None:
    """A second registration of the run with other thresholds breaks the order of events, whoever signs it."""
    key, origin = own_key(record)
    with database(record) as connection:
        seq, registered = connection.execute("SELECT seq, body FROM event WHERE kind = 'run.registered'").fetchone()
        last = connection.execute("SELECT max(seq) FROM event").fetchone()[0]
        kind, run = "run.registered", connection.execute("SELECT run_id FROM event WHERE seq = ?", (seq,)).fetchone()[0]
        connection.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?)", (last + 1, run, kind, registered, bytes(32)))
        connection.execute("INSERT INTO checkpoint VALUES (?, ?, ?, ?)", (last + 2, b"", b"", b""))
        rehash(connection, key, origin)
    assert {"order of events", "seals"} & failed(judge(record))


# --- the clock -------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_is_no_failure(record: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are informative: an event may be older than the one before it; numbers and links keep the order."""
    monkeypatch.setattr(writer, "datetime", SimpleNamespace(now=lambda zone: datetime(2001, 1, 1, tzinfo=zone)))
    annotate(record)
    with Project.open(record, mode="read") as project:
        assert [event.time for event in project.events()][-1].startswith("2001")
    report = judge(record)
    assert report.ok
    assert report.tail is not None and report.tail.newest.startswith("2001")
