"""One teacher-forced pass over recorded completions with their recorded noise: could each recorded token have won?

The sampler drew token t as the argmax over the vocabulary of ``log softmax(logits / T) + noise``. Here the logits come
from one pass over prompt and recorded completion, the noise from its key; the margin of a recorded token is its score
minus the best other score. It is positive for an honest record, up to float rounding. Every position is conditioned on
the *recorded* tokens before it, so that one wrong token does not spoil the check of the next.

Source: Karvonen et al. 2025 (Token-DiFR, arXiv 2511.20621), which compares vLLM's tokens so; our noise is a pure
function of (seed, step, prompt, sample, position), so nothing but the configuration is needed to know it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_audit_trainer import noise
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.scoring import CHUNK_ELEMENTS, CPU_MICROBATCH_TOKENS, length_sorted


@dataclass(frozen=True, slots=True)
class ForcedRow:
    """One completion to be checked."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    tokens: Sequence[int]
    """Completion token ids, at least one; an end token included."""
    key: int
    """Of its noise, as ``noise.row_key`` makes it."""


@dataclass(frozen=True, slots=True)
class Forced:
    """What the pass says of one completion of n tokens."""

    margin: NDArray[np.float32]
    """[n]: score of the recorded token minus the best other score, in nats."""
    logp: NDArray[np.float32]
    """[n]: log-probability of the recorded token at the temperature."""


@torch.no_grad()
def force(
    policy: Policy,
    rows: Sequence[ForcedRow],
    *,
    temperature: float,
    microbatch_tokens: int = CPU_MICROBATCH_TOKENS,
    on_rows: Callable[[int], None] | None = None,
) -> list[Forced]:
    """Margins and log-probabilities of ``rows``, in order. ``on_rows`` gets the number of rows done since its last
    call. Token ids must be below ``policy.vocabulary``."""
    found: dict[int, Forced] = {}

    def size(row: int) -> int:
        return len(rows[row].prompt) + len(rows[row].tokens)

    for chosen in length_sorted(range(len(rows)), size, microbatch_tokens):
        batch = [rows[row] for row in chosen]
        margin, logp = _one_batch(policy, batch, temperature)
        start = 0
        for row, item in zip(chosen, batch, strict=True):
            end = start + len(item.tokens)
            found[row] = Forced(margin[start:end], logp[start:end])
            start = end
        if on_rows is not None:
            on_rows(len(chosen))
    return [found[row] for row in range(len(rows))]


def _one_batch(
    policy: Policy, rows: Sequence[ForcedRow], temperature: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Margins and log-probabilities of all completion tokens of the rows, one row after the other."""
    device = policy.device
    width = max(len(row.prompt) + len(row.tokens) for row in rows)
    # padding is on the right, where causal attention never looks
    whole = [[*row.prompt, *row.tokens] for row in rows]
    ids = torch.tensor([[*row, *[policy.pad_id] * (width - len(row))] for row in whole], device=device)
    row_of = [index for index, row in enumerate(rows) for _ in row.tokens]
    before = [len(row.prompt) - 1 + position for row in rows for position in range(len(row.tokens))]
    keys = torch.tensor([row.key for row in rows for _ in row.tokens], dtype=torch.int64, device=device)
    positions = torch.tensor([position for row in rows for position in range(len(row.tokens))], device=device)
    targets = torch.tensor([token for row in rows for token in row.tokens], device=device)
    with policy.autocast():
        states = policy.hidden(ids, use_cache=False)[row_of, before]  # [n, H]
        size = max(1, CHUNK_ELEMENTS[device.type] // policy.vocabulary)
        chunks = zip(*(item.split(size) for item in (states, keys, positions, targets)), strict=True)
        parts = [
            _scores(policy.head(chunk) / temperature, key, position, target) for chunk, key, position, target in chunks
        ]
    margin, logp = (torch.cat(items).cpu().numpy() for items in zip(*parts, strict=True))
    return margin, logp


def _scores(scaled: Tensor, keys: Tensor, positions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Margin and log-probability [n] of ``targets`` [n] under softmax(``scaled`` [n, V])."""
    logp = torch.log_softmax(scaled, dim=-1)
    score = logp + noise.gumbel(noise.stream_keys(keys, positions), logp.shape[-1])
    own = score.gather(-1, targets[:, None])[:, 0]
    best_other = score.scatter(-1, targets[:, None], -torch.inf).amax(dim=-1)
    return own - best_other, logp.gather(-1, targets[:, None])[:, 0]
