"""(25) The figures of a step, from its rollouts and updates."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from grpo_audit.config.run import RunConfig
from grpo_audit.verify.recompute.compare import same, shown
from grpo_audit.verify.recompute.step import NO_SIGNAL, BoolArray, RecordedStep
from grpo_audit.verify.verdict import Tally


class AggregateCheck:
    """Follows the steps of a run."""

    def __init__(self, config: RunConfig, tally: Tally) -> None:
        self._tally = tally
        self._config = config

    def follow(self, step: RecordedStep, silent: BoolArray) -> None:
        """Every figure of the step that its own events determine. ``silent`` [P]: groups without signal."""
        figures = step.figures
        rewards = [rollout.data.reward for rollout in step.rollouts if rollout.data.reward is not None]
        lengths = [rollout.data.completion_tokens for rollout in step.rollouts]
        used = sum(rollout.data.used for rollout in step.rollouts)
        ddof = self._config.objective.advantage.ddof
        found: dict[str, tuple[float | None, float | None]] = {
            "mean reward": (figures.reward_mean, float(np.mean(rewards)) if rewards else None),
            "reward deviation": (
                figures.reward_std,
                float(np.std(rewards, ddof=ddof)) if len(rewards) >= 2 else None,
            ),
            "zero-variance share": (figures.zero_variance_share, float(np.mean(silent))),
            "rollouts used": (figures.used, used),
            "rollouts rejected": (figures.rejected, len(step.rollouts) - used),
            "mean length": (figures.completion_tokens_mean, float(np.mean(lengths))),
            "completion tokens": (figures.completion_tokens, sum(lengths)),
            "prompt tokens": (figures.prompt_tokens, sum(group.data.prompt_tokens for group in step.groups)),
            "truncated share": (
                figures.truncated_share,
                float(np.mean([rollout.data.finish_reason == "length" for rollout in step.rollouts])),
            ),
            "dropped groups": (figures.dropped_groups, sum(bool(reason) for reason in step.dropped())),
        }
        found |= self._by_source(step)
        found |= self._rounds(step)
        found |= self._updates(step)
        for what, (recorded, value) in found.items():
            self._tally.saw()
            if not same(recorded, value):
                self._tally.wrong(f"{step.name}: {what} is {shown(recorded)}, found {shown(value)}")

    def _by_source(self, step: RecordedStep) -> dict[str, tuple[float | None, float | None]]:
        names = {name for rollout in step.rollouts for name in rollout.data.rewards} | step.figures.rewards.keys()
        found: dict[str, tuple[float | None, float | None]] = {}
        for name in sorted(names):
            values = [value for rollout in step.rollouts if (value := rollout.data.rewards.get(name)) is not None]
            found[f"mean of {name}"] = (step.figures.rewards.get(name), float(np.mean(values)) if values else None)
        return found

    def _rounds(self, step: RecordedStep) -> dict[str, tuple[float | None, float | None]]:
        """Dynamic sampling stops as soon as the step is full, or at its limit."""
        sampling, reasons = self._config.sampling, [rollout.data.reason for rollout in step.rollouts]
        rounds = 1
        if sampling.dynamic_sampling:
            size, wanted = sampling.group_size, sampling.prompts_per_step
            signal = [reason != NO_SIGNAL for reason in reasons[::size]]
            while sum(signal[: rounds * wanted]) < wanted and rounds < sampling.max_rounds:
                rounds += 1
        return {"rounds of prompts": (step.figures.rounds, rounds)}

    def _updates(self, step: RecordedStep) -> dict[str, tuple[float | None, float | None]]:
        """Which groups each update took is a pure function of the seed; loss and norms are summed up from them."""
        figures, training = step.figures, self._config.training
        if not figures.updates:
            return {}
        rows = [rollout.data for rollout in step.rollouts if rollout.data.used]
        present = sorted({row.group for row in rows})
        found: dict[str, tuple[float | None, float | None]] = {
            "number of updates": (len(figures.updates), training.iterations * training.minibatches)
        }
        for update in figures.updates:
            order = present
            if training.minibatches > 1:
                order = sorted(
                    present, key=lambda group: _key(self._config.seed, figures.step, update.iteration, group)
                )
            start, end = (
                len(order) * part // training.minibatches for part in (update.minibatch, update.minibatch + 1)
            )
            chosen = {*order[start:end]}
            lengths = [row.completion_tokens for row in rows if row.group in chosen]
            name = f"of update {update.iteration}.{update.minibatch}"
            found[f"rows {name}"] = (update.rows, len(lengths))
            found[f"tokens {name}"] = (update.tokens, sum(lengths))
        tokens = [max(1, update.tokens) for update in figures.updates]
        in_loss = max(1, sum(update.tokens for update in figures.updates))
        low = math.fsum(update.clip_low_share * count for update, count in zip(figures.updates, tokens, strict=True))
        high = math.fsum(update.clip_high_share * count for update, count in zip(figures.updates, tokens, strict=True))
        found["loss, mean of the updates"] = (figures.loss, math.fsum(u.loss for u in figures.updates) / len(tokens))
        found["gradient norm, largest of the updates"] = (figures.grad_norm, max(u.grad_norm for u in figures.updates))
        found["share clipped below"] = (figures.clip_low_share, low / in_loss)
        found["share clipped above"] = (figures.clip_high_share, high / in_loss)
        return found

    def finish(self) -> None:
        """Say what is not looked at."""
        self._tally.nothing("no step was recorded")


def _key(seed: int, step: int, iteration: int, group: int) -> bytes:
    return hashlib.sha256(f"{seed}:{step}:{iteration}:{group}".encode()).digest()
