"""Level L3: a step is executed again, from the nearest snapshot before it, and must end at the recorded weights.

Every step on the way is compared with the record: the tokens and rewards of its rollouts, and the fingerprint of the
weights after it; where a snapshot was taken at the end, the digest of all weights. On like hardware with like
libraries everything must be bitwise the same. Elsewhere float rounding flips near-ties and sums in another order, so
the weights are compared by ``|found - recorded| / |recorded - start|`` (Euclidean norms over all tensors), and that
number is stated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from grpo_audit.errors import ConfigError, ModelError
from grpo_audit.ledger.project import Project
from grpo_audit.prompts.loading import PromptSet, load
from grpo_audit.record.environment import environment
from grpo_audit.record.events import Environment, Rollout, Step
from grpo_audit_trainer import loop, replay_record
from grpo_audit_trainer.execution import accelerator
from grpo_audit_trainer.outcome import StepOutcome
from grpo_audit_trainer.replay_record import Erased, Malformed, Place, RunIndex
from grpo_audit_trainer.replay_rewards import recorded_rewards
from grpo_audit_trainer.replay_weights import WeightsAtHand, checked_snapshot, find_weights, load_for_replay
from grpo_audit_trainer.snapshot import Snapshot

UPDATE_TOLERANCE: Final = 0.05
"""Largest relative error of the update on other hardware. A judgement, not a measurement."""


class Agreement(StrEnum):
    """How the weights at the end compare."""

    BITWISE = "bitwise"
    WITHIN = "within tolerance"
    DIFFERENT = "different"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, slots=True)
class StepCheck:
    """One step that was executed again."""

    step: int
    fingerprint: str
    recorded_fingerprint: str
    rollouts: int
    """Rollouts that could be compared."""
    same_tokens: int
    same_rewards: int
    erased: int
    """Rollouts whose recorded tokens are erased."""
    first_difference: str
    """The first rollout that came out otherwise; empty when none did."""

    @property
    def ok(self) -> bool:
        """Whether everything was the same."""
        return (
            self.fingerprint == self.recorded_fingerprint
            and self.same_tokens == self.rollouts
            and self.same_rewards == self.rollouts + self.erased
        )


@dataclass(frozen=True, slots=True)
class ExecutionReport:
    """The verdict of level L3."""

    run_id: str
    sealed: bool
    step: int
    start: int
    """Steps done in the snapshot it started from; 0 is the base model."""
    other_hardware: list[str]
    """How this machine differs from the recorded one; empty for like hardware."""
    steps: list[StepCheck]
    weights_digest: str | None
    """After the step; taken where a snapshot was recorded there."""
    recorded_weights_digest: str | None
    update_error: float | None
    """|found - recorded| / |recorded - start|; None when it was not needed or could not be measured."""
    agreement: Agreement
    reasons: list[str]
    notes: list[str] = field(default_factory=list)
    level: str = "L3"

    @property
    def ok(self) -> bool:
        """Whether the recorded weights came out."""
        return self.agreement in (Agreement.BITWISE, Agreement.WITHIN) and not self.reasons


def reexecute(
    project: Project,
    run_id: str,
    step: int,
    *,
    run_folder: Path,
    recipe_folder: Path,
    model: Path | None = None,
    run_recorded_code: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExecutionReport:
    """Execute ``step`` (from 0) again; the folders are those of ``replay.replay``.

    ``run_recorded_code``: reward functions that are not at hand are run from their recorded text. Raises ConfigError
    (unknown step, other prompts or rewards at hand), ModelError (base model not at hand), VerificationError (a snapshot
    is not the recorded one), TrainingError and RewardError as training does.
    """
    index = replay_record.read_index(project, run_id)
    recorded = replay_record.read_steps(project, index)
    if step not in recorded:
        raise ConfigError(f"Run {run_id} has no step {step}", next_step="grpo-audit show lists the steps")
    weights = find_weights(index, run_folder, recipe_folder, model)
    if not weights.model.is_base:
        raise ModelError(
            f"The base model of run {run_id} is not at hand, and the reference policy is made of it",
            expected=f"weights {index.registered.model.weights_digest}",
            next_step="Name its folder with --model, or the recipe's folder with --recipe-folder",
        )
    start = max((done for done in weights.folders if done <= step), default=0)
    prompts = _prompts(index, recipe_folder)
    rewards = recorded_rewards(project, index, recipe_folder, run_recorded_code=run_recorded_code)
    with _threads(index.registered.environment.threads), rewards as runner:
        policy = load_for_replay(index, weights.model, as_trained=True)
        trainer = loop.Trainer(policy, prompts, runner, index.config)
        trainer.restore(checked_snapshot(*weights.folders[start]) if start else None)
        differences = _other_hardware(index.registered.environment)
        checks = []
        for number in range(start, step + 1):
            outcome = trainer.step(number)
            checks.append(_check(project, index, recorded[number], outcome))
            if on_progress is not None:
                on_progress(number + 1 - start, step + 1 - start)
            if not checks[-1].ok and not differences:
                break  # from here on everything must be otherwise
        return _report(index, trainer, weights, step, start, differences, checks)


def _prompts(index: RunIndex, recipe_folder: Path) -> PromptSet:
    prompts = load(index.config.prompts, recipe_folder)
    if prompts.identity.digest != index.registered.prompts.digest:
        raise ConfigError(
            f"The prompt set {index.config.prompts.source} is not the registered one",
            found=prompts.identity.digest,
            expected=index.registered.prompts.digest,
            next_step="Name the folder it lies in with --recipe-folder",
        )
    return prompts


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many as the run had: sums are cut differently otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(max(1, count), 1024))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _other_hardware(recorded: Environment) -> list[str]:
    here = environment(accelerator())
    pairs = {
        "processor": (here.processor, recorded.processor),
        "accelerator": (here.accelerator, recorded.accelerator),
        "driver": (here.driver, recorded.driver),
        **{name: (here.packages.get(name), recorded.packages.get(name)) for name in ("torch", "transformers", "peft")},
        "threads": (here.threads, recorded.threads),
        "processes": (here.processes, recorded.processes),
    }
    return [f"{name} {found or 'none'}, not {then or 'none'}" for name, (found, then) in pairs.items() if found != then]


def _check(project: Project, index: RunIndex, recorded: Step, outcome: StepOutcome) -> StepCheck:
    """Compare one step with its record."""
    places = {Place(outcome.step, item.group, item.sample): item for item in outcome.rollouts}
    erased = same_tokens = same_rewards = 0
    first = ""
    for place, found in places.items():
        if place not in index.rollouts:
            first = first or f"rollout {place} is not in the record"
            continue
        event = replay_record.payload(project, index.rollouts[place])
        assert isinstance(event, Rollout)
        rewards = (event.rewards, event.reward, event.advantage) == (found.rewards, found.reward, found.advantage)
        same_rewards += rewards
        try:
            then = replay_record.read_rollout(project, index, place)
            tokens = then.tokens.tolist() == found.token_ids.tolist()
        except Erased:
            erased, tokens = erased + 1, None
        except Malformed as error:
            first, tokens = first or f"rollout {place}: {error}", False
        same_tokens += tokens is True
        if not first and (tokens is False or not rewards):
            first = f"rollout {place}: other {'tokens' if tokens is False else 'rewards'}"
    expected = sum(place.step == outcome.step for place in index.rollouts)
    if not first and expected != len(places):
        first = f"{expected} rollouts in the record, {len(places)} here"
    return StepCheck(
        step=outcome.step,
        fingerprint=outcome.fingerprint,
        recorded_fingerprint=recorded.fingerprint,
        rollouts=max(expected, len(places)) - erased,
        same_tokens=same_tokens,
        same_rewards=same_rewards,
        erased=erased,
        first_difference=first,
    )


def _report(
    index: RunIndex,
    trainer: loop.Trainer,
    weights: WeightsAtHand,
    step: int,
    start: int,
    differences: list[str],
    checks: list[StepCheck],
) -> ExecutionReport:
    event = next((item for item in reversed(index.snapshots) if item.step == step + 1), None)
    reached = checks[-1].step == step
    digest, error = None, None
    with tempfile.TemporaryDirectory(prefix="grpo-audit-step-") as name:
        if reached and event is not None:
            saved = trainer.save(Path(name), step + 1)
            digest = saved.weights_digest
            if digest != event.weights_digest:
                error = _update_error(saved, weights, start, step)
    other_digest = event is not None and reached and digest != event.weights_digest
    equal = reached and all(check.ok for check in checks) and not other_digest
    agreement = _agreement(equal=equal, like_hardware=not differences, error=error)
    notes = [] if event else [f"no snapshot was taken after step {step}: the fingerprint samples each tensor only"]
    return ExecutionReport(
        run_id=index.run_id,
        sealed=index.sealed_leaf is not None,
        step=step,
        start=start,
        other_hardware=differences,
        steps=checks,
        weights_digest=digest,
        recorded_weights_digest=event.weights_digest if event else None,
        update_error=error,
        agreement=agreement,
        reasons=_reasons(agreement, checks, error, other_digest=other_digest),
        notes=notes,
    )


def _agreement(*, equal: bool, like_hardware: bool, error: float | None) -> Agreement:
    if equal:
        return Agreement.BITWISE
    if like_hardware:
        return Agreement.DIFFERENT
    if error is None:
        return Agreement.NOT_COMPARABLE
    return Agreement.WITHIN if error <= UPDATE_TOLERANCE else Agreement.DIFFERENT


def _reasons(agreement: Agreement, checks: list[StepCheck], error: float | None, *, other_digest: bool) -> list[str]:
    if agreement in (Agreement.BITWISE, Agreement.WITHIN):
        return []
    if agreement is Agreement.NOT_COMPARABLE:
        return [
            "the step came out otherwise on other hardware, and no recorded weights are at hand to measure by how much"
        ]
    reasons = []
    for check in checks:
        if not check.ok:
            what = check.first_difference or "the weights have another fingerprint, although the rollouts are the same"
            reasons.append(f"step {check.step}: {what}")
            break
    if other_digest:
        reasons.append("the weights after the step have another digest")
    if error is not None:
        reasons.append(f"the update is off by {error:.3g} of its length")
    return reasons


def _update_error(saved: Snapshot, weights: WeightsAtHand, start: int, step: int) -> float | None:
    """|found - recorded| / |recorded - start|; None when the recorded weights are not on disk, or of other shapes."""
    if step + 1 not in weights.folders:
        return None
    before = weights.folders[start][0] if start else weights.model.folder
    found, then, first = (_tensors(folder) for folder in (saved.folder, weights.folders[step + 1][0], before))
    if {name: item.shape for name, item in found.items()} != {name: item.shape for name, item in then.items()}:
        return None
    if not found.keys() <= first.keys():
        return None
    length = _norm(then[name] - first[name] for name in then)
    return _norm(found[name] - then[name] for name in then) / length if length else None


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {name: item.float() for name, item in load_file(path).items()}
    return found


def _norm(tensors: Any) -> float:
    return float(sum(float(item.double().square().sum()) for item in tensors) ** 0.5)
