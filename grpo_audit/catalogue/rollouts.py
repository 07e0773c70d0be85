"""Group F: steps and rollouts, as sums with pointers to the events; the events themselves hold each one."""

from __future__ import annotations

from typing import Annotated, Any

from grpo_audit.catalogue.field import Field, Group, derived, for_all, for_regulator, measured, unknown
from grpo_audit.catalogue.run import Run, fill
from grpo_audit.record.events import EventKind


class Rollouts(Group):
    """What happened at each step."""

    steps: Annotated[Field[int], for_all()]
    """Steps that were executed, repetitions after an interruption included."""
    steps_planned: Annotated[Field[int], for_all()]
    """Steps the configuration asks for."""
    rollouts: Annotated[Field[int], for_all()]
    """Completions that were drawn, each with token ids, log-probabilities, rewards and advantage in its event."""
    used: Annotated[Field[int], for_regulator()]
    """Completions that contributed to the loss."""
    rejected: Annotated[Field[dict[str, int]], for_all()]
    """Completions left out of the loss, by reason."""
    traces: Annotated[Field[str], for_regulator()]
    """Token ids and sampling log-probabilities of each rollout, for replay."""
    reward: Annotated[Field[float], for_regulator()]
    """Mean weighted reward of the last step."""
    zero_variance: Annotated[Field[float], for_regulator()]
    """Share of groups of the last step whose rewards are all equal: no signal."""
    kl: Annotated[Field[float], for_regulator()]
    """KL to the initial policy at the last step that measured it, in nats a token."""
    entropy: Annotated[Field[float], for_regulator()]
    """Entropy of the sampling distribution at the last step, in nats a token."""
    clipped: Annotated[Field[float], for_regulator()]
    """Share of tokens clipped at the last step."""
    gradient_norm: Annotated[Field[float], for_regulator()]
    """Gradient norm of the last step, before clipping."""
    learning_rate: Annotated[Field[float], for_regulator()]
    """Learning rate of the last step."""
    loss: Annotated[Field[float], for_regulator()]
    """Loss of the last step; near 0 on-policy, where its gradient is not."""
    truncated: Annotated[Field[float], for_regulator()]
    """Share of completions of the last step that ran into the length limit."""
    agreement: Annotated[Field[float], for_regulator()]
    """Largest difference of sampler and scorer at the last step, in nats."""
    engine: Annotated[Field[str], for_regulator()]
    """What drew the rollouts, with its version."""
    policy_digests: Annotated[Field[str], for_regulator()]
    """Fingerprint of the weights after each step; full digests at snapshots."""


def rollouts(run: Run) -> Rollouts:
    """Group F of a run."""
    drawn = run.span(EventKind.ROLLOUT)
    return fill(
        Rollouts,
        "rollouts",
        run,
        steps=measured(run.steps.executed or None, run.steps.span, unknown=_NONE),
        steps_planned=measured(run.config.training.steps, run.at),
        rollouts=measured(drawn.count if drawn else None, drawn, unknown=_NONE),
        used=derived(run.sums.used if drawn else None, drawn, unknown=_NONE, note="counted"),
        rejected=derived(run.sums.by_reason if drawn else None, drawn, unknown=_NONE, note="counted by reason"),
        traces=measured("in the content of each rollout event" if drawn else None, drawn, unknown=_NONE),
        reward=_last(run, "reward_mean"),
        zero_variance=_last(run, "zero_variance_share"),
        kl=_last(run, "kl", "the last step did not measure it"),
        entropy=_last(run, "entropy"),
        clipped=_clipped(run),
        gradient_norm=_last(run, "grad_norm"),
        learning_rate=_last(run, "learning_rate"),
        loss=_last(run, "loss"),
        truncated=_last(run, "truncated_share"),
        agreement=_last(run, "agreement_max"),
        engine=_last(run, "engine", "a version that did not record it wrote this record"),
        policy_digests=_last(run, "fingerprint"),
    )


_NONE = "no step was recorded: training did not get that far"


def _last(run: Run, name: str, missing: str = "the last step could not measure it") -> Field[Any]:
    if run.last_step is None:
        return unknown(_NONE)
    value = getattr(run.last_step.payload, name)
    return measured(None if value == "" else value, run.last_step.seq, unknown=missing)


def _clipped(run: Run) -> Field[Any]:
    if run.last_step is None:
        return unknown(_NONE)
    step = run.last_step.payload
    return derived(step.clip_low_share + step.clip_high_share, run.last_step.seq, note="below and above together")
