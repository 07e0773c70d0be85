"""Asking the witnesses of a project, and keeping what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from witness.logs import copy, grow, head_of, remark
from witness.test_check import rows_of

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger.project import Project
from grpo_audit.witness import pins
from grpo_audit.witness.ask import add, ask, ask_all
from grpo_audit.witness.directory import open_folder
from grpo_audit.witness.pins import Pin
from grpo_audit.witness.protocol import WitnessRefused

PROJECT = "0123456789abcdef" * 2


def test_every_witness_is_asked_and_its_statement_kept(record: Path, tmp_path: Path) -> None:
    """Two folders see the newest head; each statement is kept under its witness' name."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with Project.open(record, mode="write") as project:
        results = ask_all(project, [f"dir:{folder}" for folder in folders])
    assert [(item.size, item.problem) for item in results] == [(8, None), (8, None)]
    names = {open_folder(folder).name for folder in folders}
    assert {row.name for row in rows_of(record)} == names == {item.name for item in results}


def test_one_that_cannot_be_reached_does_not_keep_the_others(record: Path, folder: Path, tmp_path: Path) -> None:
    """A missing folder is reported with what to do, before and after it was added; the others answer."""
    gone = tmp_path / "gone"
    with Project.open(record, mode="write") as project:
        results = ask_all(project, [f"dir:{gone}", f"dir:{folder}"])
        assert [item.problem is None for item in results] == [False, True]
        gone.mkdir()
        assert all(item.problem is None for item in ask_all(project, [f"dir:{gone}"]))
        gone.rename(tmp_path / "moved")
        results = ask_all(project)
    assert [item.problem is None for item in results] == [True, False]
    assert "Mount it" in str(results[1].problem)


def test_a_refusal_is_raised_after_all_were_asked(record: Path, tmp_path: Path, forget: Callable[[], None]) -> None:
    """One witness that remembers another history stops the caller; the other still saw the head."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    fork = copy(record, tmp_path / "fork.db")
    with Project.open(record, mode="write") as project:
        project.append([remark("true")])
        ask_all(project, [f"dir:{first}"])
    forget()
    with Project.open(fork, mode="write") as project:
        project.append([remark("false")])
        with pytest.raises(WitnessRefused, match="another history"):
            ask_all(project, [f"dir:{second}"])
    assert open_folder(second).memory_head(head_of(fork).origin) == head_of(fork)


def test_a_witness_that_was_exchanged_is_refused(record: Path, folder: Path, tmp_path: Path) -> None:
    """Another witness in the same place is not asked: its key is not the pinned one."""
    with Project.open(record, mode="write") as project:
        ask_all(project, [f"dir:{folder}"])
        folder.rename(tmp_path / "away")
        folder.mkdir()
        with pytest.raises(WitnessRefused, match="not the one that was added"):
            ask_all(project)
        with pytest.raises(WitnessRefused, match="another one than before"):
            add(project.project_id, f"dir:{folder}")


def test_overtaken_by_another_writer_the_newest_head_is_shown(record: Path, folder: Path) -> None:
    """When the witness saw a newer head of this very log meanwhile, the newest is read again instead of a refusal."""
    witness = open_folder(folder)

    class Overtaken:
        name, kind = witness.name, witness.kind
        first = True

        def remembers(self, origin: str) -> int:
            if self.first:
                self.first = False
                project.append([remark("by another process")])
                ask(project, witness)
            return witness.remembers(origin)

        def see(self, head):
            return witness.see(head)

    with Project.open(record, mode="write") as project:
        assert ask(project, Overtaken()) == 9


def test_a_head_that_was_left_behind_cannot_be_asked_about(record: Path, folder: Path) -> None:
    """--size of an older head is an error of the caller, not a refusal of the witness."""
    with Project.open(record, mode="write") as project:
        ask_all(project, [f"dir:{folder}"])
        with pytest.raises(ConfigError, match="does not go back"):
            ask(project, open_folder(folder), size=3)


def test_relative_folders_are_found_from_everywhere(
    record: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is pinned is the absolute path."""
    monkeypatch.chdir(folder.parent)
    with Project.open(record, mode="write") as project:
        ask_all(project, [f"dir:{folder.name}"])
        monkeypatch.chdir("/")
        assert [item.problem for item in ask_all(project)] == [None]
        assert [pin.spec for pin in pins.read(project.project_id)] == [f"dir:{folder}"]


def test_a_key_is_nothing_to_ask(record: Path, folder: Path) -> None:
    """A witness key can be trusted, not asked."""
    with Project.open(record, mode="write") as project, pytest.raises(ConfigError, match="not a witness to ask"):
        ask_all(project, [open_folder(folder).anchor()])


def test_pins_come_back_and_go() -> None:
    """read() gives what keep() was given, in order; remove() takes one away by name or specification."""
    first, second = Pin("dir:/a", "a", "directory", "key a"), Pin("git:/b", "b", "git", "key b")
    assert pins.read(PROJECT) == []
    pins.keep(PROJECT, first)
    pins.keep(PROJECT, second)
    assert pins.read(PROJECT) == [first, second]
    assert pins.remove(PROJECT, "a") and not pins.remove(PROJECT, "a")
    assert pins.remove(PROJECT, "git:/b") and pins.read(PROJECT) == []


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps([{"spec": "dir:/a"}])])
def test_broken_pins_are_no_missing_pins(own_home: Path, content: str) -> None:
    """A file of witnesses that cannot be read raises instead of trusting nobody in silence."""
    path = own_home / "config" / "witnesses" / f"{PROJECT}.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(StorageError, match="Cannot read the witnesses"):
        pins.read(PROJECT)


def test_a_hostile_project_id_never_becomes_a_path() -> None:
    """Only 32 hexadecimal digits are used as a file name."""
    with pytest.raises(StorageError, match="project id"):
        pins.read("../../etc/passwd")


def test_asking_needs_a_record_that_can_be_written(record: Path, folder: Path) -> None:
    """A record opened for reading cannot keep a statement."""
    with Project.open(record, mode="read") as project, pytest.raises(StorageError, match="reading only"):
        ask(project, open_folder(folder))
    grow(record, 1)
