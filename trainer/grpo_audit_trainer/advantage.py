"""From the rewards of a group to its advantages. Pure functions, in float64.

Source: Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), section 4.1; Liu et al. 2025 (Dr. GRPO, arXiv 2503.20783).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_audit.config.formula import EQUAL_REWARDS
from grpo_audit.config.objective import AdvantageConfig


@dataclass(frozen=True, slots=True)
class Advantages:
    """What became of the rewards of one step: P groups of G rollouts."""

    values: Tensor
    """[P, G] float64; exactly 0 where ``usable`` is false and in groups without signal."""

    usable: Tensor
    """[P, G] bool: has a reward, and so has at least one other rollout of its group."""

    mean: Tensor
    """[P] float64; NaN where no rollout has a reward."""

    std: Tensor
    """[P] float64, with the ddof of the objective; NaN where fewer than two rollouts have a reward."""

    no_signal: Tensor
    """[P] bool: fewer than two rewards, or all of them equal within rounding."""


def group_advantages(rewards: Tensor, config: AdvantageConfig) -> Advantages:
    """Advantages of ``rewards`` [P, G]; NaN stands for "no reward".

    Rewards whose spread is at most ``EQUAL_REWARDS`` times the largest magnitude of the group count as equal, and
    their advantages are exactly 0: dividing rounding noise by its own deviation would make advantages of
    order one (or, with a tiny epsilon, of thousands) out of nothing.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [groups, group size], found shape {tuple(rewards.shape)}")
    rewards = rewards.double()
    known = rewards.isfinite()
    count = known.sum(dim=1)
    filled = torch.where(known, rewards, 0.0)
    mean = filled.sum(dim=1) / count
    centred = torch.where(known, rewards - mean[:, None], 0.0)
    std = (centred.square().sum(dim=1) / (count - config.ddof)).sqrt()
    std = torch.where(count >= 2, std, torch.nan)
    usable = known & (count >= 2)[:, None]
    no_signal = (count < 2) | _all_equal(rewards, known)
    values = centred / (std[:, None] + config.epsilon) if config.normaliser == "group" else centred
    values = torch.where(usable & ~no_signal[:, None], values, 0.0)
    return Advantages(values=values, usable=usable, mean=mean, std=std, no_signal=no_signal)


def _all_equal(rewards: Tensor, known: Tensor) -> Tensor:
    """[P]: the known rewards of the group differ by rounding at most."""
    highest = torch.where(known, rewards, -torch.inf).amax(dim=1)
    lowest = torch.where(known, rewards, torch.inf).amin(dim=1)
    magnitude = torch.where(known, rewards.abs(), 0.0).amax(dim=1)
    return highest - lowest <= EQUAL_REWARDS * magnitude
