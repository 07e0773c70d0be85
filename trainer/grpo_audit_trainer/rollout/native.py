"""The native engine: completions drawn step by step through transformers' own forward pass.

1. Each prompt is read once; its key-value cache is then repeated for the G completions of the group.
2. Finished rows are dropped from the batch and from the cache as soon as enough of them have gathered.
3. The noise of a row depends on what the row is, not on where it stands (``noise.py``); its log-probabilities do
   depend on the rest of the batch, but only by float rounding (about 1e-6): another batch shape lets the matrix
   library add in another order. Near-ties can therefore flip when a completion is regenerated alone.
4. Prompts of different length are padded on the left; with prompts of one length no mask is needed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers
from torch import Tensor

from grpo_audit_trainer import noise
from grpo_audit_trainer.attention import uses_float32_attention
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout import cache as kv
from grpo_audit_trainer.rollout.answers import Answers, Completion, Draw, OnDone, common_prefix, per_prompt
from grpo_audit_trainer.rollout.packed import packed_head
from grpo_audit_trainer.rollout.prefill import Prefilled, left_padded, positions_of, read_in_parts

COMPACT_BELOW = 0.8
"""Finished rows are dropped when the share of live rows falls below this. Measured on one core (256 rows of 58 tokens
on average, 3.3 million parameters): 3.1 s at 0.8, 3.4 s at 0.6 and 0.9, 3.5 s at once, 5.3 s never."""

SHARE_FROM = 16
"""A common beginning of fewer tokens is not worth a pass of its own."""

OnTokens = Callable[[int], None]
"""Called with the number of tokens drawn since the last call."""


@dataclass(frozen=True, slots=True)
class SampledBatch:
    """N completions of up to T tokens, on the policy's device. Everything behind a row's length is 0."""

    tokens: Tensor
    """[N, T] int64; the end token is part of the completion."""
    lengths: Tensor
    """[N] int64, at least 1."""
    logp: Tensor
    """[N, T] float32: log-probability of each token under the distribution it was drawn from."""
    entropy: Tensor
    """[N, T] float32: entropy of that distribution, in nats."""
    stopped: Tensor
    """[N] bool: ended by an end token; otherwise it ran into the length limit."""

    def inside(self) -> Tensor:
        """[N, T] bool: token positions that exist."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]


class NativeEngine:
    """Draws completions from a policy, by its own weights: a ``RolloutEngine`` that has nothing to take over."""

    name: Final = "native"
    version: Final = f"transformers {transformers.__version__}"
    exact_noise: Final = True
    entropy: Final = True

    def __init__(self, policy: Policy, *, compact_below: float = COMPACT_BELOW) -> None:
        self.policy = policy
        self.compact_below = compact_below

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[list[int]],
        group_size: int,
        keys: Tensor,
        *,
        temperature: float,
        max_tokens: int,
        on_tokens: OnTokens | None = None,
    ) -> SampledBatch:
        """``group_size`` completions of each of P prompts (token ids), in order; ``keys`` [P * G] as made by
        ``noise.row_keys``."""
        num_rows = len(prompts) * group_size
        if keys.shape != (num_rows,):
            raise ValueError(f"expected {num_rows} noise keys, found shape {tuple(keys.shape)}")
        device = self.policy.device
        tokens = torch.zeros((num_rows, max_tokens), dtype=torch.int64, device=device)
        logp = torch.zeros((num_rows, max_tokens), dtype=torch.float32, device=device)
        entropy = torch.zeros_like(logp)
        lengths = torch.full((num_rows,), max_tokens, dtype=torch.int64, device=device)
        stopped = torch.zeros(num_rows, dtype=torch.bool, device=device)
        ends = torch.tensor(self.policy.eos_ids, device=device)

        def choose(logits: Tensor, rows: Tensor, position: int) -> tuple[Tensor, Tensor]:
            drawn = draw(logits if temperature == 1 else logits / temperature, noise.stream_keys(keys[rows], position))
            tokens[rows, position], logp[rows, position], entropy[rows, position] = drawn
            ended = torch.isin(drawn[0], ends) & ~stopped[rows]
            lengths[rows] = torch.where(ended, position + 1, lengths[rows])
            stopped[rows] |= ended
            return drawn[0], stopped[rows]

        last = self._decode(prompts, group_size, max_tokens, choose, on_tokens)
        batch = SampledBatch(tokens[:, :last], lengths.clamp(max=last), logp[:, :last], entropy[:, :last], stopped)
        outside = ~batch.inside()
        for tensor in (batch.tokens, batch.logp, batch.entropy):
            tensor.masked_fill_(outside, 0)
        return batch

    def greedy(
        self,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int,
        stop: Sequence[str] | Sequence[Sequence[str]] = (),
        batch_size: int = 128,
        on_progress: OnDone | None = None,
    ) -> list[Completion]:
        """The most likely token at each step, until an end token, a stop string or the limit.

        ``stop`` is common to all prompts, or one list for each. ``on_progress`` gets the number of prompts finished
        since the last call. Prompts are worked through in order of length, so that hardly any padding is read.
        """
        stops = per_prompt(stop, len(prompts))
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        results: dict[int, Completion] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self.answer(
                [prompts[i] for i in chosen],
                max_new_tokens=max_new_tokens,
                stop=[stops[i] for i in chosen],
                on_progress=on_progress,
            )
            results.update(zip(chosen, batch, strict=True))
        return [results[index] for index in range(len(prompts))]

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int,
        stop: Sequence[str] | Sequence[Sequence[str]] = (),
        group_size: int = 1,
        draw: Draw | None = None,
        on_progress: OnDone | None = None,
    ) -> list[Completion]:
        """One batch: ``group_size`` completions of each prompt, in order, greedy unless ``draw`` says otherwise.

        What the prompts have in common at their beginning (few-shot examples, a system prompt) is read once.
        """
        stops = [item for item in per_prompt(stop, len(prompts)) for _ in range(group_size)]
        answers = Answers(self.policy, stops, draw, on_progress)
        shared = common_prefix(prompts)
        self._decode(prompts, group_size, max_new_tokens, answers.choose, None, shared if shared >= SHARE_FROM else 0)
        return answers.finished()

    def sync(self, policy: Policy) -> None:
        """The weights are the policy's."""
        self.policy = policy

    def rest(self) -> None:
        """Nothing is held between two calls."""

    def close(self) -> None:
        """Nothing to let go of."""

    def _decode(
        self,
        prompts: Sequence[list[int]],
        group_size: int,
        max_tokens: int,
        choose: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]],
        on_tokens: OnTokens | None,
        shared: int | None = None,
    ) -> int:
        """Run until every row is done; returns how many positions were drawn. ``choose(logits, rows, position)``
        gives the next token of each live row (``rows``: their indices in the whole batch) and which rows are done.
        The first ``shared`` tokens are the same in all prompts; None: do not look, and read them in one pass."""
        with self.policy.autocast(), packed_head(self.policy, len(prompts) * group_size):
            state, logits = _Decoding.start(self.policy, prompts, group_size, max_tokens, shared)
            for position in range(max_tokens):
                picked, done = choose(logits, state.rows, position)
                num_live = int((~done).sum())
                if on_tokens is not None:
                    on_tokens(num_live + state.num_newly_done(num_live))
                if num_live == 0 or position + 1 == max_tokens:
                    return position + 1
                if num_live < self.compact_below * state.rows.shape[0]:
                    live = (~done).nonzero()[:, 0]
                    state.keep(live)
                    picked = picked[live]
                logits = state.advance(picked)
        raise AssertionError("unreachable: max_tokens is at least 1")


class _Decoding:
    """The live rows of a batch: cache, mask and positions."""

    def __init__(self, policy: Policy, cache: Any, mask: Tensor | None, lengths: Tensor, length: int) -> None:
        self.policy = policy
        self.cache = cache
        self.mask = mask  # [B, positions to come included] bool; None when all prompts have one length
        self.positions = lengths  # [B]: position of the next token of each row
        self.length = length  # cached positions, padding included
        self.rows = torch.arange(lengths.shape[0], device=lengths.device)
        self._live = lengths.shape[0]

    @classmethod
    def start(
        cls, policy: Policy, prompts: Sequence[list[int]], group_size: int, max_tokens: int, shared: int | None
    ) -> tuple[_Decoding, Tensor]:
        """Read the prompts, repeat them for their groups; also returns the first logits [B, V].

        In one pass when ``shared`` is None, else in parts (``prefill``).
        """
        dtype = torch.float32 if uses_float32_attention(policy.model) else None
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=policy.device)
        found = None if shared is None else read_in_parts(policy, prompts, shared)
        cache, mask, logits = _read(policy, prompts) if found is None else found
        width = max(map(len, prompts)) if mask is None else mask.shape[1]
        if group_size > 1:
            kv.expand_group(cache, group_size, policy.device, len(prompts))
        kv.with_room(cache, dtype)
        if mask is not None:
            mask = torch.nn.functional.pad(mask, (0, max_tokens), value=True).repeat_interleave(group_size, 0)
        logits = logits.repeat_interleave(group_size, 0)
        return cls(policy, cache, mask, lengths.repeat_interleave(group_size), width), logits

    def keep(self, live: Tensor) -> None:
        """Drop all other rows."""
        kv.select_rows(self.cache, live)
        self.rows, self.positions = self.rows[live], self.positions[live]
        self.mask = None if self.mask is None else self.mask[live]

    def advance(self, tokens: Tensor) -> Tensor:
        """Feed one token a row; the next logits [B, V] float32."""
        self.length += 1
        output = self.policy.model(
            input_ids=tokens[:, None],
            attention_mask=None if self.mask is None else self.mask[:, : self.length],
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.positions = self.positions + 1
        return output.logits[:, -1].float()  # type: ignore[no-any-return]

    def num_newly_done(self, num_live: int) -> int:
        """Rows that ended since the last call."""
        ended, self._live = self._live - num_live, num_live
        return ended


def _read(policy: Policy, prompts: Sequence[list[int]]) -> Prefilled:
    """All prompts in one pass."""
    ids, mask, _ = left_padded(prompts, policy.pad_id, policy.device)
    cache = kv.new_cache(policy.model)
    output = policy.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions_of(mask) if mask is not None else None,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache, mask, output.logits[:, -1].float()


def draw(scaled: Tensor, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw from softmax(``scaled``) [B, V] by the Gumbel-max trick: token, its log-probability and the entropy of the
    distribution, [B] each."""
    logp = torch.log_softmax(scaled, dim=-1)
    entropy = logp.exp().mul_(logp).nan_to_num_(nan=0.0).sum(dim=-1).neg_()
    token = noise.winner(logp, streams)
    return token, logp.gather(-1, token[:, None])[:, 0], entropy
