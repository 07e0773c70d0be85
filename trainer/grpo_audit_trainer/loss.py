"""The objective of one microbatch. Pure: tensors in, ``(loss, metrics)`` out.

With l_it = logp - old_logp, rho the ratio at its level, A the advantage, m the mask, w_i the weight of a row,
u_it the tokens whose surrogate counts and v the importance weight of another sampler (both 1 unless configured):

    L = sum_i w_i sum_t m_it (u_it v_it s_it + beta k_it)

    token level       rho_it = exp(l_it)                            (PPO, GRPO: arXiv 2402.03300, eq. 3)
    sequence level    rho_it = exp(1/|o_i| sum_t m_it l_it)         (GSPO, arXiv 2507.18071)
    trajectory level  rho_it = exp(sum_t m_it l_it)                 (RLOO, arXiv 2402.14740)

    clipped   s = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)         (PPO, arXiv 1707.06347, eq. 7)
              with a dual clip c, where A < 0:  s = -max(that, c A)             (Ye et al. 2020, arXiv 1912.09729)
    cispo     s = -stop_gradient(clip(rho, 1 - clip_low, 1 + clip_high)) A logp (MiniMax-M1, arXiv 2506.13585)
    sapo      s = -4/tau sigmoid(tau (rho - 1)) A                               (SAPO, arXiv 2511.20347)

    k1 = -d   k2 = d^2 / 2   k3 = exp(d) - d - 1   with d = ref_logp - logp     (Schulman 2020), optionally times rho

The weights w_i are counted over one whole optimiser update, before it is cut into microbatches or dealt to
processes, so that the sum of the losses of the parts, and of their gradients, does not depend on the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from grpo_audit.config.objective import CorrectionConfig, Estimator, ObjectiveConfig, RatioLevel, SurrogateConfig

_LARGEST_LOG: Final = 80.0
"""Log-ratios count as at most this in figures and where the surrogate is flat: exp overflows float32 at 88.7."""


@dataclass(frozen=True, slots=True)
class LossMetrics:
    """Detached 0-d tensors of one microbatch, so that nothing waits for the device; ``+`` combines the microbatches
    of an update."""

    loss: Tensor
    """Share of this microbatch in the loss of the update."""
    kl_loss: Tensor
    """Share in ``beta`` times the aggregated KL term; 0 when the loss has none."""
    kl_sum: Tensor
    """Sum of the KL estimator over tokens; 0 without a reference."""
    clipped_low: Tensor
    """Tokens at the lower bound of the ratio. ``clipped``: rho < 1 - clip_low and A < 0, where it removes the
    gradient. ``cispo``: rho < 1 - clip_low, where it sets the weight. ``sapo``: 0."""
    clipped_high: Tensor
    """Tokens at the upper bound. ``clipped``: rho > 1 + clip_high and A > 0, or rho > dual_clip and A < 0. ``cispo``:
    rho > 1 + clip_high. ``sapo``: 0."""
    drift_sum: Tensor
    """Sum over tokens of exp(l) - 1 - l, an estimate of KL(old policy || policy) in nats; whatever the ratio's
    level."""
    ratio_max: Tensor
    """Largest rho, at the level of the objective and before any clip; 0 without tokens. Combined by max."""
    corrected: Tensor
    """Tokens whose importance weight was capped or masked."""

    def __add__(self, other: LossMetrics) -> LossMetrics:
        return LossMetrics(
            loss=self.loss + other.loss,
            kl_loss=self.kl_loss + other.kl_loss,
            kl_sum=self.kl_sum + other.kl_sum,
            clipped_low=self.clipped_low + other.clipped_low,
            clipped_high=self.clipped_high + other.clipped_high,
            drift_sum=self.drift_sum + other.drift_sum,
            ratio_max=torch.maximum(self.ratio_max, other.ratio_max.to(self.ratio_max.dtype)),
            corrected=self.corrected + other.corrected,
        )

    @staticmethod
    def zero(device: torch.device) -> LossMetrics:
        """What nothing adds up to. Sums are float64 and counts int64, so that many microbatches add exactly."""
        real = torch.zeros((), dtype=torch.float64, device=device)
        count = torch.zeros((), dtype=torch.int64, device=device)
        return LossMetrics(real, real, real, count, count, real, real, count)


def row_weights(lengths: Tensor, objective: ObjectiveConfig, max_completion_tokens: int) -> Tensor:
    """[N] float64: what the token sum of each row is multiplied by.

    ``lengths`` [N] are the tokens that count of the rows of ONE optimiser update, in order. With N rows, T tokens,
    the limit M = ``max_completion_tokens`` and K blocks of ``block_rows`` consecutive rows:

        sequence-mean     1 / (N |o_i|)        (GRPO, arXiv 2402.03300, eq. 3)
        token-mean        1 / T                (DAPO, arXiv 2503.14476, eq. 8)
        block-token-mean  1 / (K T_block(i))   (TRL's loss_type bnpo, a block being its microbatch)
        sequence-sum      1 / N                (verl's seq-mean-token-sum)
        constant          1 / (N M)            (Dr. GRPO, arXiv 2503.20783)

    Raises ValueError without rows: there is no mean of nothing.
    """
    rows = len(lengths)
    if rows == 0:
        raise ValueError("nothing to normalise by: the update has no rows")
    lengths = lengths.double()
    match objective.aggregation:
        case "sequence-mean":
            return 1 / (rows * lengths.clamp(min=1))
        case "token-mean":
            return torch.ones_like(lengths) / lengths.sum().clamp(min=1)
        case "block-token-mean":
            blocks = torch.arange(rows, device=lengths.device) // objective.block_rows
            count = -(-rows // objective.block_rows)
            tokens = lengths.new_zeros(count).index_add_(0, blocks, lengths).clamp(min=1)
            return 1 / (count * tokens[blocks])
        case "sequence-sum":
            return torch.full_like(lengths, 1 / rows)
        case "constant":
            return torch.full_like(lengths, 1 / (rows * max_completion_tokens))


def top_entropy_mask(entropy: Tensor, mask: Tensor, share: float) -> Tensor:
    """[N, T] bool: the tokens of an update whose entropy is at least the (1 - share) quantile over all its tokens.

    ``entropy`` [N, T] in nats, ``mask`` [N, T] of the tokens there are. Every token that ties with the last one
    counts, so that the choice depends on nothing but the entropies. Source: arXiv 2506.01939; TRL's
    ``top_entropy_quantile`` takes the quantile over one microbatch.
    """
    inside = mask.bool()
    present = entropy[inside]
    if present.numel() == 0:
        return inside
    # Linear interpolation lies between two neighbours, so the upper one is the smallest that reaches it. Rounded,
    # because 0.3 is not 1 - 0.7 in binary.
    place = math.ceil(round((1 - share) * (present.numel() - 1), 6))
    return inside & (entropy >= present.kthvalue(place + 1).values)


def grpo_loss(
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    row_weight: Tensor,
    objective: ObjectiveConfig,
    *,
    surrogate_mask: Tensor | None = None,
    sampler_logp: Tensor | None = None,
) -> tuple[Tensor, LossMetrics]:
    """Loss of a microbatch of B completions of up to T tokens, in nats.

    ``logp`` [B, T] carries the gradient; ``old_logp``, ``ref_logp`` and ``sampler_logp`` [B, T] do not. The reference
    is needed when the loss has a KL term; when it is given without one, the distance is measured. ``sampler_logp`` is
    what the sampling engine said, needed when ``objective.correction`` is on. ``advantages`` [B] or [B, T]; ``mask``
    [B, T] is 1 on the tokens that count; ``row_weight`` [B] comes from ``row_weights`` of the whole update;
    ``surrogate_mask`` [B, T] drops the surrogate of tokens, not their KL term. Values outside the mask are
    ignored, whatever they are. On-policy (``old_logp`` equal to ``logp``) the clipped surrogate is -A, near 0 in the
    mean; its gradient is the policy gradient and is not 0.

    Raises ValueError when a tensor is missing that the objective needs.
    """
    inside = mask.bool()
    logp = torch.where(inside, logp, 0.0)
    old_logp = torch.where(inside, old_logp, 0.0).detach()
    table = advantages if advantages.ndim == 2 else advantages[:, None]
    advantage = torch.where(inside, table.to(logp.dtype), 0.0).detach()
    weight = row_weight.to(logp.dtype)
    log_ratio = logp - old_logp
    level = _at_level(log_ratio, inside, objective.surrogate.level)

    counted = inside if surrogate_mask is None else inside & surrogate_mask.bool()
    cost = torch.where(counted, _surrogate(level, logp, advantage, objective.surrogate), 0.0)
    corrected = counted.new_zeros((), dtype=torch.int64)
    if objective.correction.level != "none":
        importance, changed = _importance(old_logp, sampler_logp, inside, objective.correction)
        cost, corrected = cost * importance, (counted & changed).sum()
    loss = _weighted(cost, weight)

    kl_loss, kl_sum = logp.new_zeros(()), logp.new_zeros(())
    penalised = objective.kl.beta > 0 and objective.kl.placement == "loss"
    if ref_logp is None and penalised:
        raise ValueError("beta is positive, but there are no reference log-probabilities")
    if ref_logp is not None:
        divergence = kl_divergence(logp, torch.where(inside, ref_logp, 0.0).detach(), objective.kl.estimator)
        kl_sum = divergence.detach().sum()  # outside the mask both are 0, and so is every estimator
        if penalised:
            term = divergence * level.exp() if objective.kl.times_ratio else divergence
            kl_loss = objective.kl.beta * _weighted(torch.where(inside, term, 0.0), weight)
            loss = loss + kl_loss

    with torch.no_grad():
        low, high = _at_bounds(level, advantage, objective.surrogate)
        step = log_ratio.clamp(max=_LARGEST_LOG)
        ratio = torch.where(inside, level.clamp(max=_LARGEST_LOG).exp(), 0.0)
        metrics = LossMetrics(
            loss=loss.detach(),
            kl_loss=kl_loss.detach(),
            kl_sum=kl_sum,
            clipped_low=(counted & low).sum(),
            clipped_high=(counted & high).sum(),
            drift_sum=(step.expm1() - step).sum(),
            ratio_max=ratio.amax() if ratio.numel() else ratio.new_zeros(()),
            corrected=corrected,
        )
    return loss, metrics


def kl_divergence(logp: Tensor, ref_logp: Tensor, estimator: Estimator) -> Tensor:
    """Per-token estimate of KL(policy || reference) for tokens drawn from the policy, of the shape of ``logp``."""
    difference = ref_logp - logp
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return difference.exp() - difference - 1


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, row_weight: Tensor, clip: float
) -> Tensor:
    """Loss of the value model: sum_i w_i sum_t m_it max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2.

    ``values`` [B, T] carry the gradient; ``old_values`` and ``returns`` [B, T] do not; ``row_weight`` [B] as in
    ``grpo_loss``. Values outside the mask are ignored. Source: the PPO code of OpenAI baselines; the paper
    (arXiv 1707.06347, eq. 9) has the plain squared error.
    """
    inside = mask.bool()
    value, old, target = (torch.where(inside, item, 0.0) for item in (values, old_values.detach(), returns.detach()))
    near = old + (value - old).clamp(-clip, clip)
    return _weighted(torch.maximum((value - target).square(), (near - target).square()) / 2, row_weight.to(value.dtype))


def _weighted(cost: Tensor, weight: Tensor) -> Tensor:
    """sum_i w_i sum_t c_it; ``cost`` [B, T] is 0 outside the mask."""
    return (cost.sum(dim=1) * weight).sum()


def _at_level(log_ratio: Tensor, inside: Tensor, level: RatioLevel) -> Tensor:
    """[B, T]: the logarithm of the ratio that stands at each token."""
    match level:
        case "token":
            return log_ratio
        case "sequence":
            whole = log_ratio.sum(dim=1, keepdim=True) / inside.sum(dim=1, keepdim=True).clamp(min=1)
        case "trajectory":
            whole = log_ratio.sum(dim=1, keepdim=True)
    return whole.expand_as(log_ratio)


def _surrogate(level: Tensor, logp: Tensor, advantage: Tensor, config: SurrogateConfig) -> Tensor:
    """[B, T]: the surrogate as a cost. ``level`` is the log-ratio."""
    low, high = _bounds(config)
    match config.kind:
        case "clipped":
            # min(rho A, clip(rho) A) is one bound on rho for each sign of A. Taken on the logarithm, so that a ratio
            # beyond float32 has the gradient 0 and not 0 * inf.
            falling = level.clamp(min=low, max=math.inf if config.dual_clip is None else math.log(config.dual_clip))
            return -torch.where(advantage < 0, falling, level.clamp(max=high)).exp() * advantage
        case "cispo":
            return -level.detach().clamp(min=low, max=high).exp() * advantage * logp
        case "sapo":
            temperature = torch.full_like(level, config.tau_negative).masked_fill(advantage > 0, config.tau_positive)
            # beyond the clamp the sigmoid is flat in floating point, and exp would overflow
            gate = torch.sigmoid(temperature * (level.clamp(max=_LARGEST_LOG).exp() - 1))
            return -4 / temperature * gate * advantage


def _bounds(config: SurrogateConfig) -> tuple[float, float]:
    """Bounds of the log-ratio."""
    return math.log(1 - config.clip_low) if config.clip_low < 1 else -math.inf, math.log1p(config.clip_high)


def _at_bounds(level: Tensor, advantage: Tensor, config: SurrogateConfig) -> tuple[Tensor, Tensor]:
    """[B, T] bool, twice: see ``LossMetrics.clipped_low`` and ``clipped_high``."""
    low, high = _bounds(config)
    match config.kind:
        case "clipped":
            above = (level > high) & (advantage > 0)
            if config.dual_clip is not None:
                above = above | ((level > math.log(config.dual_clip)) & (advantage < 0))
            return (level < low) & (advantage < 0), above
        case "cispo":
            return level < low, level > high
        case "sapo":
            never = torch.zeros_like(level, dtype=torch.bool)
            return never, never


def _importance(
    old_logp: Tensor, sampler_logp: Tensor | None, inside: Tensor, config: CorrectionConfig
) -> tuple[Tensor, Tensor]:
    """[B, T]: w = pi_old / pi_sampler, per token or as the product over the completion, above ``cap`` cut or 0; and
    which tokens that changed. No gradient."""
    if sampler_logp is None:
        raise ValueError("objective.correction is on, but there are no log-probabilities of the sampler")
    difference = old_logp - torch.where(inside, sampler_logp, 0.0).detach()
    if config.level == "sequence":
        difference = difference.sum(dim=1, keepdim=True).expand_as(difference)
    changed = difference > math.log(config.cap)
    kept = difference.clamp(max=math.log(config.cap)).exp()
    return (torch.where(changed, 0.0, kept) if config.mode == "mask" else kept), changed
