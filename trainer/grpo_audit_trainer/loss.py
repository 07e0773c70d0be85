"""The objective of one microbatch. Pure: tensors in, ``(loss, metrics)`` out.

With l = logp - old_logp, rho = exp(l), d = ref_logp - logp, m the mask and |o_i| the row sums of m:

    per token    c_it = -min(rho A_i, clip(rho, 1 - clip_low, 1 + clip_high) A_i) + beta * k(d)
    k1 = -d      k2 = d^2 / 2      k3 = exp(d) - d - 1                       (Schulman 2020)

    sequence-mean   L = 1/N sum_i 1/|o_i| sum_t m_it c_it                    (GRPO, arXiv 2402.03300, eq. 3)
    token-mean      L = 1/T sum_i sum_t m_it c_it                            (DAPO, arXiv 2503.14476, eq. 8)
    constant        L = 1/(N * max_completion_tokens) sum_i sum_t m_it c_it  (Dr. GRPO, arXiv 2503.20783)

N (completions) and T (tokens) are those of the whole step, counted before it is cut into microbatches, so that the
sum of the microbatch losses, and of their gradients, does not depend on the cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_audit.config.objective import Aggregation, Estimator, ObjectiveConfig


@dataclass(frozen=True, slots=True)
class Normaliser:
    """What sums are divided by: counted over the whole step, without the completions that are left out."""

    sequences: int
    tokens: int
    max_completion_tokens: int

    def __post_init__(self) -> None:
        if min(self.sequences, self.tokens, self.max_completion_tokens) < 1:
            raise ValueError(f"nothing to normalise by: {self}")


@dataclass(frozen=True, slots=True)
class LossMetrics:
    """Detached 0-d tensors of one microbatch, so that nothing waits for the device; all of them add up over the
    microbatches of a step."""

    loss: Tensor
    """Share of this microbatch in the step's loss."""
    kl_loss: Tensor
    """Share in ``beta`` times the aggregated KL term; 0 without a reference."""
    kl_sum: Tensor
    """Sum of the KL estimator over tokens; 0 without a reference."""
    clipped_low: Tensor
    """Tokens whose gradient the lower clip removes (rho < 1 - clip_low and A < 0)."""
    clipped_high: Tensor
    """Tokens whose gradient the upper clip removes (rho > 1 + clip_high and A > 0)."""

    def __add__(self, other: LossMetrics) -> LossMetrics:
        return LossMetrics(
            loss=self.loss + other.loss,
            kl_loss=self.kl_loss + other.kl_loss,
            kl_sum=self.kl_sum + other.kl_sum,
            clipped_low=self.clipped_low + other.clipped_low,
            clipped_high=self.clipped_high + other.clipped_high,
        )


def grpo_loss(
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    objective: ObjectiveConfig,
    normaliser: Normaliser,
) -> tuple[Tensor, LossMetrics]:
    """Loss of a microbatch of B completions of up to T tokens.

    ``logp`` [B, T] carries the gradient; ``old_logp`` and ``ref_logp`` [B, T] do not (the reference may be None when
    ``beta`` is 0); ``advantages`` [B]; ``mask`` [B, T] is 1 on the tokens that count. Values outside the mask are
    ignored, whatever they are. On-policy (``old_logp`` equal to ``logp``) the surrogate is ``-mean(A)``, near 0 in
    value; its gradient is the policy gradient and is not 0.
    """
    if ref_logp is None and objective.kl.beta > 0:
        raise ValueError("beta is positive, but there are no reference log-probabilities")
    inside = mask.bool()
    logp = torch.where(inside, logp, 0.0)
    old_logp = torch.where(inside, old_logp, 0.0).detach()
    advantage = advantages.to(logp.dtype)[:, None]
    low, high = 1.0 - objective.surrogate.clip_low, 1.0 + objective.surrogate.clip_high
    ratio = (logp - old_logp).exp()
    cost = -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    zero = logp.new_zeros(())
    kl_loss, kl_sum = zero, zero
    if ref_logp is not None:
        divergence = kl_divergence(logp, torch.where(inside, ref_logp, 0.0).detach(), objective.kl.estimator)
        kl_sum = divergence.detach().sum()
        if objective.kl.beta > 0:
            kl_loss = objective.kl.beta * aggregate(divergence, inside, objective.aggregation, normaliser)
    loss = aggregate(cost, inside, objective.aggregation, normaliser) + kl_loss
    with torch.no_grad():
        clipped_low = (inside & (ratio < low) & (advantage < 0)).sum()
        clipped_high = (inside & (ratio > high) & (advantage > 0)).sum()
    return loss, LossMetrics(loss.detach(), kl_loss.detach(), kl_sum, clipped_low, clipped_high)


def kl_divergence(logp: Tensor, ref_logp: Tensor, estimator: Estimator) -> Tensor:
    """Per-token estimate of KL(policy || reference) for tokens drawn from the policy, of the shape of ``logp``."""
    difference = ref_logp - logp
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return difference.exp() - difference - 1


def aggregate(cost: Tensor, inside: Tensor, aggregation: Aggregation, normaliser: Normaliser) -> Tensor:
    """Sum of ``cost`` [B, T] over the tokens ``inside`` [B, T], divided as the objective says."""
    cost = torch.where(inside, cost, 0.0)
    if aggregation == "sequence-mean":
        lengths = inside.sum(dim=1).clamp(min=1)
        return (cost.sum(dim=1) / lengths).sum() / normaliser.sequences
    if aggregation == "token-mean":
        return cost.sum() / normaliser.tokens
    return cost.sum() / (normaliser.sequences * normaliser.max_completion_tokens)
