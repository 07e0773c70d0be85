"""What a library's sampler draws through us: our noise, our tokens, our log-probabilities.

Both libraries (transformers' continuous batching, vLLM) let a processor change the logits of a batch before the token
is picked as their maximum. Ours draws the token itself, as the native engine does, notes it down, and leaves scores
that only this token can win. So the draw stays the same pure function of (seed, step, prompt, sample, position), the
log-probability is that of the distribution drawn from, whatever the library would report, and the entropy is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grpo_audit.errors import TrainingError
from grpo_audit_trainer import noise
from grpo_audit_trainer.rollout.native import SampledBatch, draw

NOWHERE = -1
"""Row of a logit that is not wanted: padding, or a prompt that is not read to its end yet."""


class Draws:
    """The draws of N rows of up to T tokens, filled position by position in any order."""

    def __init__(self, keys: Tensor, *, temperature: float, max_tokens: int) -> None:
        """``keys`` [N] int64 as made by ``noise.row_keys``, on the device where the logits will be."""
        self.temperature = temperature
        self.max_tokens = max_tokens
        rows = keys.shape[0]
        self.keys = torch.nn.functional.pad(keys, (0, 1))  # the row behind the last takes what nobody wants
        self.tokens = torch.zeros((rows + 1, max_tokens), dtype=torch.int64, device=keys.device)
        self.logp = torch.zeros((rows + 1, max_tokens), dtype=torch.float32, device=keys.device)
        self.entropy = torch.zeros_like(self.logp)

    def pick(self, logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Draw a token for each row of ``logits`` [B, V], note it down, and return scores [B, V] that only it can win.

        ``rows`` [B] int64 says which completion (NOWHERE: none), ``positions`` [B] int64 which of its tokens. A place
        drawn twice keeps the later draw: the library repeats a position when it takes a request up again.
        """
        useful = (rows >= 0) & (positions >= 0) & (positions < self.max_tokens)
        rows = torch.where(useful, rows, self.keys.shape[0] - 1)
        positions = torch.where(useful, positions, 0)
        scaled = logits.float() / self.temperature
        token, logp, entropy = draw(scaled, noise.stream_keys(self.keys[rows], positions))
        self.tokens[rows, positions], self.logp[rows, positions], self.entropy[rows, positions] = token, logp, entropy
        return torch.zeros_like(scaled).scatter_(1, token[:, None], 1.0)

    def batch(self, completions: Sequence[Sequence[int]], eos_ids: Sequence[int], engine: str) -> SampledBatch:
        """The batch, trimmed to the longest completion. ``completions`` are the N token lists the library returned.

        Raises TrainingError when they are not what was drawn here, or stop where they should not.
        """
        device = self.keys.device
        lengths = torch.tensor([len(ids) for ids in completions], dtype=torch.int64, device=device)
        if int(lengths.min()) < 1 or int(lengths.max()) > self.max_tokens:
            raise TrainingError(
                f"{engine} returned a completion of impossible length",
                found=f"{int(lengths.min())} to {int(lengths.max())} tokens",
                expected=f"1 to {self.max_tokens}",
            )
        longest = int(lengths.max())
        returned = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in completions], device=device)
        inside = torch.arange(longest, device=device) < lengths[:, None]
        tokens, logp, entropy = (kept[:-1, :longest] * inside for kept in (self.tokens, self.logp, self.entropy))
        ends = torch.isin(tokens, torch.tensor(list(eos_ids), device=device)) & inside
        stopped = ends.any(dim=1)
        full = torch.where(stopped, ends.int().argmax(dim=1) + 1, self.max_tokens)
        if not torch.equal(returned, tokens) or not torch.equal(full, lengths):
            raise TrainingError(
                f"{engine} returned other completions than were drawn",
                found=f"{int(((returned != tokens).any(dim=1) | (full != lengths)).sum())} of {len(completions)} rows",
                next_step="Set sampling.engine to native and report this with the library's version",
            )
        return SampledBatch(tokens, lengths, logp, entropy, stopped)
