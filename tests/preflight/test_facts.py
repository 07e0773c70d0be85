"""Facts come from files that anybody may have written: they are read with care, or said to be unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.config.run import RunConfig
from grpo_audit.preflight import Facts, gather
from grpo_audit.preflight.facts import MAX_JSON, MAX_PROMPTS, changes_sampling, of_model

Configure = Callable[[str, dict[str, Any]], RunConfig]
QWEN = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "eos_token_id": 1}


@pytest.fixture
def facts_of(tmp_path: Path, configure: Configure) -> Callable[..., Facts]:
    """Facts of a recipe in this folder."""

    def facts_of(**keys: Any) -> Facts:
        return gather(configure("grpo", {key.replace("__", "."): value for key, value in keys.items()}), tmp_path)

    return facts_of


def test_the_built_in_model_and_prompts_are_known(facts_of: Callable[..., Facts]) -> None:
    """Everything but the device is known of what ships with the project, without loading it."""
    facts = facts_of(model__path="builtin", prompts__source="builtin")
    assert (facts.prompts, facts.context, facts.parameters) == (2400, 512, 3_344_640)
    assert (facts.model_on_hub, facts.generation, facts.device, dict(facts.unknown)) == (False, {}, None, {})


def test_a_hub_model_is_not_downloaded(facts_of: Callable[..., Facts]) -> None:
    """Of a hub id only its name is known; the size in it is taken, and said to come from there."""
    facts = facts_of(model__path="Qwen/Qwen2.5-0.5B-Instruct", prompts__source="hub:a/b")
    assert (facts.model_on_hub, facts.parameters, facts.parameters_source) == (True, 500_000_000, ", by its name")
    assert set(facts.unknown) == {"context", "generation", "prompts"}
    assert facts_of(model__path="someone/model-v2").parameters is None
    assert facts_of(model__path="a/SmolLM2-135M").parameters == 135_000_000
    assert facts_of(model__path="a/Mixtral-8x7B-v0.1").parameters == 7_000_000_000
    assert facts_of(model__path="a/Qwen2.5-Coder").parameters is None


@pytest.mark.parametrize("path", ["missing", "./missing", "a/b/c", "nul\0byte", "x" * 5000, "~nobody-here/x", ""])
def test_a_path_that_is_no_model_is_said_so(path: str, facts_of: Callable[..., Facts]) -> None:
    """Nothing raises for a path that leads nowhere; it is no hub id either."""
    facts = facts_of(model__path=path, prompts__source=path or "x")
    assert facts.model_on_hub is False and facts.context is None and facts.prompts is None
    assert {"context", "prompts"} <= set(facts.unknown)
    assert all("\n" not in reason for reason in facts.unknown.values())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"[" * 100_000,
        b'{"max_position_embeddings": ' + b"9" * 5000 + b"}",
        b'{"max_position_embeddings": true}',
        b'{"max_position_embeddings": -5}',
        b'{"max_position_embeddings": "many"}',
        b'{"text_config": 3}',
        b" " * (MAX_JSON + 1),
    ],
)
def test_a_broken_configuration_is_unknown_and_no_crash(text: bytes, tmp_path: Path, configure: Configure) -> None:
    """Broken, hostile or silly JSON in the model folder leaves the facts unknown, with the reason."""
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(text)
    facts = of_model(configure("grpo", {"model.path": "."}).model, tmp_path)
    assert facts.context is None and facts.parameters is None
    assert {"context", "parameters"} <= set(facts.unknown)


def test_a_nested_configuration_names_the_context_of_its_text_part(tmp_path: Path, configure: Configure) -> None:
    """A model of several parts has its context in text_config."""
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 64}}))
    assert of_model(configure("grpo", {"model.path": "."}).model, tmp_path).context == 64


def test_a_downloaded_model_is_read_where_it_lies(tmp_path: Path, configure: Configure) -> None:
    """Once a hub model's folder is known its facts are, and it is still a hub model."""
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 99}))
    (tmp_path / "generation_config.json").write_text(json.dumps(QWEN))
    facts = of_model(configure("grpo", {"model.path": "org/model-7b"}).model, Path(), tmp_path)
    assert (facts.model_on_hub, facts.context) == (True, 99)
    assert facts.generation == {"temperature": 0.7, "top_p": 0.8, "top_k": 20.0, "repetition_penalty": 1.05}


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1},
        {"top_k": -1},
        {"top_p": None, "temperature": "0.7", "min_p": True},
        {"top_p": float("nan"), "temperature": float("inf"), "top_k": 10**4000},
        {"eos_token_id": 2, "max_new_tokens": 7},
    ],
)
def test_neutral_settings_change_nothing(settings: dict[str, Any]) -> None:
    """Values that leave the distribution alone, and values that are none, are not reported."""
    assert changes_sampling(settings) == {}


def test_a_prompt_file_that_is_too_large_is_not_read(tmp_path: Path, facts_of: Callable[..., Facts]) -> None:
    """A lint does not read gigabytes to count rows."""
    with (tmp_path / "prompts.jsonl").open("wb") as file:
        file.truncate(MAX_PROMPTS + 1)
    facts = facts_of()
    assert facts.prompts is None and "MiB" in facts.unknown["prompts"]
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert facts_of().prompts == 2
