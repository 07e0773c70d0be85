"""Where and how the model runs: device, precision, determinism."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from grpo_audit.config.sections import ModelConfig
from grpo_audit.errors import ModelError, TrainingError
from grpo_audit.record.environment import Accelerator

BF16_FROM_PARAMETERS = 100_000_000
CHECKPOINTING_FROM_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Execution:
    """How the model is held in memory, after ``auto`` was resolved."""

    device: torch.device
    autocast: bool
    """Matrix products in bfloat16, by autocast; weights stay float32."""
    gradient_checkpointing: bool
    chat_template: bool
    """Whether prompts go through the tokenizer's chat template."""
    threads: int


def make_deterministic() -> None:
    """Deterministic kernels, for the whole process. Same seed, same machine type: same bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # fills each new tensor as a debugging aid; nothing here reads memory it has not written, and decoding makes many
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def accelerator() -> Accelerator:
    """What the record says about the device."""
    cuda = torch.cuda.is_available()
    return Accelerator(
        name=torch.cuda.get_device_name() if cuda else None,
        driver=f"CUDA {torch.version.cuda}" if cuda else None,
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def resolve_execution(model: Any, tokenizer: Any, config: ModelConfig) -> Execution:
    """Resolve every ``auto`` of the section; raises ModelError for what this machine or model cannot do."""
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise ModelError("model.device is cuda", found="no CUDA device", next_step="Set model.device to auto or cpu")
    device = torch.device("cuda" if cuda and config.device != "cpu" else "cpu")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    large = device.type == "cuda" and parameters > BF16_FROM_PARAMETERS
    huge = device.type == "cuda" and parameters > CHECKPOINTING_FROM_PARAMETERS
    checkpointing = config.gradient_checkpointing == "on" or (config.gradient_checkpointing == "auto" and huge)
    if checkpointing and not model.supports_gradient_checkpointing:
        raise ModelError(
            f"{type(model).__name__} has no gradient checkpointing",
            next_step="Set model.gradient_checkpointing to off",
        )
    return Execution(
        device=device,
        autocast=config.precision == "bfloat16" or (config.precision == "auto" and large),
        gradient_checkpointing=checkpointing,
        chat_template=config.chat_template == "auto" and getattr(tokenizer, "chat_template", None) is not None,
        threads=torch.get_num_threads(),
    )


def enable_checkpointing(model: Any) -> None:
    """Gradient checkpointing, under the name this version of transformers has for it."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


@contextmanager
def memory_limit_of(what: str, settings: str) -> Iterator[None]:
    """Out of memory inside becomes a TrainingError that names the settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(what, settings, "CUDA") from error
    except (RuntimeError, MemoryError) as error:
        # torch's CPU allocator raises a plain RuntimeError
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise _out_of_memory(what, settings, "CPU") from error
        raise


def _out_of_memory(what: str, settings: str, device: str) -> TrainingError:
    return TrainingError(
        f"{device} ran out of memory during {what}",
        next_step=f"Lower {settings}, then go on with --resume",
    )
