"""The pipeline through the program: what a run leaves behind."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from tiny_model import ARCHITECTURES, save_tiny_model

from grpo_audit.errors import ExitCode


def rows(finished, query: str) -> list[tuple]:
    """Ask the shared run's record."""
    with sqlite3.connect(f"file:{finished.place.folder / 'runs/record.db'}?mode=ro", uri=True) as connection:
        return connection.execute(query).fetchall()


def test_a_run_ends_verified_sealed_and_compared(finished) -> None:
    """`run --json` says that the record holds, is sealed, and compares every evaluation."""
    assert finished.outcome["verification"]["ok"] and finished.outcome["verification"]["sealed"]
    assert [task["task"] for task in finished.outcome["comparison"]["tasks"]] == ["echo"]


def test_standard_output_is_nothing_but_the_json(finished) -> None:
    """Progress goes to stderr, so that --json can be piped."""
    json.loads(finished.done.stdout)
    assert "registered run" in finished.done.stderr


def test_report_and_card_are_where_it_says(finished) -> None:
    """The paths it prints exist and hold the run's id."""
    for key in ("report", "model_card"):
        path = finished.place.folder / finished.outcome[key]
        assert finished.run_id in path.read_text(encoding="utf-8")


def test_errors_among_the_findings_are_on_the_screen(finished) -> None:
    """Different weights that gave the same answers throughout: the run ends with the error in sight."""
    rule = "evaluation-did-not-see-the-weights"
    assert rule in [error["rule"] for error in finished.outcome["errors"]]
    shown = finished.place.run("report", "--folder", str(finished.place.home / "again"))
    assert shown.returncode == 0 and f"ERROR  {rule}: The weights differ" in shown.stdout


def test_every_rollout_of_every_step_is_in_the_record(finished) -> None:
    """4 steps of 3 prompts and 4 completions are 48 rollouts, each with its text, trace and both rewards."""
    assert rows(finished, "select count(*), count(distinct step) from rollout") == [(48, 4)]
    kept = "select count(*) from content where name in ('completion', 'trace') and data is not null"
    assert rows(finished, kept) == [(96,)]
    assert rows(finished, "select count(*) from reward where source in ('vowels', 'length')") == [(96,)]


def test_registration_comes_before_everything_else(finished) -> None:
    """The first event of a run is its registration, before any evaluation or step."""
    kinds = rows(finished, f"select kind from event where run_id = '{finished.run_id}' order by seq")
    assert kinds[0] == ("run.registered",)
    assert kinds[-1] == ("run.sealed",)


def test_the_sources_of_rewards_are_in_the_record(finished) -> None:
    """Whoever has the record has the reward functions' text."""
    query = (
        "select content.data from artifact join content using (seq) "
        "where artifact.role = 'reward source' and content.name = 'text'"
    )
    assert {bytes(data) for (data,) in rows(finished, query)} == {(finished.place.folder / "rewards.py").read_bytes()}


def test_evaluation_answers_name_the_weights_they_come_from(finished) -> None:
    """Pre names the base model's digest, post the saved model's, and they differ."""
    found = dict(rows(finished, "select phase, weights_digest from eval_task"))
    assert found["pre"] == rows(finished, "select weights_digest from run")[0][0]
    assert found["pre"] != found["post"]
    assert rows(finished, "select count(*) from eval_sample") == [(24,)]


def test_the_same_recipe_gives_the_same_weights(finished, workplace, released) -> None:
    """Two runs of one recipe, in two folders, release bit-identical weights."""
    done = workplace.run("train", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    assert released(workplace.folder) == released(finished.place.folder)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "llama"])
def test_other_architectures_train_by_the_same_command(workplace, architecture: str) -> None:
    """Qwen2 and Gemma folders with a chat template train, seal and verify like the Llama one."""
    shutil.rmtree(workplace.folder / "model")
    template = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    save_tiny_model(workplace.folder / "model", architecture, chat_template=template)
    done = workplace.run("train", "recipe.yaml", "--set", "training.steps=2", "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    with sqlite3.connect(workplace.folder / "runs/record.db") as connection:
        prompts = connection.execute("select data from content where name = 'prompt'").fetchall()
    assert outcome["verification"]["sealed"]
    assert all(bytes(prompt).startswith(b"<u>Say ") for (prompt,) in prompts)


def test_a_dry_run_writes_nothing(workplace) -> None:
    """--dry-run prints a recipe that resolves to itself, and leaves no file behind."""
    done = workplace.run("run", "recipe.yaml", "--dry-run", "--set", "training.steps=7")
    assert done.returncode == 0 and "steps: 7" in done.stdout
    assert not (workplace.folder / "runs").exists()
    (workplace.folder / "resolved.yaml").write_text(done.stdout)
    again = workplace.run("run", "resolved.yaml", "--dry-run")
    assert again.stdout == done.stdout


def test_the_starter_recipe_resolves(workplace) -> None:
    """What init writes can be run: --dry-run accepts it, and init refuses to overwrite it."""
    assert workplace.run("init", "mine.yaml").returncode == 0
    assert workplace.run("run", "mine.yaml", "--dry-run").returncode == 0
    again = workplace.run("init", "mine.yaml")
    assert again.returncode == ExitCode.BAD_INPUT and "Refusing to overwrite" in again.stderr


def test_the_commands_that_read_agree_with_the_record(finished) -> None:
    """runs, show, report, compare and verify read the same run from the same record."""
    place, run_id = finished.place, finished.run_id
    assert [run["run_id"] for run in json.loads(place.run("runs", "--json").stdout)] == [run_id]
    steps = json.loads(place.run("show", run_id, "--json").stdout)["rows"]
    assert [step["step"] for step in steps] == [0, 1, 2, 3]
    rollouts = json.loads(place.run("show", "--step", "2", "--json").stdout)["rows"]
    assert len(rollouts) == 12 and all(row["prompt"].startswith("Say ") for row in rollouts)
    compared = json.loads(place.run("compare", "--json").stdout)
    assert compared["comparisons"][0]["comparison"] == finished.outcome["comparison"]
    assert json.loads(place.run("verify", "--json").stdout)["ok"]


def test_a_report_made_again_is_the_same_report(finished, tmp_path: Path) -> None:
    """Same record, same bytes."""
    done = finished.place.run("report", "--folder", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "MODEL_CARD.md"):
        assert (tmp_path / "again" / name).read_bytes() == (finished.folder / name).read_bytes()


def test_eval_gives_what_the_run_recorded(finished, tmp_path: Path) -> None:
    """`eval` on the base model's folder reports the figures that the run recorded before training."""
    done = finished.place.run("eval", "model", "--suite", "suite", "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    (task,) = json.loads(done.stdout)["tasks"]
    assert [(task["metrics"]["match"],)] == rows(finished, "select value from eval_task where phase = 'pre'")
    (samples,) = (tmp_path / "out").glob("samples_echo_*.jsonl")
    assert len(samples.read_text().splitlines()) == 12
