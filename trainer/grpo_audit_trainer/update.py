"""One optimiser step: gradient over microbatches, checks, AdamW."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_audit.config.objective import ObjectiveConfig
from grpo_audit.config.sections import TrainingConfig
from grpo_audit.errors import TrainingError
from grpo_audit_trainer.loss import LossMetrics, Normaliser, grpo_loss
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.scoring import Completions, Microbatch, Scorer


@dataclass(frozen=True, slots=True)
class StepData:
    """What the gradient of one step needs. N completions of up to T tokens."""

    completions: Completions
    sampled_logp: Tensor
    """[N, T] float32: what the sampler said."""
    advantages: Tensor
    """[N] float64."""
    rows: list[int]
    """Rows in the loss."""
    normaliser: Normaliser | None
    """Counted over ``rows``; None when there are none."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """Figures of the gradient of one step, read from the device in one go."""

    loss: float
    kl_loss: float
    kl_sum: float
    """Sum of the estimator over the tokens of the rows that were computed."""
    clipped_low: int
    clipped_high: int
    agreement_sum: float
    """Sum of |log-probability of the sampler - of the scorer|."""
    agreement_max: float
    tokens: int
    """Tokens computed."""
    norm: float
    """Before clipping."""


class Updater:
    """Owns AdamW and the schedule. Weight decay acts on matrices only."""

    def __init__(self, policy: Policy, scorer: Scorer, config: TrainingConfig, objective: ObjectiveConfig) -> None:
        self.policy = policy
        self.scorer = scorer
        self.config = config
        self.objective = objective
        parameters = list(policy.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=config.adam_betas,
            eps=config.adam_epsilon,
            fused=True,
        )

    def learning_rate(self, step: int) -> float:
        """``learning_rate * min(1, (step + 1) / warmup_steps)``, steps from 0."""
        if step + 1 >= self.config.warmup_steps:
            return self.config.learning_rate
        return self.config.learning_rate * (step + 1) / self.config.warmup_steps

    def gradient(self, data: StepData, rows: Sequence[int], ref_logp: Tensor | None) -> Gradient:
        """Compute the gradient over ``rows`` (those of ``data.rows`` whose gradient is not known to be 0), leave it,
        clipped, in the parameters, and return its figures. The weights are not touched.

        Raises TrainingError when loss or gradient is not finite.
        """
        for parameter in self.policy.model.parameters():
            # zeros, not None: AdamW must move by its momentum also where nothing was computed
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()
        total = _Total(self.policy.device)

        def accumulate(batch: Microbatch, logp: Tensor) -> None:
            assert data.normaliser is not None  # there are rows
            width = logp.shape[1]
            loss, metrics = grpo_loss(
                logp=logp,
                old_logp=logp.detach(),  # on-policy, one update: the ratio is 1 in value, its gradient is not 0
                ref_logp=None if ref_logp is None else ref_logp[batch.rows, :width],
                advantages=data.advantages[batch.rows],
                mask=batch.mask,
                objective=self.objective,
                normaliser=data.normaliser,
            )
            loss.backward()
            total.add(metrics, logp.detach() - data.sampled_logp[batch.rows, :width], batch.mask)

        # transformers checkpoints activations in train mode only; dropout is off in both
        self.policy.model.train(self.policy.execution.gradient_checkpointing)
        self.scorer.each(data.completions, rows, accumulate)
        self.policy.model.eval()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), self.config.max_grad_norm)
        figures = total.read(norm)
        if not (math.isfinite(figures.loss) and math.isfinite(figures.norm)):
            raise TrainingError(
                "Loss or gradient is not finite",
                found=f"loss {figures.loss}, gradient norm {figures.norm}",
                expected="finite numbers; the weights were not touched",
                next_step="Lower training.learning_rate, or set model.precision to float32, and start a new run",
            )
        return figures

    def apply(self, step: int) -> None:
        """Move the weights along the gradient that ``gradient`` left behind."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.step()


class _Total:
    """Sums over the microbatches, kept on the device so that nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        zero = torch.zeros((), device=device)
        self.metrics = LossMetrics(zero, zero, zero, zero, zero)
        self.agreement_sum, self.agreement_max, self.tokens = zero, zero, zero

    def add(self, metrics: LossMetrics, difference: Tensor, mask: Tensor) -> None:
        self.metrics = self.metrics + metrics
        gap = torch.where(mask, difference.abs(), 0.0)
        self.agreement_sum = self.agreement_sum + gap.sum()
        self.agreement_max = torch.maximum(self.agreement_max, gap.amax())
        self.tokens = self.tokens + mask.sum()

    def read(self, norm: Tensor) -> Gradient:
        m = self.metrics
        parts = [m.loss, m.kl_loss, m.kl_sum, m.clipped_low, m.clipped_high]
        parts += [self.agreement_sum, self.agreement_max, self.tokens, norm]
        # float64 holds every count exactly; one stack, one wait
        values = torch.stack([part.double() for part in parts]).tolist()
        loss, kl_loss, kl_sum, low, high, agreement_sum, agreement_max, tokens, grad_norm = values
        return Gradient(
            loss, kl_loss, kl_sum, int(low), int(high), agreement_sum, agreement_max, int(tokens), grad_norm
        )
