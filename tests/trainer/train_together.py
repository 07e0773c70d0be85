"""One of several processes that train together: ``train_together.py FOLDER``, under torchrun or accelerate launch.

FOLDER/jobs.json is a list of runs, which are trained one after the other: a name, a configuration, and a snapshot
folder to start from. The first process writes FOLDER/NAME.json with what each step reported. What a process is to
suffer comes from the environment: DIE=RANK:STEP kills it by SIGKILL, FAIL=RANK:STEP raises a user error,
STRAY=RANK:STEP changes its weights.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from grpo_audit.config.run import RunConfig
from grpo_audit.errors import GrpoAuditError, TrainingError
from grpo_audit_trainer.distributed import World, first_to_report, join, leave
from grpo_audit_trainer.loop import StepOutcome, train
from grpo_audit_trainer.policy import load_policy
from grpo_audit_trainer.snapshot import Snapshot, save_model
from grpo_audit_trainer.update import Updater


def fixtures() -> Any:
    """Prompts and rewards of the trainer's tests."""
    place = Path(__file__).with_name("conftest.py")
    specification = importlib.util.spec_from_file_location("trainer_fixtures", place)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def accident(world: World) -> None:
    """Arrange what this process is to suffer before its first update of a step."""
    original = Updater.apply

    def apply(self: Updater, step: int) -> None:
        here = f"{world.rank}:{step}"
        if os.environ.get("DIE") == here:
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("FAIL") == here:
            raise TrainingError("A planted failure", next_step="Nothing")
        original(self, step)
        if os.environ.get("STRAY") == here:
            with torch.no_grad():
                self.parameters[0].add_(0.01)

    Updater.apply = apply  # type: ignore[method-assign]


def reported(outcome: StepOutcome) -> dict[str, Any]:
    """A step, for comparison."""
    return {
        "tokens": [rollout.token_ids.tolist() for rollout in outcome.rollouts],
        "rewards": [rollout.reward for rollout in outcome.rollouts],
        "advantages": [rollout.advantage for rollout in outcome.rollouts],
        "loss": [update.loss for update in outcome.updates],
        "grad_norm": [update.grad_norm for update in outcome.updates],
        "measured": outcome.kl is not None,
        "figures": [
            outcome.kl or 0.0,
            outcome.entropy,
            outcome.agreement,
            outcome.clip_high_share,
            outcome.clip_low_share,
        ],
        "fingerprint": outcome.fingerprint,
    }


def run(job: dict[str, Any], folder: Path, world: World) -> None:
    """Train one job; the first process writes FOLDER/NAME.json."""
    config = RunConfig.model_validate(job["config"], strict=False)
    name, start = job["name"], job.get("start")
    policy = load_policy(config.model, seed=config.seed)
    steps: list[dict[str, Any]] = []
    tests = fixtures()
    train(
        policy,
        tests.prompt_rows(),
        tests.LetterRewards() if world.first else None,
        config,
        folder=folder / name,
        start=None if start is None else Snapshot.open(Path(start)),
        on_step=lambda outcome: steps.append(reported(outcome)) if world.first else None,
        world=world,
    )
    if world.first:
        save_model(policy, folder / name / "model")
        told = {"steps": steps, "world": [world.size, world.strategy, world.backend]}
        (folder / f"{name}.json").write_text(json.dumps(told))


def main() -> None:
    """Command line."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    world = join("cpu")
    accident(world)
    for job in json.loads((folder / "jobs.json").read_text()):
        run(job, folder, world)
    leave()


if __name__ == "__main__":
    try:
        main()
    except GrpoAuditError as error:
        if first_to_report(str(error)):
            print(f"ERROR {os.environ.get('RANK')}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
