"""The key-value cache while decoding: transformers' own, with room to grow.

transformers' ``DynamicLayer`` concatenates on each token, which copies the whole cache once per token. Here the full
attention layers are replaced, after the prompt was read, by layers that write into spare room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from grpo_audit.errors import ModelError

ROOM = 32
"""Positions by which a full buffer grows."""


class RoomyLayer(DynamicLayer):
    """A full-attention layer that keeps spare positions: ``keys`` and ``values`` are views of the used part."""

    def __init__(self, keys: Tensor, values: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.device = dtype, keys.device
        self.is_initialized = True
        self._adopt(keys, values)

    def _adopt(self, keys: Tensor, values: Tensor) -> None:
        """Copy into buffers [B, heads, positions + ROOM, head_dim]."""
        self.used = keys.shape[-2]
        self._keys, self._values = _with_room(keys, self.dtype), _with_room(values, self.dtype)
        self._show()

    def _show(self) -> None:
        self.keys = self._keys[:, :, : self.used]
        self.values = self._values[:, :, : self.used]

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the new states; returns all of them."""
        end = self.used + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            self._adopt(self.keys, self.values)
        self._keys[:, :, self.used : end] = key_states
        self._values[:, :, self.used : end] = value_states
        self.used = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only; the spare room goes along, so that each row is copied once."""
        self._keys, self._values = self._keys.index_select(0, indices), self._values.index_select(0, indices)
        self._show()

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._adopt(self.keys.repeat_interleave(repeats, 0), self.values.repeat_interleave(repeats, 0))


def _with_room(states: Tensor, dtype: torch.dtype) -> Tensor:
    batch, heads, positions, size = states.shape
    buffer = states.new_empty((batch, heads, positions + ROOM, size), dtype=dtype)
    buffer[:, :, :positions] = states
    return buffer


def new_cache(model: Any) -> Any:
    """An empty cache for this model; ModelError when its rows could not be repeated and dropped."""
    cache = DynamicCache(config=model.config)
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ModelError(
                f"{type(model).__name__} cannot be sampled by the native engine",
                found=f"a cache layer of type {type(layer).__name__}, whose rows cannot be shared by a group",
                expected="full or sliding-window attention",
                next_step="Choose another model.path",
            )
    return cache


def sees_everything(cache: Any) -> bool:
    """Whether every layer attends to all earlier positions."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def begin_with(cache: Any, beginning: Any, rows: int) -> None:
    """Start the empty ``cache`` of ``rows`` rows with the one row of ``beginning``."""
    for layer, first in zip(cache.layers, beginning.layers, strict=True):
        layer.update(first.keys.expand(rows, -1, -1, -1), first.values.expand(rows, -1, -1, -1))


def joined(caches: Sequence[Any], positions: int) -> Any:
    """One cache with the rows of all, each aligned at its end: ``positions`` are those of the longest. What is in front
    of a shorter one is 0, and must be masked. Layers of full attention only."""
    whole = caches[0]
    for index in range(len(whole.layers)):
        layers = [cache.layers[index] for cache in caches]
        keys, values = (
            _right_aligned([getattr(layer, name) for layer in layers], positions) for name in ("keys", "values")
        )
        layers[0].keys, layers[0].values = keys, values
        for layer in layers[1:]:
            layer.keys = layer.values = None  # its memory is wanted for the next layers
    return whole


def _right_aligned(parts: Sequence[Tensor], positions: int) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    _, heads, _, size = parts[0].shape
    whole = parts[0].new_zeros((sum(part.shape[0] for part in parts), heads, positions, size))
    row = 0
    for part in parts:
        whole[row : row + part.shape[0], :, positions - part.shape[2] :] = part
        row += part.shape[0]
    return whole


def with_room(cache: Any, dtype: torch.dtype | None) -> None:
    """Give the filled full-attention layers spare room, in place, and keep them in ``dtype`` (None: as they are)."""
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[index] = RoomyLayer(layer.keys, layer.values, dtype or layer.keys.dtype)


def select_rows(cache: Any, rows: Tensor) -> None:
    """Keep these rows of every layer, in this order; rows may repeat."""
    cache.batch_select_indices(rows)


def expand_group(cache: Any, group_size: int, device: torch.device, rows: int) -> None:
    """Repeat each row for the completions of its group."""
    select_rows(cache, torch.arange(rows, device=device).repeat_interleave(group_size))
