"""Which settings the report shows, by topic: those that this run's objective reads, and no others."""

from __future__ import annotations

from grpo_audit.config.run import RunConfig

Topic = tuple[str, tuple[str, ...]]
"""Title and dotted paths into the run configuration."""


def objective(config: RunConfig) -> tuple[Topic, ...]:
    """The objective's topics, in the order the loss is built."""
    topics = [
        ("Advantage", _advantage(config)),
        ("Surrogate and clipping", _surrogate(config)),
        ("KL to the reference policy", _kl(config)),
        ("Importance correction", _correction(config)),
        ("Aggregation and masking", _aggregation(config)),
    ]
    if config.objective.advantage.baseline == "value-model":
        fields = ("discount", "gae_lambda", "learning_rate", "clip", "warmup_steps")
        topics.append(("Value model", tuple(f"objective.value.{name}" for name in fields)))
    return tuple(topics)


def sampler(config: RunConfig) -> tuple[str, ...]:
    """How rollouts are drawn."""
    names = ["engine", "group_size", "prompts_per_step", "dynamic_sampling"]
    names += ["max_rounds"] if config.sampling.dynamic_sampling else []
    names += ["temperature", "max_completion_tokens", "max_prompt_tokens"]
    return tuple(f"sampling.{name}" for name in names)


def optimiser(config: RunConfig) -> tuple[str, ...]:
    """How the weights are moved."""
    names = ["steps", "iterations", "minibatches", "learning_rate", "warmup_steps", "schedule", "adam_betas"]
    names += ["adam_epsilon", "weight_decay", "max_grad_norm", "microbatch_tokens"]
    adapters = ("model.lora.rank", "model.lora.alpha", "model.lora.targets") if config.model.lora else ("model.lora",)
    return (*(f"training.{name}" for name in names), *adapters)


HELD = ("seed", "model.precision", "model.gradient_checkpointing", "model.chat_template", "model.device")
"""What else decides the bits."""

LABELS = {
    "kind": "Surrogate",
    "level": "Level of the ratio",
    "sources": "Sources are combined by",
    "ddof": "Delta degrees of freedom",
    "clip_low": "Clip below, 1 −",
    "clip_high": "Clip above, 1 +",
    "dual_clip": "Ratio capped where the advantage is negative",
    "top_entropy": "Share of tokens, of highest entropy, in the surrogate",
    "beta": "β, weight of the penalty",
    "placement": "Penalty stands in the",
    "times_ratio": "Penalty multiplied by the ratio",
    "measure_every": "Distance to the initial policy measured every (steps)",
    "replace_reference_every": "Reference replaced every (steps)",
    "mask_truncated": "Truncated completions left out",
    "soft_overlong_tokens": "Soft overlong punishment over the last (tokens)",
    "block_rows": "Completions in a block",
    "group_size": "Group size G",
    "dynamic_sampling": "Dynamic sampling",
    "max_rounds": "Rounds of prompts at most",
    "max_completion_tokens": "Longest completion (tokens)",
    "max_prompt_tokens": "Longest prompt (tokens)",
    "iterations": "Passes over each batch (μ)",
    "minibatches": "Updates per pass",
    "learning_rate": "Learning rate",
    "adam_betas": "Adam β₁, β₂",
    "adam_epsilon": "Adam ε",
    "max_grad_norm": "Gradient norm clipped at",
    "microbatch_tokens": "Microbatch (tokens; the loss does not depend on it)",
    "lora": "LoRA",
    "rank": "LoRA rank",
    "alpha": "LoRA alpha",
    "targets": "LoRA layers",
    "discount": "Discount γ",
    "gae_lambda": "GAE λ",
}
"""Words for people; other names are shown with spaces."""


def _advantage(config: RunConfig) -> tuple[str, ...]:
    names = ["baseline", "normaliser"]
    if config.objective.advantage.normaliser in ("group", "batch"):
        names += ["ddof", "epsilon"]
    return tuple(f"objective.advantage.{name}" for name in (*names, "sources"))


def _surrogate(config: RunConfig) -> tuple[str, ...]:
    kind = config.objective.surrogate.kind
    names = ["kind", "level", *(("tau_positive", "tau_negative") if kind == "sapo" else ("clip_low", "clip_high"))]
    names += ["dual_clip"] if kind == "clipped" else []
    return (*(f"objective.surrogate.{name}" for name in names), "objective.top_entropy")


def _kl(config: RunConfig) -> tuple[str, ...]:
    names = ["beta", "estimator"]
    if config.objective.kl.beta > 0:
        names += ["placement", "times_ratio", "replace_reference_every"]
    return tuple(f"objective.kl.{name}" for name in (*names, "measure_every"))


def _correction(config: RunConfig) -> tuple[str, ...]:
    used = config.objective.correction.level != "none"
    return tuple(f"objective.correction.{name}" for name in (("level", "mode", "cap") if used else ("level",)))


def _aggregation(config: RunConfig) -> tuple[str, ...]:
    blocks = ("block_rows",) if config.objective.aggregation == "block-token-mean" else ()
    names = ("aggregation", *blocks, "mask_truncated", "soft_overlong_tokens")
    return tuple(f"objective.{name}" for name in names)
