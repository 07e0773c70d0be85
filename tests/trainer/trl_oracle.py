"""TRL's own loss and advantage code, called on given log-probabilities. TRL is a test oracle, nothing more.

The real methods run: ``GRPOTrainer._compute_loss``, ``RLOOTrainer._compute_loss`` and
``GRPOTrainer._generate_and_score_completions``. A trainer is made without its constructor, with the attributes that
the methods read, and the methods that would call a model, a tokenizer or a reward function return what is given.
"""

from __future__ import annotations

import importlib
import warnings
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from grpo_audit.config.objective import ObjectiveConfig
from grpo_audit_trainer.loss import grpo_loss, row_weights, top_entropy_mask

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # vLLM is not needed here, and a folder of tests of that name would be taken for it
    importlib.import_module("trl.import_utils").is_vllm_available = lambda *_, **__: False
    from trl import GRPOTrainer, RLOOTrainer

MAX_COMPLETION = 9


@dataclass
class Batch:
    """A ragged batch in float32."""

    logp: Tensor
    old: Tensor
    ref: Tensor
    sampler: Tensor
    entropy: Tensor
    advantages: Tensor
    mask: Tensor

    @property
    def lengths(self) -> Tensor:
        """[B]: tokens that count."""
        return self.mask.sum(dim=1)

    def rows(self, start: int, end: int) -> Batch:
        """A microbatch."""
        return Batch(**{name: getattr(self, name)[start:end] for name in self.__dataclass_fields__})


def random_batch(seed: int, spread: float = 0.4) -> Batch:
    """Up to 6 completions of up to 9 tokens; ratios far enough from 1 for every clip to act on some token."""
    random = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(1, 7, (), generator=random))
    width = int(torch.randint(1, MAX_COMPLETION + 1, (), generator=random))
    lengths = torch.randint(1, width + 1, (rows,), generator=random)
    width = int(lengths.max())

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    logp = -normal(rows, width).abs() - 0.01
    near = [logp + spread * normal(rows, width) for _ in range(3)]
    return Batch(
        logp=logp,
        old=near[0],
        ref=near[1],
        sampler=near[0] + spread * normal(rows, width),
        entropy=normal(rows, width).abs(),
        advantages=normal(rows),
        mask=(torch.arange(width) < lengths[:, None]).long(),
    )


class _OneProcess:
    """The part of accelerate that the methods use, for one process."""

    num_processes = 1
    process_index = 0
    device = torch.device("cpu")
    sync_gradients = True

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    gather_for_metrics = gather

    def pad_across_processes(self, tensor: Tensor, dim: int = 0, pad_index: float = 0) -> Tensor:
        return tensor

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        return tensor

    def unwrap_model(self, model: Any) -> Any:
        return model


def _bare(kind: type, **attributes: Any) -> Any:
    trainer = kind.__new__(kind)
    trainer.accelerator = _OneProcess()
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    trainer.model = SimpleNamespace(training=True)
    trainer.aux_loss_enabled = False
    trainer._entropy_bonus_enabled = False
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


def ours(
    batch: Batch, objective: ObjectiveConfig, *, weights: Tensor | None = None, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of this project, in float32, the batch being one whole update unless ``weights`` are given."""
    logp = batch.logp.clone().requires_grad_()
    if weights is None:
        weights = row_weights(batch.lengths, objective, MAX_COMPLETION)
    if counted is None and objective.top_entropy < 1:
        counted = top_entropy_mask(batch.entropy, batch.mask, objective.top_entropy)
    loss, _ = grpo_loss(
        logp,
        batch.old,
        batch.ref,
        batch.advantages,
        batch.mask,
        weights,
        objective,
        surrogate_mask=counted,
        sampler_logp=batch.sampler,
    )
    return _with_gradient(loss, logp)


def trl_loss(batch: Batch, **settings: Any) -> tuple[Tensor, Tensor]:
    """Loss and its gradient with respect to the log-probabilities, from GRPOTrainer. ``settings`` are GRPOConfig's
    names; left out, they are 0.2 clips, no KL, no vLLM, one microbatch an update."""
    chosen = {
        "loss_type": "grpo", "importance_sampling_level": "token", "epsilon": 0.2, "epsilon_high": 0.2, "delta": None,
        "beta": 0.0, "use_bias_correction_kl": False, "top_entropy_quantile": 1.0, "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05, "max_completion_length": MAX_COMPLETION, "importance_sampling_ratio": None,
        "steps_per_generation": 1, "gradient_accumulation_steps": 1, "num_items_in_batch": batch.mask.sum(),
    } | settings  # fmt: skip
    logp = batch.logp.clone().requires_grad_()
    trainer = _bare(
        GRPOTrainer,
        args=SimpleNamespace(
            delta=chosen["delta"],
            use_bias_correction_kl=chosen["use_bias_correction_kl"],
            sapo_temperature_pos=chosen["sapo_temperature_pos"],
            sapo_temperature_neg=chosen["sapo_temperature_neg"],
            steps_per_generation=chosen["steps_per_generation"],
        ),
        loss_type=chosen["loss_type"],
        importance_sampling_level=chosen["importance_sampling_level"],
        epsilon_low=chosen["epsilon"],
        epsilon_high=chosen["epsilon_high"],
        beta=chosen["beta"],
        top_entropy_quantile=chosen["top_entropy_quantile"],
        off_policy_mask_threshold=None,
        max_completion_length=chosen["max_completion_length"],
        current_gradient_accumulation_steps=chosen["gradient_accumulation_steps"],
        use_vllm=chosen["importance_sampling_ratio"] is not None,
        vllm_importance_sampling_correction=True,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, batch.entropy, None),
    )
    inputs = _inputs(batch) | {
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.ref,
        "num_items_in_batch": chosen["num_items_in_batch"],
        "importance_sampling_ratio": chosen["importance_sampling_ratio"],
    }
    return _with_gradient(trainer._compute_loss(None, inputs), logp)


def trl_rloo_loss(batch: Batch, epsilon: float = 0.2) -> tuple[Tensor, Tensor]:
    """The same from RLOOTrainer."""
    logp = batch.logp.clone().requires_grad_()
    trainer = _bare(
        RLOOTrainer,
        epsilon_low=epsilon,
        epsilon_high=epsilon,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, batch.entropy, None),
    )
    inputs = _inputs(batch) | {"old_logps": (batch.old * batch.mask).sum(1)}
    return _with_gradient(trainer._compute_loss(None, inputs), logp)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    rows = len(batch.mask)
    one = torch.ones(rows, 1, dtype=torch.long)
    return {
        "prompt_ids": one,
        "prompt_mask": one,
        "completion_ids": torch.ones_like(batch.mask),
        "completion_mask": batch.mask,
        "advantages": batch.advantages,
    }


def _with_gradient(loss: Tensor, logp: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(loss, logp)
    return loss.detach(), gradient


def trl_advantages(
    rewards: Tensor,
    group_size: int,
    *,
    scale: str = "group",
    aggregation: str = "sum_then_normalize",
    weights: Tensor | None = None,
) -> Tensor:
    """Advantages [N] of ``rewards`` [N, S] (NaN for None), from GRPOTrainer's own generation and scoring."""
    settings = {"scale_rewards": scale, "multi_objective_aggregation": aggregation}
    return _scored(GRPOTrainer, rewards, group_size, weights=weights, **settings)["advantages"]


def trl_importance(batch: Batch, mode: str, cap: float) -> Tensor:
    """The importance ratio [B, T] or [B, 1] that GRPOTrainer makes of another sampler's log-probabilities."""
    settings = {
        "scale_rewards": "none",
        "multi_objective_aggregation": "sum_then_normalize",
        "use_vllm": True,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_min": None,
        "vllm_importance_sampling_clip_max": cap,
    }
    rewards = torch.zeros(len(batch.mask), 1)
    return _scored(GRPOTrainer, rewards, 1, batch=batch, **settings)["importance_sampling_ratio"]


def trl_rloo_advantages(
    rewards: Tensor, group_size: int, *, normalize: bool = False, beta: float = 0.0, batch: Batch | None = None
) -> Tensor:
    """Advantages from RLOOTrainer, with its KL penalty in the reward when ``beta`` is positive."""
    settings = {"beta": beta, "normalize_advantages": normalize, "reward_clip_range": None}
    return _scored(RLOOTrainer, rewards, group_size, batch=batch, **settings)["advantages"]


def _scored(
    kind: type,
    rewards: Tensor,
    group_size: int,
    *,
    weights: Tensor | None = None,
    batch: Batch | None = None,
    **settings: Any,
) -> dict[str, Tensor]:
    """What ``_generate_and_score_completions`` returns. The log-probabilities it asks for are ``old``, then ``ref``."""
    rows, sources = rewards.shape
    lengths = [2] * rows if batch is None else batch.lengths.tolist()
    tokens = [[1] * length for length in lengths]
    sampled = None if batch is None else [row[:n].tolist() for row, n in zip(batch.sampler, lengths, strict=True)]
    logps = iter([torch.zeros(rows, 2)] if batch is None else [batch.old, batch.ref])
    names = [str(index) for index in range(sources)]
    attributes = {
        "args": SimpleNamespace(
            steps_per_generation=1, gradient_accumulation_steps=1, gradient_checkpointing_kwargs=None,
            per_device_train_batch_size=rows,
        ),
        "model": _Model(), "ref_model": object(), "_tokenizer": SimpleNamespace(pad_token_id=0),
        "num_generations": group_size, "num_iterations": 1, "beta": 0.0, "pad_to_multiple_of": None,
        "environment_factories": None, "environments": None, "tools": None, "_is_vlm": False, "use_vllm": False,
        "vllm_importance_sampling_correction": False, "mask_truncated_completions": False,
        "reward_funcs": names, "reward_func_names": names,
        "reward_weights": torch.ones(sources) if weights is None else weights,
        "_logs": {"prompt": [], "completion": [], "advantages": [], "rewards": defaultdict(list)},
        "_pending_extra_logs": {}, "_pending_metrics": {},
        "_calculate_rewards": lambda *_: rewards.clone(),
        "_get_per_token_logps_and_entropies": lambda *_, **__: (next(logps), None, None),
        "_generate": lambda prompts: (
            ([[1]] * rows, tokens, None, prompts, sampled, {}, None, [])
            if kind is GRPOTrainer
            else ([[1]] * rows, tokens, prompts)
        ),
    }  # fmt: skip
    trainer = _bare(kind, **(attributes | settings))
    return trainer._generate_and_score_completions([{"prompt": str(index)} for index in range(rows)])


class _Model(torch.nn.Module):
    is_gradient_checkpointing = False
