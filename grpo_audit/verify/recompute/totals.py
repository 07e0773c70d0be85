"""(23) From the rewards by source to a rollout's reward, and whether it was used."""

from __future__ import annotations

import numpy as np

from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import KL_PENALTY, SOFT_OVERLONG
from grpo_audit.verify.recompute.advantages import flat_groups
from grpo_audit.verify.recompute.compare import same, shown
from grpo_audit.verify.recompute.step import NO_SIGNAL, SURPLUS, FloatArray, RecordedRollout, RecordedStep
from grpo_audit.verify.verdict import Tally


class TotalCheck:
    """Follows the steps of a run."""

    def __init__(self, config: RunConfig, tally: Tally) -> None:
        self._tally = tally
        self._weights = {item.name: item.weight for item in config.rewards if item.role == "train"}
        self._sources = {item.name for item in config.rewards}
        self._soft = config.objective.soft_overlong_tokens
        self._limit = config.sampling.max_completion_tokens
        kl = config.objective.kl
        self._penalised = kl.placement == "reward" and kl.beta > 0
        self._mask_truncated = config.objective.mask_truncated
        self._dynamic = config.sampling.dynamic_sampling
        self._wanted = config.sampling.prompts_per_step
        self._num_penalties = 0

    def follow(self, step: RecordedStep) -> None:
        """Every rollout of the step."""
        plain = [self._weighted(rollout) for rollout in step.rollouts]
        for rollout, value in zip(step.rollouts, plain, strict=True):
            self._compare_total(step.name, rollout, value)
        reasons = self._reasons(step, step.table(plain))
        for rollout, reason in zip(step.rollouts, reasons, strict=True):
            self._tally.saw()
            data = rollout.data
            if data.reason != reason or data.used == bool(reason):
                self._tally.wrong(
                    f"{step.name}: group {data.group}, sample {data.sample} is recorded as "
                    f"{'used' if data.used else 'left out'} ({data.reason or 'no reason'}), found: {reason or 'used'}"
                )

    def _weighted(self, rollout: RecordedRollout) -> float | None:
        """Sum of the train sources; None where one failed or none applies."""
        data = rollout.data
        if any(name in data.errors for name in self._weights):
            return None
        values = [(weight, data.rewards.get(name)) for name, weight in self._weights.items()]
        known = [(weight, value) for weight, value in values if value is not None]
        return float(np.dot(*np.array(known).T)) if known else None

    def _compare_total(self, where: str, rollout: RecordedRollout, plain: float | None) -> None:
        self._tally.saw()
        data = rollout.data
        where = f"{where}: group {data.group}, sample {data.sample}"
        added = self._parts(rollout) if plain is not None else {}
        names = self._sources | added.keys()
        if data.rewards.keys() != names or not data.errors.keys() <= self._sources:
            self._tally.wrong(f"{where} has rewards {sorted(data.rewards)}, expected {sorted(names)}")
            return
        if any(data.rewards[name] is not None for name in data.errors):
            self._tally.wrong(f"{where} has a reward and an error of the same source")
        for name, value in added.items():
            if not same(data.rewards[name], value):
                self._tally.wrong(f"{where}: {name} is {shown(data.rewards[name])}, found {shown(value)}")
        total = None if plain is None else plain + sum(value for value in added.values() if value is not None)
        size = sum(abs(value) for value in data.rewards.values() if value is not None)
        if not same(data.reward, total, scale=size):
            self._tally.wrong(f"{where}: reward {shown(data.reward)}, the weighted sum is {shown(total)}")

    def _parts(self, rollout: RecordedRollout) -> dict[str, float | None]:
        """What the objective adds. The KL penalty rests on log-probabilities of the reference, which are not recorded:
        it is taken as it stands."""
        added: dict[str, float | None] = {}
        if self._soft:
            start = self._limit - self._soft
            added[SOFT_OVERLONG] = max(-1.0, min(0.0, (start - rollout.data.completion_tokens) / self._soft))
        if self._penalised:
            added[KL_PENALTY] = rollout.data.rewards.get(KL_PENALTY)
            self._num_penalties += 1
        return added

    def _reasons(self, step: RecordedStep, plain: FloatArray) -> list[str]:
        """Why each rollout is left out of the loss; empty where it is not."""
        dropped = [""] * len(step.groups)
        if self._dynamic:
            found = 0
            for group, flat in enumerate(flat_groups(plain)):
                found += not flat
                dropped[group] = NO_SIGNAL if flat else SURPLUS if found > self._wanted else ""
        usable = np.isfinite(plain) & (np.isfinite(plain).sum(axis=1, keepdims=True) >= 2)
        reasons: list[str] = []
        for rollout, enough in zip(step.rollouts, usable.ravel(), strict=True):
            data = rollout.data
            if dropped[data.group]:
                reasons.append(dropped[data.group])
            elif data.reward is None:
                reasons.append("reward error" if data.errors else "no reward applies")
            elif not enough:
                reasons.append("fewer than two rewards in the group")
            else:
                reasons.append("truncated" if self._mask_truncated and data.finish_reason == "length" else "")
        return reasons

    def finish(self) -> None:
        """Say what could not be looked at."""
        if self._num_penalties:
            self._tally.remark(f"{self._num_penalties} KL penalties taken as recorded: the reference is not at hand")
        self._tally.nothing("no step was recorded")
