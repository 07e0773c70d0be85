"""The first half of a step: prompts drawn, completions sampled and rewarded; with dynamic sampling, until the step is
full.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_audit.config.objective import AdvantageConfig
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import RewardError
from grpo_audit.prompts import order
from grpo_audit.prompts.loading import Prompt, PromptSet
from grpo_audit.rewards.runner import RowReward
from grpo_audit_trainer import noise
from grpo_audit_trainer.advantage import group_advantages
from grpo_audit_trainer.distributed import World
from grpo_audit_trainer.execution import memory_limit_of
from grpo_audit_trainer.policy import EncodedPrompt, Policy
from grpo_audit_trainer.rollout.engine import RolloutEngine
from grpo_audit_trainer.rollout.native import OnTokens, SampledBatch

NO_SIGNAL: Final = "no signal: the group's rewards are equal"
SURPLUS: Final = "the step was full"


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
    dropped: list[str]
    """[P]: why dynamic sampling dropped a group; empty when it did not."""
    rounds: int
    """Rounds of prompts that were drawn; 1 without dynamic sampling."""

    def totals(self) -> Tensor:
        """[P, G] float64: weighted sums of the sources, NaN where there is no reward."""
        return totals(self.rewards, len(self.drawn.prompts))


class Collector:
    """Collects the rollouts of any step."""

    def __init__(
        self,
        policy: Policy,
        prompts: PromptSet,
        rewards: Rewards,
        config: RunConfig,
        engine: RolloutEngine,
        on_tokens: OnTokens | None = None,
        world: World | None = None,
    ) -> None:
        self.policy = policy
        self.world = world or World()
        self.prompts = prompts.rows
        self.rewards = rewards
        self.config = config
        self.engine = engine
        self.on_tokens = on_tokens

    def collect(self, step: int, first_round: int, seconds: dict[str, float]) -> Collected:
        """Everything up to the rewards; adds the parts' wall-clock to ``seconds``. ``first_round`` counts the rounds of
        prompts drawn before in this run; without dynamic sampling that is the step.

        Raises RewardError when no completion got a reward, TrainingError when memory runs out.
        """
        seen: Counter[str] = Counter()
        collected = self._round(step, first_round, seen, seconds)
        if not self.config.sampling.dynamic_sampling:
            return collected
        wanted = self.config.sampling.prompts_per_step
        while (_with_signal(collected).sum() < wanted) and collected.rounds < self.config.sampling.max_rounds:
            collected = _joined(collected, self._round(step, first_round + collected.rounds, seen, seconds))
        return _filtered(collected, wanted)

    def _round(self, step: int, number: int, seen: Counter[str], seconds: dict[str, float]) -> Collected:
        drawn = self.draw(number)
        with timed(seconds, "rollout"):
            batch = self.sample(drawn, step, seen)
            tokens = _rows_of(batch)
            texts = self.policy.decode(tokens)  # type: ignore[arg-type]  # arrays are sequences of integers
        with timed(seconds, "reward"):
            rewards = self._reward(drawn, texts, step)
        return Collected(drawn, batch, tokens, texts, rewards, [""] * len(drawn.prompts), 1)

    def draw(self, number: int) -> Drawn:
        """The prompts of a round: a pure function of the seed."""
        place = (self.config.seed, number, len(self.prompts), self.config.sampling.prompts_per_step)
        prompts = [self.prompts[index] for index in order.draw(*place)]
        encoded = [self.policy.encode_prompt(prompt.text, prompt.messages) for prompt in prompts]
        return Drawn(prompts, encoded, order.exposures(*place))

    def sample(self, drawn: Drawn, step: int, seen: Counter[str]) -> SampledBatch:
        """The completions of a round; of several processes each samples a block of the prompts."""
        group_size, prompts = self.config.sampling.group_size, [prompt.ids for prompt in drawn.encoded]
        rows = noise_rows([prompt.id for prompt in drawn.prompts], group_size, seen)
        keys = noise.row_keys(self.config.seed, step, rows, self.policy.device)
        block = self.world.block(len(prompts))
        with (
            memory_limit_of("sampling", "sampling.prompts_per_step or sampling.max_completion_tokens"),
            self.policy.whole(),
        ):
            mine = self._sample(
                prompts[block.start : block.stop], keys[block.start * group_size : block.stop * group_size]
            )
        counts = [len(self.world.block(len(prompts), rank)) * group_size for rank in range(self.world.size)]
        gathered = {name: self.world.gather(getattr(mine, name), counts) for name in SampledBatch.__slots__}
        return SampledBatch(**gathered)

    def _sample(self, prompts: list[list[int]], keys: Tensor) -> SampledBatch:
        sampling = self.config.sampling
        if not prompts:  # more processes than prompts
            return _no_rows(self.policy.device)
        return self.engine.sample(
            prompts,
            sampling.group_size,
            keys,
            temperature=sampling.temperature,
            max_tokens=sampling.max_completion_tokens,
            on_tokens=self.on_tokens,
        )

    def _reward(self, drawn: Drawn, texts: list[str], step: int) -> Sequence[RowReward]:
        repeated = [prompt for prompt in drawn.prompts for _ in range(self.config.sampling.group_size)]
        columns = {name: [prompt.columns[name] for prompt in repeated] for name in repeated[0].columns}
        rewards = self._score([prompt.text for prompt in repeated], texts, columns)
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

    def _score(self, prompts: list[str], texts: list[str], columns: dict[str, list[object]]) -> Sequence[RowReward]:
        """The first process runs the sources and tells the others, so that no two can differ about a reward."""
        if self.world.size == 1:
            return self.rewards.score(prompts, texts, columns)
        told = self.world.tell(_plain(self.rewards.score(prompts, texts, columns)) if self.world.first else None)
        return [RowReward(*row) for row in told]


def _no_rows(device: torch.device) -> SampledBatch:
    whole = torch.zeros((0, 0), dtype=torch.int64, device=device)
    return SampledBatch(whole, whole[:, :0].sum(dim=1), whole.float(), whole.float(), whole.any(dim=1))


def totals(rewards: Sequence[RowReward], groups: int) -> Tensor:
    """[groups, G] float64, NaN where there is no reward."""
    values = [torch.nan if row.total is None else row.total for row in rewards]
    return torch.tensor(values, dtype=torch.float64).view(groups, -1)


def noise_rows(prompt_ids: Sequence[str], group_size: int, seen: Counter[str] | None = None) -> list[tuple[str, int]]:
    """(prompt id, sample index) of each row's noise. A prompt that comes again within the step (only when the set is
    smaller than what the step draws) goes on counting, so that its groups are no clones. ``seen`` counts the groups of
    earlier rounds, and is updated."""
    seen = Counter() if seen is None else seen
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


def _plain(rewards: Sequence[RowReward]) -> list[list[Any]]:
    return [[row.rewards, row.errors, row.total] for row in rewards]


def _with_signal(collected: Collected) -> NDArray[np.bool_]:
    """[P]: groups whose rewards differ, before anything is added to them."""
    return (~group_advantages(collected.totals(), AdvantageConfig()).no_signal).numpy()


def _joined(one: Collected, two: Collected) -> Collected:
    drawn = Drawn(
        one.drawn.prompts + two.drawn.prompts,
        one.drawn.encoded + two.drawn.encoded,
        one.drawn.exposures + two.drawn.exposures,
    )
    return Collected(
        drawn,
        _batch_of(one.batch, two.batch),
        one.tokens + two.tokens,
        one.texts + two.texts,
        [*one.rewards, *two.rewards],
        one.dropped + two.dropped,
        one.rounds + two.rounds,
    )


def _batch_of(one: SampledBatch, two: SampledBatch) -> SampledBatch:
    width = max(one.tokens.shape[1], two.tokens.shape[1])

    def stacked(name: str) -> Tensor:
        parts = [getattr(batch, name) for batch in (one, two)]
        return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])

    return SampledBatch(
        tokens=stacked("tokens"),
        lengths=torch.cat([one.lengths, two.lengths]),
        logp=stacked("logp"),
        entropy=stacked("entropy"),
        stopped=torch.cat([one.stopped, two.stopped]),
    )


def _filtered(collected: Collected, wanted: int) -> Collected:
    """Mark what dynamic sampling drops: groups without signal, and those beyond the first ``wanted`` with one."""
    signal = _with_signal(collected)
    reasons = [
        NO_SIGNAL if not has_signal else SURPLUS if place > wanted else ""
        for has_signal, place in zip(signal.tolist(), signal.cumsum().tolist(), strict=True)
    ]
    return Collected(
        collected.drawn,
        collected.batch,
        collected.tokens,
        collected.texts,
        collected.rewards,
        reasons,
        collected.rounds,
    )


def _rows_of(batch: SampledBatch) -> list[NDArray[np.uint32]]:
    tokens = batch.tokens.cpu().numpy().astype(np.uint32)
    return [row[:length] for row, length in zip(tokens, batch.lengths.tolist(), strict=True)]
