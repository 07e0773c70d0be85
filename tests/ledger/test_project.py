"""Appending and reading through Project."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger import project as project_module, writer
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.memory import recall
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.runs import RunState
from grpo_audit.ledger.tables import RolloutRow, WitnessRow
from grpo_audit.record.events import (
    Annotation,
    EventKind,
    Finding,
    ProjectCreated,
    RunAborted,
    RunRegistered,
    RunResumed,
    RunSealed,
    Severity,
)

BuildRecord = Callable[..., str]


def note(value: str = "v", run_id: str | None = None, **content: bytes) -> NewEvent:
    """Any event."""
    return NewEvent(Annotation(author="a", field="f", value=value, reason="r"), run_id, content)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, build_record: BuildRecord) -> tuple[Path, str]:
    """A record with an unsealed run, and the home it was made with; copied for each test."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        return folder, build_record(folder / "record.db", steps=1, prompts=1, sealed=False)


@pytest.fixture
def registered(
    original: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Project, str, RunRegistered]]:
    """An open record with an unsealed run, and a registration to use again."""
    folder, run_id = original
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / "home"))
    project = Project.open(tmp_path / "record.db", mode="write")
    event = project.last(run_id, EventKind.RUN_REGISTERED)
    assert event is not None and isinstance(event.payload, RunRegistered)
    yield project, run_id, event.payload
    project.close()


def test_a_new_record_begins_with_the_creation_of_the_project(tmp_path: Path) -> None:
    """Event 0 is project.created, with the project's id and verifier key."""
    with Project.open(tmp_path / "deep" / "record.db", mode="create", name="ours") as project:
        (event,) = project.events()
        assert isinstance(event.payload, ProjectCreated)
        assert (event.seq, event.run_id, event.payload.name) == (0, None, "ours")
        assert event.payload.public_key == project.public_key
        assert project.public_key.startswith(f"grpo-audit/{project.project_id}+")
        assert project.head.size == 1


def test_what_is_appended_comes_back(tmp_path: Path) -> None:
    """Events and content are read back as they were given, also by a later process."""
    texts = [b"plain", b"<\x00\x1b\xff not UTF-8", bytes(100_000)]
    with Project.open(tmp_path / "record.db", mode="create") as project:
        head = project.append([note(str(n), text=data, trace=data) for n, data in enumerate(texts)])
    with Project.open(tmp_path / "record.db", mode="read") as project:
        assert project.head == head
        events = list(project.events(start=1))
        assert [event.payload for event in events] == [note(str(n)).payload for n in range(3)]
        for event, data in zip(events, texts, strict=True):
            assert project.content(event.seq, "text") == project.content(event.seq, "trace") == data
        assert project.content(1, "other") is None
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event.time) for event in events)


def test_streaming_crosses_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """events() gives every event once, whatever the page size and the start."""
    monkeypatch.setattr(project_module, "_PAGE", 3)
    with Project.open(tmp_path / "record.db", mode="create") as project:
        project.append([note(str(number)) for number in range(9)])
        for start in range(11):
            assert [event.seq for event in project.events(start=start)] == list(range(start, 10))


def test_events_are_chosen_by_run_and_kind(registered: tuple[Project, str, RunRegistered]) -> None:
    """Filters apply together, and last() is the newest of its kind."""
    project, run_id, _ = registered
    steps = list(project.events(run_id, [EventKind.STEP, EventKind.GROUP]))
    assert {event.kind for event in steps} == {EventKind.STEP, EventKind.GROUP}
    assert project.last(run_id, EventKind.STEP) == steps[-1]
    assert list(project.events("another")) == []
    assert project.last(run_id, EventKind.RUN_SEALED) is None


def test_projections_can_be_queried(registered: tuple[Project, str, RunRegistered]) -> None:
    """session() reads the derived tables, and cannot write them."""
    project, run_id, _ = registered
    with project.session() as session:
        rollouts = session.scalars(select(RolloutRow).where(RolloutRow.run_id == run_id)).all()
        assert len(rollouts) == project.counts(run_id)[EventKind.ROLLOUT] == 4
        rollouts[0].advantage = 99.0
        with pytest.raises(Exception, match="readonly"):
            session.commit()


def test_an_empty_batch_is_a_mistake(registered: tuple[Project, str, RunRegistered]) -> None:
    """append([]) raises ValueError: a head over nothing new says nothing."""
    with pytest.raises(ValueError, match="at least one"):
        registered[0].append([])


def test_a_record_open_for_reading_is_not_written(tmp_path: Path) -> None:
    """append on a read-only project raises StorageError."""
    Project.open(tmp_path / "record.db", mode="create").close()
    with Project.open(tmp_path / "record.db", mode="read") as project, pytest.raises(StorageError, match="reading"):
        project.append([note()])


def _misplaced(run_id: str, registration: RunRegistered) -> dict[str, tuple[list[NewEvent], str]]:
    created = ProjectCreated(project_id="0" * 32, name="x", public_key="x")
    seal = RunSealed(events=1, by_kind={"step": 1}, weights_digest=None)
    resumed = RunResumed(attempt=5, phase="train", from_step=0, snapshot_digest=None)
    return {
        "registered again": ([NewEvent(registration, run_id)], "registered twice"),
        "unknown run": ([note(run_id="unknown")], "before the registration of run unknown"),
        "no run": ([NewEvent(RunAborted(error="x"), None)], "names none"),
        "created again": ([NewEvent(created, None)], "is the first event"),
        "false seal": ([NewEvent(seal, run_id)], "the seal of run .* states 1 events"),
        "attempt left out": ([NewEvent(resumed, run_id)], "attempt 5 after attempt 1"),
        "no canonical form": ([note("\ud800", run_id)], "lone surrogate"),
        "only the last is bad": ([note("fine", run_id), note("\ud800", run_id)], "lone surrogate"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "registered again",
        "unknown run",
        "no run",
        "created again",
        "false seal",
        "attempt left out",
        "no canonical form",
        "only the last is bad",
    ],
)
def test_events_that_break_a_rule_are_refused_whole(registered: tuple[Project, str, RunRegistered], case: str) -> None:
    """Nothing of a batch with a misplaced or unwritable event is recorded, and the record goes on."""
    project, run_id, registration = registered
    events, why = _misplaced(run_id, registration)[case]
    before = project.head
    with pytest.raises(StorageError, match=why):
        project.append(events)
    assert project.head == before
    assert project.append([note(run_id=run_id)]).size == before.size + 1


def test_a_sealed_run_takes_annotations_only(tmp_path: Path, build_record: BuildRecord) -> None:
    """After the seal every other event of the run raises StorageError; other runs go on."""
    run_id = build_record(tmp_path / "record.db", steps=2, prompts=1)
    with Project.open(tmp_path / "record.db", mode="write") as project:
        finding = Finding(rule="late", severity=Severity.INFO, message="too late", evidence=[])
        with pytest.raises(StorageError, match="after the seal"):
            project.append([NewEvent(finding, run_id)])
        project.append([note(run_id=run_id)])
    assert build_record(tmp_path / "record.db", steps=1, prompts=1, seed=1) != run_id


def test_runs_are_found_by_id_prefix_and_name(tmp_path: Path, build_record: BuildRecord) -> None:
    """find_run takes the newest, an id, a unique prefix or a unique name, and otherwise lists what there is."""
    path = tmp_path / "record.db"
    first = build_record(path, steps=1, prompts=1)
    second = build_record(path, steps=1, prompts=1, seed=1, sealed=False)
    with Project.open(path, mode="read") as project:
        assert [(run.run_id, run.state) for run in project.runs()] == [
            (first, RunState.SEALED),
            (second, RunState.REGISTERED),
        ]
        assert project.find_run(None).run_id == second
        assert project.find_run(first).run_id == first
        assert project.find_run("demo-0000").run_id == first
        for reference in ("demo", "demo-000"):
            with pytest.raises(ConfigError, match=f"'{reference}' is ambiguous.*{second}, {first}"):
                project.find_run(reference)
        with pytest.raises(ConfigError, match=f"no run 'nothing'.*{first}"):
            project.find_run("nothing")
    with (
        Project.open(tmp_path / "empty.db", mode="create") as project,
        pytest.raises(ConfigError, match="holds no run"),
    ):
        project.find_run(None)


def test_a_clock_that_goes_back_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are informative: order is that of seq."""
    with Project.open(tmp_path / "record.db", mode="create") as project:
        monkeypatch.setattr(writer, "utc_now", lambda: "1999-01-01T00:00:00.000000Z")
        project.append([note("then")])
        assert [event.seq for event in project.events()] == [0, 1]


def test_another_key_cannot_continue_a_record(tmp_path: Path) -> None:
    """Opening for writing with another key than the record's raises StorageError that names both."""
    Project.open(tmp_path / "record.db", mode="create").close()
    with pytest.raises(StorageError, match="signed by another key"):
        Project.open(tmp_path / "record.db", mode="write", key=SigningKey.generate())


def test_the_head_is_remembered_outside_of_the_record(tmp_path: Path) -> None:
    """After close, the state folder holds the newest head."""
    with Project.open(tmp_path / "record.db", mode="create") as project:
        head = project.append([note()])
    remembered = recall(project.project_id)
    assert remembered is not None and remembered.head == head


def test_an_older_copy_is_not_continued(tmp_path: Path) -> None:
    """A record that lacks events this machine has seen cannot be opened for writing."""
    path = tmp_path / "record.db"
    Project.open(path, mode="create").close()
    older = path.read_bytes()
    with Project.open(path, mode="write") as project:
        project.append([note()])
    path.write_bytes(older)
    with pytest.raises(StorageError, match="not what this machine saw before"):
        Project.open(path, mode="write")


def test_an_older_memory_is_fine(tmp_path: Path, own_home: Path) -> None:
    """A process that was killed before it could remember its last head leaves a record that goes on."""
    path = tmp_path / "record.db"
    project = Project.open(path, mode="create")
    project.close()
    (memory,) = (own_home / "state" / "heads").iterdir()
    older = memory.read_bytes()
    with Project.open(path, mode="write") as project:
        project.append([note()])
    memory.write_bytes(older)
    with Project.open(path, mode="write") as project:
        assert project.append([note()]).size == 3


def test_a_failed_commit_leaves_the_old_head_and_the_next_append_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error in a transaction nothing of it is visible, and the record is read again from disk."""
    with Project.open(tmp_path / "record.db", mode="create") as project:
        before = project.append([note("first")])
        real = writer.Batch.write

        def breaks(batch: Any, connection: Any) -> None:
            real(batch, connection)
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(writer.Batch, "write", breaks)
            with pytest.raises(StorageError, match="Cannot write"):
                project.append([note("lost")])
        assert project.head == before
        with pytest.raises(StorageError, match="surrogate"):
            project.append([note("\ud800")])
        assert project.append([note("second")]).size == before.size + 1
        values = [event.payload.value for event in project.events() if isinstance(event.payload, Annotation)]
        assert values == ["first", "second"]


def test_a_forked_child_does_not_write(tmp_path: Path) -> None:
    """A process that inherited an open record refuses to append: two writers would sign two histories."""
    with Project.open(tmp_path / "record.db", mode="create") as project:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            answer = b"wrote"
            try:
                project.append([note()])
            except StorageError as error:
                answer = str(error).encode()
            os.write(writing, answer)
            os._exit(0)
        os.waitpid(child, 0)
        assert b"one writer" in os.read(reading, 1000)
        assert project.append([note()]).size == 2


def test_threads_append_one_after_the_other(tmp_path: Path) -> None:
    """Appending from several threads gives one unbroken log."""
    with Project.open(tmp_path / "record.db", mode="create") as project:
        threads = [threading.Thread(target=lambda: [project.append([note()]) for _ in range(5)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert project.head.size == 21
        assert len(list(project.events())) == 21


def test_views_answer_people(tmp_path: Path, build_record: BuildRecord) -> None:
    """Overview, effective steps and readable rollouts come from plain SQL."""
    run_id = build_record(tmp_path / "record.db", steps=4, prompts=2)
    with Project.open(tmp_path / "record.db", mode="read") as project, project._store.connect() as connection:
        run = connection.exec_driver_sql("SELECT run_id, state, attempt FROM run_overview").one()
        assert tuple(run) == (run_id, "sealed", 2)
        steps = connection.exec_driver_sql("SELECT step, attempt FROM effective_step ORDER BY step").all()
        assert [tuple(row) for row in steps] == [(0, 1), (1, 1), (2, 2), (3, 2)]
        count = connection.exec_driver_sql("SELECT count(*) FROM effective_rollout").scalar()
        assert count == 4 * 2 * 4
        text = connection.exec_driver_sql("SELECT prompt, completion FROM rollout_text LIMIT 1").one()
        assert text.prompt.startswith("Make ") and isinstance(text.completion, str)
        response = connection.exec_driver_sql("SELECT response FROM eval_text LIMIT 1").scalar()
        assert response.startswith("<script>")


def test_heads_and_leaf_hashes_give_the_tree(tmp_path: Path) -> None:
    """checkpoint() is the newest head, checkpoint(size) that one, and leaf_hashes() of its size make its root."""
    with Project.open(tmp_path / "record.db", mode="create") as project:
        heads = [project.head, *(project.append([note(str(n))] * 3) for n in range(3))]
        for head in heads:
            found = project.checkpoint(head.size)
            tree = Frontier()
            for leaf in project.leaf_hashes(0, head.size):
                tree.append(leaf)
            assert (found.size, found.root) == (head.size, head.root) == (tree.size, tree.root())
        assert project.checkpoint() == found
        assert list(project.leaf_hashes(2, 5)) == list(project.leaf_hashes(0, 10))[2:5]
        with pytest.raises(StorageError, match="no tree head over 3 events"):
            project.checkpoint(3)
        with pytest.raises(StorageError, match="event 10 is missing"):
            list(project.leaf_hashes(9, 12))


def test_a_witness_statement_is_kept_and_replaced(tmp_path: Path) -> None:
    """keep_witness keeps one statement a witness and head; a head that does not exist is refused."""
    with Project.open(tmp_path / "record.db", mode="create") as project:
        project.append([note()])
        for size, name, statement in ((1, "a", b"old"), (1, "a", b"new"), (2, "a", b"x"), (1, "b", b"\x00\xff")):
            project.keep_witness(size, name, "directory", statement)
        with pytest.raises(StorageError, match="no tree head over 9 events"):
            project.keep_witness(9, "a", "directory", b"")
    with Project.open(tmp_path / "record.db", mode="read") as project:
        with project.session() as session:
            rows = session.scalars(select(WitnessRow).order_by(WitnessRow.size, WitnessRow.name)).all()
            assert [(row.size, row.name, row.statement) for row in rows] == [
                (1, "a", b"new"),
                (1, "b", b"\x00\xff"),
                (2, "a", b"x"),
            ]
        with pytest.raises(StorageError, match="reading only"):
            project.keep_witness(1, "a", "directory", b"")
