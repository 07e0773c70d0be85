"""Several processes append to one log in PostgreSQL."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from grpo_audit.errors import StorageError
from grpo_audit.ledger import postgres
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.memory import recall
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.store import Store
from grpo_audit.record.events import Annotation, EventKind, Finding, RunResumed, RunSealed, Severity
from grpo_audit.verify.l0 import verify

BuildRecord = Callable[..., str]

WRITER = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation
url, name, batches, size = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
with Project.open(url, mode="write") as project:
    for number in range(batches):
        events = [
            NewEvent(Annotation(author=name, field="f", value=f"{number}.{part}", reason="r"), None, {"text": os.urandom(300)})
            for part in range(size)
        ]
        project.append(events)
        print(number, flush=True)  # committed: the parent may count on it
"""  # noqa: E501

RUN = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from record_factory import build_record
build_record(Path(sys.argv[3]) / "record.db", steps=4, prompts=2, seed=int(sys.argv[4]), db=sys.argv[2])
"""
HERE = str(Path(__file__).parents[2])


def note(value: str = "v", run_id: str | None = None) -> NewEvent:
    """Any event."""
    return NewEvent(Annotation(author="main", field="f", value=value, reason="r"), run_id, {})


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own."""
    command = [sys.executable, "-c", script, HERE, *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def values(url: str) -> dict[str, list[str]]:
    """What each writer recorded, in the order of the log."""
    found: dict[str, list[str]] = {}
    with Project.open(url, mode="read") as project:
        for event in project.events(kinds=[EventKind.ANNOTATION]):
            assert isinstance(event.payload, Annotation)
            found.setdefault(event.payload.author, []).append(event.payload.value)
    return found


@pytest.mark.slow
def test_many_writers_and_a_killed_one_give_one_unbroken_log(postgres_url: str) -> None:
    """Four processes append 40 batches each while one of them is killed with SIGKILL and the main process appends, too:
    no batch is lost, doubled or halved, each writer's are in its order, and the log verifies."""
    batches, size = 40, 5
    with Project.open(postgres_url, mode="create") as project:
        writers = {name: start(WRITER, postgres_url, name, batches, size) for name in ("a", "b", "c", "victim")}
        victim = writers["victim"]
        assert victim.stdout is not None
        for _ in range(7):
            victim.stdout.readline()
        time.sleep(random.random() * 0.02)
        victim.send_signal(signal.SIGKILL)
        for number in range(10):
            project.append([note(str(number))])
        told = {name: process.communicate(timeout=120) for name, process in writers.items()}
    for name in ("a", "b", "c"):
        assert writers[name].returncode == 0, told[name][1]
    assert victim.returncode == -signal.SIGKILL
    found = values(postgres_url)
    whole = [f"{number}.{part}" for number in range(batches) for part in range(size)]
    assert found["a"] == found["b"] == found["c"] == whole
    assert found["main"] == [str(number) for number in range(10)]
    committed = 7 + len(told["victim"][0].split())
    # what it was told is committed is there, the batch it was killed in is there as a whole or not at all
    assert found["victim"] == whole[: len(found["victim"])]
    assert len(found["victim"]) in (committed * size, (committed + 1) * size)
    report = verify(postgres_url)
    assert report.ok, report.failures
    assert report.events == 1 + 3 * batches * size + 10 + len(found["victim"])
    turns = sum(one != other for one, other in pairwise(_authors(postgres_url)))
    assert turns > 10, "the writers took no turns, so nothing was tested"


def _authors(url: str) -> list[str]:
    with Project.open(url, mode="read") as project:
        events = [event.payload for event in project.events(kinds=[EventKind.ANNOTATION])]
    return [payload.author for payload in events if isinstance(payload, Annotation)]


@pytest.mark.slow
def test_concurrent_runs_of_one_project(postgres_url: str, tmp_path: Path) -> None:
    """Three whole runs recorded at the same time into one project, which the first of them creates, are all sealed,
    each verifies with its files, and every one is listed."""
    runs = [start(RUN, postgres_url, tmp_path / str(seed), seed) for seed in range(3)]
    for process in runs:
        assert process.wait(timeout=120) == 0, process.communicate()[1]
    with Project.open(postgres_url, mode="read") as project:
        found = project.runs()
        assert [run.state for run in found] == ["sealed"] * 3
        order = [event.run_id for event in project.events() if event.run_id]
    assert sum(one != other for one, other in pairwise(order)) > 4, "nothing was interleaved"
    for seed in range(3):
        (folder,) = (path for path in (tmp_path / str(seed)).iterdir() if path.is_dir())
        report = verify(postgres_url, run=folder.name, run_folder=folder)
        assert report.ok and report.sealed, report.failures


def test_a_writer_takes_what_others_did_into_account(
    postgres_url: str, tmp_path: Path, build_record: BuildRecord
) -> None:
    """The rules of order hold across writers: a run that another process sealed takes no event, an attempt that another
    process began is counted, and a seal counts what others annotated."""
    run_id = build_record(tmp_path / "record.db", steps=1, prompts=1, sealed=False, db=postgres_url)
    finding = Finding(rule="r", severity=Severity.INFO, message="m", evidence=[])
    with Project.open(postgres_url, mode="write") as one, Project.open(postgres_url, mode="write") as other:
        one.append([note(run_id=run_id)])
        resumed = RunResumed(attempt=2, phase="train", from_step=0, snapshot_digest=None)
        other.append([NewEvent(resumed, run_id)])
        with pytest.raises(StorageError, match="attempt 2 after attempt 2"):
            one.append([NewEvent(resumed, run_id)])
        one.append([NewEvent(resumed.model_copy(update={"attempt": 3}), run_id)])
        counts = {kind.value: count for kind, count in one.counts(run_id).items()}
        other.append([note(run_id=run_id)])
        stale = RunSealed(events=sum(counts.values()), by_kind=counts, weights_digest=None)
        with pytest.raises(StorageError, match="the seal of run"):
            one.append([NewEvent(stale, run_id)])
        one.seal(run_id, None)
        with pytest.raises(StorageError, match="after the seal"):
            other.append([NewEvent(finding, run_id)])
        assert other.append([note(run_id=run_id)]).size == one.append([note()]).size - 1
    assert verify(postgres_url).ok


def test_events_that_name_each_other_get_the_right_numbers(postgres_url: str) -> None:
    """append_from is told the number its first event gets, also when others appended since this object last looked."""
    with Project.open(postgres_url, mode="create") as one, Project.open(postgres_url, mode="write") as other:
        other.append([note()] * 3)
        head = one.append_from(lambda seq: [note(str(seq)), note(str(seq + 1))])
        assert head.size == 6
        mine = [event for event in one.events(start=1) if isinstance(event.payload, Annotation)]
        assert [(event.seq, event.payload.value) for event in mine[-2:]] == [(4, "4"), (5, "5")]  # type: ignore[union-attr]


def test_a_history_that_another_writer_replaced_is_not_continued(postgres_url: str) -> None:
    """When the log no longer goes on from what this writer saw, although all of it is signed, nothing is appended."""
    key = SigningKey.load_or_create()
    with Project.open(postgres_url, mode="create", key=key) as one:
        one.append([note("seen")])
        store = Store.write(postgres_url)
        with store.transaction() as connection:  # somebody with the key cuts and goes on otherwise
            for table, column in (("event", "seq"), ("annotation", "seq"), ("checkpoint", "size - 1")):
                connection.exec_driver_sql(f"DELETE FROM {table} WHERE {column} >= 1")
        store.close()
        remembered = recall(one.project_id)
        assert remembered is not None
        remembered.path.unlink()
        with Project.open(postgres_url, mode="write", key=key) as other:
            other.append([note("instead"), note("and more")])
        with pytest.raises(StorageError, match="does not go on from the 2 events seen before"):
            one.append([note()])


def test_the_memory_of_heads_never_goes_back(postgres_url: str) -> None:
    """When several writers of one machine close in any order, the newest head any of them made stays remembered."""
    with Project.open(postgres_url, mode="create") as one, Project.open(postgres_url, mode="write") as other:
        one.append([note()])
        newest = other.append([note()])
    remembered = recall(one.project_id)
    assert remembered is not None and remembered.head == newest


def test_opening_while_another_appends_is_no_loss(postgres_url: str) -> None:
    """A record is opened again and again, for writing and by verify, while another process appends: never is a head
    missed that only came meanwhile."""
    Project.open(postgres_url, mode="create").close()
    process = start(WRITER, postgres_url, "a", 60, 1)
    while process.poll() is None:
        Project.open(postgres_url, mode="write").close()
        report = verify(postgres_url)
        assert report.ok, report.failures
    assert process.returncode == 0, process.communicate()[1]


def test_a_writer_that_stops_in_its_turn_is_cut_off(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process stopped inside its transaction loses its turn after the time limit; the others go on, and its batch is
    not there."""
    monkeypatch.setitem(postgres._SETTINGS, "idle_in_transaction_session_timeout", "1s")
    Project.open(postgres_url, mode="create").close()
    stopped = Store.write(postgres_url)
    with pytest.raises(StorageError), stopped.transaction() as connection:
        with Project.open(postgres_url, mode="write") as project:
            assert project.append([note()]).size == 2  # waits until the server ends the other's transaction
        connection.exec_driver_sql("DELETE FROM event")
    stopped.close()
    assert verify(postgres_url).ok
