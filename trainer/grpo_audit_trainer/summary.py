"""The figures of a step, from its parts."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grpo_audit.config.run import RunConfig
from grpo_audit.record.identities import UpdateFigures
from grpo_audit.rewards.runner import RowReward
from grpo_audit_trainer.collect import Collected
from grpo_audit_trainer.credit import Credit
from grpo_audit_trainer.outcome import GroupOutcome, RolloutOutcome, StepOutcome
from grpo_audit_trainer.update import Gradient, Part


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured before the first update of a step."""

    agreement: tuple[float, float]
    """Mean and largest |log-probability of the sampler - of the scorer|."""
    kl: float | None
    """To the initial policy; None when it was not measured."""
    kl_reference: float | None
    """To the reference, once that is another policy than the initial one."""


def summarise(
    config: RunConfig,
    step: int,
    collected: Collected,
    credit: Credit,
    gradients: Sequence[tuple[Part, Gradient]],
    measured: Measured,
    *,
    learning_rate: float,
    sampled_by: str,
    engine: str,
    fingerprint: str,
    seconds: dict[str, float],
    value_loss: float | None = None,
    explained_variance: float | None = None,
) -> StepOutcome:
    """Everything the record wants to know of a step."""
    totals = [row.total for row in credit.rewards if row.total is not None]
    lengths = [len(tokens) for tokens in collected.tokens]
    num_tokens = sum(lengths)
    updates = tuple(_update(part, gradient, lengths) for part, gradient in gradients)
    in_loss = max(1, sum(update.tokens for update in updates))
    return StepOutcome(
        step=step,
        learning_rate=learning_rate,
        loss=math.fsum(update.loss for update in updates) / len(updates),
        reward_mean=_mean(totals),
        reward_std=_std(totals, config.objective.advantage.ddof),
        rewards=_mean_by_source(credit.rewards),
        zero_variance_share=credit.advantages.no_signal.double().mean().item(),
        used=len(credit.rows),
        rejected=len(lengths) - len(credit.rows),
        completion_tokens_mean=num_tokens / len(lengths),
        truncated_share=1.0 - collected.batch.stopped.double().mean().item(),
        entropy=collected.batch.entropy.double().sum().item() / num_tokens,
        kl=measured.kl,
        kl_reference=measured.kl_reference,
        kl_loss=_kl_loss(config, gradients),
        clip_low_share=sum(gradient.clipped_low for _, gradient in gradients) / in_loss,
        clip_high_share=sum(gradient.clipped_high for _, gradient in gradients) / in_loss,
        agreement=measured.agreement[0],
        agreement_max=measured.agreement[1],
        grad_norm=max(update.grad_norm for update in updates),
        prompt_tokens=sum(len(prompt.ids) for prompt in collected.drawn.encoded),
        completion_tokens=num_tokens,
        seconds=seconds,
        fingerprint=fingerprint,
        sampled_by=sampled_by,
        engine=engine,
        rounds=collected.rounds,
        dropped_groups=sum(bool(reason) for reason in collected.dropped),
        updates=updates,
        groups=_groups(collected, credit),
        rollouts=_rollouts(collected, credit, config.sampling.group_size),
        value_loss=value_loss,
        explained_variance=explained_variance,
    )


def _update(part: Part, gradient: Gradient, lengths: Sequence[int]) -> UpdateFigures:
    tokens = sum(lengths[row] for row in part.rows)
    share = 1.0 / max(1, tokens)
    return UpdateFigures(
        iteration=part.iteration,
        minibatch=part.minibatch,
        rows=len(part.rows),
        tokens=tokens,
        loss=gradient.loss,
        grad_norm=gradient.norm,
        clip_low_share=gradient.clipped_low * share,
        clip_high_share=gradient.clipped_high * share,
        drift=_bounded(gradient.drift_sum * share),
        ratio_max=_bounded(gradient.ratio_max),
        corrected_share=gradient.corrected * share,
    )


def _bounded(value: float) -> float:
    """The exponential of a large log-ratio overflows; the record holds finite numbers only."""
    return min(value, sys.float_info.max)


def _kl_loss(config: RunConfig, gradients: Sequence[tuple[Part, Gradient]]) -> float | None:
    kl = config.objective.kl
    if kl.beta == 0 or kl.placement == "reward":
        return None
    return math.fsum(gradient.kl_loss for _, gradient in gradients) / len(gradients)


def _groups(collected: Collected, credit: Credit) -> tuple[GroupOutcome, ...]:
    drawn = collected.drawn
    means, stds = credit.advantages.mean.tolist(), credit.advantages.std.tolist()
    return tuple(
        GroupOutcome(
            group=group,
            prompt_id=drawn.prompts[group].id,
            row=drawn.prompts[group],
            prompt_text=drawn.encoded[group].text,
            prompt_tokens=len(drawn.encoded[group].ids),
            exposure=drawn.exposures[group],
            reward_mean=_or_none(means[group]),
            reward_std=_or_none(stds[group]),
        )
        for group in range(len(drawn.prompts))
    )


def _rollouts(collected: Collected, credit: Credit, group_size: int) -> tuple[RolloutOutcome, ...]:
    logp = collected.batch.logp.cpu().numpy()
    advantages = credit.advantages.values.flatten().tolist()
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
            rewards=dict(credit.rewards[row].rewards),
            errors=dict(credit.rewards[row].errors),
            reward=credit.rewards[row].total,
            advantage=advantages[row],
            used=not credit.left_out[row],
            reason=credit.left_out[row],
            finish_reason=reasons[row],
        )
        for row, tokens in enumerate(collected.tokens)
    )


def _mean_by_source(rewards: Sequence[RowReward]) -> dict[str, float]:
    """Sources that applied nowhere are absent: a mean of nothing is no number."""
    values: dict[str, list[float]] = {}
    for row in rewards:
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
