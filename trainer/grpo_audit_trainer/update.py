"""Optimiser updates: which rows, the gradient over microbatches, checks, AdamW."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_audit.config.objective import ObjectiveConfig
from grpo_audit.config.sections import TrainingConfig
from grpo_audit.errors import TrainingError
from grpo_audit_trainer.distributed import World
from grpo_audit_trainer.loss import LossMetrics, grpo_loss, row_weights, top_entropy_mask
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.scoring import Completions, Microbatch, Scorer
from grpo_audit_trainer.sharding import as_whole


@dataclass(frozen=True, slots=True)
class StepData:
    """What the gradients of one step need. N completions of up to T tokens."""

    completions: Completions
    sampled_logp: Tensor
    """[N, T] float32: what the sampler said."""
    old_logp: Tensor | None
    """[N, T] float32: the policy before the first update; None when there is one update only, whose ratio is 1."""
    ref_logp: Tensor | None
    """[N, T] float32; None when the loss needs no reference and none is measured."""
    entropy: Tensor
    """[N, T] float32: of the sampling distribution."""
    advantages: Tensor
    """[N] or [N, T] float64."""
    rows: list[int]
    """Rows in the loss."""


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one update."""

    iteration: int
    minibatch: int
    rows: list[int]
    """In the loss: they are what the normaliser counts."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """Figures of the gradient of one update, read from the device in one go."""

    loss: float
    kl_loss: float
    kl_sum: float
    """Sum of the estimator over the tokens of the rows that were computed."""
    clipped_low: int
    clipped_high: int
    drift_sum: float
    """Sum over the tokens computed of exp(l) - 1 - l, with l the log-ratio."""
    ratio_max: float
    corrected: int
    agreement_sum: float
    """Sum of |log-probability of the sampler - of the scorer|."""
    agreement_max: float
    tokens: int
    """Tokens computed."""
    norm: float
    """Before clipping."""


def parts_of_step(
    rows: Sequence[int], group: Sequence[int], config: TrainingConfig, *, seed: int, step: int
) -> list[Part]:
    """``iterations`` passes over the rows, each cut into ``minibatches`` parts of nearly equal numbers of groups.

    Groups stay whole; each pass takes them in the order of SHA-256 of ``SEED:STEP:ITERATION:GROUP``, so that the cut is
    a pure function of the seed.
    """
    present = sorted({group[row] for row in rows})
    parts: list[Part] = []
    for iteration in range(config.iterations):
        ordered = present if config.minibatches == 1 else _shuffled(present, f"{seed}:{step}:{iteration}")
        count = len(ordered)
        for minibatch in range(config.minibatches):
            start, end = (count * place // config.minibatches for place in (minibatch, minibatch + 1))
            chosen = set(ordered[start:end])
            parts.append(Part(iteration, minibatch, [row for row in rows if group[row] in chosen]))
    return parts


def _shuffled(groups: list[int], prefix: str) -> list[int]:
    return sorted(groups, key=lambda group: hashlib.sha256(f"{prefix}:{group}".encode()).digest())


def adamw(parameters: Sequence[Tensor], config: TrainingConfig, learning_rate: float) -> torch.optim.AdamW:
    """The optimiser of the section. Weight decay acts on matrices only."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=config.adam_betas,
        eps=config.adam_epsilon,
        fused=True,
    )


def zero_gradients(parameters: Sequence[Tensor]) -> None:
    """Zeros, not None: AdamW must move by its momentum also where nothing was computed."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()


class Updater:
    """Owns AdamW and the schedule."""

    def __init__(
        self,
        policy: Policy,
        scorer: Scorer,
        config: TrainingConfig,
        objective: ObjectiveConfig,
        max_completion_tokens: int,
        world: World | None = None,
    ) -> None:
        self.policy = policy
        self.world = world or World()
        self.scorer = scorer
        self.config = config
        self.objective = objective
        self.max_completion_tokens = max_completion_tokens
        self.parameters = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
        self.optimizer = adamw(self.parameters, config, config.learning_rate)

    def learning_rate(self, step: int) -> float:
        """Of the updates of a step, from 0: ``learning_rate * min(1, (step + 1) / warmup_steps)`` during the warm-up;
        then, with x going from 0 to 1 over the remaining steps, times 1 (constant), 1 - x (linear) or
        (1 + cos(pi x)) / 2 (cosine)."""
        peak, warmup = self.config.learning_rate, self.config.warmup_steps
        if step + 1 < warmup:
            return peak * (step + 1) / warmup
        x = (step + 1 - max(warmup, 1)) / max(1, self.config.steps - max(warmup, 1) + 1)
        match self.config.schedule:
            case "constant":
                return peak
            case "linear":
                return peak * (1 - x)
            case "cosine":
                return peak * (1 + math.cos(math.pi * x)) / 2

    def gradient(self, data: StepData, part: Part, moving: Sequence[int]) -> Gradient:
        """Compute the gradient over ``moving`` (those rows of the part whose gradient is not known to be 0), leave it,
        clipped, in the parameters, and return its figures. The weights are not touched. Of several processes each
        computes its share of the rows, and all end with the same gradient and figures.

        Raises TrainingError when loss or gradient is not finite.
        """
        zero_gradients(self.parameters)
        total = _Total(self.policy.device)
        weights = self.weights(data, part)
        counted = self._counted(data, part)
        correct = self.objective.correction.level != "none"
        per_token = data.advantages.ndim == 2

        def accumulate(batch: Microbatch, logp: Tensor) -> None:
            width = logp.shape[1]

            def here(values: Tensor | None) -> Tensor | None:
                return None if values is None else values[batch.rows, :width]

            old = here(data.old_logp)
            loss, metrics = grpo_loss(
                logp=logp,
                old_logp=logp.detach() if old is None else old,  # the ratio is 1 in value, its gradient is not 0
                ref_logp=here(data.ref_logp),
                advantages=data.advantages[batch.rows, :width] if per_token else data.advantages[batch.rows],
                mask=batch.mask,
                row_weight=weights[batch.rows],
                objective=self.objective,
                surrogate_mask=here(counted),
                sampler_logp=here(data.sampled_logp) if correct else None,
            )
            loss.backward()
            total.add(metrics, logp.detach() - data.sampled_logp[batch.rows, :width], batch.mask)

        # transformers checkpoints activations in train mode only; dropout is off in both
        self.policy.model.train(self.policy.execution.gradient_checkpointing)
        self.scorer.each(data.completions, self.world.share(moving, data.completions.group), accumulate)
        if self.policy.shards is None:
            self.world.sum_gradients(self.parameters)
        else:  # every backward pass has summed already, so all processes need the same number of them
            for _ in range(self._missing(data.completions, moving)):
                self.scorer.each(data.completions, [0], _nothing)
        self.policy.model.eval()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        figures = total.read(as_whole(norm), self.world)
        if not (math.isfinite(figures.loss) and math.isfinite(figures.norm)):
            raise TrainingError(
                "Loss or gradient is not finite",
                found=f"loss {figures.loss}, gradient norm {figures.norm}",
                expected="finite numbers; the weights were not touched",
                next_step="Lower training.learning_rate, or set model.precision to float32, and start a new run",
            )
        return figures

    def _missing(self, completions: Completions, moving: Sequence[int]) -> int:
        """Microbatches that this process has fewer than the one that has most."""
        shares = [self.world.share(moving, completions.group, rank) for rank in range(self.world.size)]
        counts = [self.scorer.count(completions, rows) for rows in shares]
        return max(counts) - counts[self.world.rank]

    def apply(self, step: int) -> None:
        """Move the weights along the gradient that ``gradient`` left behind."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.step()

    def weights(self, data: StepData, part: Part) -> Tensor:
        """[N] float32: what the token sums of each row of the part are multiplied by; 0 elsewhere."""
        weights = torch.zeros(len(data.completions.lengths), device=self.policy.device)
        if part.rows:
            lengths = torch.tensor([data.completions.lengths[row] for row in part.rows])
            index = torch.tensor(part.rows, device=weights.device)
            weights[index] = row_weights(lengths, self.objective, self.max_completion_tokens).to(weights)
        return weights

    def _counted(self, data: StepData, part: Part) -> Tensor | None:
        """[N, T] bool: tokens whose surrogate counts; None when all do."""
        if self.objective.top_entropy == 1.0 or not part.rows:
            return None
        index = torch.tensor(part.rows, device=data.entropy.device)
        lengths = torch.tensor(data.completions.lengths, device=index.device)[index]
        inside = torch.arange(data.entropy.shape[1], device=index.device) < lengths[:, None]
        counted = torch.zeros_like(data.entropy, dtype=torch.bool)
        counted[index] = top_entropy_mask(data.entropy[index], inside, self.objective.top_entropy)
        return counted


def _nothing(_batch: Microbatch, logp: Tensor) -> None:
    """The backward pass of a microbatch that counts nothing."""
    logp.backward(torch.zeros_like(logp))


class _Total:
    """Sums over the microbatches, kept on the device so that nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        zero = torch.zeros((), device=device)
        self.metrics = LossMetrics.zero(device)
        self.agreement_sum, self.agreement_max, self.tokens = zero, zero, zero

    def add(self, metrics: LossMetrics, difference: Tensor, mask: Tensor) -> None:
        self.metrics = self.metrics + metrics
        gap = torch.where(mask, difference.abs(), 0.0)
        self.agreement_sum = self.agreement_sum + gap.sum()
        self.agreement_max = torch.maximum(self.agreement_max, gap.amax())
        self.tokens = self.tokens + mask.sum()

    def read(self, norm: Tensor, world: World) -> Gradient:
        m = self.metrics
        sums = [m.loss, m.kl_loss, m.kl_sum, m.clipped_low, m.clipped_high, m.drift_sum, m.corrected]
        sums += [self.agreement_sum, self.tokens]
        maxima = [m.ratio_max, self.agreement_max, norm]
        # float64 holds every count exactly; one wait
        total, largest = (torch.stack([part.double() for part in parts]) for parts in (sums, maxima))
        values = torch.cat([world.sum(total), world.max(largest)]).tolist()
        loss, kl_loss, kl_sum, low, high, drift, corrected, agreement, tokens, ratio, agreement_max, grad_norm = values
        return Gradient(
            loss=loss,
            kl_loss=kl_loss,
            kl_sum=kl_sum,
            clipped_low=int(low),
            clipped_high=int(high),
            drift_sum=drift,
            ratio_max=ratio,
            corrected=int(corrected),
            agreement_sum=agreement,
            agreement_max=agreement_max,
            tokens=int(tokens),
            norm=grad_norm,
        )
