"""A run shows its heads to the witnesses of its recipe."""

from __future__ import annotations

import json
import shutil

import pytest

from grpo_audit.errors import ExitCode


@pytest.mark.slow
def test_a_run_is_witnessed_before_step_0_after_each_phase_and_after_the_seal(workplace) -> None:
    """One witness sees registration, pre-evaluation, training, post-evaluation and seal; a missing one only warns;
    the next run into a record that was put back is stopped before it does anything.
    """
    folder = workplace.folder / "mount"
    folder.mkdir()
    recipe = 'record: {witnesses: ["dir:mount", "dir:gone"]}\ntraining: {steps: 2'
    workplace.edit("recipe.yaml", "training: {steps: 4", recipe)
    done = workplace.run("run", "recipe.yaml", "--json")
    assert done.returncode == ExitCode.OK, done.stderr
    assert done.stderr.count("no witness statement from") >= 5 and "Mount it" in done.stderr
    verdict = json.loads(done.stdout)["verification"]
    assert verdict["attestation"] == "WITNESSED" and verdict["tail"]["events"] == 0
    (listed,) = json.loads(workplace.run("witness", "list", "--json").stdout)["witnesses"]
    assert (listed["statements"], listed["seen"]) == (5, verdict["events"])

    record = workplace.folder / "runs" / "record.db"
    shutil.copy(record, workplace.folder / "old.db")
    assert workplace.run("keys", "rotate", "--author", "A", "--reason", "R").returncode == ExitCode.OK
    assert workplace.run("witness", "ask").returncode == ExitCode.OK
    assert workplace.run("witness", "list").stdout.count(f"saw {verdict['events'] + 1} of") == 1
    shutil.copy(workplace.folder / "old.db", record)
    shutil.rmtree(workplace.home / "state")
    stopped = workplace.run("run", "recipe.yaml", "--set", 'record.witnesses=["dir:mount"]')
    assert stopped.returncode == ExitCode.STORAGE
    assert "refuses a head" in stopped.stderr and "evaluate" not in stopped.stderr.split("registered run")[1]
