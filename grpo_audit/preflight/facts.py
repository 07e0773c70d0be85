"""The facts that can be had without loading a model: from its folder and the prompt file. Nothing is downloaded."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import ModelConfig, PromptConfig
from grpo_audit.errors import ModelError, PromptError
from grpo_audit.preflight.rule import Facts as Facts
from grpo_audit.prompts.loading import load
from grpo_audit.record.identity import tensors

MAX_JSON: Final = 1 << 20
MAX_PROMPTS: Final = 64 << 20
"""A larger prompt file is not read for a lint."""

NEUTRAL: Final[Mapping[str, float]] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0.0,
}
"""Settings of generation_config.json that change what is sampled from, each with the value at which it does not."""

_SIZE: Final = re.compile(r"(?<![\d.])(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])", re.IGNORECASE)


def gather(config: RunConfig, base_dir: Path) -> Facts:
    """What can be known cheaply; what cannot is None, with the reason in ``unknown``. Never raises.

    ``base_dir`` is where relative paths start.
    """
    facts = of_model(config.model, base_dir)
    unknown = dict(facts.unknown)
    return replace(facts, prompts=_rows(config.prompts, base_dir, unknown), unknown=unknown)


def of_model(config: ModelConfig, base_dir: Path, folder: Path | None = None) -> Facts:
    """The facts about the model alone. ``folder`` is where it lies, when that is known: a hub model after its download.
    Never raises."""
    local, on_hub = _folder(config, base_dir)
    folder = folder or local
    unknown: dict[str, str] = {}
    device = config.device if config.device != "auto" else None
    if folder is None:
        why = "the model is on the hub" if on_hub else "the model's folder is not there"
        parameters, source = _named(config.path)
        unknown |= dict.fromkeys(("context", "generation", *(() if parameters else ("parameters",))), why)
        return Facts(
            parameters=parameters, parameters_source=source, device=device, model_on_hub=on_hub, unknown=unknown
        )
    settings = _json(folder / "config.json", unknown, "context")
    return Facts(
        context=_context(settings, unknown),
        parameters=_parameters(folder, unknown),
        device=device,
        model_on_hub=on_hub,
        generation=_generation(folder, unknown),
        unknown=unknown,
    )


def changes_sampling(settings: Mapping[str, Any]) -> dict[str, float]:
    """The settings of a generation_config.json under which a model is not sampled from its own distribution."""
    changed: dict[str, float] = {}
    for name, neutral in NEUTRAL.items():
        value = settings.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value == neutral:
            continue
        if (name, value) == ("top_k", -1) or not _ordinary(value):  # -1 is how vLLM writes "off"
            continue
        changed[name] = float(value)
    return changed


def _ordinary(value: float) -> bool:
    return abs(value) < 1e9 if isinstance(value, int) else math.isfinite(value)


def _rows(config: PromptConfig, base_dir: Path, unknown: dict[str, str]) -> int | None:
    if config.source.startswith("hub:"):
        unknown["prompts"] = "the prompt set is on the hub"
        return None
    try:
        path = base_dir / config.source
        if config.source != "builtin" and path.is_file() and path.stat().st_size > MAX_PROMPTS:
            unknown["prompts"] = f"the prompt file is larger than {MAX_PROMPTS >> 20} MiB"
            return None
        return len(load(config, base_dir).rows)
    except (PromptError, OSError) as error:
        unknown["prompts"] = str(error).rstrip(".")
    except ValueError:
        unknown["prompts"] = "prompts.source is no path that a file can have"
    return None


def _folder(config: ModelConfig, base_dir: Path) -> tuple[Path | None, bool]:
    """The model's folder, or None; and whether it is on the hub. The same rule as the trainer's."""
    if config.path == "builtin":
        try:
            return Path(importlib.import_module("grpo_audit_builtin").MODEL_DIR), False
        except ImportError:
            return None, False
    try:
        local = base_dir / Path(config.path).expanduser()
        if local.exists():
            return (local if local.is_dir() else None), False
    except (OSError, ValueError, RuntimeError):  # a path no file system takes, or no home
        return None, False
    return None, not (config.path.startswith((".", "~", "/")) or config.path.count("/") != 1)


def _named(path: str) -> tuple[int | None, str]:
    """The size a hub id names, as in ``Qwen2.5-0.5B``."""
    found = _SIZE.findall(path[-200:])
    if not found:
        return None, ""
    number, unit = found[-1]
    return int(float(number) * (1e9 if unit in "bB" else 1e6)), ", by its name"


def _json(path: Path, unknown: dict[str, str], fact: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise ValueError(f"more than {MAX_JSON >> 20} MiB")
        settings = json.loads(data)
        if not isinstance(settings, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        unknown[fact] = f"{path.name} of the model cannot be read ({type(error).__name__})"
        return {}
    return settings


def _context(settings: Mapping[str, Any], unknown: dict[str, str]) -> int | None:
    text = settings.get("text_config")
    for part in (text if isinstance(text, dict) else {}, settings):
        value = part.get("max_position_embeddings")
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    unknown.setdefault("context", "config.json of the model states no context")
    return None


def _generation(folder: Path, unknown: dict[str, str]) -> dict[str, float] | None:
    if not (folder / "generation_config.json").is_file():
        return {}
    settings = _json(folder / "generation_config.json", unknown, "generation")
    return None if "generation" in unknown else changes_sampling(settings)


def _parameters(folder: Path, unknown: dict[str, str]) -> int | None:
    try:
        return sum(math.prod(tensor.shape) for tensor in tensors(folder))
    except (ModelError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        unknown["parameters"] = f"the model's weights cannot be read ({type(error).__name__})"
        return None
