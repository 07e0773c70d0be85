"""transformers' continuous batching as an engine: its scheduler and paged cache, our draws.

1. A prompt is one request with G - 1 children: the library reads the prompt up to its last token, then forks the cache.
2. The token is drawn by a logits processor (``draws.py``), which is told of each request which row it is; the
   position follows from the tokens that are already in its cache.
3. The library runs a thread of its own, one for each call of ``sample``: a thread that idles between calls would keep
   the process from ending. The paged cache stays for the next call.
4. Under bfloat16 the thread, where no autocast of ours is active, works on a bfloat16 copy of the weights, which
   ``sync`` renews. In float32 it works on the policy's own model.

Accelerator graphs and asynchronous batching are off: they are not tested here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.utils import is_flash_attn_2_available

from grpo_audit.errors import ConfigError, TrainingError
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout.draws import NOWHERE, Draws
from grpo_audit_trainer.rollout.native import OnTokens, SampledBatch

NAME = "continuous-batching"
CHILD = re.compile(r"__child#(\d+)$")
"""How the library names the copies it forks off a request."""

CUDA_MEMORY = 0.3
"""Share of the free memory of a GPU that the paged cache may take, at the first call."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """How much goes into one forward pass. Without flash attention its cost grows with tokens times cached tokens of
    the whole batch, so the batch is kept small there."""

    requests: int
    tokens: int
    page: int
    """Positions in a block of the cache."""


class _RowDraws(ContinuousBatchingLogitsProcessor):
    """Draws for each request the token of its row and position."""

    supported_kwargs = {"row": int, "prompt_tokens": int}
    ignored_kwargs = ()

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.draws: Draws | None = None

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Nothing is to be drawn."""
        int32_tensor.fill_(NOWHERE)

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """[capacity] int32: row * T + position, NOWHERE behind the requests that get a token: the library does not
        wipe what stood there before."""
        places = torch.full((self.capacity,), NOWHERE, dtype=torch.int32)
        if self.draws is not None:
            found = [_place(request.state, self.draws.max_tokens) for request in requests_with_new_token]
            places[: len(found)] = torch.tensor(found, dtype=torch.int32)
        return places

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Scores [B, V] that only the drawn token can win."""
        if self.draws is None:
            return scores
        place = tensor_arg[: scores.shape[0]].long()
        rows = torch.where(place < 0, NOWHERE, place.div(self.draws.max_tokens, rounding_mode="floor"))
        return self.draws.pick(scores, rows, place % self.draws.max_tokens)


def _place(state: Any, max_tokens: int) -> int:
    """Row * T + position of the token that a request draws next. Its place counts all tokens in the cache, so it is
    right too for a request that was put off and taken up again."""
    child = CHILD.search(state.request_id)
    row = int(state.logit_processor_kwargs["row"]) + (int(child.group(1)) + 1 if child else 0)
    position = int(state.position_offset) - int(state.logit_processor_kwargs["prompt_tokens"])
    return row * max_tokens + position if 0 <= position < max_tokens else NOWHERE


class ContinuousEngine:
    """Draws completions through ``ContinuousBatchingManager``."""

    name = NAME
    exact_noise = True
    entropy = True

    def __init__(self, policy: Policy) -> None:
        """Raises ConfigError for a model whose attention the library would replace by a plainer one."""
        _check_attention(policy.model)
        self.version = f"transformers {metadata.version('transformers')}"
        self._policy = policy
        self._model: Any = None
        self._manager: Any = None
        self._room = 0
        self.sync(policy)

    def sync(self, policy: Policy) -> None:
        """In float32 the model is the policy's; under bfloat16 its copy takes over the weights."""
        self._policy = policy
        if not policy.execution.autocast:
            self._model = policy.model
        elif self._model is None:
            self._model = _bfloat16_copy(policy.model, policy.device)
        else:
            with torch.no_grad():
                pairs = zip(self._model.parameters(), policy.model.parameters(), strict=True)
                for ours, theirs in pairs:
                    ours.copy_(theirs)

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
        """See ``RolloutEngine.sample``. Raises TrainingError when a request fails or the thread dies."""
        num_rows = len(prompts) * group_size
        if keys.shape != (num_rows,):
            raise ValueError(f"expected {num_rows} noise keys, found shape {tuple(keys.shape)}")
        if num_rows * max_tokens >= 2**31:
            raise TrainingError(
                f"{num_rows} completions of {max_tokens} tokens are too many for one call of {NAME}",
                expected=f"less than {2**31} tokens",
                next_step="Lower sampling.prompts_per_step, or set sampling.engine to native",
            )
        draws = Draws(keys.to(self._policy.device), temperature=temperature, max_tokens=max_tokens)
        manager = self._ready(max(len(prompt) for prompt in prompts) + max_tokens)
        processor = manager.logit_processor.logits_processor[0]
        processor.draws = draws
        finished = False
        manager.switch_to_cb_friendly_attn(self._model, auto_switch_to_flash=False)
        manager.start()
        try:
            for index, prompt in enumerate(prompts):
                self._ask(manager, prompt, index * group_size, group_size, max_tokens)
            completions = self._answers(manager, num_rows, on_tokens)
            finished = True
        finally:
            manager.stop(block=True, keep_for_next_session=finished, hard_stop=not finished)
            processor.draws = None
            if finished:
                # the library remembers the manager on the model, which could then not be copied any more
                del manager.model._cached_continuous_batching_manager
            else:
                self._manager = None
        return draws.batch(completions, self._policy.eos_ids, NAME)

    def rest(self) -> None:
        """The paged cache stays: making it again costs more than it holds."""

    def close(self) -> None:
        """Free the paged cache and the copy."""
        if self._manager is not None:
            self._manager.destroy()
        self._manager = self._model = None

    def _ready(self, longest: int) -> Any:
        """The manager, with a cache for requests of ``longest`` tokens."""
        if self._manager is None or longest > self._room:
            self._manager, self._room = None, longest  # the old cache goes first
            try:
                self._manager = _make_manager(self._model, self._policy, longest)
            except (ValueError, MemoryError) as error:
                raise TrainingError(
                    f"{NAME} cannot sample from {type(self._model).__name__}",
                    found=str(error),
                    next_step="Set sampling.engine to native",
                ) from error
        return self._manager

    def _ask(self, manager: Any, prompt: list[int], row: int, group_size: int, max_tokens: int) -> None:
        """One request for the group. A prompt of one token cannot be forked before its last: G requests then."""
        together = group_size if len(prompt) > 1 else 1
        manager.num_return_sequences = together
        for first in range(0, group_size, together):
            manager.add_request(
                prompt,
                request_id=str(row + first),
                max_new_tokens=max_tokens,
                eos_token_id=list(self._policy.eos_ids),
                row=row + first,
                prompt_tokens=len(prompt),
            )

    def _answers(self, manager: Any, num_rows: int, on_tokens: OnTokens | None) -> list[list[int]]:
        rows: dict[int, list[int]] = {}
        while len(rows) < num_rows:
            result = manager.get_result(timeout=1)
            if result is None:
                if not manager.is_running():
                    raise _failed(str(manager.background_thread_status.fatal_error or "the thread ended"))
                continue
            if result.error is not None:
                raise _failed(result.error)
            child = CHILD.search(result.request_id)
            row = int(CHILD.sub("", result.request_id)) + (int(child.group(1)) + 1 if child else 0)
            rows[row] = result.generated_tokens
            if on_tokens is not None:
                on_tokens(len(result.generated_tokens))
        return [rows[row] for row in range(num_rows)]


def _check_attention(model: Any) -> None:
    """Models that compute attention step by step do so for a reason, such as soft-capped scores (Gemma 2). The library
    replaces that by an attention of its own that leaves the caps out, without a word (seen in 5.23.0)."""
    if model.config._attn_implementation == "eager":
        raise ConfigError(
            f"sampling.engine {NAME} would compute another attention than {type(model).__name__} has",
            expected="a model that can use scaled dot product attention",
            next_step="Set sampling.engine to native",
        )


def _failed(reason: str) -> TrainingError:
    return TrainingError(
        f"{NAME} failed while sampling",
        found=reason,
        next_step="Lower sampling.prompts_per_step, or set sampling.engine to native",
    )


def _limits(policy: Policy, model: Any) -> _Limits:
    if policy.device.type == "cpu":
        return _Limits(requests=64, tokens=256, page=16)
    if "flash" in model.config._attn_implementation:
        return _Limits(requests=1024, tokens=8192, page=256)
    return _Limits(requests=256, tokens=1024, page=256)


def _make_manager(model: Any, policy: Policy, longest: int) -> Any:
    limits = _limits(policy, model)
    on_cpu = policy.device.type == "cpu"
    blocks = limits.requests * (longest // limits.page + 2)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=list(policy.eos_ids)),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=limits.page,
            num_blocks=blocks if on_cpu else None,
            max_batch_tokens=limits.tokens,
            max_requests_per_batch=limits.requests,
            max_memory_percent=0.9 if on_cpu else CUDA_MEMORY,
            allow_block_sharing=False,  # a block would outlive the weights it was computed with
            use_cuda_graph=False,
            use_async_batching=False,
            auto_switch_to_flash=False,
        ),
    )
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([_RowDraws(limits.requests)]))
    processors.tensors_required = 1
    manager.logit_processor = processors
    return manager


def _bfloat16_copy(model: Any, device: torch.device) -> Any:
    """Parameters in bfloat16; buffers, such as the rotary frequencies, keep their precision."""
    twin = copy.deepcopy(model).requires_grad_(False)
    for parameter in twin.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    twin.set_attn_implementation(
        "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"
    )
    return twin
