"""GRPO, top to bottom.

How this loop differs from the textbook (Shao et al. 2024, arXiv 2402.03300, algorithm 1):

 1. One optimiser step per batch of rollouts. The old policy is the policy itself: the ratio is 1 in value, nothing is
    ever clipped, and the loss starts near 0. Its gradient does not.
 2. The reference is a frozen copy of the weights the run started from. It is never replaced, and never loaded again by
    name.
 3. With beta = 0 there is no reference in the loss; the distance to it is measured every few steps all the same.
 4. With beta = 0, completions with advantage 0 are not computed, because their gradient is exactly 0. The normaliser
    counts them.
 5. The randomness of a completion is a pure function of (seed, step, prompt, sample, position). No random state exists,
    so none has to be saved; a snapshot holds weights, optimiser and step number, and resuming is exact.
 6. A completion without a reward is left out, not given 0. A group whose rewards are equal has advantage 0, exactly.
 7. Sampler and scorer are compared at every step; step 0 stops the run when they disagree, because every gradient would
    be biased without a sign of it.
 8. Loss and gradient norm are looked at before the weights move.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from grpo_audit.config.run import RunConfig
from grpo_audit.errors import TrainingError
from grpo_audit.prompts.loading import PromptSet
from grpo_audit_trainer import snapshot as snapshots
from grpo_audit_trainer.collect import Collected, Collector, Rewards, timed
from grpo_audit_trainer.execution import memory_limit_of
from grpo_audit_trainer.fingerprint import fingerprint
from grpo_audit_trainer.loss import Normaliser, kl_divergence
from grpo_audit_trainer.outcome import StepOutcome
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout.native import OnTokens
from grpo_audit_trainer.scoring import Completions, Scorer
from grpo_audit_trainer.snapshot import Snapshot
from grpo_audit_trainer.summary import summarise
from grpo_audit_trainer.update import Gradient, StepData, Updater

__all__ = ["Rewards", "StepOutcome", "TrainResult", "train"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training left behind. The policy holds the trained weights."""

    steps: int
    """Optimiser steps since the start of the run."""
    prompt_tokens: int
    """Of this attempt; each prompt counted once for its group."""
    completion_tokens: int
    """Of this attempt."""
    seconds: float
    """Of this attempt."""
    snapshot: Snapshot | None
    """The last one."""


def train(
    policy: Policy,
    prompts: PromptSet,
    rewards: Rewards,
    config: RunConfig,
    *,
    folder: Path,
    start: Snapshot | None = None,
    on_step: Callable[[StepOutcome], None] | None = None,
    on_tokens: OnTokens | None = None,
    on_snapshot: Callable[[Snapshot], None] | None = None,
) -> TrainResult:
    """Train ``policy``, which holds the base model's weights, in place.

    ``folder`` is the run's folder; snapshots go to ``folder/snapshots``. ``start`` is the snapshot to go on from.
    ``on_snapshot`` must return only when its record is durable: older snapshots are removed after it.

    Raises TrainingError (out of memory, non-finite loss, sampler and scorer disagree, another base model than the run
    started from), RewardError (no completion of a step has a reward), StorageError (a snapshot cannot be written).
    """
    begin = time.monotonic()
    run = _Run(policy, prompts, rewards, config, on_tokens)
    run.restore(start)
    first = 0 if start is None else start.step
    prompt_tokens = completion_tokens = 0
    saved = start
    for step in range(first, config.training.steps):
        outcome = run.step(step)
        prompt_tokens += outcome.prompt_tokens
        completion_tokens += outcome.completion_tokens
        if on_step is not None:
            on_step(outcome)
        done = step + 1
        if done % config.training.snapshot_every == 0 or done == config.training.steps:
            saved = run.save(folder, done)
            if on_snapshot is not None:
                on_snapshot(saved)
            snapshots.prune(folder, config.training.keep_snapshots)
    seconds = time.monotonic() - begin
    return TrainResult(max(first, config.training.steps), prompt_tokens, completion_tokens, seconds, saved)


class _Run:
    """What stays from step to step."""

    def __init__(
        self, policy: Policy, prompts: PromptSet, rewards: Rewards, config: RunConfig, on_tokens: OnTokens | None
    ) -> None:
        self.policy = policy
        self.config = config
        self.initial_fingerprint = fingerprint(policy.model)
        frozen = dataclasses.replace(policy, model=copy.deepcopy(policy.model).requires_grad_(False))
        budget, temperature = config.training.microbatch_tokens, config.sampling.temperature
        self.reference = Scorer(frozen, temperature=temperature, microbatch_tokens=budget)
        self.scorer = Scorer(policy, temperature=temperature, microbatch_tokens=budget)
        self.collector = Collector(policy, prompts, rewards, config, on_tokens)
        self.updater = Updater(policy, self.scorer, config.training, config.objective)

    def restore(self, start: Snapshot | None) -> None:
        """Put weights and optimiser of a snapshot in place; the reference stays at the initial weights."""
        if start is None:
            return
        if start.initial_fingerprint != self.initial_fingerprint:
            raise TrainingError(
                f"The snapshot {start.folder} belongs to another base model",
                found=f"base weights {self.initial_fingerprint}",
                expected=start.initial_fingerprint,
                next_step="Put back the model the run was started with",
            )
        snapshots.load_snapshot(self.policy, self.updater.optimizer, start)

    def save(self, folder: Path, step: int) -> Snapshot:
        """Write the snapshot after ``step`` steps."""
        return snapshots.save_snapshot(
            self.policy, self.updater.optimizer, folder, step=step, initial_fingerprint=self.initial_fingerprint
        )

    def step(self, step: int) -> StepOutcome:
        """One optimiser step."""
        seconds: dict[str, float] = {}
        collected = self.collector.collect(step, seconds)
        data = self._step_data(collected)
        with memory_limit_of("the update", "training.microbatch_tokens"):
            with timed(seconds, "reference"):
                ref_logp = self.reference.logp(data.completions, data.rows) if self._kl_is_due(step) else None
            with timed(seconds, "update"):
                moving = self._moving_rows(data)
                gradient = self.updater.gradient(data, moving, ref_logp)
                agreement = self._agreement(step, data, gradient)
                kl = None if ref_logp is None else self._kl(data, moving, gradient, ref_logp)
                self.updater.apply(step)
                weights = fingerprint(self.policy.model)
        return summarise(
            self.config,
            step,
            collected,
            gradient,
            learning_rate=self.updater.learning_rate(step),
            kl=kl,
            agreement=agreement,
            weights=weights,
            seconds=seconds,
        )

    def _step_data(self, collected: Collected) -> StepData:
        batch, rows = collected.batch, collected.rows
        lengths = batch.lengths.tolist()
        group_size = self.config.sampling.group_size
        limit = self.config.sampling.max_completion_tokens
        return StepData(
            completions=Completions(
                prompts=[prompt.ids for prompt in collected.drawn.encoded],
                group=[row // group_size for row in range(len(lengths))],
                tokens=batch.tokens,
                lengths=lengths,
            ),
            sampled_logp=batch.logp,
            advantages=collected.advantages.values.flatten().to(self.policy.device),
            rows=rows,
            normaliser=Normaliser(len(rows), sum(lengths[row] for row in rows), limit) if rows else None,
        )

    def _kl_is_due(self, step: int) -> bool:
        kl = self.config.objective.kl
        return kl.beta > 0 or step % kl.measure_every == 0 or step + 1 == self.config.training.steps

    def _moving_rows(self, data: StepData) -> list[int]:
        """Rows whose gradient is not known to be exactly 0."""
        if self.config.objective.kl.beta > 0:
            return data.rows
        advantages = data.advantages.tolist()
        return [row for row in data.rows if advantages[row] != 0]

    def _agreement(self, step: int, data: StepData, gradient: Gradient) -> tuple[float, float]:
        """Mean and largest |log-probability of the sampler - of the scorer|. Raises TrainingError at step 0."""
        if gradient.tokens:
            mean, largest = gradient.agreement_sum / gradient.tokens, gradient.agreement_max
        else:  # nothing moved, so nothing was scored: look at the first group
            mean, largest = self._agreement_of(data, list(range(self.config.sampling.group_size)))
        tolerance = self.config.training.agreement_tolerance
        if step == 0 and not mean <= tolerance:
            raise TrainingError(
                "Sampler and scorer disagree about the log-probabilities of the same tokens",
                found=f"a mean difference of {mean:.4g} nats",
                expected=f"at most {tolerance}",
                next_step="Set model.precision to float32, or raise training.agreement_tolerance if you know why",
            )
        return mean, largest

    def _agreement_of(self, data: StepData, rows: list[int]) -> tuple[float, float]:
        difference = (self.scorer.logp(data.completions, rows) - data.sampled_logp)[rows].abs()
        tokens = sum(data.completions.lengths[row] for row in rows)
        return float(difference.sum()) / tokens, float(difference.max())

    def _kl(self, data: StepData, moving: list[int], gradient: Gradient, ref_logp: Tensor) -> float | None:
        """Mean over the tokens in the loss of the objective's estimator; the gradient already summed some of them."""
        if data.normaliser is None:
            return None
        still = sorted(set(data.rows) - set(moving))
        logp = self.scorer.logp(data.completions, still)
        divergence = kl_divergence(logp, ref_logp, self.config.objective.kl.estimator)
        # behind a row's end both are 0, and so is every estimator
        rest = float(divergence[torch.tensor(still, dtype=torch.int64, device=logp.device)].double().sum())
        return (gradient.kl_sum + rest) / data.normaliser.tokens
