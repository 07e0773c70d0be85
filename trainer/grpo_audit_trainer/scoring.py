"""Log-probabilities of completion tokens, with or without gradient.

How this differs from running the model on the padded batch:

1. Rows are sorted by length and cut into microbatches of at most ``microbatch_tokens`` tokens, each trimmed to its own
   longest row. The cuts are those that waste the least (`least_padding`).
2. The output layer runs at completion positions only, in chunks, so that a long batch's logits never exist at once.
   Its backward pass reuses the one buffer that the forward pass kept (`LogSoftmaxAt`).
3. Each prompt is read once for all completions of its group (`SharedPrefix`): their rows start from its key-value
   cache, the gradients of the cache are gathered over the microbatches and sent through the prompt once. The result is
   the same sum in another order. Sliding-window attention, gradient checkpointing and FSDP read whole rows instead.
4. Padding is on the right, where causal attention never looks; no mask is needed for whole rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import DynamicCache, DynamicLayer

from grpo_audit_trainer.policy import Policy

CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**26}
"""Logits that may exist at once, by device. A microbatch within it keeps the logarithm of its softmax for the backward
pass; a longer one makes its logits twice."""

CPU_MICROBATCH_TOKENS = 2048
"""On a CPU a microbatch is never larger than this, whatever memory would allow: the activations stay near the caches.
Measured on one core (3.3 million parameters, 15,000 tokens, forward and backward): 4.8 s at 2,048 tokens, 6.1 s at
8,192, 7.4 s at 16,384."""

CUT_COSTS = {"cpu": 128, "cuda": 1024}
"""What one more microbatch costs, in tokens, by device: its overhead, and one more addition to the gradients of the
embedding and the output layer. Padding is accepted up to that."""

SHARING_PAYS_BELOW = 0.9
"""Share of tokens that sharing prompts must get below to be worth its attention masks."""


@dataclass(frozen=True, slots=True)
class Completions:
    """What is scored: N completions of up to T tokens, and the prompts they belong to."""

    prompts: list[list[int]]
    """Token ids of P prompts, none of them empty."""
    group: list[int]
    """[N]: which prompt a row belongs to."""
    tokens: Tensor
    """[N, T] int64."""
    lengths: list[int]
    """[N], at least 1."""

    def row_tokens(self, row: int) -> int:
        """Prompt and completion tokens of a row."""
        return len(self.prompts[self.group[row]]) + self.lengths[row]


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Rows that are scored together."""

    rows: Tensor
    """[B] int64: indices into the completions."""
    mask: Tensor
    """[B, T'] bool: token positions that exist; T' is the longest of them."""
    targets: Tensor
    """[B, T'] int64: the completion tokens."""


Scored = Callable[[Microbatch, Tensor], None]
"""Receives each microbatch with its log-probabilities [B, T'] (0 outside the mask), once."""


class Scorer:
    """Scores completions under one set of weights."""

    def __init__(self, policy: Policy, *, temperature: float, microbatch_tokens: int) -> None:
        self.policy = policy
        self.temperature = temperature
        on_cpu = policy.device.type == "cpu"
        self.microbatch_tokens = min(microbatch_tokens, CPU_MICROBATCH_TOKENS) if on_cpu else microbatch_tokens
        layers = DynamicCache(config=policy.model.config).layers
        self.can_share = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
        self.can_share &= not policy.execution.gradient_checkpointing

    def logp(self, completions: Completions, rows: Sequence[int]) -> Tensor:
        """[N, T] float32 without gradient; 0 for rows that were not asked for and behind each row's end."""
        out = torch.zeros(completions.tokens.shape, dtype=torch.float32, device=completions.tokens.device)

        def keep(batch: Microbatch, logp: Tensor) -> None:
            out[batch.rows, : logp.shape[1]] = logp

        with torch.no_grad():
            self.each(completions, rows, keep)
        return out

    def each(self, completions: Completions, rows: Sequence[int], scored: Scored) -> None:
        """Score ``rows`` in microbatches. With gradients enabled, ``scored`` must call ``backward`` on what it
        makes of the log-probabilities; afterwards the gradients of the weights are complete."""
        if not rows:
            return
        if self.can_share and self.policy.shards is None and self._sharing_pays(completions, rows):
            for block in prompt_blocks(completions, rows, self.microbatch_tokens):
                SharedPrefix(self.policy, completions, block).each(block, self.microbatch_tokens, self._logp_of, scored)
            return
        for chosen in self._whole_cuts(completions, rows):
            batch = microbatch(completions, chosen)
            with self.policy.autocast():
                logp = self.policy.one_pass(partial(self._whole_pass, completions, chosen, batch))
            scored(batch, logp)

    def count(self, completions: Completions, rows: Sequence[int]) -> int:
        """Number of microbatches of ``rows``, when whole rows are read."""
        return len(list(self._whole_cuts(completions, rows)))

    def _whole_cuts(self, completions: Completions, rows: Sequence[int]) -> Iterator[list[int]]:
        costs = CUT_COSTS[self.policy.device.type]
        return least_padding(rows, completions.row_tokens, self.microbatch_tokens, costs)

    def _whole_pass(self, completions: Completions, rows: Sequence[int], batch: Microbatch) -> Tensor:
        return self._logp_of(self._whole_rows(completions, rows, batch), batch)

    def _sharing_pays(self, completions: Completions, rows: Sequence[int]) -> bool:
        groups = {completions.group[row] for row in rows}
        if min(len(completions.prompts[group]) for group in groups) < 2:
            return False  # nothing would be left to share: the last prompt token is read with the completion
        whole = sum(completions.row_tokens(row) for row in rows)
        shared = sum(len(completions.prompts[group]) for group in groups) + sum(
            completions.lengths[row] for row in rows
        )
        return shared < SHARING_PAYS_BELOW * whole

    def _whole_rows(self, completions: Completions, rows: Sequence[int], batch: Microbatch) -> Tensor:
        """Hidden states [B, T', H] that predict the completion tokens; prompt and completion are read together."""
        prompts = [completions.prompts[completions.group[row]] for row in rows]
        starts = torch.tensor([len(prompt) for prompt in prompts], device=batch.rows.device)
        columns = starts[:, None] + torch.arange(batch.targets.shape[1], device=starts.device)  # where they stand
        longest = max(completions.row_tokens(row) for row in rows)
        ids = _right_padded(prompts, int(columns.max()) + 1, self.policy)
        ids.scatter_(1, columns, torch.where(batch.mask, batch.targets, self.policy.pad_id))
        hidden = self.policy.hidden(ids[:, :longest], use_cache=False)  # [B, L, H]
        before = (columns - 1).clamp(max=longest - 1)
        return hidden.gather(1, before[..., None].expand(-1, -1, hidden.shape[-1]))

    def _logp_of(self, hidden: Tensor, batch: Microbatch) -> Tensor:
        """[B, T'] float32 from hidden states [B, T', H]."""
        flat = token_logp(self.policy, hidden[batch.mask], batch.targets[batch.mask], self.temperature)
        out = flat.new_zeros(batch.mask.shape)
        out[batch.mask] = flat
        return out


class SharedPrefix:
    """The key-value cache of a block of prompts without their last tokens, read once. Full attention only."""

    def __init__(self, policy: Policy, completions: Completions, rows: Sequence[int]) -> None:
        self.policy = policy
        self.completions = completions
        self.groups = sorted({completions.group[row] for row in rows})
        prefixes = [completions.prompts[group][:-1] for group in self.groups]
        self.length = max(len(prefix) for prefix in prefixes)
        self.lengths = torch.tensor([len(prefix) for prefix in prefixes], device=policy.device)
        self.last = torch.tensor([completions.prompts[group][-1] for group in self.groups], device=policy.device)
        self.cache = DynamicCache(config=policy.model.config)
        with policy.autocast():
            policy.hidden(_right_padded(prefixes, self.length, policy), past_key_values=self.cache, use_cache=True)
        # the completions' graphs end in these leaves, so that the prompt's graph is walked once
        self.leaves = [
            tuple(states.detach().requires_grad_(states.requires_grad) for states in (layer.keys, layer.values))
            for layer in self.cache.layers
        ]

    def each(
        self,
        rows: Sequence[int],
        microbatch_tokens: int,
        logp_of: Callable[[Tensor, Microbatch], Tensor],
        scored: Scored,
    ) -> None:
        """Score these rows, then send the cache's gradients through the prompts."""
        budget = max(1, microbatch_tokens - len(self.groups) * self.length)
        device = self.policy.device.type
        if device == "cpu":  # small products are fast enough there, and no logits are made twice
            budget = min(budget, chunk_size(self.policy))
        for chosen in least_padding(rows, self.completions.lengths.__getitem__, budget, CUT_COSTS[device]):
            batch = microbatch(self.completions, chosen)
            with self.policy.autocast():
                logp = logp_of(self._continue(chosen, batch), batch)
            scored(batch, logp)
        states = [state for layer in self.cache.layers for state in (layer.keys, layer.values)]
        leaves = [leaf for pair in self.leaves for leaf in pair]
        reached = [(s, leaf.grad) for s, leaf in zip(states, leaves, strict=True) if leaf.grad is not None]
        if reached:
            torch.autograd.backward([state for state, _ in reached], [gradient for _, gradient in reached])

    def _continue(self, rows: Sequence[int], batch: Microbatch) -> Tensor:
        """Hidden states [B, T', H] of the last prompt token and the completion without its last token."""
        places = {group: place for place, group in enumerate(self.groups)}
        place = torch.tensor([places[self.completions.group[row]] for row in rows], device=self.policy.device)
        width = batch.targets.shape[1]
        ids = torch.cat([self.last[place][:, None], batch.targets[:, :-1]], dim=1)
        cached = torch.arange(self.length, device=place.device) < self.lengths[place][:, None]
        mask = torch.cat([cached, batch.mask.new_ones((len(rows), width))], dim=1)  # [B, prefix + T']
        positions = self.lengths[place][:, None] + torch.arange(width, device=place.device)
        return self.policy.hidden(
            ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._rows_of_cache(place),
            use_cache=True,
        )

    def _rows_of_cache(self, place: Tensor) -> Any:
        cache = copy.copy(self.cache)
        cache.layers = []
        for layer, (keys, values) in zip(self.cache.layers, self.leaves, strict=True):
            row_layer = copy.copy(layer)
            row_layer.keys, row_layer.values = keys.index_select(0, place), values.index_select(0, place)
            cache.layers.append(row_layer)
        return cache


def token_logp(policy: Policy, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """[n] float32: log softmax(logits / temperature) of ``targets`` [n] given ``hidden`` [n, H], in chunks. With
    gradients and more than one chunk, each chunk's logits are made again in the backward pass."""

    def one(states: Tensor, wanted: Tensor) -> Tensor:
        logits = policy.head(states)
        return LogSoftmaxAt.apply(logits if temperature == 1 else logits / temperature, wanted)  # type: ignore[no-any-return]

    size = chunk_size(policy)
    if hidden.shape[0] <= size:
        return one(hidden, targets)
    parts = list(zip(hidden.split(size), targets.split(size), strict=True))
    if not torch.is_grad_enabled():
        return torch.cat([one(*part) for part in parts])
    return torch.cat([checkpoint(one, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


class LogSoftmaxAt(torch.autograd.Function):
    """``log_softmax(logits)`` [n, V] at ``targets`` [n], as [n].

    With s = softmax(logits) the gradient of output i is onehot(target_i) - s_i. It is written into the one buffer that
    the forward pass kept, so that a microbatch never holds more than two arrays of the logits' size.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        logp = torch.log_softmax(logits, dim=-1)
        ctx.save_for_backward(logp, targets)
        return logp.gather(-1, targets[:, None])[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        logp, targets = ctx.saved_tensors
        out = logp.exp_().mul_(-gradient[:, None])
        out[torch.arange(len(targets), device=targets.device), targets] += gradient
        return out, None


def chunk_size(policy: Policy) -> int:
    """Positions whose logits may exist at once."""
    return max(1, CHUNK_ELEMENTS[policy.device.type] // policy.vocabulary)


def least_padding(rows: Sequence[int], size: Callable[[int], int], budget: int, cut_costs: int) -> Iterator[list[int]]:
    """Cut ``rows`` into lists whose count times longest ``size`` stays within ``budget`` (one row at least), longest
    first, such that the sum over the lists of count times longest plus ``cut_costs`` is the smallest possible."""
    ordered = sorted(rows, key=size, reverse=True)
    sizes = [size(row) for row in ordered]
    best: list[tuple[int, int]] = [(0, 0)] * (len(ordered) + 1)  # from a row on: cost, end of its list
    for start in reversed(range(len(ordered))):
        last = min(len(ordered), start + max(1, budget // sizes[start]))
        best[start] = min(
            ((end - start) * sizes[start] + cut_costs + best[end][0], end) for end in range(start + 1, last + 1)
        )
    start = 0
    while start < len(ordered):
        end = best[start][1]
        yield ordered[start:end]
        start = end


def length_sorted(rows: Sequence[int], size: Callable[[int], int], budget: int) -> Iterator[list[int]]:
    """Cut ``rows`` into lists whose count times longest ``size`` stays within ``budget`` (one row at least), longest
    first: what does not fit into memory fails at once. Rows of one length keep their order."""
    ordered = sorted(rows, key=size, reverse=True)
    start = 0
    while start < len(ordered):
        count = max(1, budget // size(ordered[start]))
        yield ordered[start : start + count]
        start += count


def prompt_blocks(completions: Completions, rows: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut ``rows`` so that the prompts of each part, padded, take at most half of ``budget``; groups stay whole."""
    by_group: dict[int, list[int]] = {}
    for row in rows:
        by_group.setdefault(completions.group[row], []).append(row)
    for groups in length_sorted(list(by_group), lambda group: len(completions.prompts[group]), budget // 2):
        yield [row for group in groups for row in by_group[group]]


def microbatch(completions: Completions, rows: Sequence[int]) -> Microbatch:
    """These rows, trimmed to the longest of them."""
    device = completions.tokens.device
    index = torch.tensor(rows, device=device)
    lengths = torch.tensor([completions.lengths[row] for row in rows], device=device)
    width = max(completions.lengths[row] for row in rows)
    mask = torch.arange(width, device=device) < lengths[:, None]
    return Microbatch(rows=index, mask=mask, targets=completions.tokens[index, :width])


def _right_padded(prompts: Sequence[Sequence[int]], width: int, policy: Policy) -> Tensor:
    rows = [[*prompt, *[policy.pad_id] * (width - len(prompt))] for prompt in prompts]
    return torch.tensor(rows, device=policy.device)
