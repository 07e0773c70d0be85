"""Killed at any moment, a run goes on and ends as if nothing had happened."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from pathlib import Path

import pytest

KILL_AFTER = {
    "registered": "select count(*) >= 1 from run",
    "first evaluation": "select count(*) >= 1 from eval_task",
    "first step": "select count(*) >= 1 from step",
    "second snapshot": "select count(*) >= 2 from snapshot",
    "saved": "select count(*) >= 1 from event where kind = 'model.saved'",
}


def kill_when(process, record: Path, condition: str) -> None:
    """kill -9 as soon as the record says so."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if record.exists():
            try:
                with sqlite3.connect(f"file:{record}?mode=ro", uri=True) as connection:
                    if connection.execute(condition).fetchone()[0]:
                        break
            except sqlite3.OperationalError:
                pass  # the tables are not there yet
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILL_AFTER)
def test_a_killed_run_ends_with_the_same_weights(finished, workplace, released, moment: str) -> None:
    """kill -9 after {registration, evaluation, a step, a snapshot, saving}, then --resume: the same weight digest,
    the same figures, a sealed record that verifies and shows both attempts."""
    record = workplace.folder / "runs/record.db"
    kill_when(workplace.start("run", "recipe.yaml"), record, KILL_AFTER[moment])
    assert workplace.run("verify").returncode == 3
    done = workplace.run("run", "--resume", "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert released(workplace.folder) == released(finished.place.folder)
    assert outcome["comparison"] == finished.outcome["comparison"]
    assert outcome["verification"]["sealed"]
    with sqlite3.connect(record) as connection:
        assert connection.execute("select max(attempt) from run_state").fetchone() == (2,)
        assert connection.execute("select count(*), count(distinct step) from effective_step").fetchone() == (4, 4)
        again = connection.execute("select count(*) from step where attempt = 2").fetchone()[0]
    assert again > 0 or moment == "saved"


def test_nothing_to_resume_is_one_line(finished) -> None:
    """A record whose runs are all sealed has nothing to resume."""
    done = finished.place.run("run", "--resume")
    assert done.returncode == 2 and re.search(r"no unfinished run", done.stderr)
