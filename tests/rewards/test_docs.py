"""docs/rewards.md cannot drift from the code."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from grpo_audit.config.load import resolve
from grpo_audit.rewards.signature import GIVEN, resolve_options, signature_of

TEXT = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
SOURCES = sorted(set(re.findall(r"grpo_audit\w*\.[a-z_.]+:[a-z]+", TEXT)))


def function_of(source):
    """The function a source names."""
    module, _, name = source.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_snippet_is_a_recipe_whose_options_its_function_takes(snippet, tmp_path):
    """Read by the real loader, and checked as the source's process checks it."""
    roles = snippet.replace("role: shadow", "role: train")  # alone, a shadow source would have nothing to train on
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {{path: builtin}}\nprompts: {{source: builtin}}\n{roles}", encoding="utf-8")
    for reward in resolve(recipe).config.rewards:
        if not reward.source.startswith("my_rewards.py"):
            function = function_of(reward.source)
            options = resolve_options(function, reward.options)
            required = set(signature_of(function).required) & set(signature_of(function).keyword_only)
            assert required <= set(options)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_declares_itself_and_its_options_are_documented(source):
    """Kind, version and domain; each keyword-only argument stands on the page."""
    function = function_of(source)
    module = inspect.getmodule(function)
    for name in ("KIND", "VERSION", "DOMAIN"):
        assert getattr(module, name), (source, name)
    for option in signature_of(function).keyword_only:
        assert option in GIVEN or f"`{option}`" in TEXT, (source, option)


def test_every_source_of_the_package_is_on_the_page():
    """A module of grpo_audit.rewards that declares a domain is a source."""
    folder = Path(inspect.getfile(importlib.import_module("grpo_audit.rewards"))).parent
    for file in folder.glob("*.py"):
        if re.search(r"^DOMAIN\b", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"grpo_audit.rewards.{file.stem}:" in TEXT
