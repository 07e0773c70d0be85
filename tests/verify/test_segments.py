"""A record is verified in segments and by several processes; nobody can tell from the verdict."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from grpo_audit.ledger.merkle import Frontier, leaf_hash
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation
from grpo_audit.verify import VerifyReport, pool, procedure, verify
from grpo_audit.verify.fold import _with_subtree
from grpo_audit.verify.keychain import KeyChain
from grpo_audit.verify.segment import Task, _Tree

BuildRecord = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, build_record: BuildRecord) -> Path:
    """A sealed record of about 370 events."""
    path = tmp_path_factory.mktemp("segments") / "record.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(path.parent / "home"))
        build_record(path)
    return path


@pytest.fixture(autouse=True)
def its_home(made: Path, own_home: Path) -> None:
    """The machine that made the record: it has pinned the key and remembers the head."""
    shutil.copytree(made.parent / "home", own_home, dirs_exist_ok=True)


def comparable(report: VerifyReport) -> VerifyReport:
    """Without the place."""
    return replace(report, location="")


def copied(made: Path, folder: Path, statement: str = "") -> Path:
    """A copy of the record, changed by a statement of SQL."""
    path = folder / "record.db"
    path.write_bytes(made.read_bytes())
    if statement:
        connection = sqlite3.connect(path)
        with connection:
            assert connection.execute(statement).rowcount != 0
        connection.close()
    return path


CHANGES = [
    "",
    'UPDATE event SET body = replace(body, \'"accuracy":"0.0"\', \'"accuracy":"1.0"\') WHERE kind = \'rollout\'',
    "UPDATE event SET leaf_hash = zeroblob(32) WHERE seq IN (63, 64, 200)",
    "DELETE FROM event WHERE seq IN (63, 190)",
    "DELETE FROM event WHERE seq = 128",
    "UPDATE event SET seq = 1000000000000 WHERE seq = (SELECT max(seq) FROM event)",
    "DELETE FROM content WHERE seq > 100",
    "UPDATE rollout SET advantage = advantage + 1",
    "INSERT INTO reward SELECT seq, 'bonus', 1.0, NULL FROM rollout",
    "UPDATE reward SET seq = seq + 1000",
    "INSERT INTO finding SELECT -1, run_id, rule, severity, message FROM finding LIMIT 1",
    "UPDATE checkpoint SET root = zeroblob(32) WHERE size > 200",
    "DELETE FROM checkpoint WHERE size > 300",
    "UPDATE run_state SET attempt = 7",
]


@pytest.mark.parametrize("statement", CHANGES)
def test_the_length_of_segments_does_not_change_the_outcome(made: Path, tmp_path: Path, statement: str) -> None:
    """One segment or many: the same checks fail, of an intact record and of broken ones."""
    path = copied(made, tmp_path, statement)
    whole, pieces = verify(path), verify(path, width=64)
    assert [check.outcome for check in whole.checks] == [check.outcome for check in pieces.checks]
    assert whole.ok is (not statement)
    if not statement:
        assert comparable(replace(whole, checks=[])) == comparable(replace(pieces, checks=[]))


@pytest.mark.parametrize("statement", CHANGES[:8])
def test_several_processes_say_what_one_says(made: Path, tmp_path: Path, statement: str) -> None:
    """Reports of one process and of two are equal to the letter, also of broken records."""
    path = copied(made, tmp_path, statement)
    assert comparable(verify(path, jobs=1, width=64)) == comparable(verify(path, jobs=2, width=64))


def test_a_record_that_grows_while_several_processes_read(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails because each process saw another state is verified again in one transaction."""
    path = copied(made, tmp_path)
    asked = []

    def grown(*arguments: object) -> bool:
        asked.append(arguments)
        return True

    monkeypatch.setattr(procedure, "_has_grown", grown)
    copied(made, tmp_path, CHANGES[1])
    assert not verify(path, jobs=2, width=64).ok
    assert len(asked) == 1
    copied(made, tmp_path)
    with Project.open(path, mode="write") as project:
        project.append([NewEvent(Annotation(author="a", field="f", value="v", reason="r"), None)])
    assert verify(path, jobs=2, width=64).ok


@given(st.integers(1, 70), st.sampled_from([1, 2, 4, 8, 16]))
@settings(max_examples=80, deadline=None)
def test_subtrees_put_together_are_the_tree(count: int, width: int) -> None:
    """At every size, the frontier put together from segments is the frontier grown leaf by leaf."""
    leaves = [leaf_hash(bytes([n])) for n in range(count)]
    grown, built = Frontier(), Frontier()
    for start in range(0, count, width):
        stop = min(start + width, count)
        tree = _Tree(leaves[start:stop], Task(start, stop, width, KeyChain(())))
        for size in range(start + 1, stop + 1):
            grown.append(leaves[size - 1])
            hashes = tree.frontier(size)
            assert hashes is not None
            whole = (
                _with_subtree(built, hashes[0], width)
                if size - start == width
                else Frontier(size, [*built.hashes, *hashes])
            )
            assert whole.hashes == grown.hashes
        built = whole


def test_any_number_of_processes(made: Path, tmp_path: Path) -> None:
    """More processes than segments, and a record that fits one segment, are no special cases."""
    path = copied(made, tmp_path)
    assert verify(path, jobs=3).ok
    assert verify(path, jobs=8, width=256).ok


def test_a_process_that_is_killed_says_nothing_about_the_record(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the system kills a process that verifies, one process does the work, and the verdict is the same."""
    path = copied(made, tmp_path)
    with pool.Pool(path, 2) as processes, pytest.raises(pool.PoolBrokenError):
        processes._executor.submit(os._exit, 9)
        list(processes.segments([Task(0, 64, 64, KeyChain(()))] * 50))

    def broken(*_: object) -> Iterator[object]:
        raise pool.PoolBrokenError
        yield

    monkeypatch.setattr(pool.Pool, "segments", broken)
    assert verify(path, jobs=2, width=64).ok
