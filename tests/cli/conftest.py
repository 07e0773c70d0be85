"""One tiny run, made once through the program itself, that the command-line tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_model import save_tiny_model

RECIPE = """\
name: tiny
preset: grpo
seed: 3
model: {path: model, device: cpu}
prompts: {source: prompts.jsonl}
rewards:
  - {name: vowels, source: "rewards.py:vowels", second: "second.py:vowels"}
  - {name: length, source: "rewards.py:length", role: shadow}
sampling: {prompts_per_step: 3, group_size: 4, max_completion_tokens: 8, max_prompt_tokens: 32}
training: {steps: 4, learning_rate: 0.002, snapshot_every: 1, keep_snapshots: 2}
evaluation: {suite: suite, batch_size: 8}
probes: {rows: 3, threshold: 0.25}
gates:
  - {name: it was compared, figure: "eval.*.verdict", one_of: [improved, regressed, inconclusive,
     no regression beyond the margin, no discordant pairs]}
  - {name: second verifier, figure: regrade.vowels.only_first_share, at_most: 0.0}
"""
SECOND = """\
def vowels(completions, **_):
    return [len([char for char in text if char in "uoiea"]) / 8 for text in completions]
"""
REWARDS = """\
def vowels(completions, **_):
    return [sum(char in "aeiou" for char in text) / 8 for text in completions]

def length(completions, **_):
    return [len(text) for text in completions]
"""
TASK = """\
task: echo
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{target}}"
target_delimiter: ""
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
process_results: !function scoring.starts_like
metric_list: [{metric: match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1, behaviour: task performance, primary_metric: match, higher_is_better: true, safety: false}
"""
SCORING = """\
def starts_like(doc, results):
    return {"match": float(len(results[0]) % 2 == len(doc["target"]) % 2)}
"""


@dataclass(frozen=True)
class Workplace:
    """A folder with a recipe, and the program run in it."""

    folder: Path
    home: Path

    def environment(self) -> dict[str, str]:
        """Own keys, one thread, no network."""
        return os.environ | {
            "GRPO_AUDIT_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``grpo-audit`` here."""
        command = [sys.executable, "-m", "grpo_audit", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=300, check=False
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``grpo-audit`` here and do not wait."""
        command = [sys.executable, "-m", "grpo_audit", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a shell's background jobs ignore Ctrl-C, and so would everything they start; these tests may be one
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def edit(self, name: str, old: str, new: str) -> None:
        """Change a file; the old text must be there."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def furnish(folder: Path, architecture: str = "llama") -> None:
    """Write model, prompts, rewards, suite and recipe."""
    save_tiny_model(folder / "model", architecture)
    words = ("one", "two", "three", "four", "five")
    rows = [{"id": f"p{index}", "prompt": f"Say {word}: "} for index, word in enumerate(words)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "second.py").write_text(SECOND)
    (folder / "recipe.yaml").write_text(RECIPE)
    suite = folder / "suite"
    suite.mkdir()
    (suite / "echo.yaml").write_text(TASK)
    (suite / "scoring.py").write_text(SCORING)
    documents = [
        {"id": f"d{index}", "prompt": f"{index} and {index * 7}: ", "target": "x" * index, "cluster": f"c{index}"}
        for index in range(12)
    ]
    (suite / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """A furnished folder of this test's own."""
    place = Workplace(tmp_path / "work", tmp_path / "home")
    place.folder.mkdir()
    furnish(place.folder)
    return place


@dataclass(frozen=True)
class Finished:
    """The shared run."""

    place: Workplace
    done: subprocess.CompletedProcess[str]
    outcome: dict[str, Any]

    @property
    def run_id(self) -> str:
        """Its id."""
        return str(self.outcome["run"])

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.place.folder / "runs" / self.run_id


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One whole run of the program. Tests read it; what they change they copy first."""
    base = tmp_path_factory.mktemp("finished")
    place = Workplace(base / "work", base / "home")
    place.folder.mkdir()
    furnish(place.folder)
    done = place.run("run", "recipe.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return Finished(place, done, json.loads(done.stdout))


@pytest.fixture
def released() -> Callable[[Path], str]:
    """Digest of the released weights in a work folder that holds one run."""
    from grpo_audit.record.identity import weights_digest

    def digest(folder: Path) -> str:
        (model,) = (folder / "runs").glob("*/model")
        return weights_digest(model)

    return digest
