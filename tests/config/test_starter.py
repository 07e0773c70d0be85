"""The starter recipe cannot drift from the configuration models."""

from __future__ import annotations

import re

import pytest

from grpo_audit.config.fields import dotted, section_of, walk
from grpo_audit.config.load import resolve
from grpo_audit.config.sections import LoraConfig
from grpo_audit.config.starter import LIVE, WORDS, starter_recipe, words
from grpo_audit.errors import ConfigError


def test_the_starter_recipe_resolves_and_uses_the_built_in_model(tmp_path):
    """It runs as it is."""
    path = tmp_path / "recipe.yaml"
    path.write_text(starter_recipe(), encoding="utf-8")
    config = resolve(path).config
    assert (config.model.path, config.prompts.source, config.evaluation.suite) == ("builtin", "builtin", "builtin")
    assert [reward.source for reward in config.rewards] == [
        "grpo_audit.rewards.countdown:accuracy",
        "grpo_audit.rewards.countdown:format",
    ]


def test_every_key_resolves_when_its_mark_is_removed(tmp_path):
    """Removing each # that stands directly before a key gives a recipe that means the same, keys at their defaults;
    only sections that may be null are then there, with their defaults."""
    path = tmp_path / "recipe.yaml"
    text = starter_recipe()
    path.write_text(text, encoding="utf-8")
    plain = resolve(path).config
    path.write_text(re.sub(r"(?m)^( *)#(?=[a-z]|- )", r"\1", text), encoding="utf-8")
    assert resolve(path).config.model.lora == LoraConfig()
    assert [stage.kind for stage in resolve(path).config.lineage] == ["pre-training"]
    assert plain.model.lora is None and plain.lineage == plain.gates == []
    assert resolve(path, ["model.lora=null", "lineage=[]", "gates=[]"]).config == plain


def test_every_field_is_mentioned_with_its_meaning():
    """Each plain key of the models stands in the recipe once, and the comment above it has words."""
    text = starter_recipe()
    for path, field in walk():
        if section_of(field.annotation) is not None:
            continue
        assert words(dotted(path), field), f"{dotted(path)} has no docstring and no words in starter.WORDS"
        assert re.search(rf"(?m)^ *(- |#- )?#?{path[-1]}:", text), dotted(path)
        assert words(dotted(path), field)[:25] in text, dotted(path)


def test_the_words_kept_here_are_needed():
    """A field that has a docstring of its own needs no second one; a field that is gone needs none at all."""
    fields = {dotted(path): field for path, field in walk()}
    for key in WORDS:
        assert key in fields, f"{key} is no field"
        assert not fields[key].description, f"{key} has a docstring of its own"
    assert set(LIVE) <= set(fields)


def test_each_key_says_its_default_or_that_it_is_required():
    """The bracket after the words."""
    text = " ".join(line.strip().removeprefix("# ") for line in starter_recipe().splitlines())
    assert "[whole number >= 2; default 8]" in text
    assert "[text; required]" in text
    assert "[k1, k2 or k3; default k3]" in text
    assert "[number > 0 and <= 10; default 1.0]" in text
    assert "[list of 2 numbers; default [0.9, 0.999]]" in text
    assert "[exposed, summarised, hidden or filtered, or null; default null]" in text


def test_no_line_is_longer_than_a_screen():
    """Comments are wrapped."""
    assert max(map(len, starter_recipe().splitlines())) <= 120


def test_a_typo_in_the_starter_recipe_is_found(tmp_path):
    """The planted fault: the test above would notice a key that no longer exists."""
    path = tmp_path / "recipe.yaml"
    path.write_text(starter_recipe().replace("  steps:", "  stepz:"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"The nearest valid key is training\.steps"):
        resolve(path)
