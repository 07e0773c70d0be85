"""Several processes: who does what, and the few messages between them.

Started by ``torchrun`` or ``accelerate launch``, one process a GPU (or several on a CPU). Every process has the whole
prompt set and draws the same order, because that is a pure function of the seed.

* Rollouts: each process samples a contiguous block of the prompts of a round; then all have all of them.
* Rewards: the first process runs the sources and tells the others. A sandbox, a judge's rate limit or a reward model is
  there once, whatever the number of processes, and no reward can differ between them.
* Advantages, row weights and masks are computed everywhere from the same numbers.
* Gradient: each process computes that of its block of groups, with the row weights of the whole update; the sum over
  the processes is the gradient. Neither loss nor gradient depends on the number of processes, rounding aside.
* Clipping and AdamW run on the same gradient everywhere. After each step the fingerprints of the weights are compared.
* Record, snapshots and output belong to the first process.

Messages are JSON and tensors; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from grpo_audit.errors import ConfigError, TrainingError

Strategy = Literal["single process", "ddp", "fsdp"]

TIMEOUT: Final = timedelta(minutes=30)
"""Longest wait for a tensor that another process computes."""
PATIENCE: Final = timedelta(days=14)
"""Longest wait for the first process while it evaluates, scores rewards or writes. One that ends is noticed at once."""
TIMEOUT_VARIABLE: Final = "GRPO_AUDIT_TIMEOUT_S"
"""Overrides ``TIMEOUT``, in seconds."""
BUCKET_ELEMENTS: Final = 2**24
"""Gradient elements that are summed over the processes at once."""

_BROKEN = re.compile(r"gloo|nccl|ProcessGroup|onnection|[Tt]imed ?out|peer|recvBytes|Broken pipe", re.ASCII)
_ERROR_KEY: Final = "grpo_audit/first_error"


@dataclass(frozen=True)
class World:
    """The processes of one run, as one of them sees it."""

    rank: int = 0
    size: int = 1
    strategy: Strategy = "single process"
    backend: str | None = None
    control: Any = None
    """Process group of the messages that may be waited for long."""
    device_type: Literal["cpu", "cuda"] = "cpu"

    @property
    def first(self) -> bool:
        """Whether record, snapshots and output are this process's."""
        return self.rank == 0

    # --- who does what -----------------------------------------------------------------------------------------------

    def block(self, count: int, rank: int | None = None) -> range:
        """The block of ``count`` things that a process (this one) takes; sizes differ by one at most."""
        rank = self.rank if rank is None else rank
        return range(count * rank // self.size, count * (rank + 1) // self.size)

    def share(self, rows: Sequence[int], group: Sequence[int], rank: int | None = None) -> list[int]:
        """The rows that a process (this one) scores: those of its block of the groups that occur, in order."""
        if self.size == 1:
            return list(rows)
        groups = sorted({group[row] for row in rows})
        mine = {groups[place] for place in self.block(len(groups), rank)}
        return [row for row in rows if group[row] in mine]

    # --- tensors -----------------------------------------------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """Largest over the processes, element by element, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its sum over the processes, in pieces of ``BUCKET_ELEMENTS``."""
        if self.size == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None], BUCKET_ELEMENTS):
            flat = self.sum(torch.cat([gradient.flatten() for gradient in bucket]))
            sizes = [gradient.numel() for gradient in bucket]
            for gradient, piece in zip(bucket, flat.split(sizes), strict=True):
                gradient.copy_(piece.view_as(gradient))

    def gather(self, tensor: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all processes in order of rank, from this one's [n, ...]; ``counts`` are the numbers of rows of
        each. Second dimensions that differ are filled up with 0."""
        if self.size == 1:
            return tensor
        shape = list(tensor.shape)
        if tensor.ndim > 1:
            width = self.max(torch.tensor([shape[1]], device=tensor.device))
            shape[1] = int(width)
        kind = torch.uint8 if tensor.dtype is torch.bool else tensor.dtype
        mine = tensor.new_zeros((max(counts), *shape[1:]), dtype=kind)
        mine[tuple(slice(size) for size in tensor.shape)] = tensor.to(kind)
        parts = [torch.empty_like(mine) for _ in counts]
        dist.all_gather(parts, mine)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).to(tensor.dtype)

    # --- messages ----------------------------------------------------------------------------------------------------

    def tell(self, value: object = None) -> Any:
        """What the first process says, as it comes out of JSON. The others wait, however long it takes."""
        if self.size == 1:
            return json.loads(json.dumps(value))
        data = torch.tensor(list(json.dumps(value).encode()) if self.first else [], dtype=torch.uint8)
        length = torch.tensor([len(data)])
        dist.broadcast(length, 0, group=self.control)
        message = data if self.first else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(message, 0, group=self.control)
        return json.loads(message.numpy().tobytes())

    def check_same(self, text: str, what: str) -> None:
        """Raises TrainingError when the processes have different texts: they no longer train the same model."""
        if self.size == 1:
            return
        if (found := self.tell(text)) != text:
            raise TrainingError(
                f"Process {self.rank} has another {what} than the first one",
                found=text,
                expected=found,
                next_step="Use machines of one type, or fewer processes; --resume goes on from the last snapshot",
            )


def joined() -> bool:
    """Whether this process has joined others."""
    return dist.is_available() and dist.is_initialized()


def launched() -> bool:
    """Whether this process is one of several, as its launcher says. Needs no initialisation."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: Literal["auto", "cpu", "cuda"] = "auto") -> World:
    """Join the processes that the launcher started; alone, when it started one only.

    Raises ConfigError for what the launcher asks for and is not there.
    """
    if not launched():
        return World()
    from accelerate import PartialState  # alone nobody needs it

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if device == "cuda" and on_cpu:
        raise ConfigError("model.device is cuda", found="no CUDA device", next_step="Set model.device to auto or cpu")
    seconds = os.environ.get(TIMEOUT_VARIABLE)
    timeout = TIMEOUT if seconds is None else timedelta(seconds=float(seconds))
    state = PartialState(cpu=on_cpu, backend="gloo" if on_cpu else "nccl", timeout=timeout)
    strategy: Strategy = "fsdp" if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1") else "ddp"
    return World(
        rank=state.process_index,
        size=state.num_processes,
        strategy=strategy,
        backend=state.backend,
        control=dist.new_group(backend="gloo", timeout=PATIENCE),
        device_type="cpu" if on_cpu else "cuda",
    )


def leave() -> None:
    """Part from the others, when all is done."""
    if joined():
        dist.destroy_process_group()


@contextmanager
def together(world: World) -> Iterator[None]:
    """A message that fails inside because another process is gone becomes a TrainingError of one line."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not _BROKEN.search(str(error)):
            raise
        raise TrainingError(
            f"Another process of this run ended or does not answer (this is process {world.rank} of {world.size})",
            found=first_error() or str(error).strip().splitlines()[0][:200],
            next_step="Repair what it says, then go on with --resume",
        ) from error


def first_to_report(message: str) -> bool:
    """Whether this process is the first that reports an error. The others then stay silent: they fail because of it,
    or of the same thing."""
    if not joined():
        return True
    try:
        store = dist.distributed_c10d._get_default_store()
        if store.add(f"{_ERROR_KEY}/count", 1) > 1:
            return False
        store.set(_ERROR_KEY, message)
    except RuntimeError:  # whoever kept the store is gone
        pass
    return True


def first_error() -> str | None:
    """The first error that a process reported."""
    try:
        store = dist.distributed_c10d._get_default_store()
        return store.get(_ERROR_KEY).decode() if store.check([_ERROR_KEY]) else None
    except (RuntimeError, ValueError):
        return None


def _buckets(tensors: Sequence[Tensor], elements: int) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.numel() > elements:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
