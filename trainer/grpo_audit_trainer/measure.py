"""What is measured beside the updates: whether sampler and scorer agree, and how far the policy has moved."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_audit.config.objective import Estimator
from grpo_audit.errors import TrainingError
from grpo_audit_trainer.loss import kl_divergence
from grpo_audit_trainer.scoring import Scorer
from grpo_audit_trainer.update import Gradient, StepData


def agreement(scorer: Scorer, data: StepData, gradient: Gradient, first_group: list[int]) -> tuple[float, float]:
    """Mean and largest |log-probability of the sampler - of the scorer| over tokens, in nats, before the first update:
    over the tokens that update computed, or, where it computed none, over ``first_group``."""
    if gradient.tokens:
        return gradient.agreement_sum / gradient.tokens, gradient.agreement_max
    difference = (scorer.logp(data.completions, first_group) - data.sampled_logp)[first_group].abs()
    tokens = sum(data.completions.lengths[row] for row in first_group)
    return float(difference.sum()) / tokens, float(difference.max())


def check_agreement(mean: float, tolerance: float) -> None:
    """Raises TrainingError above ``tolerance``: every gradient would be biased without a sign of it."""
    if not mean <= tolerance:
        raise TrainingError(
            "Sampler and scorer disagree about the log-probabilities of the same tokens",
            found=f"a mean difference of {mean:.4g} nats",
            expected=f"at most {tolerance}",
            next_step="Set model.precision to float32, or raise training.agreement_tolerance if you know why",
        )


def distance(logp: Tensor, ref_logp: Tensor, data: StepData, estimator: Estimator) -> float | None:
    """KL to a reference: mean of the estimator over the tokens in the loss; None when there are none. Both [N, T]."""
    if not data.rows:
        return None
    return _sum(logp, ref_logp, data.rows, estimator) / _tokens(data)


def distance_of_gradient(
    scorer: Scorer, data: StepData, gradient: Gradient, moving: list[int], estimator: Estimator
) -> float | None:
    """The same, where the gradient of a single update already summed the estimator over the rows it computed."""
    if not data.rows or data.ref_logp is None:
        return None
    still = sorted(set(data.rows) - set(moving))
    rest = _sum(scorer.logp(data.completions, still), data.ref_logp, still, estimator)
    return (gradient.kl_sum + rest) / _tokens(data)


def _sum(logp: Tensor, ref_logp: Tensor, rows: list[int], estimator: Estimator) -> float:
    """Behind a row's end both are 0, and so is every estimator."""
    index = torch.tensor(rows, dtype=torch.int64, device=logp.device)
    return float(kl_divergence(logp[index], ref_logp[index], estimator).double().sum())


def _tokens(data: StepData) -> int:
    return sum(data.completions.lengths[row] for row in data.rows)
