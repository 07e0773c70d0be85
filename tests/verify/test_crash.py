"""A record survives the death of its writer at any moment."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import NoReturn

import pytest

from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation
from grpo_audit.verify import verify


def note(size: int = 0) -> NewEvent:
    """An event with content."""
    return NewEvent(Annotation(author="a", field="f", value="v", reason="r" * 500), None, {"text": bytes(size)})


def start_writer(record: Path) -> tuple[int, int]:
    """A process that appends as fast as it can and says after each commit how many events are durable."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _append_for_ever(record, writing)
    os.close(writing)
    return child, reading


def _append_for_ever(record: Path, pipe: int) -> NoReturn:
    try:
        project = Project.open(record, mode="create")
        os.write(pipe, f"{project.head.size}\n".encode())
        for number in range(100_000):
            size = project.append([note(3000) for _ in range(number % 40 + 1)]).size
            os.write(pipe, f"{size}\n".encode())
    finally:
        os._exit(1)


def kill(child: int) -> None:
    """kill -9, and nothing else may have ended it."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def read_all(pipe: int) -> list[int]:
    """Every size that was said in full."""
    with os.fdopen(pipe, "rb") as stream:
        return [int(line) for line in stream.read().split(b"\n")[:-1]]


@pytest.mark.slow
def test_killed_at_any_moment_the_record_holds_and_goes_on(tmp_path: Path) -> None:
    """After kill -9 the record opens, verifies, has every event whose append returned, and takes the next."""
    record = tmp_path / "record.db"
    Project.open(record, mode="create").close()
    rng = random.Random(0)
    durable = [1]
    for _ in range(8):
        child, pipe = start_writer(record)
        time.sleep(rng.uniform(0.02, 0.3))
        kill(child)
        durable += read_all(pipe)
        report = verify(record)
        assert report.ok, report.failures
        assert report.events >= max(durable)
    assert max(durable) > 1, "no writer lived long enough to append"
    with Project.open(record, mode="write") as project:
        before = project.head.size
        assert project.append([note()]).size == before + 1
    assert verify(record).ok


@pytest.mark.slow
def test_killed_while_it_is_created_the_record_can_be_begun_again(tmp_path: Path) -> None:
    """Whatever the moment, ``create`` afterwards finds a record, or a beginning it can complete."""
    rng = random.Random(1)
    for number in range(10):
        record = tmp_path / f"{number}.db"
        unfinished = tmp_path / f".{number}.db.unfinished"
        child, pipe = start_writer(record)
        deadline = time.monotonic() + 20
        while not (record.exists() or unfinished.exists()) and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, 0.08))
        kill(child)
        os.close(pipe)
        with Project.open(record, mode="create") as project:
            assert project.head.size >= 1
        assert verify(record).ok
