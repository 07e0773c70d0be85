"""The figures of a step, from its parts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

from grpo_audit.config.run import RunConfig
from grpo_audit_trainer.collect import Collected
from grpo_audit_trainer.outcome import GroupOutcome, RolloutOutcome, StepOutcome
from grpo_audit_trainer.update import Gradient


def summarise(
    config: RunConfig,
    step: int,
    collected: Collected,
    gradient: Gradient,
    *,
    learning_rate: float,
    kl: float | None,
    agreement: tuple[float, float],
    weights: str,
    seconds: dict[str, float],
) -> StepOutcome:
    """Everything the record wants to know of a step."""
    totals = [row.total for row in collected.rewards if row.total is not None]
    lengths = [len(tokens) for tokens in collected.tokens]
    num_tokens = sum(lengths)
    num_loss_tokens = max(1, sum(lengths[row] for row in collected.rows))
    return StepOutcome(
        step=step,
        learning_rate=learning_rate,
        loss=gradient.loss,
        reward_mean=_mean(totals),
        reward_std=_std(totals, config.objective.advantage.ddof),
        rewards=_mean_by_source(collected),
        zero_variance_share=collected.advantages.no_signal.double().mean().item(),
        used=len(collected.rows),
        rejected=len(lengths) - len(collected.rows),
        completion_tokens_mean=num_tokens / len(lengths),
        truncated_share=1.0 - collected.batch.stopped.double().mean().item(),
        entropy=collected.batch.entropy.double().sum().item() / num_tokens,
        kl=kl,
        kl_loss=gradient.kl_loss if config.objective.kl.beta > 0 else None,
        clip_low_share=gradient.clipped_low / num_loss_tokens,
        clip_high_share=gradient.clipped_high / num_loss_tokens,
        agreement=agreement[0],
        agreement_max=agreement[1],
        grad_norm=gradient.norm,
        prompt_tokens=sum(len(prompt.ids) for prompt in collected.drawn.encoded),
        completion_tokens=num_tokens,
        seconds=seconds,
        fingerprint=weights,
        groups=_groups(collected),
        rollouts=_rollouts(collected, config.sampling.group_size),
    )


def _groups(collected: Collected) -> tuple[GroupOutcome, ...]:
    drawn = collected.drawn
    means, stds = collected.advantages.mean.tolist(), collected.advantages.std.tolist()
    return tuple(
        GroupOutcome(
            group=group,
            prompt_id=drawn.prompts[group].id,
            prompt_text=drawn.encoded[group].text,
            prompt_tokens=len(drawn.encoded[group].ids),
            exposure=drawn.exposures[group],
            reward_mean=_or_none(means[group]),
            reward_std=_or_none(stds[group]),
        )
        for group in range(len(drawn.prompts))
    )


def _rollouts(collected: Collected, group_size: int) -> tuple[RolloutOutcome, ...]:
    logp = collected.batch.logp.cpu().numpy()
    advantages = collected.advantages.values.flatten().tolist()
    reasons: list[Literal["stop", "length"]] = [
        "stop" if stopped else "length" for stopped in collected.batch.stopped.tolist()
    ]
    return tuple(
        RolloutOutcome(
            group=row // group_size,
            sample=row % group_size,
            text=collected.texts[row],
            token_ids=tokens,
            logp=logp[row, : len(tokens)],
            rewards=dict(collected.rewards[row].rewards),
            errors=dict(collected.rewards[row].errors),
            reward=collected.rewards[row].total,
            advantage=advantages[row],
            used=not collected.left_out[row],
            reason=collected.left_out[row],
            finish_reason=reasons[row],
        )
        for row, tokens in enumerate(collected.tokens)
    )


def _mean_by_source(collected: Collected) -> dict[str, float]:
    """Sources that applied nowhere are absent: a mean of nothing is no number."""
    values: dict[str, list[float]] = {}
    for row in collected.rewards:
        for name, value in row.rewards.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: math.fsum(items) / len(items) for name, items in values.items()}


def _mean(values: Iterable[float]) -> float | None:
    items = list(values)
    return math.fsum(items) / len(items) if items else None


def _std(values: list[float], ddof: int) -> float | None:
    return float(np.std(values, ddof=ddof)) if len(values) >= 2 else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
