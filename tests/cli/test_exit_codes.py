"""Every row of the README's table of exit codes, by the program itself; and one line for every bad input."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from tiny_model import byte_tokenizer, save_tiny_model

from grpo_audit.errors import ExitCode
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import EvalSample, EventKind

README = Path(__file__).parents[2] / "README.md"


def one_line(done, code: ExitCode, *parts: str) -> None:
    """The program ended with this code, one line from us, no traceback, and nothing on standard output."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("grpo-audit: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[0], lines[0]


def copied(finished, tmp_path: Path):
    """The shared run's folder, to be damaged."""
    shutil.copytree(finished.place.folder, tmp_path / "copy")
    return type(finished.place)(tmp_path / "copy", finished.place.home)


def test_the_readme_table_is_the_enumeration() -> None:
    """README and code list the same exit codes."""
    table = re.findall(r"^\| `?(\d+)`? \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(code) for code in table] == [int(code) for code in ExitCode]


def test_0_intact_and_sealed(finished) -> None:
    """verify of an untouched, finished run."""
    done = finished.place.run("verify")
    assert done.returncode == ExitCode.OK and "VERIFIED" in done.stdout


@pytest.mark.parametrize(
    "attack",
    [
        "update rollout set reward = 1.0 where seq = (select min(seq) from rollout)",
        "delete from event where seq = 7",
        "update event set body = cast(replace(cast(body as text), 'vowels', 'vowelz') as blob) where kind = 'rollout'",
        "update content set data = x'00' where name = 'completion'",
        "delete from checkpoint",
    ],
)
def test_1_changed(finished, tmp_path: Path, attack: str) -> None:
    """verify of a record in which something was edited or deleted."""
    place = copied(finished, tmp_path)
    with sqlite3.connect(place.folder / "runs/record.db") as connection:
        assert connection.execute(attack).rowcount != 0
    connection.close()
    done = place.run("verify")
    assert done.returncode == ExitCode.VERIFICATION_FAILED and "NOT INTACT" in done.stdout


def test_1_truncated_with_its_checkpoints(finished, tmp_path: Path) -> None:
    """Cutting the newest events with everything derived from them is found by the head this machine remembers."""
    place = copied(finished, tmp_path)
    with sqlite3.connect(place.folder / "runs/record.db") as connection:
        cut = connection.execute("select max(size) from checkpoint where size < (select max(size) from checkpoint)")
        size = cut.fetchone()[0]
        tables = connection.execute(
            "select name from sqlite_master "
            "where type = 'table' and name not like 'sqlite%' and name not like 'alembic%'"
        ).fetchall()
        for (name,) in tables:
            column = "size >" if name in ("checkpoint", "witness") else "seq >="
            connection.execute(f'delete from "{name}" where {column} {size}')
    connection.close()
    done = place.run("verify")
    assert done.returncode == ExitCode.VERIFICATION_FAILED, done.stdout
    assert "remembered head" in done.stdout


def test_1_other_weights(finished, tmp_path: Path) -> None:
    """verify finds released weights that are not the recorded ones."""
    place = copied(finished, tmp_path)
    weights = place.folder / "runs" / finished.run_id / "model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = place.run("verify")
    assert done.returncode == ExitCode.VERIFICATION_FAILED and "files" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "training.stepz=3"], ["training.stepz", "steps"]),
        (["--set", "training.steps=many"], ["training.steps", "many"]),
        (["--set", "training.warmup_steps=9"], ["warmup_steps", "larger"]),
        (["--set", "model.path=nowhere/at/all"], ["nowhere/at/all", "model.path"]),
        (["--set", "prompts.source=absent.jsonl"], ["absent.jsonl"]),
        (["--set", "rewards.0.source=rewards.py:absent"], ["absent"]),
        (["--set", "evaluation.suite=nosuite"], ["nosuite"]),
        (["--set", "preset=gppo"], ["gppo", "grpo"]),
    ],
    ids=["unknown-key", "wrong-type", "contradiction", "model", "prompts", "reward", "suite", "preset"],
)
def test_2_bad_input(workplace, arguments: list[str], parts: list[str]) -> None:
    """Each mistake in a recipe is one line that names it, and nothing is written."""
    one_line(workplace.run("run", "recipe.yaml", *arguments), ExitCode.BAD_INPUT, *parts)
    assert not (workplace.folder / "runs").exists()


def test_2_not_a_causal_lm(workplace) -> None:
    """An encoder is named as such."""
    config = workplace.folder / "model/config.json"
    settings = json.loads(config.read_text()) | {"architectures": ["BertModel"], "model_type": "bert"}
    config.write_text(json.dumps(settings))
    one_line(workplace.run("train", "recipe.yaml"), ExitCode.BAD_INPUT, "not a causal language model", "BertModel")


def test_2_a_tokenizer_without_end(workplace) -> None:
    """A tokenizer without pad and end token is named, with the file to mend."""
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(workplace.folder / "model")
    one_line(workplace.run("train", "recipe.yaml"), ExitCode.BAD_INPUT, "no end token", "tokenizer_config.json")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["empty"]),
        ('{"prompt": "a"}\n{"prompt": \n', ["prompts.jsonl", "2"]),
        ('{"question": "a"}\n', ["prompt", "question"]),
    ],
    ids=["empty", "malformed", "column"],
)
def test_2_bad_prompts(workplace, text: str, parts: list[str]) -> None:
    """An empty or malformed prompt file is named with its line; a missing column with those there are."""
    (workplace.folder / "prompts.jsonl").write_text(text)
    one_line(workplace.run("train", "recipe.yaml"), ExitCode.BAD_INPUT, *parts)


def test_2_a_reward_that_fails_on_every_row(workplace) -> None:
    """When no completion of a step can be rewarded, training stops and says what the function said."""
    workplace.edit("rewards.py", "return [sum", "raise ValueError('no such thing')\n    return [sum")
    one_line(workplace.run("train", "recipe.yaml"), ExitCode.BAD_INPUT, "vowels", "no such thing")


def test_a_row_on_which_a_reward_fails_is_recorded_and_left_out(workplace) -> None:
    """NaN or a raise on single rows costs those rows; training goes on, and the record says why."""
    (workplace.folder / "rewards.py").write_text(
        "def vowels(completions, **_):\n"
        "    values = []\n"
        "    for text in completions:\n"
        "        kind = (len(text) + sum(map(ord, text))) % 7\n"
        "        if kind == 0: values.append(float('nan'))\n"
        "        elif kind == 1: raise ValueError('planted')\n"
        "        else: values.append(kind / 7)\n"
        "    return values\n"
    )
    workplace.edit("recipe.yaml", '  - {name: length, source: "rewards.py:length", role: shadow}\n', "")
    done = workplace.run("train", "recipe.yaml", "--set", "sampling.prompts_per_step=5")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(workplace.folder / "runs/record.db") as connection:
        left_out = connection.execute("select count(*) from rollout where not used and reason != ''").fetchone()[0]
        errors = connection.execute("select error from reward where error is not null").fetchall()
        advantages = connection.execute(
            "select max(abs(advantage)) from rollout join reward using (seq) where error is not null"
        ).fetchone()[0]
    assert left_out >= len(errors) > 0
    assert {"planted" in text or "nan" in text.lower() for (text,) in errors} == {True}
    assert advantages == 0


def test_3_unfinished(workplace) -> None:
    """verify of a run that was killed: intact, but nobody vouches for its end."""
    process = workplace.start("train", "recipe.yaml", "--set", "training.steps=500")
    wait_for_steps(workplace.folder / "runs/record.db", 2)
    process.kill()
    process.communicate()
    done = workplace.run("verify")
    assert done.returncode == ExitCode.UNSEALED and "UNFINISHED" in done.stdout, done.stdout + done.stderr


def wait_for_steps(record: Path, count: int, seconds: float = 60) -> None:
    """Until the record holds that many steps."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if record.exists():
            try:
                with sqlite3.connect(f"file:{record}?mode=ro", uri=True) as connection:
                    if connection.execute("select count(*) from step").fetchone()[0] >= count:
                        return
            except sqlite3.OperationalError:
                pass  # the tables are not there yet
        time.sleep(0.05)
    raise AssertionError(f"no {count} steps within {seconds} s")


def test_4_regressed(finished, tmp_path: Path) -> None:
    """compare ends with 4 when a behaviour got worse: here every right answer of the shared run became a wrong one."""
    kinds = {EventKind.RUN_REGISTERED, EventKind.EVAL_SAMPLE, EventKind.EVAL_TASK}
    events = []
    with Project.open(finished.place.folder / "runs/record.db", mode="read") as source:
        for event in source.events(finished.run_id, kinds=kinds):
            payload = event.payload
            if isinstance(payload, EvalSample):
                payload = payload.model_copy(update={"metrics": {"match": float(payload.phase == "pre")}})
            content = {name: source.content(event.seq, name) for name in event.content}
            events.append(NewEvent(payload, finished.run_id, content))
    with Project.open(tmp_path / "worse.db", mode="create") as target:
        target.append(events)
    done = finished.place.run("compare", "--db", str(tmp_path / "worse.db"), "--examples", "1")
    assert done.returncode == ExitCode.REGRESSED, done.stderr
    assert "regressed" in done.stdout and "lost" in done.stdout


def test_5_no_record(workplace) -> None:
    """A record that is not there is a storage error with the way out."""
    one_line(workplace.run("verify"), ExitCode.STORAGE, "runs/record.db")


def test_5_two_writers(workplace) -> None:
    """A record that another process is writing is refused, naming the process."""
    process = workplace.start("train", "recipe.yaml", "--set", "training.steps=500")
    try:
        wait_for_steps(workplace.folder / "runs/record.db", 1)
        one_line(workplace.run("train", "recipe.yaml"), ExitCode.STORAGE, str(process.pid))
    finally:
        process.kill()
        process.communicate()


def test_5_a_newer_record(finished, tmp_path: Path) -> None:
    """A record of a newer schema is refused by every command."""
    place = copied(finished, tmp_path)
    with sqlite3.connect(place.folder / "runs/record.db") as connection:
        connection.execute("update alembic_version set version_num = '0099'")
    connection.close()
    one_line(place.run("verify"), ExitCode.STORAGE, "Upgrade grpo-audit")
    one_line(place.run("train", "recipe.yaml"), ExitCode.STORAGE, "Upgrade grpo-audit")


def test_6_training_stopped(workplace) -> None:
    """When sampler and scorer disagree by more than the tolerance, step 0 stops, and the record says so."""
    done = workplace.run("train", "recipe.yaml", "--set", "training.agreement_tolerance=1.0e-15")
    one_line(done, ExitCode.TRAINING_STOPPED, "Sampler and scorer disagree", "agreement_tolerance")
    with sqlite3.connect(workplace.folder / "runs/record.db") as connection:
        assert connection.execute("select state from run_state order by seq desc limit 1").fetchone() == ("aborted",)


def test_130_interrupted(workplace) -> None:
    """Ctrl-C ends with one line that says how to go on."""
    process = workplace.start("train", "recipe.yaml", "--set", "training.steps=500")
    wait_for_steps(workplace.folder / "runs/record.db", 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "run --resume" in errors and "Traceback" not in errors


def test_other_weights_than_registered_cannot_be_resumed(workplace) -> None:
    """A run goes on with what was registered before step 0, or not at all."""
    process = workplace.start("train", "recipe.yaml", "--set", "training.steps=500")
    wait_for_steps(workplace.folder / "runs/record.db", 1)
    process.kill()
    process.communicate()
    shutil.rmtree(workplace.folder / "model")
    save_tiny_model(workplace.folder / "model", seed=1)
    one_line(workplace.run("run", "--resume"), ExitCode.BAD_INPUT, "base model weights changed")
