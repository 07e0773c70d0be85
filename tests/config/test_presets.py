"""Presets: complete, resolvable, and honest about what the paper leaves open."""

from __future__ import annotations

import pytest

from grpo_audit.config.fields import field_at
from grpo_audit.config.objective import ObjectiveConfig
from grpo_audit.config.presets import PRESETS
from grpo_audit.config.run import RunConfig

NEEDED = {
    "model": {"path": "builtin"},
    "prompts": {"source": "builtin"},
    "rewards": [{"name": "a", "source": "r.py:f"}],
}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_is_valid_as_it_is(preset):
    """Its numbers and the three required sections make a configuration that holds exactly these numbers."""
    config = RunConfig.model_validate({**preset.tree(), **NEEDED}).model_dump()
    for path, value in preset.values.items():
        node = config
        for part in path.split("."):
            node = node[part]
        assert node == value, path


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_names_only_keys_that_exist(preset):
    """A renamed field would otherwise leave a number behind that nothing reads."""
    for path in preset.values:
        assert field_at(tuple(path.split("."))) is not None, path


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_says_where_its_numbers_come_from(preset):
    """Paper, place, and what the paper does not say; no two notes alike."""
    assert preset.paper in preset.source
    assert preset.equation in preset.source
    assert preset.unstated
    assert len(set(preset.unstated + preset.deviations)) == len(preset.unstated + preset.deviations)


def test_the_defaults_of_the_objective_are_grpo():
    """The configuration's own defaults and the grpo preset are the same objective."""
    tree = PRESETS["grpo"].tree()["objective"]
    assert ObjectiveConfig.model_validate(tree) == ObjectiveConfig()


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("grpo", "objective.kl.beta", 0.04),
        ("grpo", "sampling.group_size", 64),
        ("grpo", "training.learning_rate", 1e-6),
        ("r1-zero", "objective.kl.beta", 0.001),
        ("r1-zero", "objective.surrogate.clip_high", 10.0),
        ("r1-zero", "sampling.prompts_per_step", 32),
        ("r1-zero", "sampling.group_size", 16),
        ("r1-zero", "training.learning_rate", 3e-6),
        ("dr_grpo", "objective.kl.beta", 0.0),
        ("dr_grpo", "objective.advantage.normaliser", "none"),
        ("dr_grpo", "objective.aggregation", "constant"),
        ("dr_grpo", "sampling.group_size", 8),
    ],
)
def test_the_numbers_are_the_papers(name, path, value):
    """Written down a second time, so that a slip of the hand shows."""
    assert PRESETS[name].values[path] == value
