"""Recipes made from a few keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from grpo_audit.config.load import differences
from grpo_audit.config.presets import PRESETS
from grpo_audit.config.run import RunConfig
from grpo_audit.preflight import Facts, Preflight, inspect

BASE: dict[str, Any] = {
    "model.path": "org/model-7b",
    "model.revision": "0123456789abcdef0123456789abcdef01234567",
    "prompts.source": "prompts.jsonl",
    "prompts.licence": "CC-BY-4.0",
    "rewards": [{"name": "accuracy", "source": "rewards.py:accuracy", "kind": "verifier"}],
    "training.microbatch_tokens": 1 << 20,
    "governance.owner": "somebody",
}
"""A recipe that leaves everything to its preset and gives nothing to find beyond the preset's own numbers."""
KNOWN: dict[str, Any] = {
    "prompts": 10_000,
    "context": 1 << 20,
    "parameters": 7_000_000_000,
    "model_on_hub": True,
    "generation": {},
}


def configuration(preset: str, keys: dict[str, Any]) -> RunConfig:
    """A validated configuration: the preset, the base, and the keys over both."""
    tree: dict[str, Any] = PRESETS[preset].tree()
    for path, value in (BASE | keys).items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return RunConfig.model_validate(tree)


@pytest.fixture
def look() -> Callable[..., Preflight]:
    """``look(keys, preset, facts)``: what the preflight says; ``facts.NAME`` among the keys sets a fact."""

    def look(keys: dict[str, Any], preset: str = "grpo", facts: dict[str, Any] | None = None) -> Preflight:
        chosen = {path.removeprefix("facts."): value for path, value in keys.items() if path.startswith("facts.")}
        config = configuration(preset, {path: value for path, value in keys.items() if not path.startswith("facts.")})
        known = Facts(**(KNOWN | (facts or {}) | chosen))
        return inspect(config, differences(config, PRESETS[preset]), known)

    return look


@pytest.fixture
def configure() -> Callable[[str, dict[str, Any]], RunConfig]:
    """``configure(preset, keys)``."""
    return configuration
