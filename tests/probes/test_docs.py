"""docs/probes.md cannot drift from the code."""

from __future__ import annotations

import re
from pathlib import Path

from grpo_audit.config.load import resolve
from grpo_audit.rewards.probes.families import DETERMINISM, FAMILIES, THREADS

TEXT = (Path(__file__).parents[2] / "docs" / "probes.md").read_text(encoding="utf-8")


def test_every_family_is_on_the_page_and_no_other():
    """In the order in which they are asked."""
    named = re.findall(r"^\| `([a-z-]+)` \|", TEXT.partition("## The families")[2], re.MULTILINE)
    assert named == [family.name for family in (*FAMILIES, DETERMINISM, THREADS)]


def test_the_recipe_on_the_page_is_one(tmp_path):
    """Read by the real loader."""
    (snippet,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {{path: builtin}}\nprompts: {{source: builtin}}\n{snippet}", encoding="utf-8")
    assert resolve(recipe).config.rewards[0].second == "grpo_audit.rewards.second:countdown"
