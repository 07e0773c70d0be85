"""The first half of a step: prompts drawn, completions sampled and rewarded, advantages, and what is left out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_audit.config.run import RunConfig
from grpo_audit.errors import RewardError
from grpo_audit.prompts import order
from grpo_audit.prompts.loading import Prompt, PromptSet
from grpo_audit.rewards.runner import RowReward
from grpo_audit_trainer import noise
from grpo_audit_trainer.advantage import Advantages, group_advantages
from grpo_audit_trainer.execution import memory_limit_of
from grpo_audit_trainer.policy import EncodedPrompt, Policy
from grpo_audit_trainer.rollout.native import NativeEngine, OnTokens, SampledBatch


class Rewards(Protocol):
    """What the trainer asks of the reward sources (``grpo_audit.rewards.runner.RewardRunner``)."""

    def score(
        self, prompts: list[str], completions: list[str], columns: dict[str, list[object]]
    ) -> Sequence[RowReward]:
        """The rewards of each completion; all lists have one entry a completion."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The P prompts of one step."""

    prompts: list[Prompt]
    encoded: list[EncodedPrompt]
    exposures: list[int]
    """How many times each prompt was drawn before in this run."""


@dataclass(frozen=True, slots=True)
class Collected:
    """P groups of G completions, N = P * G rows in order."""

    drawn: Drawn
    batch: SampledBatch
    tokens: list[NDArray[np.uint32]]
    """[N] arrays of token ids, an end token included."""
    texts: list[str]
    rewards: Sequence[RowReward]
    advantages: Advantages
    left_out: list[str]
    """[N]: why a row is not in the loss; empty when it is."""

    @property
    def rows(self) -> list[int]:
        """Rows in the loss."""
        return [row for row, reason in enumerate(self.left_out) if not reason]


class Collector:
    """Collects the rollouts of any step."""

    def __init__(
        self, policy: Policy, prompts: PromptSet, rewards: Rewards, config: RunConfig, on_tokens: OnTokens | None = None
    ) -> None:
        self.policy = policy
        self.prompts = prompts.rows
        self.rewards = rewards
        self.config = config
        self.engine = NativeEngine(policy)
        self.on_tokens = on_tokens

    def collect(self, step: int, seconds: dict[str, float]) -> Collected:
        """Everything up to the advantages; adds the parts' wall-clock to ``seconds``.

        Raises RewardError when no completion got a reward, TrainingError when memory runs out.
        """
        drawn = self.draw(step)
        with timed(seconds, "rollout"):
            batch = self.sample(drawn, step)
            tokens = _rows_of(batch)
            texts = self.policy.decode(tokens)  # type: ignore[arg-type]  # arrays are sequences of integers
        with timed(seconds, "reward"):
            rewards = self._reward(drawn, texts, step)
        advantages = group_advantages(self._totals(rewards), self.config.objective.advantage)
        left_out = self._left_out(rewards, advantages, batch.stopped.tolist())
        return Collected(drawn, batch, tokens, texts, rewards, advantages, left_out)

    def draw(self, step: int) -> Drawn:
        """The prompts of a step: a pure function of the seed."""
        place = (self.config.seed, step, len(self.prompts), self.config.sampling.prompts_per_step)
        prompts = [self.prompts[index] for index in order.draw(*place)]
        encoded = [self.policy.encode_prompt(prompt.text, prompt.messages) for prompt in prompts]
        return Drawn(prompts, encoded, order.exposures(*place))

    def sample(self, drawn: Drawn, step: int) -> SampledBatch:
        """The completions of a step."""
        sampling = self.config.sampling
        rows = noise_rows([prompt.id for prompt in drawn.prompts], sampling.group_size)
        with memory_limit_of("sampling", "sampling.prompts_per_step or sampling.max_completion_tokens"):
            return self.engine.sample(
                [prompt.ids for prompt in drawn.encoded],
                sampling.group_size,
                noise.row_keys(self.config.seed, step, rows, self.policy.device),
                temperature=sampling.temperature,
                max_tokens=sampling.max_completion_tokens,
                on_tokens=self.on_tokens,
            )

    def _reward(self, drawn: Drawn, texts: list[str], step: int) -> Sequence[RowReward]:
        repeated = [prompt for prompt in drawn.prompts for _ in range(self.config.sampling.group_size)]
        columns = {name: [prompt.columns[name] for prompt in repeated] for name in repeated[0].columns}
        rewards = self.rewards.score([prompt.text for prompt in repeated], texts, columns)
        if len(rewards) != len(texts):
            raise RewardError(
                f"Step {step}: {len(texts)} completions were to be scored", found=f"{len(rewards)} rewards"
            )
        if all(row.total is None for row in rewards):
            errors = [f"{name}: {text}" for row in rewards for name, text in row.errors.items()]
            raise RewardError(
                f"Step {step}: no completion has a reward, so there is nothing to learn from",
                found=errors[0] if errors else "reward sources that apply to no row",
                next_step="Repair the reward source, then go on with --resume",
            )
        return rewards

    def _totals(self, rewards: Sequence[RowReward]) -> Tensor:
        """[P, G] float64, NaN where there is no reward."""
        totals = [torch.nan if row.total is None else row.total for row in rewards]
        return torch.tensor(totals, dtype=torch.float64).view(-1, self.config.sampling.group_size)

    def _left_out(self, rewards: Sequence[RowReward], advantages: Advantages, stopped: list[bool]) -> list[str]:
        usable = advantages.usable.flatten().tolist()
        overlong = self.config.objective.mask_truncated
        return [
            _reason(row, usable=is_usable, truncated=overlong and not has_stopped)
            for row, is_usable, has_stopped in zip(rewards, usable, stopped, strict=True)
        ]


def noise_rows(prompt_ids: Sequence[str], group_size: int) -> list[tuple[str, int]]:
    """(prompt id, sample index) of each row's noise. A prompt that comes again within the step (only when the set is
    smaller than the step) goes on counting, so that its groups are no clones."""
    seen: Counter[str] = Counter()
    rows: list[tuple[str, int]] = []
    for prompt_id in prompt_ids:
        first = seen[prompt_id] * group_size
        rows += [(prompt_id, first + sample) for sample in range(group_size)]
        seen[prompt_id] += 1
    return rows


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the wall-clock of the block to ``seconds[part]``."""
    start = time.perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start


def _rows_of(batch: SampledBatch) -> list[NDArray[np.uint32]]:
    tokens = batch.tokens.cpu().numpy().astype(np.uint32)
    return [row[:length] for row, length in zip(tokens, batch.lengths.tolist(), strict=True)]


def _reason(row: RowReward, *, usable: bool, truncated: bool) -> str:
    if row.total is None:
        return "reward error" if row.errors else "no reward applies"
    if not usable:
        return "fewer than two rewards in the group"
    return "truncated" if truncated else ""
