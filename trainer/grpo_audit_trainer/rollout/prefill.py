"""Reading prompts: a few at a time, those of like length together, and what all begin with only once.

One pass over a whole batch pads every prompt to the longest, and its intermediate results leave the processor's cache.
Measured on one core (300 prompts of 32 to 128 tokens in batches of 100, 21 million parameters): see
``docs/benchmarks/lm_eval_speed.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout import cache as kv

TOKENS: Final = {"cpu": 1024, "cuda": 32768}
"""Tokens of one pass, padding included, by device type."""


Prefilled = tuple[Any, Tensor | None, Tensor]
"""The filled cache, its mask [P, L] bool (None when nothing is padded) and the logits [P, V] behind each prompt."""


def left_padded(prompts: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
    """Token ids [P, L], mask [P, L] bool (None when nothing is padded) and lengths [P]."""
    lengths = [len(prompt) for prompt in prompts]
    longest = max(lengths)
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    sizes = torch.tensor(lengths, device=device)
    if min(lengths) == longest:
        return ids, None, sizes
    return ids, torch.arange(longest, device=device) >= (longest - sizes)[:, None], sizes


def positions_of(mask: Tensor) -> Tensor:
    """Position ids [P, L] of left-padded rows; padding gets 0."""
    return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def read_in_parts(policy: Policy, prompts: Sequence[list[int]], shared: int) -> Prefilled | None:
    """The prompts in a cache; they should come in the order of their length.

    The first ``shared`` tokens are the same in all prompts, and each has more. None for a model with sliding windows:
    they count cached positions, and padding would lie inside them.
    """
    beginning = kv.new_cache(policy.model)
    if not kv.sees_everything(beginning):
        return None
    if shared:
        ids = torch.tensor([prompts[0][:shared]], device=policy.device)
        policy.model(input_ids=ids, past_key_values=beginning, use_cache=True, logits_to_keep=1)
    caches, masks, logits = [], [], []
    for part in _parts([prompt[shared:] for prompt in prompts], TOKENS.get(policy.device.type, TOKENS["cuda"])):
        cache = kv.new_cache(policy.model)
        if shared:
            kv.begin_with(cache, beginning, len(part))
        ids, padding, _ = left_padded(part, policy.pad_id, policy.device)
        whole = torch.ones_like(ids, dtype=torch.bool) if padding is None else padding
        output = policy.model(
            input_ids=ids,
            attention_mask=None if padding is None else torch.nn.functional.pad(padding, (shared, 0), value=True),
            position_ids=positions_of(whole) + shared,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        caches.append(cache)
        masks.append(torch.nn.functional.pad(whole, (shared, 0), value=True))
        logits.append(output.logits[:, -1].float())
    longest = max(part.shape[1] for part in masks)
    right_aligned = [torch.nn.functional.pad(part, (longest - part.shape[1], 0), value=False) for part in masks]
    mask = torch.cat(right_aligned)
    return kv.joined(caches, longest), None if bool(mask.all()) else mask, torch.cat(logits)


def _parts(prompts: Sequence[list[int]], tokens: int) -> Iterator[list[list[int]]]:
    """Consecutive prompts, as many as fit into ``tokens`` when padded to the longest of them; one at least."""
    part: list[list[int]] = []
    longest = 0
    for prompt in prompts:
        longest = max(longest, len(prompt))
        if part and longest * (len(part) + 1) > tokens:
            yield part
            part, longest = [], len(prompt)
        part.append(prompt)
    if part:
        yield part
