"""Completions as texts: cut at the first stop string, as evaluations ask for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from grpo_audit_trainer import noise
from grpo_audit_trainer.policy import Policy

OnDone = Callable[[int], None]
"""Called with the number of completions finished since the last call."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion as text."""

    text: str
    """Up to, and without, the first stop string or the end token."""
    raw: str
    """All that was generated, special tokens included."""
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Draw:
    """Sampling instead of the most likely token."""

    keys: Tensor
    """[N] int64, one for each completion, as made by ``noise.row_keys``."""
    temperature: float


class Answers:
    """The completions of one batch while they grow; ``choose`` is what ``NativeEngine.decode`` calls at each step."""

    def __init__(
        self, policy: Policy, stops: Sequence[tuple[str, ...]], draw: Draw | None, on_done: OnDone | None
    ) -> None:
        self._policy = policy
        self._stops = stops
        self._windows = [_window(stop) for stop in stops]
        self._draw = draw
        self._on_done = on_done
        self._drawn: list[list[int]] = [[] for _ in stops]
        self._done = [False] * len(stops)

    def choose(self, logits: Tensor, rows: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """The next token of each of ``rows`` [B] from its logits [B, V], and which of them are done, [B] bool."""
        picked = self._pick(logits, rows, position)
        numbers = rows.tolist()
        live = [(row, token) for row, token in zip(numbers, picked.tolist(), strict=True) if not self._done[row]]
        for row, token in live:
            self._drawn[row].append(token)
            self._done[row] = token in self._policy.eos_ids
        watched = [row for row, _ in live if self._stops[row] and not self._done[row]]
        tails = self._texts([self._drawn[row][-self._windows[row] :] for row in watched])
        for row, tail in zip(watched, tails, strict=True):
            self._done[row] = any(text in tail for text in self._stops[row])
        if self._on_done is not None and (ended := sum(self._done[row] for row, _ in live)):
            self._on_done(ended)
        return picked, torch.tensor([self._done[row] for row in numbers], device=picked.device)

    def _pick(self, logits: Tensor, rows: Tensor, position: int) -> Tensor:
        if self._draw is None:
            return logits.argmax(dim=-1)
        logp = torch.log_softmax(logits / self._draw.temperature, dim=-1)
        return noise.winner(logp, noise.stream_keys(self._draw.keys[rows], position))

    def finished(self) -> list[Completion]:
        """All of them, after the last step; those that are not done ran into the limit."""
        if self._on_done is not None and (cut := self._done.count(False)):
            self._on_done(cut)
        texts = self._texts(self._drawn)
        raws = _decoded(self._policy.tokenizer, self._drawn, special=True)
        return [
            Completion(_cut(text, stop), raw, ids, "stop" if ended or _cut(text, stop) != text else "length")
            for text, raw, ids, ended, stop in zip(texts, raws, self._drawn, self._done, self._stops, strict=True)
        ]

    def _texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """As lm-eval reads completions: without special tokens."""
        return _decoded(self._policy.tokenizer, rows, special=False) if rows else []


def _decoded(tokenizer: Any, rows: Sequence[Sequence[int]], *, special: bool) -> list[str]:
    return list(tokenizer.batch_decode(rows, skip_special_tokens=not special, clean_up_tokenization_spaces=False))


def per_prompt(stop: Sequence[str] | Sequence[Sequence[str]], count: int) -> list[tuple[str, ...]]:
    """Stop strings of each of ``count`` prompts, from a list that is common to all or one list for each."""
    if all(isinstance(item, str) for item in stop):
        return [tuple(str(item) for item in stop if item)] * count
    if len(stop) != count:
        raise ValueError(f"expected {count} lists of stop strings, found {len(stop)}")
    return [tuple(text for text in item if text) for item in stop]


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; one less where a prompt has no token beyond them."""
    return min(shared_tokens(min(prompts), max(prompts)), min(map(len, prompts)) - 1)


def shared_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning of two token lists."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _window(stop: tuple[str, ...]) -> int:
    """Tokens whose text certainly covers a stop string that ended just now: each token is one byte or more, and a
    character may be split at the front."""
    return max((len(text.encode()) for text in stop), default=0) + 4


def _cut(text: str, stop: tuple[str, ...]) -> str:
    ends = [index for index in (text.find(item) for item in stop) if index >= 0]
    return text[: min(ends)] if ends else text
