"""``run`` and ``train`` as one of several processes (``torchrun``, ``accelerate launch``).

The first process does everything that is not training: it registers, evaluates, records, prints and reports. The others
load model and prompts, wait, and train along; they end when training does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from grpo_audit.cli import console
from grpo_audit.config.load import Resolved
from grpo_audit.errors import GrpoAuditError, RewardError
from grpo_audit.rewards.runner import RowReward

if TYPE_CHECKING:
    from grpo_audit_trainer.distributed import World  # importing it here would load torch for every command


class _NoRewards:
    """The reward sources run in the first process only."""

    def score(self, *_arguments: object, **_named: object) -> list[RowReward]:
        """Never called."""
        raise RewardError("Reward sources run in the first process only")


def is_first() -> bool:
    """Whether this process is the only one or the first, as its launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK", "0") == "0"


@contextmanager
def one_voice() -> Iterator[None]:
    """Inside, all processes but the first print nothing, and of an error only the first process to report it speaks."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if not is_first():
        console.err.quiet = console.out.quiet = True
    try:
        yield
    except GrpoAuditError as error:
        if not _speaks(str(error)):
            raise typer.Exit(error.exit_code) from None
        raise


def _speaks(message: str) -> bool:
    from grpo_audit_trainer.distributed import first_to_report, joined

    if joined():
        return first_to_report(message)
    return os.environ.get("LOCAL_RANK", "0") == "0"  # one voice a machine, before they know of each other


def follow(resolved: Resolved, world: World) -> None:
    """What every process but the first does. Raises what loading and training raise."""
    from grpo_audit.prompts.loading import load
    from grpo_audit_trainer.distributed import together
    from grpo_audit_trainer.loop import train
    from grpo_audit_trainer.policy import Policy
    from grpo_audit_trainer.snapshot import Snapshot, folder_of

    config = resolved.config
    prompts = load(config.prompts, resolved.base_dir)
    policy = Policy.load(config.model, resolved.base_dir, config.seed)
    with together(world):
        told = world.tell()  # until the first process has evaluated
    if told is None:  # nothing is left to train
        return
    folder = Path(config.record.folder) / told["run"]
    start = None if told["start"] is None else Snapshot.open(folder_of(folder, told["start"]))
    train(policy, prompts, _NoRewards(), config, folder=folder, start=start, world=world)
