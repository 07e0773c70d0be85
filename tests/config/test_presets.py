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
        ("r1-zero", "sampling.prompts_per_step", 512),  # 8192 completions a batch
        ("r1-zero", "training.minibatches", 16),
        ("r1-zero", "objective.kl.replace_reference_every", 25),  # 400 updates
        ("r1-zero", "sampling.group_size", 16),
        ("r1-zero", "training.learning_rate", 3e-6),
        ("dr_grpo", "objective.kl.beta", 0.0),
        ("dr_grpo", "objective.advantage.normaliser", "none"),
        ("dr_grpo", "objective.aggregation", "constant"),
        ("dr_grpo", "sampling.group_size", 8),
        ("dr_grpo", "training.minibatches", 8),
        ("dapo", "objective.surrogate.clip_low", 0.2),
        ("dapo", "objective.surrogate.clip_high", 0.28),
        ("dapo", "objective.aggregation", "token-mean"),
        ("dapo", "objective.mask_truncated", True),
        ("dapo", "objective.soft_overlong_tokens", 4096),
        ("dapo", "objective.kl.beta", 0.0),
        ("dapo", "sampling.dynamic_sampling", True),
        ("dapo", "sampling.max_completion_tokens", 20480),
        ("dapo", "sampling.prompts_per_step", 512),
        ("dapo", "sampling.group_size", 16),
        ("dapo", "training.minibatches", 16),
        ("dapo", "training.warmup_steps", 20),
        ("bnpo", "objective.advantage.normaliser", "beta"),
        ("bnpo", "objective.surrogate.dual_clip", 10.0),
        ("bnpo", "objective.aggregation", "sequence-sum"),
        ("gspo", "objective.surrogate.level", "sequence"),
        ("gspo", "objective.surrogate.clip_low", 3e-4),
        ("gspo", "objective.surrogate.clip_high", 4e-4),
        ("gspo", "training.minibatches", 4),
        ("cispo", "objective.surrogate.kind", "cispo"),
        ("cispo", "objective.aggregation", "token-mean"),
        ("cispo", "training.adam_betas", (0.9, 0.95)),
        ("cispo", "training.adam_epsilon", 1e-15),
        ("sapo", "objective.surrogate.tau_positive", 1.0),
        ("sapo", "objective.surrogate.tau_negative", 1.05),
        ("rloo", "objective.advantage.baseline", "leave-one-out"),
        ("rloo", "objective.surrogate.level", "trajectory"),
        ("rloo", "objective.kl.placement", "reward"),
        ("ppo", "objective.value.gae_lambda", 0.95),
        ("ppo", "objective.value.discount", 1.0),
        ("ppo", "objective.kl.beta", 0.02),
    ],
)
def test_the_numbers_are_the_papers(name, path, value):
    """Written down a second time, so that a slip of the hand shows."""
    assert PRESETS[name].values[path] == value
