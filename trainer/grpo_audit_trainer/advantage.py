"""From the rewards of a step to its advantages. Pure functions, in float64.

With rewards r_i of the G completions of one prompt, and b_i what ``baseline`` subtracts:

    group-mean     b_i = mean of the group                       (GRPO, arXiv 2402.03300, section 4.1)
    leave-one-out  b_i = mean of the others of the group         (RLOO, arXiv 2402.14740, section 4.2)

    group   A_i = (r_i - b_i) / (std of the group + epsilon)     (GRPO)
    batch   A_i = (r_i - b_i) / (std of the step + epsilon)      (Lite PPO, arXiv 2508.08221)
    beta    A_i = (r_i - b_i) / f(p; alpha, beta)                (BNPO, arXiv 2506.02864; see ``_beta_density``)
    none    A_i = r_i - b_i                                      (Dr. GRPO, arXiv 2503.20783)

    normalise-each   z_ki = (r_ki - b_ki) / (std_k of the group + epsilon) for each source k, y_i = sum_k w_k z_ki,
                     A_i = (y_i - mean of the step) / (std of the step + epsilon)   (GDPO, arXiv 2601.05242)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_audit.config.formula import BETA_LARGEST, EQUAL_REWARDS
from grpo_audit.config.objective import AdvantageConfig, Baseline
from grpo_audit.errors import TrainingError


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
    """[P] float64, of the group, with the ddof of the objective; NaN where fewer than two rollouts have a reward."""

    no_signal: Tensor
    """[P] bool: fewer than two rewards, or all of them equal within rounding; with ``normalise-each`` so in every
    source."""


@dataclass(frozen=True, slots=True)
class _Groups:
    """Statistics of rewards [P, G] along the groups."""

    centred: Tensor
    """[P, G]: reward minus baseline; 0 where unusable or without signal."""
    usable: Tensor
    mean: Tensor
    std: Tensor
    flat: Tensor
    """[P]: nothing to tell the rewards of the group apart by."""


def group_advantages(
    rewards: Tensor, config: AdvantageConfig, *, sources: Tensor | None = None, weights: Tensor | None = None
) -> Advantages:
    """Advantages of ``rewards`` [P, G]; NaN stands for "no reward".

    Rewards whose spread is at most ``EQUAL_REWARDS`` times the largest magnitude of the group count as equal, and
    their advantages are exactly 0: dividing rounding noise by its own deviation would make advantages of
    order one (or, with a tiny epsilon, of thousands) out of nothing.

    ``sources`` [S, P, G] (NaN where a source gives nothing) and ``weights`` [S] are read only with
    ``config.sources`` "normalise-each", and needed then. Raises ValueError on shapes that do not fit and on the
    baseline "value-model", whose advantages are not made from groups; TrainingError when the normaliser "beta"
    meets rewards outside of 0 to 1.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [groups, group size], found shape {tuple(rewards.shape)}")
    if config.baseline == "value-model":
        raise ValueError("the baseline 'value-model' has advantages per token, from a value model")
    groups = _groups(rewards.double(), config)
    values, no_signal = groups.centred, groups.flat
    if config.sources == "normalise-each":
        values, no_signal = _each_source(sources, weights, groups.usable, config)
    elif config.normaliser == "group":
        values = groups.centred / (groups.std[:, None] + config.epsilon)
    elif config.normaliser == "batch":
        values = groups.centred / (_std(rewards.double()[groups.usable], config.ddof) + config.epsilon)
    elif config.normaliser == "beta":
        values = groups.centred / _beta_density(rewards.double(), groups)[:, None]
    # also where a deviation is NaN, because fewer than two rewards had one
    values = torch.where(groups.usable & ~no_signal[:, None], values, 0.0)
    return Advantages(values=values, usable=groups.usable, mean=groups.mean, std=groups.std, no_signal=no_signal)


def _groups(rewards: Tensor, config: AdvantageConfig) -> _Groups:
    """Statistics over the rewards there are."""
    known = rewards.isfinite()
    count = known.sum(dim=1)
    filled = torch.where(known, rewards, 0.0)
    mean = filled.sum(dim=1) / count
    deviation = torch.where(known, rewards - mean[:, None], 0.0)
    std = (deviation.square().sum(dim=1) / (count - config.ddof)).sqrt()
    usable = known & (count >= 2)[:, None]
    flat = (count < 2) | _all_equal(rewards, known)
    centred = torch.where(usable & ~flat[:, None], deviation * _leaving_out(count, config.baseline)[:, None], 0.0)
    return _Groups(centred, usable, mean, torch.where(count >= 2, std, torch.nan), flat)


def _leaving_out(count: Tensor, baseline: Baseline) -> Tensor:
    """[P]: r_i - mean of the others = G / (G - 1) * (r_i - mean of all), which cancels less in floating point."""
    known = count.double()  # integers would be divided in float32
    return known / (known - 1).clamp(min=1) if baseline == "leave-one-out" else torch.ones_like(known)


def _all_equal(rewards: Tensor, known: Tensor) -> Tensor:
    """[P]: the known rewards of the group differ by rounding at most."""
    highest = torch.where(known, rewards, -torch.inf).amax(dim=1)
    lowest = torch.where(known, rewards, torch.inf).amin(dim=1)
    magnitude = torch.where(known, rewards.abs(), 0.0).amax(dim=1)
    return highest - lowest <= EQUAL_REWARDS * magnitude


def _std(values: Tensor, ddof: int) -> Tensor:
    """Standard deviation of ``values`` [n]; NaN for fewer than two."""
    if values.numel() < 2:
        return values.new_tensor(torch.nan)
    return ((values - values.mean()).square().sum() / (values.numel() - ddof)).sqrt()


def _each_source(
    sources: Tensor | None, weights: Tensor | None, usable: Tensor, config: AdvantageConfig
) -> tuple[Tensor, Tensor]:
    """GDPO: advantages [P, G] and the groups [P] in which no source has a signal. A source that gives a row nothing, or
    a group fewer than two rewards, is left out of the sum."""
    if sources is None or weights is None:
        raise ValueError("sources 'normalise-each' needs the rewards of each source and their weights")
    if sources.shape[1:] != usable.shape or weights.shape != sources.shape[:1]:
        raise ValueError(
            f"sources must be [S, groups, group size] and weights [S], found {tuple(sources.shape)} and "
            f"{tuple(weights.shape)}"
        )
    total = torch.zeros(usable.shape, dtype=torch.float64, device=usable.device)
    silent = torch.ones(len(usable), dtype=torch.bool, device=usable.device)
    for rewards, weight in zip(sources.double(), weights.double(), strict=True):
        if weight == 0:
            continue
        one = _groups(torch.where(usable, rewards, torch.nan), config)
        total += weight * torch.where(one.flat[:, None], 0.0, one.centred / (one.std[:, None] + config.epsilon))
        silent &= one.flat
    known = total[usable]
    # the mean is 0 but for rounding, since each source is centred in its groups; subtracted as the paper has it
    return (total - known.mean()) / (_std(known, config.ddof) + config.epsilon), silent


def _beta_density(rewards: Tensor, groups: _Groups) -> Tensor:
    """[P]: f(p; alpha, beta), the density of a Beta distribution at the group's success rate p (BNPO).

    With m and v the mean and the variance (ddof 1) of p over the groups of the step, the method of moments gives
    a = m (m (1 - m) / v - 1) and b = (1 - m) (m (1 - m) / v - 1); alpha = max(1, 1 + a / 3), beta = max(1, 1 + b / 3).
    1 / f is at most ``BETA_LARGEST``. The bounds are those of the authors' code. With fewer than two groups, or where v
    is 0, the moments give nothing: alpha = beta = 1, and f is 1.
    """
    present = rewards[groups.usable]
    if present.numel() and not (present.amin() >= 0 and present.amax() <= 1):
        raise TrainingError(
            "objective.advantage.normaliser 'beta' takes rewards as success rates",
            found=f"total rewards from {present.amin().item():g} to {present.amax().item():g}",
            expected="totals from 0 to 1",
            next_step="Change the weights of the reward sources, or the normaliser",
        )
    rates = groups.mean[groups.usable.any(dim=1)]
    mean, variance = rates.mean(), _std(rates, 1).square()
    if not variance > 0:
        return torch.ones_like(groups.mean)
    both = mean * (1 - mean) / variance - 1
    alpha, beta = (1 + mean * both / 3).clamp(min=1), (1 + (1 - mean) * both / 3).clamp(min=1)
    rate = torch.where(groups.mean.isnan(), 0.5, groups.mean).clamp(0, 1)
    log_constant = torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
    log_density = torch.xlogy(alpha - 1, rate) + torch.xlogy(beta - 1, 1 - rate) - log_constant
    return log_density.exp().clamp(min=1 / BETA_LARGEST)
