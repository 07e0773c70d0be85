"""Everything that can be wrong is looked at before anything is written: model, prompts, rewards, suite, disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpo_audit
from grpo_audit.cli.audits import refuse_impossible
from grpo_audit.config.formula import manifest
from grpo_audit.config.load import Resolved
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import StorageError
from grpo_audit.ledger.store import sqlite_path
from grpo_audit.preflight.facts import Facts, of_model
from grpo_audit.prompts.loading import PromptSet, load
from grpo_audit.record.environment import environment
from grpo_audit.record.events import EvaluationPlan, ModelIdentity, RunRegistered
from grpo_audit.record.identity import model_identity
from grpo_audit.rewards.regrade import SecondVerifier
from grpo_audit.rewards.runner import RewardRunner
from grpo_audit_evals.suite import Suite, load_suite
from grpo_audit_trainer.distributed import World
from grpo_audit_trainer.policy import Policy, accelerator, resolve_folder


@dataclass(frozen=True)
class Prepared:
    """What a run needs, checked."""

    resolved: Resolved
    policy: Policy
    model: ModelIdentity
    model_folder: Path
    prompts: PromptSet
    rewards: RewardRunner
    suite: Suite | None
    world: World = field(default_factory=World)
    """The processes that train together; this one is the first."""
    seconds: Sequence[SecondVerifier] = ()
    """The second verifiers of the reward sources."""

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return self.resolved.config

    @property
    def plan(self) -> EvaluationPlan | None:
        """The evaluation plan, fixed before step 0."""
        return self.suite.plan if self.suite else None


@contextmanager
def prepare(resolved: Resolved, world: World | None = None) -> Iterator[Prepared]:
    """Load and check all parts; the reward processes end with the context.

    Raises the error of the first part that cannot be used. Nothing has been written by then.
    """
    config = resolved.config
    prompts = load(config.prompts, resolved.base_dir)
    folder = resolve_folder(config.model, resolved.base_dir)
    model = model_identity(folder, source=config.model.path, revision=config.model.revision)
    _check_storage(config, model)
    suite = load_suite(config.evaluation, resolved.base_dir) if config.evaluation.suite else None
    policy = Policy.load(config.model, resolved.base_dir, config.seed)
    policy.check_prompts(prompts.rows, config.sampling)
    seconds = refuse_impossible(config, prompts, suite.plan if suite else None, resolved.base_dir)
    with RewardRunner(config.rewards, resolved.base_dir) as rewards:
        yield Prepared(resolved, policy, model, folder, prompts, rewards, suite, world or World(), seconds)


def facts(prepared: Prepared) -> Facts:
    """What the preflight rules can know now that everything is loaded."""
    config, resolved = prepared.config, prepared.resolved
    return replace(
        of_model(config.model, resolved.base_dir, prepared.model_folder),
        prompts=len(prepared.prompts.rows),
        parameters=prepared.model.parameters,
        parameters_source="",
        device=prepared.policy.device.type,
    )


def registration(prepared: Prepared) -> RunRegistered:
    """The event that fixes everything before step 0."""
    config, resolved, world = prepared.config, prepared.resolved, prepared.world
    adapter = prepared.policy.adapter
    machine = replace(accelerator(), processes=world.size, strategy=world.strategy, backend=world.backend)
    return RunRegistered(
        name=config.name,
        tool=f"grpo-audit {grpo_audit.__version__}",
        config=config.model_dump(mode="json"),
        preset=config.preset,
        preset_source=resolved.preset.source,
        preset_differences=list(resolved.differences),
        formula=manifest(config.objective, config.sampling),
        model=prepared.model,
        reference=_reference(config, prepared.model),
        rewards=prepared.rewards.identities(),
        prompts=prepared.prompts.identity,
        evaluation=prepared.plan,
        environment=environment(machine),
        adapter=None if adapter is None else adapter.identity,
        seconds=[second.identity for second in prepared.seconds],
    )


def _reference(config: RunConfig, model: ModelIdentity) -> str:
    kl = config.objective.kl
    text = f"initial weights of this run, {model.weights_digest}"
    if config.model.lora is not None:
        text += ", the adapters switched off"
    if kl.beta == 0:
        return f"{text}; beta is 0, so it is only measured against"
    if kl.replace_reference_every:
        return (
            f"{text}; replaced by the policy every {kl.replace_reference_every} steps, whose snapshot names its digest"
        )
    return text


RECORD_BYTES = 10_000_000
"""Room a record needs at the least; a demonstration's takes about 20 MB."""


def _check_storage(config: RunConfig, model: ModelIdentity) -> None:
    """Snapshots hold weights and two moments in float32; refuse to start what cannot be kept."""
    weights = model.parameters * 4
    kept = 0 if config.model.lora is not None else 3 * (config.training.keep_snapshots + 1)  # adapters are small
    record = sqlite_path(config.record.db)
    if record is not None:  # PostgreSQL's room is its server's
        _check_place(record.parent, RECORD_BYTES, "record.db")
    _check_place(Path(config.record.folder), weights * (kept + 1), "record.folder")


def _check_place(place: Path, needed: int, setting: str) -> None:
    existing = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written",
            found=error.strerror or str(error),
            next_step=f"Choose another place with --set {setting}=PATH",
        ) from error
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StorageError(
            f"Too little space in {place}",
            found=f"{free / 1e6:,.1f} MB free",
            expected=f"{needed / 1e6:,.1f} MB",
            next_step=f"Free some space, or choose another disk with --set {setting}=PATH",
        )
