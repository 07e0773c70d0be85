"""GRPO, top to bottom.

How this loop differs from the textbook (Shao et al. 2024, arXiv 2402.03300, algorithm 1):

 1. A step draws one batch of rollouts and makes ``iterations * minibatches`` updates on it. With one update, the
    default, the old policy is the policy itself: the ratio is 1 in value, nothing is ever clipped, and the loss starts
    near 0. Its gradient does not. With more, the sampler's own log-probabilities are the old policy's where sampler and
    scorer are the same weights in float32; else the old policy is scored once before the first update.
 2. The reference is a frozen copy of the weights the run started from, or of the policy after a step whose snapshot is
    kept. It is never loaded again by name.
 3. With beta = 0 there is no reference in the loss; the distance to the initial weights is measured every few steps all
    the same.
 4. With no KL term in the loss, completions with advantage 0 are not computed, because their gradient is exactly 0. The
    normaliser counts them.
 5. The randomness of a completion is a pure function of (seed, step, prompt, sample, position). No random state exists,
    so none has to be saved; a snapshot holds weights, optimiser and two counters, and resuming is exact.
 6. A completion without a reward is left out, not given 0. A group whose rewards are equal has advantage 0, exactly.
 7. Sampler and scorer are compared at every step before its first update; step 0 stops the run when they disagree,
    because every gradient would be biased without a sign of it.
 8. Loss and gradient norm are looked at before the weights move.
 9. With a value model (PPO) advantages come from its values before the first update of the step, by GAE; it takes each
    update beside the policy, with an optimiser of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError, TrainingError
from grpo_audit.prompts.loading import PromptSet
from grpo_audit_trainer import measure, snapshot as snapshots
from grpo_audit_trainer.collect import Collected, Collector, Rewards, timed
from grpo_audit_trainer.credit import Credit, assign, by_value_model
from grpo_audit_trainer.distributed import World, together
from grpo_audit_trainer.execution import memory_limit_of
from grpo_audit_trainer.fingerprint import fingerprint
from grpo_audit_trainer.outcome import StepOutcome
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.reference import References
from grpo_audit_trainer.rollout.engine import make_engine
from grpo_audit_trainer.rollout.native import OnTokens
from grpo_audit_trainer.scoring import Completions
from grpo_audit_trainer.shared_scoring import SharedScorer
from grpo_audit_trainer.snapshot import Snapshot
from grpo_audit_trainer.summary import Measured, summarise
from grpo_audit_trainer.update import Gradient, Part, StepData, Updater, parts_of_step
from grpo_audit_trainer.value import Estimate, ValueModel

__all__ = ["Rewards", "StepOutcome", "TrainResult", "Trainer", "train"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training left behind. The policy holds the trained weights."""

    steps: int
    """Steps since the start of the run."""
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
    world: World | None = None,
) -> TrainResult:
    """Train ``policy``, which holds the base model's weights, in place.

    ``folder`` is the run's folder; snapshots go to ``folder/snapshots``. ``start`` is the snapshot to go on from.
    ``on_snapshot`` must return only when its record is durable: older snapshots are removed after it. ``world`` are the
    processes that train together: all call this with the same arguments, except that ``rewards`` and the callbacks are
    the first one's. With FSDP the first has the whole policy afterwards, and the others have none.

    Raises TrainingError (out of memory, non-finite loss, sampler and scorer disagree, another base model than the run
    started from, another process ended), RewardError (no completion of a step has a reward), StorageError (a snapshot
    cannot be written), ConfigError (several processes cannot do what the recipe asks for).
    """
    world = world or World()
    with together(world):
        trainer = Trainer(policy, prompts, rewards, config, on_tokens, world)
        try:
            return _train(trainer, folder, start, on_step, on_snapshot)
        finally:
            trainer.engine.close()


def _train(
    trainer: Trainer,
    folder: Path,
    start: Snapshot | None,
    on_step: Callable[[StepOutcome], None] | None,
    on_snapshot: Callable[[Snapshot], None] | None,
) -> TrainResult:
    begin = time.monotonic()
    config, world = trainer.config, trainer.world
    trainer.restore(start)
    first = 0 if start is None else start.step
    prompt_tokens = completion_tokens = 0
    saved = start
    for step in range(first, config.training.steps):
        outcome = trainer.step(step)
        prompt_tokens += outcome.prompt_tokens
        completion_tokens += outcome.completion_tokens
        if on_step is not None:
            on_step(outcome)
        done = step + 1
        if trainer.snapshot_is_due(done):
            saved = trainer.save(folder, done)
            if on_snapshot is not None:
                on_snapshot(saved)
            if world.first:
                snapshots.prune(folder, config.training.keep_snapshots, needed=trainer.references.needed(done))
    trainer.policy.gathered(keep=world.first)
    seconds = time.monotonic() - begin
    return TrainResult(max(first, config.training.steps), prompt_tokens, completion_tokens, seconds, saved)


class Trainer:
    """What stays from step to step, and one step."""

    def __init__(
        self,
        policy: Policy,
        prompts: PromptSet,
        rewards: Rewards,
        config: RunConfig,
        on_tokens: OnTokens | None = None,
        world: World | None = None,
    ) -> None:
        self.policy = policy
        self.config = config
        self.world = world or World()
        check_processes(config, self.world)
        self.initial_fingerprint = self.fingerprint = fingerprint(policy.model)
        self.world.check_same(self.fingerprint, "base model")
        self.rounds = 0
        self.references = References(policy, config, self.world)
        if self.world.strategy == "fsdp":
            policy.shard(self.world)
        sampling, training = config.sampling, config.training
        self.scorer = SharedScorer(
            policy, self.world, temperature=sampling.temperature, microbatch_tokens=training.microbatch_tokens
        )
        self.engine = make_engine(sampling, policy)
        self.collector = Collector(policy, prompts, rewards, config, self.engine, on_tokens, self.world)
        self.updater = Updater(
            policy, self.scorer, training, config.objective, sampling.max_completion_tokens, self.world
        )
        # a copy of the initial weights, so it is made before a snapshot replaces them
        has_value = config.objective.advantage.baseline == "value-model"
        self.value = ValueModel(policy, config, self.world) if has_value else None

    def restore(self, start: Snapshot | None) -> None:
        """Put weights, optimiser and counters of a snapshot in place, and the reference that its next step needs."""
        if start is None:
            return
        if start.initial_fingerprint != self.initial_fingerprint:
            raise TrainingError(
                f"The snapshot {start.folder} belongs to another base model",
                found=f"base weights {self.initial_fingerprint}",
                expected=start.initial_fingerprint,
                next_step="Put back the model the run was started with",
            )
        warming_up = self._warming_up(start.step - 1)
        snapshots.load_snapshot(self.policy, self.updater.optimizer, start, warming_up=warming_up)
        if self.value is not None:
            self.value.restore(start.folder)
        self.rounds = start.rounds
        self.fingerprint = self._fingerprint()
        self.references.restore(start.step, start.folder.parent.parent)

    def _fingerprint(self) -> str:
        """Of the weights now; raises TrainingError when the processes no longer have the same."""
        with self.policy.whole():
            found = fingerprint(self.policy.model)
        self.world.check_same(found, "fingerprint of its weights")
        return found

    def snapshot_is_due(self, done: int) -> bool:
        """After ``done`` steps: at the cadence, at the end, and where the reference is replaced by the policy."""
        training = self.config.training
        at_cadence = done % training.snapshot_every == 0 or done == training.steps
        return at_cadence or self.references.needed(done) == done

    def save(self, folder: Path, step: int) -> Snapshot:
        """Write the snapshot after ``step`` steps."""
        return snapshots.save_snapshot(
            self.policy,
            self.updater.optimizer,
            folder,
            step=step,
            rounds=self.rounds,
            initial_fingerprint=self.initial_fingerprint,
            extra=None if self.value is None else self.value.tensors(),
            world=self.world,
        )

    def step(self, step: int) -> StepOutcome:
        """One batch of rollouts and the updates on it."""
        seconds: dict[str, float] = {}
        self.references.follow(self.policy, step)
        with timed(seconds, "rollout"):
            self.engine.sync(self.policy)
        collected = self.collector.collect(step, self.rounds, seconds)
        self.rounds += collected.rounds
        self.engine.rest()
        with memory_limit_of("the update", "training.microbatch_tokens"):
            credit, data, estimated = self._prepared(step, collected, seconds)
            with timed(seconds, "update"):
                gradients, measured, value_loss = self._update(step, data, estimated)
                sampled_by, self.fingerprint = self.fingerprint, self._fingerprint()
        return summarise(
            self.config,
            step,
            collected,
            credit,
            gradients,
            measured,
            learning_rate=self.updater.learning_rate(step),
            sampled_by=sampled_by,
            engine=f"{self.engine.name} ({self.engine.version})",
            fingerprint=self.fingerprint,
            seconds=seconds,
            value_loss=value_loss,
            explained_variance=None if estimated is None else estimated.explained_variance,
        )

    def _update(
        self, step: int, data: StepData, estimated: Estimate | None
    ) -> tuple[list[tuple[Part, Gradient]], Measured, float | None]:
        """The updates of a step, what was measured before the first of them moved the weights, and the mean loss of the
        value model."""
        done: list[tuple[Part, Gradient]] = []
        value_losses: list[float] = []
        measured: Measured | None = None
        config = self.config
        for part in parts_of_step(data.rows, data.completions.group, config.training, seed=config.seed, step=step):
            moving = self._moving_rows(data, part.rows)
            gradient = self.updater.gradient(data, part, moving)
            if measured is None:
                measured = self._measured(step, data, gradient, moving)
            if self.value is not None and estimated is not None:
                weights = self.updater.weights(data, part)
                value_losses.append(self.value.gradient(data.completions, estimated, part.rows, weights).loss)
                self.value.apply(self.updater.learning_rate(step) / config.training.learning_rate)
            if not self._warming_up(step):
                self.updater.apply(step)
            done.append((part, gradient))
        assert measured is not None  # there is one update at the least
        return done, measured, sum(value_losses) / len(value_losses) if value_losses else None

    def _warming_up(self, step: int) -> bool:
        """Whether only the value model learns at this step."""
        return self.value is not None and step < self.config.objective.value.warmup_steps

    # --- before the updates ------------------------------------------------------------------------------------------

    def _prepared(
        self, step: int, collected: Collected, seconds: dict[str, float]
    ) -> tuple[Credit, StepData, Estimate | None]:
        """Old and reference log-probabilities, advantages, rows."""
        kl, batch = self.config.objective.kl, collected.batch
        completions = self._completions(collected)
        log_ratio: Tensor | None = None
        rewarded = [row for row, reward in enumerate(collected.rewards) if reward.total is not None]
        with timed(seconds, "reference"):
            if kl.placement == "reward" and kl.beta > 0:
                # the penalty is part of the reward, so it comes before the advantages
                old_logp = self._old_logp(completions, rewarded, batch.logp, always=True)
                assert old_logp is not None
                ref_logp: Tensor | None = self.references.current.logp(completions, rewarded)
                assert ref_logp is not None
                log_ratio = old_logp - ref_logp
                credit = assign(collected, self.config, kl.beta * log_ratio.sum(dim=1))
            else:
                credit = assign(collected, self.config)
                old_logp = self._old_logp(completions, credit.rows, batch.logp)
                due = kl.beta > 0 or (self._measures(step) and not self.references.replaced)
                ref_logp = self.references.current.logp(completions, credit.rows) if due else None
        advantages, estimated = credit.advantages.values.flatten(), None
        if self.value is not None:
            with timed(seconds, "value"):
                values = self.value.values(completions, credit.rows)
                credit, estimated = by_value_model(
                    credit, values, log_ratio, completions.lengths, self.config.objective
                )
                advantages = estimated.advantages
        data = StepData(
            completions=completions,
            sampled_logp=batch.logp,
            old_logp=old_logp,
            ref_logp=ref_logp,
            entropy=batch.entropy,
            advantages=advantages.to(self.policy.device),
            rows=credit.rows,
        )
        return credit, data, estimated

    def _completions(self, collected: Collected) -> Completions:
        lengths = collected.batch.lengths.tolist()
        group_size = self.config.sampling.group_size
        return Completions(
            prompts=[prompt.ids for prompt in collected.drawn.encoded],
            group=[row // group_size for row in range(len(lengths))],
            tokens=collected.batch.tokens,
            lengths=lengths,
        )

    def _old_logp(
        self, completions: Completions, rows: list[int], sampled: Tensor, always: bool = False
    ) -> Tensor | None:
        """[N, T]: log-probabilities under the policy before its first update; None when there is one update only."""
        training = self.config.training
        if training.iterations * training.minibatches == 1 and not always:
            return None
        if self.engine.name == "native" and not self.policy.execution.autocast:
            return sampled
        return self.scorer.logp(completions, rows)

    # --- between the first gradient and the first move ---------------------------------------------------------------

    def _moving_rows(self, data: StepData, rows: list[int]) -> list[int]:
        """Rows whose gradient is not known to be exactly 0."""
        kl = self.config.objective.kl
        if kl.beta > 0 and kl.placement == "loss":
            return rows
        has_advantage = (data.advantages != 0).view(len(data.advantages), -1).any(dim=1).tolist()
        return [row for row in rows if has_advantage[row]]

    def _measures(self, step: int) -> bool:
        """Whether the distance to the initial policy is due."""
        return step % self.config.objective.kl.measure_every == 0 or step + 1 == self.config.training.steps

    def _measured(self, step: int, data: StepData, gradient: Gradient, moving: list[int]) -> Measured:
        first_group = list(range(self.config.sampling.group_size))
        mean, largest = measure.agreement(self.scorer, data, gradient, first_group)
        if step == 0:
            measure.check_agreement(mean, self.config.training.agreement_tolerance)
        estimator = self.config.objective.kl.estimator
        to_reference = None
        if data.ref_logp is not None and data.old_logp is not None:
            to_reference = measure.distance(data.old_logp, data.ref_logp, data, estimator)
        elif data.ref_logp is not None:
            to_reference = measure.distance_of_gradient(self.scorer, data, gradient, moving, estimator)
        if not self.references.replaced:
            return Measured((mean, largest), kl=to_reference, kl_reference=None)
        to_initial = None
        if self._measures(step):
            initial = self.references.initial.logp(data.completions, data.rows)
            logp = data.old_logp if data.old_logp is not None else self.scorer.logp(data.completions, data.rows)
            to_initial = measure.distance(logp, initial, data, estimator)
        return Measured((mean, largest), kl=to_initial, kl_reference=to_reference)


def check_processes(config: RunConfig, world: World) -> None:
    """Raises ConfigError for what was never tried with several processes."""
    if world.size == 1:
        return
    unfit = None
    if config.sampling.engine != "native":
        unfit = f"sampling.engine {config.sampling.engine}"
    elif world.strategy == "fsdp" and config.objective.advantage.baseline == "value-model":
        unfit = "objective.advantage.baseline value-model with FSDP"
    elif world.strategy == "fsdp" and config.objective.kl.replace_reference_every and config.model.lora is None:
        unfit = "objective.kl.replace_reference_every with FSDP and without model.lora"
    if unfit is not None:
        raise ConfigError(
            f"{world.size} processes ({world.strategy}) cannot train this recipe",
            found=unfit,
            next_step="Change it, or start one process" + (" or leave out FSDP" if world.strategy == "fsdp" else ""),
        )
