"""From rewards to advantages: what the objective adds to a reward, the groups' advantages, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grpo_audit.config.objective import AdvantageConfig, ObjectiveConfig
from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import KL_PENALTY, SOFT_OVERLONG
from grpo_audit.rewards.runner import RowReward
from grpo_audit_trainer.advantage import Advantages, group_advantages
from grpo_audit_trainer.collect import Collected, totals
from grpo_audit_trainer.shaping import soft_overlong
from grpo_audit_trainer.value import Estimate, estimate

_PLAIN = AdvantageConfig(normaliser="none")


@dataclass(frozen=True, slots=True)
class Credit:
    """What each of N = P * G completions gets."""

    rewards: Sequence[RowReward]
    """With the parts that the objective adds, under their reserved names."""
    advantages: Advantages
    left_out: list[str]
    """[N]: why a row is not in the loss; empty when it is."""

    @property
    def rows(self) -> list[int]:
        """Rows in the loss."""
        return [row for row, reason in enumerate(self.left_out) if not reason]


def assign(collected: Collected, config: RunConfig, kl: Tensor | None = None) -> Credit:
    """``kl`` [N] is the penalty of each completion, already weighted, when the objective subtracts it from rewards."""
    rewards = _shaped(collected, config, kl)
    advantages = _advantages(collected, rewards, config)
    usable = advantages.usable.flatten().tolist()
    group_size = config.sampling.group_size
    left_out = [
        collected.dropped[row // group_size]
        or _reason(reward, usable=usable[row], truncated=config.objective.mask_truncated and not stopped)
        for row, (reward, stopped) in enumerate(zip(rewards, collected.batch.stopped.tolist(), strict=True))
    ]
    return Credit(rewards, advantages, left_out)


def by_value_model(
    credit: Credit, values: Tensor, log_ratio: Tensor | None, lengths: Sequence[int], objective: ObjectiveConfig
) -> tuple[Credit, Estimate]:
    """PPO: advantages per token. ``values`` [N, T] of the value model; ``log_ratio`` [N, T] is logp_old - logp_ref when
    the objective subtracts the KL from the reward, then per token. In the record a completion's advantage is the mean
    over its tokens, and 0 where it is not in the loss."""
    device, rows = values.device, credit.rows
    terminal = torch.zeros(len(lengths), dtype=torch.float64, device=device)
    for row in rows:
        reward = credit.rewards[row]
        assert reward.total is not None
        terminal[row] = reward.total - (reward.rewards.get(KL_PENALTY) or 0.0)
    chosen = torch.zeros(len(lengths), dtype=torch.bool, device=device)
    chosen[rows] = True
    counts = torch.tensor(lengths, device=device)
    inside = (torch.arange(values.shape[1], device=device) < counts[:, None]) & chosen[:, None]
    penalty = None if log_ratio is None else objective.kl.beta * log_ratio
    estimated = estimate(terminal, penalty, values, inside, objective)
    means = (estimated.advantages.sum(dim=1) / counts).cpu().view(credit.advantages.values.shape)
    return replace(credit, advantages=replace(credit.advantages, values=means)), estimated


def _shaped(collected: Collected, config: RunConfig, kl: Tensor | None) -> Sequence[RowReward]:
    """The rewards with the parts the objective adds; a row without a reward stays without."""
    parts: dict[str, list[float]] = {}
    if config.objective.soft_overlong_tokens:
        limit = config.sampling.max_completion_tokens
        lengths = [len(tokens) for tokens in collected.tokens]
        parts[SOFT_OVERLONG] = soft_overlong(lengths, limit, config.objective.soft_overlong_tokens)
    if kl is not None:
        parts[KL_PENALTY] = (0.0 - kl.double()).tolist()
    if not parts:
        return collected.rewards
    return [
        row if row.total is None else _with_parts(row, {name: values[index] for name, values in parts.items()})
        for index, row in enumerate(collected.rewards)
    ]


def _with_parts(row: RowReward, parts: dict[str, float]) -> RowReward:
    assert row.total is not None
    return RowReward({**row.rewards, **parts}, row.errors, row.total + sum(parts.values()))


def _advantages(collected: Collected, rewards: Sequence[RowReward], config: RunConfig) -> Advantages:
    """Over the groups that were kept; dropped ones get advantage 0 and keep their mean and deviation for the record."""
    groups = len(collected.drawn.prompts)
    summed = totals(rewards, groups)
    settings = config.objective.advantage
    if settings.baseline == "value-model":  # advantages come from the value model, per token
        return group_advantages(summed, _PLAIN)
    sources, weights = _by_source(rewards, config, groups) if settings.sources == "normalise-each" else (None, None)
    kept = torch.tensor([index for index, reason in enumerate(collected.dropped) if not reason], dtype=torch.int64)
    if len(kept) == groups:
        return group_advantages(summed, settings, sources=sources, weights=weights)
    every = group_advantages(summed, settings.model_copy(update={"normaliser": "none", "sources": "sum"}))
    values, no_signal = torch.zeros_like(every.values), every.no_signal.clone()
    if len(kept):
        chosen = None if sources is None else sources[:, kept]
        found = group_advantages(summed[kept], settings, sources=chosen, weights=weights)
        values[kept], no_signal[kept] = found.values, found.no_signal
    return replace(every, values=values, no_signal=no_signal)


def _by_source(rewards: Sequence[RowReward], config: RunConfig, groups: int) -> tuple[Tensor, Tensor]:
    """[S, P, G] float64 with NaN where a source gives nothing, and the weights [S]. What the objective adds has weight
    1."""
    trained = {item.name: item.weight for item in config.rewards if item.role == "train"}
    added = {name: 1.0 for name in (SOFT_OVERLONG, KL_PENALTY) if any(name in row.rewards for row in rewards)}
    named = trained | added
    table = [
        [torch.nan if row.total is None or (value := row.rewards.get(name)) is None else value for row in rewards]
        for name in named
    ]
    values = torch.tensor(table, dtype=torch.float64).view(len(named), groups, -1)
    return values, torch.tensor(list(named.values()), dtype=torch.float64)


def _reason(row: RowReward, *, usable: bool, truncated: bool) -> str:
    if row.total is None:
        return "reward error" if row.errors else "no reward applies"
    if not usable:
        return "fewer than two rewards in the group"
    return "truncated" if truncated else ""
