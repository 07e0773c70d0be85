"""(24) Group statistics and advantages, in numpy: the second implementation.

With rewards r of a group, mean m and deviation s (divisor n - ddof) over the rewards there are:

    group-mean     c = r - m                      leave-one-out  c = r - mean of the others
    none  c      group  c / (s + e)      batch  c / (deviation of all usable rewards of the step + e)
    beta  c / f(m), f the density of Beta(max(1, 1 + a/3), max(1, 1 + b/3)) fitted by moments to the groups' means
    normalise-each  sum over sources of w c_k / (s_k + e), then centred and divided over the step

A group whose rewards differ by at most 2^-20 of the largest has advantage 0. So has a rollout without a reward or alone
with one, and one that dynamic sampling dropped; the dropped do not count in what is taken over the step.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from grpo_audit.config.objective import AdvantageConfig
from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import KL_PENALTY, SOFT_OVERLONG
from grpo_audit.verify.recompute.compare import QUOTIENT_TOLERANCE, same, shown
from grpo_audit.verify.recompute.step import BoolArray, FloatArray, RecordedStep
from grpo_audit.verify.verdict import Tally

_EQUAL = 2.0**-20
_LARGEST_BETA_FACTOR = 1e6


def flat_groups(rewards: FloatArray) -> BoolArray:
    """[P]: groups of [P, G] (NaN: none) with fewer than two rewards, or with all of them equal within rounding."""
    known = np.isfinite(rewards)
    highest = np.where(known, rewards, -np.inf).max(axis=1)
    lowest = np.where(known, rewards, np.inf).min(axis=1)
    magnitude = np.where(known, np.abs(rewards), 0.0).max(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray((known.sum(axis=1) < 2) | (highest - lowest <= _EQUAL * magnitude), dtype=np.bool_)


def usable_rows(rewards: FloatArray) -> BoolArray:
    """[P, G]: has a reward, and so has another of its group."""
    known = np.isfinite(rewards)
    return np.asarray(known & (known.sum(axis=1, keepdims=True) >= 2), dtype=np.bool_)


def group_statistics(rewards: FloatArray, ddof: int) -> tuple[FloatArray, FloatArray]:
    """[P] mean (NaN without rewards) and deviation (NaN with fewer than two)."""
    means, deviations = np.full(len(rewards), np.nan), np.full(len(rewards), np.nan)
    for group, row in enumerate(rewards):
        values = row[np.isfinite(row)]
        if len(values):
            means[group] = np.mean(values)
        if len(values) >= 2:
            deviations[group] = np.std(values, ddof=ddof)
    return means, deviations


def centred(rewards: FloatArray, baseline: str) -> FloatArray:
    """[P, G]: reward minus baseline; 0 where there is none to subtract."""
    result = np.zeros_like(rewards)
    for group, row in enumerate(rewards):
        places = np.flatnonzero(np.isfinite(row))
        if len(places) < 2:
            continue
        values = row[places]
        if baseline == "leave-one-out":
            others = [np.mean(np.delete(values, place)) for place in range(len(values))]
            result[group, places] = values - np.array(others)
        else:
            result[group, places] = values - np.mean(values)
    return result


def advantages(
    rewards: FloatArray, config: AdvantageConfig, sources: dict[str, FloatArray], weights: dict[str, float]
) -> tuple[FloatArray, BoolArray]:
    """[P, G] advantages and [P] groups without signal; ``sources`` [P, G] each, read by normalise-each only."""
    usable, silent = usable_rows(rewards), flat_groups(rewards)
    values = centred(rewards, config.baseline)
    if config.sources == "normalise-each":
        values, silent = _each(usable, config, sources, weights)
    elif config.normaliser == "group":
        _, deviations = group_statistics(rewards, config.ddof)
        values = values / (deviations[:, None] + config.epsilon)
    elif config.normaliser == "batch":
        everything = rewards[usable]
        spread = np.std(everything, ddof=config.ddof) if len(everything) >= 2 else np.nan
        values = values / (spread + config.epsilon)
    elif config.normaliser == "beta":
        values = values / _beta(rewards, usable)[:, None]
    return np.where(usable & ~silent[:, None], values, 0.0), silent


def _each(
    usable: BoolArray, config: AdvantageConfig, sources: dict[str, FloatArray], weights: dict[str, float]
) -> tuple[FloatArray, BoolArray]:
    total, silent = np.zeros(usable.shape), np.ones(len(usable), dtype=bool)
    for name, weight in weights.items():
        if weight == 0:
            continue
        values = np.where(usable, sources[name], np.nan)
        _, deviations = group_statistics(values, config.ddof)
        flat = flat_groups(values)
        share = centred(values, config.baseline) / (deviations[:, None] + config.epsilon)
        total += weight * np.where(flat[:, None], 0.0, share)
        silent &= flat
    known = total[usable]
    if len(known) < 2:
        return total, silent
    return (total - np.mean(known)) / (np.std(known, ddof=config.ddof) + config.epsilon), silent


def _beta(rewards: FloatArray, usable: BoolArray) -> FloatArray:
    means, _ = group_statistics(rewards, 1)
    rates = means[usable.any(axis=1)]
    if len(rates) < 2 or not np.var(rates, ddof=1) > 0:
        return np.ones(len(means))
    mean, variance = np.mean(rates), np.var(rates, ddof=1)
    both = mean * (1 - mean) / variance - 1
    alpha, beta = max(1.0, 1 + mean * both / 3), max(1.0, 1 + (1 - mean) * both / 3)
    places = np.clip(np.where(np.isnan(means), 0.5, means), 0, 1)
    return np.asarray(np.maximum(stats.beta.pdf(places, alpha, beta), 1 / _LARGEST_BETA_FACTOR))


class AdvantageCheck:
    """Follows the steps of a run. ``silent`` of the newest step is what the zero-variance share counts."""

    def __init__(self, config: RunConfig, tally: Tally) -> None:
        self._tally = tally
        self._config = config.objective.advantage
        self._train = {item.name: item.weight for item in config.rewards if item.role == "train"}
        self._ddof = self._config.ddof
        self.silent: BoolArray = np.zeros(0, dtype=bool)

    def follow(self, step: RecordedStep) -> None:
        """Group statistics, then advantages."""
        rewards = step.table([rollout.data.reward for rollout in step.rollouts])
        means, deviations = group_statistics(rewards, self._ddof)
        for group, mean, deviation in zip(step.groups, means, deviations, strict=True):
            self._tally.saw(2)
            pairs = {"mean": (group.data.reward_mean, mean), "deviation": (group.data.reward_std, deviation)}
            for what, (recorded, value) in pairs.items():
                found = None if np.isnan(value) else float(value)
                if not same(recorded, found):
                    self._tally.wrong(
                        f"{step.name}: {what} of group {group.data.group} is {shown(recorded)}, found {shown(found)}"
                    )
        if self._config.baseline == "value-model":
            self.silent = flat_groups(rewards)
            return
        values = self._values(step, rewards)
        scale = float(np.abs(values).max(initial=1.0))
        for rollout, value in zip(step.rollouts, values.ravel(), strict=True):
            self._tally.saw()
            data = rollout.data
            if not same(data.advantage, float(value), QUOTIENT_TOLERANCE, scale):
                self._tally.wrong(
                    f"{step.name}: advantage of group {data.group}, sample {data.sample} is {shown(data.advantage)}, "
                    f"found {shown(float(value))}"
                )

    def _values(self, step: RecordedStep, rewards: FloatArray) -> FloatArray:
        """Over the groups that were kept."""
        kept = np.array([not reason for reason in step.dropped()], dtype=bool)
        parts = {name for rollout in step.rollouts for name in rollout.data.rewards} & {SOFT_OVERLONG, KL_PENALTY}
        weights = self._train | {name: 1.0 for name in sorted(parts, reverse=True)}
        sources = {
            name: np.where(
                np.isnan(rewards), np.nan, step.table([rollout.data.rewards.get(name) for rollout in step.rollouts])
            )[kept]
            for name in (weights if self._config.sources == "normalise-each" else ())
        }
        values, self.silent = np.zeros_like(rewards), flat_groups(rewards)
        if kept.any():
            values[kept], self.silent[kept] = advantages(rewards[kept], self._config, sources, weights)
        return values

    def finish(self) -> None:
        """Say what could not be looked at."""
        if self._config.baseline == "value-model":
            self._tally.remark("advantages of a value model rest on its values, which are not recorded")
        self._tally.nothing("no step was recorded")
