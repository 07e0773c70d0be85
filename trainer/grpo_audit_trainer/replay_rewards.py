"""The reward sources of a recorded run, to be run again: exactly the recorded code, or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from grpo_audit.config.sections import RewardConfig
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Artifact, EventKind, RewardIdentity
from grpo_audit.record.identity import bytes_digest, file_digest
from grpo_audit.rewards.runner import RewardRunner
from grpo_audit_trainer.replay_record import RunIndex

ROLE: Final = "reward source"


@contextmanager
def recorded_rewards(
    project: Project, index: RunIndex, recipe_folder: Path, *, run_recorded_code: bool
) -> Iterator[RewardRunner]:
    """The reward functions of a run. A ``.py`` file is taken from the recipe's folder when it has the recorded digest,
    else its recorded text is run, if ``run_recorded_code`` allows that; a module must be installed here with the
    recorded digest.

    Raises ConfigError when the code is not at hand, RewardError when it cannot be loaded.
    """
    identities = {item.name: item for item in index.registered.rewards}
    with tempfile.TemporaryDirectory(prefix="grpo-audit-rewards-") as name:
        configs = [
            _placed(project, index, config, identities.get(config.name), recipe_folder, Path(name), run_recorded_code)
            for config in index.config.rewards
        ]
        with RewardRunner(configs, recipe_folder) as runner:
            _check_digests(runner.identities(), identities)
            yield runner


def _placed(
    project: Project,
    index: RunIndex,
    config: RewardConfig,
    identity: RewardIdentity | None,
    recipe_folder: Path,
    folder: Path,
    run_recorded_code: bool,
) -> RewardConfig:
    """The source as the runner shall load it."""
    if identity is None:
        raise ConfigError(f"Run {index.run_id} registered no source of the reward {config.name}")
    file, _, function = config.source.rpartition(":")
    if not file.endswith(".py") or _has_digest(recipe_folder / file, identity.source_digest):
        return config
    if not run_recorded_code:
        raise ConfigError(
            f"Reward {config.name}: {file} is not at hand with the recorded digest {identity.source_digest}",
            next_step="Name its folder with --recipe-folder; or, once you have read the recorded text (artifact "
            f"{ROLE!r}), let it run with --run-recorded-code",
        )
    text = _recorded_text(project, index, config.name)
    if text is None or bytes_digest(text) != identity.source_digest:
        raise ConfigError(
            f"Reward {config.name}: its source text in the record is {'erased' if text is None else 'another one'}",
            found="none" if text is None else bytes_digest(text),
            expected=identity.source_digest,
            next_step="Name the folder of the file with --recipe-folder",
        )
    path = folder / config.name / "source.py"
    path.parent.mkdir()
    path.write_bytes(text)
    return config.model_copy(update={"source": f"{path}:{function}"})


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return file_digest(path) == digest
    except (OSError, ValueError):  # not there, or a name no file can have
        return False


def _recorded_text(project: Project, index: RunIndex, name: str) -> bytes | None:
    for event in project.events(index.run_id, kinds={EventKind.ARTIFACT}):
        if isinstance(event.payload, Artifact) and event.payload.role == ROLE and event.payload.name == name:
            return project.content(event.seq, "text")
    return None


def _check_digests(found: Sequence[RewardIdentity], recorded: dict[str, RewardIdentity]) -> None:
    for item in found:
        if item.source_digest != recorded[item.name].source_digest:
            raise ConfigError(
                f"Reward {item.name} ({recorded[item.name].source}) is installed here in another version",
                found=item.source_digest,
                expected=recorded[item.name].source_digest,
                next_step="Install the version that the run registered",
            )
