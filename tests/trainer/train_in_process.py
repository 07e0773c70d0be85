"""Trains in a process of its own, to be killed: ``train_in_process.py FOLDER`` goes on from the newest snapshot and
prints each step. With KILL_BEFORE_UPDATE=N it kills itself, by SIGKILL, before its update number N (from 0)."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import torch

from grpo_audit.config.run import RunConfig
from grpo_audit_trainer.loop import train
from grpo_audit_trainer.policy import load_policy
from grpo_audit_trainer.snapshot import latest
from grpo_audit_trainer.update import Updater


def kill_before(update: int) -> None:
    """Count the updates of this process; at this one it dies without a chance to tidy up."""
    original, count = Updater.apply, iter(range(10**6))

    def apply(self: Updater, step: int) -> None:
        if next(count) == update:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, step)

    Updater.apply = apply  # type: ignore[method-assign]


def main() -> None:
    """Command line."""
    folder = Path(sys.argv[1])
    if "KILL_BEFORE_UPDATE" in os.environ:
        kill_before(int(os.environ["KILL_BEFORE_UPDATE"]))
    specification = importlib.util.spec_from_file_location("trainer_fixtures", Path(__file__).with_name("conftest.py"))
    assert specification is not None and specification.loader is not None
    fixtures = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(fixtures)
    torch.set_num_threads(1)
    config = RunConfig.model_validate_json((folder / "config.json").read_text())
    train(
        load_policy(config.model),
        fixtures.prompt_rows(),
        fixtures.LetterRewards(),
        config,
        folder=folder / "killed",
        start=latest(folder / "killed"),
        on_step=lambda outcome: print(f"step {outcome.step}", flush=True),
    )


if __name__ == "__main__":
    main()
