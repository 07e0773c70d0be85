"""`grpo-audit gate` through the program: the exit code is the answer."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from grpo_audit.errors import ExitCode


def test_gates_that_hold_end_with_0(finished) -> None:
    """A run whose gates hold says so, in words and as JSON, and so did the run itself."""
    done = finished.place.run("gate", finished.run_id)
    assert done.returncode == ExitCode.OK, done.stderr
    assert "GATES HOLD" in done.stdout and "second verifier" in done.stdout
    found = json.loads(finished.place.run("gate", "--json").stdout)
    assert found["passed"] and [gate["name"] for gate in found["gates"]] == ["it was compared", "second verifier"]
    assert finished.outcome["gates"] == {key: value for key, value in found.items() if key != "run"}


def test_figures_are_listed_with_their_values(finished) -> None:
    """What a gate can be about: evaluations before and after, probes, the second verifier, training."""
    found = json.loads(finished.place.run("gate", "--figures", "--json").stdout)
    for name in (
        "eval.echo.post",
        "eval.echo.verdict",
        "regrade.vowels.kappa",
        "training.steps",
        "contamination.valid",
    ):
        assert name in found
    assert found["training.steps"] == 4.0
    assert "eval.echo.post" in finished.place.run("gate", "--figures").stdout


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ("{name: high, figure: eval.echo.post, at_least: 1.1}", "eval.echo.post"),
        ("{name: absent, figure: 'clean.echo.verdict', one_of: [improved]}", "no such figure"),
    ],
)
def test_a_gate_that_fails_or_has_no_figure_ends_with_7(workplace, gates: str, said: str) -> None:
    """The run is done and ends with 0, and says that the gate fails; `gate` ends with 7 and names the figure."""
    workplace.edit("recipe.yaml", "gates:\n", f"gates:\n  - {gates}\n")
    workplace.edit("recipe.yaml", "steps: 4", "steps: 1")
    done = workplace.run("run", "recipe.yaml")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "GATES FAIL" in done.stdout
    done = workplace.run("gate")
    assert done.returncode == ExitCode.GATE_FAILED
    assert "GATES FAIL" in done.stdout and said in done.stdout


def test_an_unfinished_run_passes_no_gate(workplace) -> None:
    """What a run has so far may meet every gate; it is no release before it has ended, and the exit code says so."""
    text = (workplace.folder / "recipe.yaml").read_text()
    gates = 'gates: [{name: checked, figure: contamination.valid, one_of: ["yes", "no"]}]\n'
    (workplace.folder / "recipe.yaml").write_text(
        text[: text.index("gates:")].replace("steps: 4", "steps: 400") + gates
    )
    started = workplace.start("run", "recipe.yaml")
    try:
        wait_for(workplace.folder / "runs" / "record.db", "reward.probed")
    finally:
        started.kill()
        started.communicate()
    done = workplace.run("gate")
    assert done.returncode == ExitCode.UNSEALED, done.stdout
    assert "unfinished" in done.stderr and "--resume" in done.stderr


def wait_for(record: Path, kind: str, seconds: float = 60.0) -> None:
    """Until an event of this kind is in the record."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if record.exists():
            with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(record)) as database:
                if database.execute("select 1 from event where kind = ?", (kind,)).fetchone():
                    return
        time.sleep(0.02)
    raise AssertionError(f"no {kind} within {seconds} s")


def test_a_gate_about_nothing_is_refused_before_anything_is_written(workplace) -> None:
    """A slip of the pen in a figure's name is one line, and no record is begun."""
    workplace.edit("recipe.yaml", "regrade.vowels.only_first_share", "regrade.vowel.only_first_share")
    done = workplace.run("run", "recipe.yaml")
    assert done.returncode == ExitCode.BAD_INPUT
    assert "regrade.vowels.only_first_share" in done.stderr and "cannot have" in done.stderr
    assert not (workplace.folder / "runs").exists()


def test_a_second_verifier_that_is_not_there_is_refused_before_anything_is_written(workplace) -> None:
    """It would otherwise show after training."""
    workplace.edit("recipe.yaml", "second.py:vowels", "second.py:consonants")
    done = workplace.run("run", "recipe.yaml")
    assert done.returncode == ExitCode.BAD_INPUT
    assert "consonants" in done.stderr
    assert not (workplace.folder / "runs").exists()


def test_a_run_without_gates_passes_none(workplace) -> None:
    """Nothing to hold it to is no pass."""
    text = (workplace.folder / "recipe.yaml").read_text()
    (workplace.folder / "recipe.yaml").write_text(text[: text.index("gates:")].replace("steps: 4", "steps: 1"))
    assert workplace.run("train", "recipe.yaml").returncode == ExitCode.OK
    done = workplace.run("gate")
    assert done.returncode == ExitCode.BAD_INPUT and "without gates" in done.stderr


def test_contamination_stops_the_run_when_the_recipe_says_so(workplace) -> None:
    """A prompt that is an evaluation document ends the run before the first step, with the task named; the record has
    the check and the abort."""
    document = "Seven grey herons counted eleven silver fish below the old stone bridge this morning"
    with (workplace.folder / "suite/data.jsonl").open("a") as file:
        file.write(json.dumps({"id": "bird", "prompt": document, "target": "x", "cluster": "bird"}) + "\n")
    with (workplace.folder / "prompts.jsonl").open("a") as file:
        file.write(json.dumps({"id": "copied", "prompt": document}) + "\n")
    changes = ("decontamination.if_contaminated=stop", "sampling.max_prompt_tokens=100")
    done = workplace.run("run", "recipe.yaml", *(word for change in changes for word in ("--set", change)))
    assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    assert "echo 1 of 13 documents" in done.stderr
    with sqlite3.connect(f"file:{workplace.folder / 'runs/record.db'}?mode=ro", uri=True) as database:
        kinds = {kind for (kind,) in database.execute("select kind from event")}
        assert database.execute("select contaminated from contamination").fetchall() == [(1,)]
    assert {"decontamination", "run.aborted"} <= kinds and "step" not in kinds


def test_a_changed_outcome_is_found(finished, tmp_path: Path) -> None:
    """Whoever edits the recorded outcome of a gate is found by `verify`."""
    copy = tmp_path / "record.db"
    for path in (finished.place.folder / "runs").glob("record.db*"):
        shutil.copy(path, tmp_path / path.name)
    with sqlite3.connect(copy) as database:
        database.execute("update gate set passed = 0")
    done = finished.place.run("verify", "--db", str(copy))
    assert done.returncode == ExitCode.VERIFICATION_FAILED
