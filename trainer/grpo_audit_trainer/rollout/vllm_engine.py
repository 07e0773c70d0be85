"""vLLM in the trainer's own process as an engine: its scheduler, kernels and paged cache, our draws.

1. Each completion is one request, told which row it is; a group shares its prompt through vLLM's prefix cache, in
   whole blocks.
2. The token is drawn by a logits processor (``draws.py``) and vLLM, asked to be greedy, takes what that leaves. So
   neither vLLM's random numbers nor its ``logprobs`` (by default those of temperature 1) are used.
3. vLLM starts with random weights; ``sync`` hands it the policy's, by name, through its own ``reload_weights``, and
   empties the prefix cache, which the old weights had computed.
4. The engine runs in this process (no worker process), because processor and weights are handed over by reference.

Not covered: several GPUs (tensor parallelism), several training processes, speculative decoding.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from grpo_audit.config.sections import SamplingConfig
from grpo_audit.errors import ConfigError, TrainingError
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout.draws import NOWHERE, Draws
from grpo_audit_trainer.rollout.native import OnTokens, SampledBatch

NAME: Final = "vllm"
ROW: Final = "grpo_audit_row"
"""Under which a request carries its row."""

CPU_CACHE_BYTES: Final = 2**30
"""Size of the paged cache on a CPU, where vLLM would take a share of all memory."""

ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the second runner has another interface for logits processors
    "VLLM_NO_USAGE_STATS": "1",  # nothing is reported to anybody
}


class VllmEngine:
    """Draws completions through ``vllm.LLM``."""

    name = NAME
    exact_noise = True
    entropy = True

    def __init__(self, config: SamplingConfig, policy: Policy, *, enforce_eager: bool | None = None) -> None:
        """Start vLLM on the policy's device with the policy's weights. ``enforce_eager`` switches compilation and CUDA
        graphs off (None: on a CPU only).

        Raises ConfigError beside other training processes, TrainingError when vLLM does not start.
        """
        _check_alone()
        os.environ.update(ENVIRONMENT)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        import vllm

        self.version = f"vllm {vllm.__version__}"
        self._policy = policy
        self._draws = _Current()
        self._on_cpu = policy.device.type == "cpu"
        self._asleep = False
        options: dict[str, Any] = {
            "model": str(policy.folder),
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # the model's own sampling settings are not ours
            "dtype": "bfloat16" if policy.execution.autocast else "float32",
            "enforce_eager": self._on_cpu if enforce_eager is None else enforce_eager,
            "max_model_len": _longest(config, policy),
            "seed": 0,
            "async_scheduling": False,  # a position must be known when its token is drawn
            "disable_log_stats": True,
            "logits_processors": [_processor(self._draws)],
        }
        if self._on_cpu:
            options["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
        else:
            options |= {"gpu_memory_utilization": config.vllm_memory, "enable_sleep_mode": True}
        with _process_as_it_was(), _one_line("vLLM did not start"):
            self._llm: Any = vllm.LLM(**options)
        self.sync(policy)

    def sync(self, policy: Policy) -> None:
        """Load the policy's weights, adapters merged; forget what the old ones computed."""
        self._policy = policy
        self._wake()
        with _process_as_it_was(), _one_line("vLLM did not take over the weights"):
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named_weights(policy.model)})
            self._llm.apply_model(_pack_tied_head)
            emptied = self._llm.reset_prefix_cache()
        if not emptied:
            raise TrainingError("vLLM did not empty its prefix cache after the weights changed")

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
        """See ``RolloutEngine.sample``; ``on_tokens`` is called once, at the end."""
        from vllm import SamplingParams

        num_rows = len(prompts) * group_size
        if keys.shape != (num_rows,):
            raise ValueError(f"expected {num_rows} noise keys, found shape {tuple(keys.shape)}")
        self._wake()
        draws = Draws(keys.to(self._policy.device), temperature=temperature, max_tokens=max_tokens)
        requests = [{"prompt_token_ids": prompts[row // group_size]} for row in range(num_rows)]
        parameters = [
            SamplingParams(
                temperature=0.0,
                max_tokens=max_tokens,
                stop_token_ids=list(self._policy.eos_ids),
                detokenize=False,
                extra_args={ROW: row},
            )
            for row in range(num_rows)
        ]
        self._draws.now = draws
        try:
            with _process_as_it_was(), _one_line("vLLM failed while sampling"):
                outputs = self._llm.generate(requests, parameters, use_tqdm=False)
        finally:
            self._draws.now = None
        completions = [list(output.outputs[0].token_ids) for output in outputs]
        if on_tokens is not None:
            on_tokens(sum(len(ids) for ids in completions))
        return draws.batch(completions, self._policy.eos_ids, NAME)

    def rest(self) -> None:
        """On a GPU: weights go to the CPU, the cache is dropped, until the next call (vLLM's sleep, level 1)."""
        if not self._on_cpu and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def close(self) -> None:
        """Stop vLLM and free its memory."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False


class _Current:
    """The draws of the call that runs, if one does."""

    now: Draws | None = None


def _processor(current: _Current) -> type:
    """The logits processor class to hand to vLLM, which makes the object itself."""
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    class RowDraws(LogitsProcessor):
        """Draws for each request of the batch the token of its row and position."""

        def __init__(self, *_: Any) -> None:
            self.requests: dict[int, tuple[int, list[int]]] = {}  # place in the batch: row, its tokens so far (live)

        def is_argmax_invariant(self) -> bool:
            """It decides what the maximum is."""
            return False

        def update_state(self, batch_update: Any) -> None:
            """Follow the requests through the places of the batch."""
            process_dict_updates(
                self.requests,
                batch_update,
                lambda params, _prompt, output: ((params.extra_args or {}).get(ROW, NOWHERE), output),
            )

        def apply(self, logits: Tensor) -> Tensor:
            """Scores [B, V] that only the drawn tokens can win."""
            if current.now is None:
                return logits
            found = [self.requests.get(place, (NOWHERE, [])) for place in range(logits.shape[0])]
            rows, positions = zip(*((row, len(output)) for row, output in found), strict=True)
            places = torch.tensor([rows, positions], device=logits.device)
            return current.now.pick(logits, places[0], places[1])

    return RowDraws


def named_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Weights under their names in the checkpoint, one at a time; what low-rank adapters (peft) add is added."""
    adapted = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "get_delta_weight")
    }
    for name, parameter in model.named_parameters():
        owner, _, rest = name.partition(".base_layer.")
        if rest and owner in adapted:
            layer, value = adapted[owner], parameter.detach()
            if rest == "weight" and not layer.disable_adapters and not layer.merged:
                for adapter in layer.active_adapters:
                    value = value + layer.get_delta_weight(adapter).detach()
            yield f"{owner}.{rest}".removeprefix("base_model.model."), value
        elif not any(name.startswith(f"{layer}.") for layer in adapted):
            yield name.removeprefix("base_model.model."), parameter.detach()


def _pack_tied_head(model: nn.Module) -> None:
    """On a CPU vLLM keeps a packed copy of the output layer. One that shares the embedding's weights has no weights of
    its own to load, so ``reload_weights`` leaves its copy as it was (seen in 0.32.0)."""
    head: Any = getattr(model, "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def _longest(config: SamplingConfig, policy: Policy) -> int:
    """Prompt and completion tokens that must fit."""
    wanted = config.max_prompt_tokens + config.max_completion_tokens
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    return wanted if context is None else min(wanted, int(context))


def _check_alone() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise ConfigError(
            "sampling.engine vllm runs in one training process only",
            found=f"{distributed.get_world_size()} processes",
            next_step="Set sampling.engine to native or continuous-batching",
        )


@contextlib.contextmanager
def _process_as_it_was() -> Iterator[None]:
    """vLLM sets what belongs to the whole process (random states, determinism, how threads are set): put back after."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    threads, deterministic = torch.set_num_threads, torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.set_num_threads = threads
        torch.use_deterministic_algorithms(deterministic)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """vLLM's errors as a TrainingError; running out of memory is for the caller."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # its errors have no base of their own
        reason = str(error).strip().splitlines()
        raise TrainingError(
            what,
            found=f"{type(error).__name__}: {reason[0] if reason else 'no reason given'}",
            next_step="Set VLLM_LOGGING_LEVEL to INFO to see more, or sampling.engine to native",
        ) from error
