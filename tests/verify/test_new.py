"""``verify --new``: from the remembered head on, and nothing is claimed of what came before. And witnesses."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grpo_audit.cli.app import app
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation, EvalTask, EventKind, Group, RunSealed
from grpo_audit.verify import Attestation, Outcome, VerifyReport, verify
from grpo_audit.witness.ask import ask_all
from grpo_audit.witness.directory import open_folder

BuildRecord = Callable[..., str]


def failed(report: VerifyReport) -> set[str]:
    """Names of the failed checks."""
    return {check.name for check in report.checks if check.outcome is Outcome.FAILED}


def note(value: str = "v") -> NewEvent:
    """An annotation of the project."""
    return NewEvent(Annotation(author="A", field="f", value=value, reason="r"), None)


def change(path: Path, statement: str) -> None:
    """Change the database by a statement of SQL."""
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()


@pytest.fixture
def seen(tmp_path: Path, build_record: BuildRecord, own_home: Path) -> tuple[Path, str, int]:
    """A verified record of an unfinished run, its run and its number of events. Later writers are another machine's."""
    path = tmp_path / "record.db"
    run_id = build_record(path, steps=2, prompts=2, group_size=2, sealed=False)
    report = verify(path)
    assert report.ok
    return path, run_id, report.events


@pytest.fixture
def append(own_home: Path) -> Callable[..., None]:
    """Append as somebody else: this machine's memory does not move."""

    def appended(path: Path, *events: NewEvent) -> None:
        before = {file: file.read_bytes() for file in own_home.rglob("heads/*.json")}
        with Project.open(path, mode="write") as project:
            for event in events:
                project.append([event])
        for file, data in before.items():
            file.write_bytes(data)
        assert before

    return appended


def test_only_new_events_are_looked_at(seen: tuple[Path, str, int], append: Callable[..., None]) -> None:
    """The new part is verified in full, the head is that of a whole verification; the rest is named as not seen."""
    path, run_id, size = seen
    group = Group(
        attempt=2, step=9, group=0, prompt_id="p", prompt_tokens=1, exposure=0, reward_mean=None, reward_std=None
    )
    append(path, note(), NewEvent(group, run_id, {"prompt": b"?"}), note("w"))
    report = verify(path, new=True)
    assert report.ok
    assert report.verified_from == size and report.events == size + 3
    assert report.checks[2].detail == "3 events"
    assert report.run is not None and report.run.run_id == run_id
    assert any("only what is new was looked at" in text for text in report.not_shown)
    assert report.root == verify(path).root


def test_nothing_new(seen: tuple[Path, str, int]) -> None:
    """Without new events there is nothing to check, which is no failure and says so."""
    report = verify(seen[0], new=True)
    assert report.ok and report.events == report.verified_from == seen[2]
    assert report.checks[2].outcome is Outcome.NOTHING


def test_the_remembered_head_moves_on(seen: tuple[Path, str, int], append: Callable[..., None]) -> None:
    """After a verification of what is new, the next begins there; at any number of events, odd ones too."""
    path, _, size = seen
    for more in range(1, 5):
        append(path, note(str(more)))
        report = verify(path, new=True, width=8)
        assert report.ok and report.verified_from == size + more - 1


def test_without_memory_there_is_no_beginning(seen: tuple[Path, str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that never saw the record --new is refused, with the way out."""
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(seen[0].parent / "elsewhere"))
    with pytest.raises(ConfigError, match="has not seen this record"):
        verify(seen[0], new=True)


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("UPDATE annotation SET value = 'x' WHERE seq >= {size}", "projections"),
        ("INSERT INTO finding SELECT {size}, run_id, 'r', 'info', 'm' FROM run", "projections"),
        ("DELETE FROM content WHERE seq >= {size}", "content"),
        ("INSERT INTO content VALUES (99999, 'x', x'00', 'plain', x'00')", "content"),
        ("UPDATE event SET leaf_hash = zeroblob(32) WHERE seq = {size} + 1", "leaf hashes"),
        ("UPDATE checkpoint SET frontier = zeroblob(32) WHERE size = {size} + 1", "signed heads"),
        ("DELETE FROM checkpoint WHERE size > {size} + 1", "coverage"),
        ("UPDATE event SET body = replace(body, '\"v\":1', '\"v\":2') WHERE seq = {size} + 1", "bodies"),
        ("UPDATE event SET leaf_hash = zeroblob(32) WHERE seq = {size} - 1", "columns and links"),
        ("UPDATE checkpoint SET frontier = zeroblob(32) WHERE size = {size}", "remembered head"),
        ("UPDATE checkpoint SET root = zeroblob(32) WHERE size = {size}", "remembered head"),
        ("DELETE FROM checkpoint WHERE size >= {size}", "remembered head"),
    ],
)
def test_what_is_wrong_with_the_new_part_is_found(
    seen: tuple[Path, str, int], append: Callable[..., None], statement: str, check: str
) -> None:
    """Every kind of edit behind the remembered head, and of the head itself, fails by name."""
    path, run_id, size = seen
    group = Group(
        attempt=2, step=9, group=0, prompt_id="p", prompt_tokens=1, exposure=0, reward_mean=None, reward_std=None
    )
    append(path, note(), NewEvent(group, run_id, {"prompt": b"?"}), note("w"))
    change(path, statement.format(size=size))
    report = verify(path, new=True)
    assert check in failed(report) and not report.ok


def test_rules_reach_back(seen: tuple[Path, str, int], append: Callable[..., None]) -> None:
    """A seal behind the remembered head is compared with all events of its run, also those before it."""
    path, run_id, _ = seen
    with Project.open(path, mode="read") as project:
        counts = {kind.value: count for kind, count in project.counts(run_id).items()}
    append(path, NewEvent(RunSealed(events=sum(counts.values()), by_kind=counts, weights_digest=None), run_id))
    report = verify(path, new=True)
    assert report.ok and report.sealed
    assert report.checks[12].outcome is Outcome.PASSED


def test_weights_of_the_past_count(seen: tuple[Path, str, int], append: Callable[..., None]) -> None:
    """An evaluation "after", behind the remembered head, is compared with the model saved before it: there is none."""
    path, run_id, _ = seen
    with Project.open(path, mode="read") as project:
        event = project.last(run_id, EventKind.EVAL_TASK)
        assert event is not None and isinstance(event.payload, EvalTask)
    append(path, NewEvent(event.payload.model_copy(update={"phase": "post"}), run_id))
    assert failed(verify(path, new=True)) == {"weights"}


def test_the_command(seen: tuple[Path, str, int], append: Callable[..., None]) -> None:
    """``grpo-audit verify --new`` ends with the code of an unfinished run and says what it did not look at."""
    append(seen[0], note())
    result = CliRunner().invoke(app, ["verify", "--db", str(seen[0]), "--new"])
    assert result.exit_code == 3
    assert "were not looked at again" in result.output.replace("\n", " ")
    refused = CliRunner().invoke(app, ["verify", "--db", str(seen[0]), "--new", "--level", "L1"])
    assert refused.exit_code != 0


# --- witnesses --------------------------------------------------------------------------------------------------------


def test_a_witness_moves_the_verdict_and_the_tail(seen: tuple[Path, str, int], tmp_path: Path) -> None:
    """A folder that saw a head makes it WITNESSED(1/1); the tail is what came after, in events and seconds."""
    path, _, size = seen
    folder = tmp_path / "witness"
    folder.mkdir()
    open_folder(folder)
    with Project.open(path, mode="write") as project:
        assert all(result.problem is None or not result.problem for result in ask_all(project, [f"dir:{folder}"]))
        project.append([note(), note()])
    report = verify(path, witness=[f"dir:{folder}"])
    assert report.ok and report.attestation is Attestation.WITNESSED
    assert report.vouched == "WITNESSED(1/1)"
    assert report.tail is not None and report.tail.events == 2 and report.events == size + 2
    assert any("unwitnessed tail: the last 2" in text for text in report.not_shown)
    again = verify(path, new=True, witness=[f"dir:{folder}"])
    assert again.ok and again.vouched == "WITNESSED(1/1)"


def test_a_statement_about_another_history_fails(seen: tuple[Path, str, int], tmp_path: Path) -> None:
    """A statement moved to another head than the one it was made for is a failure, not an absence."""
    path, _, _ = seen
    folder = tmp_path / "witness"
    folder.mkdir()
    open_folder(folder)
    with Project.open(path, mode="write") as project:
        ask_all(project, [f"dir:{folder}"])
    change(path, "UPDATE witness SET size = 1")
    assert failed(verify(path, witness=[f"dir:{folder}"])) == {"witnesses"}
