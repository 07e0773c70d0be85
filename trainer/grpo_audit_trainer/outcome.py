"""What one step leaves behind: everything the record, the progress line and a test want to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from grpo_audit.prompts.loading import Prompt
from grpo_audit.record.identities import UpdateFigures


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """The completions of one prompt at one step."""

    group: int
    prompt_id: str
    row: Prompt
    """As the prompt set has it; its columns are what the reward sources were given."""
    prompt_text: str
    """As sent to the tokenizer."""
    prompt_tokens: int
    exposure: int
    """How many times this prompt was drawn before, in this run."""
    reward_mean: float | None
    reward_std: float | None


@dataclass(frozen=True, slots=True)
class RolloutOutcome:
    """One completion."""

    group: int
    sample: int
    text: str
    """Without the end token."""
    token_ids: NDArray[np.uint32]
    """[n]; an end token is the last of them."""
    logp: NDArray[np.float32]
    """[n]: log-probability of each token under the distribution it was drawn from."""
    rewards: dict[str, float | None]
    errors: dict[str, str]
    reward: float | None
    advantage: float
    used: bool
    reason: str
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One step. The figures are those of ``record.events.Step``."""

    step: int
    learning_rate: float
    loss: float
    reward_mean: float | None
    reward_std: float | None
    rewards: dict[str, float]
    zero_variance_share: float
    used: int
    rejected: int
    completion_tokens_mean: float
    truncated_share: float
    entropy: float
    kl: float | None
    kl_reference: float | None
    kl_loss: float | None
    clip_low_share: float
    clip_high_share: float
    agreement: float
    agreement_max: float
    grad_norm: float
    prompt_tokens: int
    completion_tokens: int
    seconds: dict[str, float]
    fingerprint: str
    sampled_by: str
    engine: str
    rounds: int
    dropped_groups: int
    updates: tuple[UpdateFigures, ...]
    groups: tuple[GroupOutcome, ...]
    rollouts: tuple[RolloutOutcome, ...]
    value_loss: float | None = None
    explained_variance: float | None = None

    @property
    def total_seconds(self) -> float:
        """Wall-clock seconds of the step."""
        return sum(self.seconds.values())

    def figures(self) -> dict[str, Any]:
        """All fields but the groups and rollouts."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("groups", "rollouts")}
