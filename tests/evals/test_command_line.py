"""``grpo-audit eval`` beside lm-eval's own command: the same folder and tasks, the same files, the same scores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from grpo_audit.cli.app import app
from grpo_audit.record.identity import bytes_digest, weights_digest

from .conftest import ASSETS, save_tiny_model

TASKS = ["tiny_choice", "tiny_filters", "tiny_generate", "tiny_likelihood"]
OWN = "grpo_audit"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answers from another test, and no look at the network."""
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny suite without F1, on whose aggregation lm-eval's command crashes after the last answer (trap 7)."""
    target = Path(shutil.copytree(ASSETS / "tiny", tmp_path / "suite"))
    path = target / "tiny_choice.yaml"
    text = path.read_text()
    path.write_text(text.replace("  - metric: f1\n    higher_is_better: true\n", ""))
    return target


def ours(*arguments: object) -> Result:
    """Our command, in this process."""
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def lm_eval(model: Path, suite: Path, out: Path, *more: str) -> None:
    """lm-eval's command, as its users type it. It takes relative data files from the current directory (trap 6)."""
    command = [str(Path(sys.executable).parent / "lm_eval"), "run", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--batch_size", "5", "--tasks", ",".join(TASKS)]
    command += ["--include_path", str(suite), "--log_samples", "--output_path", str(out), *more]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HOME": str(out.parent / "hf")}
    done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def results(folder: Path) -> dict[str, Any]:
    """The one file of results below a folder."""
    (path,) = folder.glob("**/results_*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """The one file of samples of a task below a folder."""
    (path,) = folder.glob(f"**/samples_{task}_2*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow  # lm-eval reads the names of all its tasks, in a process of its own
@pytest.mark.parametrize("chat", [False, True])
def test_the_command_of_lm_eval_writes_the_same_samples_and_scores(folder: Path, tmp_path: Path, chat: bool) -> None:
    """Generation, likelihoods and multiple choice, with and without chat template: every field of every sample is the
    same, hashes included (log-likelihoods to 1e-3), and so are the aggregated scores with their standard errors."""
    model = save_tiny_model(tmp_path / "model", seed=3, chat=True)
    lm_eval(model, folder, tmp_path / "theirs", *(["--apply_chat_template"] if chat else []))
    template = "auto" if chat else "never"
    done = ours(model, "--suite", folder, "--out", tmp_path / "ours", "--chat-template", template, "--batch-size", 7)
    assert done.exit_code == 0, done.output
    texts = set()
    for task in TASKS:
        mine, theirs = samples(tmp_path / "ours", task), samples(tmp_path / "theirs", task)
        assert len(mine) == len(theirs) >= 24
        for one, other in zip(mine, theirs, strict=True):
            assert list(one) == [*other, OWN]
            likelihood = task in ("tiny_choice", "tiny_likelihood")
            for key in other:
                if key == "brier_score" or (likelihood and key in ("resps", "filtered_resps")):
                    assert _flat(one[key]) == pytest.approx(_flat(other[key]), abs=1e-3)
                else:
                    assert one[key] == other[key], (task, key)
            texts.add(str(other["resps"]))
    assert len(texts) > 60
    mine, theirs = results(tmp_path / "ours"), results(tmp_path / "theirs")
    for task in TASKS:
        assert mine["results"][task].keys() == theirs["results"][task].keys()
        for key, value in theirs["results"][task].items():
            if key != "brier_score_stderr,none":  # bootstrapped there
                assert mine["results"][task][key] == (pytest.approx(value) if isinstance(value, float) else value), key
    for key in ("task_hashes", "n-samples", "n-shot", "versions", "higher_is_better", "group_subtasks"):
        assert mine[key] == theirs[key], key
    for key in (
        "chat_template",
        "chat_template_sha",
        "fewshot_as_multiturn",
        "lm_eval_version",
        "transformers_version",
    ):
        assert mine[key] == theirs[key] or (key, chat) == ("fewshot_as_multiturn", False), key
    assert mine["configs"].keys() == theirs["configs"].keys()
    for task in TASKS:
        assert mine["configs"][task].keys() == theirs["configs"][task].keys()
    assert theirs.keys() - mine.keys() <= {
        "git_hash",
        "pretty_env_info",
        "upper_git_hash",
        "eot_token_id",
        "max_length",
    }


def _flat(value: Any) -> list[float]:
    """The numbers in a nested list of texts; True and False as 1 and 0. An array is one text in lm-eval's files."""
    if isinstance(value, list):
        return [number for item in value for number in _flat(item)]
    return [
        float(word == "True") if word in ("True", "False") else float(word) for word in str(value).strip("[]").split()
    ]


def test_our_own_fields_stand_beside_lm_evals(folder: Path, tmp_path: Path) -> None:
    """Digests of weights and protocol, the protocol in full, our own document ids, raw answers: under one key."""
    model = save_tiny_model(tmp_path / "model", seed=3)
    done = ours(model, "--suite", folder, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    own = results(tmp_path / "out")[OWN]
    assert json.loads(done.stdout) == own
    assert own["model"]["weights_digest"] == weights_digest(model)
    assert own["plan"]["protocol_digest"] == bytes_digest((tmp_path / "out/protocol.json").read_bytes())
    for number, row in enumerate(samples(tmp_path / "out", "tiny_generate")):
        assert (row["doc_id"], row[OWN]["doc_id"]) == (number, f"p{number:02d}")
        assert row[OWN]["prompt_hash"] == f"sha256:{row['prompt_hash']}"
        assert row[OWN]["response"].replace("<pad>", "").startswith(row["resps"][0][0])


def test_a_second_time_the_answers_are_there_already(folder: Path, tmp_path: Path) -> None:
    """The same command again says how many answers it had, and prints the same; --no-cache keeps and reads nothing."""
    model = save_tiny_model(tmp_path / "model", seed=3)
    first = ours(model, "--suite", folder)
    second = ours(model, "--suite", folder)
    assert "96 of 96 documents had been answered before" in " ".join(second.stderr.split())
    assert "answered before" not in first.stderr and first.stdout == second.stdout
    shutil.rmtree(tmp_path / "home")
    third = ours(model, "--suite", folder, "--no-cache")
    assert third.stdout == first.stdout
    assert not (tmp_path / "home").exists()


def test_progress_goes_to_stderr_and_names_task_rate_and_time_left(folder: Path, tmp_path: Path) -> None:
    """With --json the standard output is JSON alone."""
    model = save_tiny_model(tmp_path / "model", seed=3)
    done = ours(model, "--suite", folder, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)
    assert "evaluate: 96/96  tiny_likelihood 24/24" in done.stderr
    assert "documents/s" in done.stderr and "0 s left" in done.stderr


def test_a_sampled_task_shows_avg_and_pass_at_k(folder: Path, tmp_path: Path) -> None:
    """In the table avg@k with pass@k beside it; in the files lm-eval's keys with a number each, and every value under
    our own key."""
    path = folder / "tiny_filters.yaml"
    path.write_text(path.read_text().replace("temperature: 0.0", "temperature: 1.0") + "repeats: 4\n")
    model = save_tiny_model(tmp_path / "model", seed=3)
    done = ours(model, "--suite", folder, "--task", "tiny_filters", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "avg@4" in done.stdout and "pass@4" in done.stdout
    found = results(tmp_path / "out")["results"]["tiny_filters"]
    assert {"exact_match,strict", "exact_match,loose", "exact_match pass@2,loose"} <= found.keys()
    for row in samples(tmp_path / "out", "tiny_filters"):
        assert len(row["resps"][0]) == len(row["filtered_resps"][0]) == 4
        values = row[OWN]["values"]["exact_match"]
        assert len(values) == 4 and isinstance(row["exact_match"], float)
    assert found["exact_match,loose"] <= found["exact_match pass@4,loose"]


def test_task_names_cannot_leave_the_folder(folder: Path, tmp_path: Path) -> None:
    """A task called like a path, or like markup, is a name on the screen and in the file name."""
    path = folder / "tiny_generate.yaml"
    path.write_text(path.read_text().replace("task: tiny_generate", 'task: "../[red]x"'))
    model = save_tiny_model(tmp_path / "model", seed=3)
    done = ours(model, "--suite", folder, "--task", "../[red]x", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "../[red]x" in done.stdout
    assert len(list((tmp_path / "out").glob("samples_.*.jsonl"))) == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == ["home", "model", "out", "suite"]


def test_existing_folders_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """One line that says to name a new folder."""
    done = ours("builtin", "--out", tmp_path)
    assert done.exit_code != 0
    assert done.exception is not None and "Refusing to write into" in str(done.exception)
