"""FSDP: parameters, gradients and optimiser spread over the processes, by torch's ``fully_shard`` (FSDP2).

Each decoder layer is a unit, and everything else (embedding, last norm, output layer) is another. In an update a unit
is gathered when it is needed and let go again. Rollouts, and all scoring without a gradient, gather the whole model
once (`Shards.whole`) and then run without messages: processes may decode for different numbers of tokens.

An update must run the same number of microbatches on every process, or the messages would not match. Who has fewer runs
empty ones (`Updater.gradient`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from grpo_audit_trainer.distributed import World

T = TypeVar("T")


class _Root(nn.Module):
    """Runs any function of the model as one forward pass, so that the hooks of ``fully_shard`` see all of it: hidden
    states and output layer are called one by one here, never through the model's own forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], T]) -> T:
        """``function()``."""
        return function()


class Shards:
    """A model spread over the processes, in place."""

    def __init__(self, model: Any, world: World) -> None:
        mesh = init_device_mesh(world.device_type, (world.size,))
        for layer in _layers(model):
            fully_shard(layer, mesh=mesh)
        self._root: nn.Module = _Root(model)
        self._top = fully_shard(self._root, mesh=mesh)
        modules: list[nn.Module] = list(self._root.modules())
        self._units = [module for module in modules if isinstance(module, FSDPModule)]
        for unit in self._units:
            unit.set_gradient_divide_factor(1.0)  # a sum, no mean: row weights are those of the whole update
            unit.set_force_sum_reduction_for_comms(True)
        # Backward, each unit asks for the one before it. Left to itself FSDP remembers the order of all forward passes,
        # those of the rollouts too, and they are not the same on every process, which would dead-lock.
        for unit, before in zip(self._units, [self._units[-1], *self._units[:-1]], strict=True):
            unit.set_modules_to_backward_prefetch([before])
        with torch.no_grad():
            self._root(lambda: torch.zeros(()))  # makes it the root before a layer is called by itself
        self._top.reshard()  # a root stays gathered after a forward pass

    def run(self, function: Callable[[], T]) -> T:
        """``function()``, whose result must be tensors, as one forward pass with gradients."""
        return self._root(function)  # type: ignore[no-any-return]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every process has all weights. All of them enter together. What is written to the weights inside is
        lost."""
        for unit in self._units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            yield
        finally:
            for unit in self._units:
                unit.reshard()
                unit.set_reshard_after_forward(unit is not self._top, recurse=False)


@torch.no_grad()
def put(parameter: Tensor, value: Tensor) -> None:
    """Write a whole tensor, or a shard of the same layout, into a parameter, which may be spread."""
    parameter.copy_(as_spread(value, parameter))


def as_spread(value: Tensor, like: Tensor) -> Tensor:
    """``value``, a whole tensor, spread as ``like`` is; each process takes its own part of it."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def as_whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be spread. All processes ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _layers(model: Any) -> list[nn.Module]:
    """The decoder layers: the longest list of modules of one class in the model."""
    lists = [list(module) for module in model.get_decoder().modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda modules: len(modules), default=[])
