"""Real reward processes running real user files."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.config.sections import RewardConfig
from grpo_audit.rewards.runner import RewardRunner, RowReward


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RewardRunner]]:
    """Write ``rewards.py`` and start a runner for functions of it; all are closed at the end."""
    runners: list[RewardRunner] = []

    def start(code: str, *functions: str | dict[str, Any], **options: Any) -> RewardRunner:
        (tmp_path / "rewards.py").write_text(textwrap.dedent(code), encoding="utf-8")
        configs = [
            RewardConfig(**{"source": f"rewards.py:{item['name']}", **item})
            for item in ({"name": f} if isinstance(f, str) else f for f in functions or ("f",))
        ]
        runners.append(RewardRunner(configs, tmp_path, **options))
        return runners[-1]

    yield start
    for runner in runners:
        runner.close()


@pytest.fixture
def score() -> Callable[..., list[RowReward]]:
    """Score completions with one prompt each."""

    def score(runner: RewardRunner, completions: list[str], **columns: list[object]) -> list[RowReward]:
        return runner.score([f"prompt {i}" for i in range(len(completions))], completions, columns)

    return score


@pytest.fixture
def process_count() -> Callable[[], int]:
    """How many children this process has, guards of reward processes included."""

    def count() -> int:
        listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
        return sum("grpo_audit.rewards.worker" in line for line in listed.stdout.splitlines())

    return count
