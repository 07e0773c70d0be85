"""LoRA (Hu et al. 2021, arXiv 2106.09685), by peft: W x becomes W x + (alpha / rank) B A x, and only A and B train.

The adapters are put into the model's own layers, so the model keeps its class, and sampling, scoring and the output
layer know nothing of them. B starts at 0, so the first policy is the base model exactly. A is a pure function of the
run's seed and the layer's name; torch's global random state is neither read nor moved.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from grpo_audit.config.sections import LoraConfig
from grpo_audit.errors import ModelError, StorageError
from grpo_audit.record.identities import AdapterIdentity
from grpo_audit_trainer.sharding import put

if TYPE_CHECKING:  # importing peft takes over a second, and most runs do without
    from peft import LoraConfig as PeftConfig
    from peft.tuners.lora import LoraLayer

WEIGHTS_FILE: Final = "adapter_model.safetensors"
CONFIG_FILE: Final = "adapter_config.json"
NAME: Final = "default"
"""peft's name of the one adapter there is."""

INITIALISATION: Final = (
    "B = 0; A uniform in (-1/sqrt(inputs), 1/sqrt(inputs)), from a generator seeded with SHA-256 of SEED:PARAMETER"
)
_PREFIX: Final = "base_model.model."
"""What peft's files have before each name."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """Which adapters a model has."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Last parts of the names of the layers that have them, sorted."""
    base: str
    """The base model as the recipe names it."""
    trained: int
    """Number of trained parameters."""
    layers: int

    @property
    def identity(self) -> AdapterIdentity:
        """For the record."""
        return AdapterIdentity(
            kind="LoRA",
            rank=self.rank,
            alpha=self.alpha,
            targets=list(self.targets),
            layers=self.layers,
            trained_parameters=self.trained,
            initialisation=INITIALISATION,
        )

    @property
    def settings(self) -> LoraConfig:
        """As the recipe has it, with the targets named."""
        return LoraConfig(rank=self.rank, alpha=self.alpha, targets=list(self.targets))

    def peft_config(self) -> PeftConfig:
        """As peft has it."""
        from peft import LoraConfig as PeftConfig

        return PeftConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(self.targets),
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.base,
            inference_mode=True,
        )


def add_adapter(model: Any, config: LoraConfig, *, seed: int, path: str) -> Adapter:
    """Freeze a model and put adapters into it, in place. Raises ModelError for targets that cannot have any."""
    from peft import inject_adapter_in_model

    targets = _targets(model, config.targets, path)
    adapter = Adapter(config.rank, config.alpha, targets, path, trained=0, layers=0)
    with torch.random.fork_rng(devices=[]):  # peft draws first values of its own, which are replaced below
        inject_adapter_in_model(adapter.peft_config(), model, adapter_name=NAME)
    layers = list(lora_layers(model))
    for name, layer in layers:
        _initialise(layer, f"{seed}:{name}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_adapter(name))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Adapter(config.rank, config.alpha, targets, path, trained=trained, layers=len(layers))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Every layer with an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the base model."""
    layers = [layer for _, layer in lora_layers(model)]
    for layer in layers:
        # what enable_adapters(False) sets; that would also take requires_grad away, which FSDP must not see
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def exchanged(model: nn.Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the adapters hold ``tensors``, by parameter name; afterwards, bit by bit, what they held before."""
    before = adapter_tensors(model)
    put_tensors(model, tensors)
    try:
        yield
    finally:
        put_tensors(model, before)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every adapter parameter, by its name in the model."""
    return {name: item.detach().clone() for name, item in model.named_parameters() if _is_adapter(name)}


@torch.no_grad()
def put_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put these values into the adapters."""
    for name, parameter in model.named_parameters():
        if _is_adapter(name):
            put(parameter, tensors[name])


@torch.no_grad()
def merged_weights(model: Any, weights: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of the plain model W + (alpha / rank) B A, computed in float32, under the plain model's names.

    ``weights`` are the model's, when they are not to be read from it.
    """
    weights = dict(model.state_dict()) if weights is None else dict(weights)
    for name, layer in lora_layers(model):
        down, up = (weights.pop(f"{name}.{part}.{NAME}.weight").float() for part in ("lora_A", "lora_B"))
        delta = layer.scaling[NAME] * (up @ down)
        for key in [key for key in weights if key.startswith(f"{name}.base_layer.")]:
            weights[key.replace(".base_layer.", ".")] = weights.pop(key)
        base = weights[f"{name}.weight"]
        change = delta.T if isinstance(layer.get_base_layer(), Conv1D) else delta
        weights[f"{name}.weight"] = (base.float() + change.to(base.device)).to(base.dtype)
    return weights


def save_adapter(adapter: Adapter, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write adapters, given by parameter name, in peft's format; the same adapters give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {_PREFIX + _without_name(name): value.cpu().contiguous() for name, value in tensors.items()}
    save_file(named, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    settings = {key: _plain(value) for key, value in adapter.peft_config().to_dict().items()}
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_adapter(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The adapters of a folder, by parameter name; they are not put into the model. Raises StorageError when they are
    not those of this model."""
    found = load_file(folder / WEIGHTS_FILE)
    named = {name: _PREFIX + _without_name(name) for name, _ in model.named_parameters() if _is_adapter(name)}
    if set(named.values()) != set(found):
        raise StorageError(
            f"{folder / WEIGHTS_FILE} does not fit the adapters of the recipe",
            found=f"{len(found)} tensors",
            expected=f"{len(named)} of the same names",
            next_step="Use the model.lora section the run was started with",
        )
    return {name: found[key] for name, key in named.items()}


def _is_adapter(name: str) -> bool:
    return f".lora_A.{NAME}." in name or f".lora_B.{NAME}." in name


def _without_name(name: str) -> str:
    return name.replace(f".{NAME}.", ".")


def _plain(value: object) -> object:
    """Sets in a fixed order; enumerations as their value."""
    if isinstance(value, set):
        return sorted(value)
    return getattr(value, "value", value)


def _initialise(layer: LoraLayer, key: str) -> None:
    down: nn.Linear = layer.lora_A[NAME]
    seed = int.from_bytes(hashlib.sha256(f"{key}.lora_A.weight".encode()).digest()[:8], "little") >> 1
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(down.in_features)  # peft's own range: Kaiming uniform with a = sqrt(5)
    with torch.no_grad():
        down.weight.copy_((torch.rand(down.weight.shape, generator=generator) * 2 - 1) * bound)
        layer.lora_B[NAME].weight.zero_()


def _targets(model: Any, wanted: Sequence[str], path: str) -> tuple[str, ...]:
    """Last parts of the names of the layers to adapt. Raises ModelError."""
    head = model.get_output_embeddings()
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    heads = {name for name, module in model.named_modules() if module is head}
    possible = {name.rpartition(".")[2] for name in linear - heads}
    if not wanted:
        return tuple(sorted(possible))
    for target in wanted:
        matched = {name for name, _ in model.named_modules() if name == target or name.endswith(f".{target}")}
        if not matched or not matched <= linear - heads:
            raise ModelError(
                f"model.lora.targets names {target!r}, which cannot have an adapter in {path}",
                found="no layer of that name" if not matched else "a layer that is not linear, or the output layer",
                expected=f"some of {', '.join(sorted(possible))}",
                next_step="Change model.lora.targets, or leave it empty for every linear layer",
            )
    return tuple(sorted(set(wanted)))
