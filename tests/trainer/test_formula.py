"""The formula in the record is that of the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from grpo_audit.config.fields import dotted, section_of, walk
from grpo_audit.config.formula import BETA_LARGEST, EQUAL_REWARDS, manifest
from grpo_audit.config.objective import AdvantageConfig, KLConfig, ObjectiveConfig, SurrogateConfig
from grpo_audit.config.presets import PRESETS
from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import SamplingConfig
from grpo_audit_trainer.advantage import group_advantages
from grpo_audit_trainer.loss import row_weights
from grpo_audit_trainer.shaping import soft_overlong

KEYS = {
    "reward shaping", "advantage", "equal rewards", "missing rewards", "ratio", "surrogate", "importance correction",
    "tokens in the surrogate", "kl", "aggregation", "loss", "gradient", "value model", "truncated completions",
    "sampling", "same words elsewhere",
}  # fmt: skip

PPO = {"advantage.baseline": "value-model", "advantage.normaliser": "batch"}
IN_REWARD = {"kl.placement": "reward", "kl.estimator": "k1"}
CORRECTED = {"correction.level": "token"}
MATTERS: list[tuple[str, Any, dict[str, Any]]] = [
    ("advantage.baseline", "leave-one-out", {}),
    ("advantage.baseline", "value-model", {"advantage.normaliser": "none"}),
    ("advantage.normaliser", "batch", {}),
    ("advantage.normaliser", "beta", {}),
    ("advantage.normaliser", "none", {}),
    ("advantage.normaliser", "none", PPO),
    ("advantage.ddof", 0, {}),
    ("advantage.ddof", 0, {"advantage.normaliser": "batch"}),
    ("advantage.ddof", 0, PPO),
    ("advantage.epsilon", 1e-6, {}),
    ("advantage.epsilon", 1e-6, {"advantage.normaliser": "batch", "advantage.sources": "normalise-each"}),
    ("advantage.sources", "normalise-each", {"advantage.normaliser": "batch"}),
    ("surrogate.kind", "cispo", {}),
    ("surrogate.kind", "sapo", {}),
    ("surrogate.level", "sequence", {}),
    ("surrogate.level", "trajectory", {}),
    ("surrogate.clip_low", 0.1, {}),
    ("surrogate.clip_low", 0.1, {"surrogate.kind": "cispo"}),
    ("surrogate.clip_high", 0.28, {}),
    ("surrogate.clip_high", 0.28, {"surrogate.kind": "cispo"}),
    ("surrogate.dual_clip", 3.0, {}),
    ("surrogate.tau_positive", 2.0, {"surrogate.kind": "sapo"}),
    ("surrogate.tau_negative", 2.0, {"surrogate.kind": "sapo"}),
    ("kl.beta", 0.0, {}),
    ("kl.beta", 0.001, {}),
    ("kl.beta", 0.001, IN_REWARD),
    ("kl.estimator", "k1", {}),
    ("kl.estimator", "k2", {"kl.beta": 0.0}),
    ("kl.placement", "reward", {"kl.estimator": "k1"}),
    ("kl.times_ratio", True, {}),
    ("kl.measure_every", 7, {"kl.beta": 0.0}),
    ("kl.measure_every", 7, {"kl.replace_reference_every": 400}),
    ("kl.replace_reference_every", 400, {}),
    ("correction.level", "token", {}),
    ("correction.level", "sequence", {}),
    ("correction.mode", "mask", CORRECTED),
    ("correction.cap", 3.0, CORRECTED),
    ("value.discount", 0.99, PPO),
    ("value.gae_lambda", 0.9, PPO),
    ("value.learning_rate", 1e-6, PPO),
    ("value.clip", 0.5, PPO),
    ("value.warmup_steps", 3, PPO),
    *[("aggregation", name, {}) for name in ("token-mean", "block-token-mean", "sequence-sum", "constant")],
    ("block_rows", 4, {"aggregation": "block-token-mean"}),
    ("mask_truncated", True, {}),
    ("soft_overlong_tokens", 16, {}),
    ("top_entropy", 0.2, {}),
]
"""A field, another value for it, and what else has to be set for the field to be read."""


def objective(settings: dict[str, Any]) -> ObjectiveConfig:
    """From dotted names."""
    tree: dict[str, Any] = {}
    for path, value in settings.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return ObjectiveConfig.model_validate(tree)


def text_of(config: ObjectiveConfig) -> dict[str, str]:
    """The manifest with the default sampling settings."""
    return manifest(config, SamplingConfig())


@pytest.mark.parametrize(("path", "value", "given_settings"), MATTERS, ids=lambda item: str(item))
def test_every_field_that_matters_is_in_the_formula(path: str, value: object, given_settings: dict[str, Any]) -> None:
    """Changing one field, where it is read, changes the formula; and nothing in it is empty."""
    before, after = text_of(objective(given_settings)), text_of(objective(given_settings | {path: value}))
    assert set(before) == set(after) == KEYS
    assert all(before.values()) and all(after.values())
    assert before != after


def test_no_field_of_the_objective_was_forgotten() -> None:
    """The table above has every field of the objective."""
    fields = {dotted(path) for path, field in walk(ObjectiveConfig) if section_of(field.annotation) is None}
    assert {path for path, _, _ in MATTERS} == fields


@pytest.mark.parametrize(
    ("path", "value", "given_settings"),
    [
        ("surrogate.tau_positive", 2.0, {}),
        ("surrogate.clip_low", 0.1, {"surrogate.kind": "sapo"}),
        ("block_rows", 4, {}),
        ("correction.cap", 3.0, {}),
        ("value.discount", 0.9, {}),
        ("kl.measure_every", 7, {}),
        ("surrogate.clip_low", 11.0, {"surrogate.clip_low": 10.0}),  # both mean: no lower bound
    ],
)
def test_a_number_that_is_not_used_is_not_in_the_formula(
    path: str, value: object, given_settings: dict[str, Any]
) -> None:
    """Two objectives that compute the same have the same formula, whatever stands in fields that are not read."""
    assert text_of(objective(given_settings)) == text_of(objective(given_settings | {path: value}))


numbers = st.sampled_from([0.2, 0.1, 0.28])
objectives = st.builds(
    ObjectiveConfig,
    advantage=st.builds(AdvantageConfig, ddof=st.integers(0, 1), epsilon=st.sampled_from([1e-4, 1e-6])),
    surrogate=st.builds(
        SurrogateConfig, level=st.sampled_from(["token", "sequence"]), clip_low=numbers, clip_high=numbers
    ),
    kl=st.builds(KLConfig, beta=st.sampled_from([0.01, 0.001]), estimator=st.sampled_from(["k1", "k2", "k3"])),
    aggregation=st.sampled_from(["sequence-mean", "token-mean", "constant", "sequence-sum"]),
    mask_truncated=st.booleans(),
    top_entropy=st.sampled_from([1.0, 0.2]),
)


@given(objectives, objectives)
def test_different_objectives_have_different_formulas(one: ObjectiveConfig, two: ObjectiveConfig) -> None:
    """Of fields that are all read, two objectives have one formula exactly when they are equal."""
    assert (text_of(one) == text_of(two)) == (one == two)


def test_the_presets_have_ten_different_formulas() -> None:
    """No two presets are the same objective."""
    needed = {
        "model": {"path": "builtin"},
        "prompts": {"source": "builtin"},
        "rewards": [{"name": "a", "source": "r.py:f"}],
    }
    configs = [RunConfig.model_validate({**preset.tree(), **needed}) for preset in PRESETS.values()]
    formulas = {tuple(manifest(config.objective, SamplingConfig()).items()) for config in configs}
    assert len(formulas) == len(PRESETS) == 10


def test_the_sampling_settings_that_enter_the_objective_are_in_it() -> None:
    """Group size, temperature and, for the constant aggregation, the length limit."""
    sampling = SamplingConfig(group_size=5, temperature=0.7, max_completion_tokens=77)
    text = " ".join(manifest(ObjectiveConfig(aggregation="constant"), sampling).values())
    assert "G = 5" in text and "0.7" in text and "N * 77" in text


@pytest.mark.parametrize(
    ("settings", "part", "words"),
    [
        ({"surrogate.kind": "cispo"}, "surrogate", "clip(rho_it, 1 - 0.2, 1 + 0.2)"),
        ({"surrogate.kind": "cispo"}, "same words elsewhere", "TRL's epsilon_high is the cap itself"),
        ({"surrogate.kind": "cispo", "surrogate.clip_low": 1.0}, "surrogate", "clip(rho_it, 0, 1 + 0.2)"),
        ({"aggregation": "block-token-mean"}, "same words elsewhere", "TRL's 'bnpo' with one block a microbatch"),
        ({"advantage.normaliser": "beta"}, "same words elsewhere", "TRL's loss_type 'bnpo' is an aggregation"),
        ({}, "same words elsewhere", "TRL multiplies k3 by rho unless told not to"),
        ({"surrogate.dual_clip": 3.0}, "same words elsewhere", "verl's clip_ratio_c, which is on by default"),
        (
            {"advantage.baseline": "leave-one-out"},
            "same words elsewhere",
            "verl's 'rloo', which leaves the ratio per token",
        ),
    ],
)
def test_where_a_word_means_something_else_it_is_said(settings: dict[str, Any], part: str, words: str) -> None:
    """The notes on TRL and verl belong to the objective at hand."""
    assert words in text_of(objective(settings))[part]


def test_the_tolerance_for_equal_rewards_is_the_one_that_is_used() -> None:
    """Just inside of the stated tolerance the advantages are 0, just outside they are not."""
    assert repr(EQUAL_REWARDS) in text_of(ObjectiveConfig())["equal rewards"]
    for factor, silent in ((0.99, True), (1.01, False)):
        rewards = torch.tensor([[1.0, 1.0 - factor * EQUAL_REWARDS]], dtype=torch.float64)
        assert group_advantages(rewards, AdvantageConfig()).no_signal.item() is silent
    assert repr(BETA_LARGEST) in text_of(objective({"advantage.normaliser": "beta"}))["advantage"]


@pytest.mark.parametrize("ddof", [0, 1])
def test_the_stated_advantage_is_the_computed_one(ddof: int) -> None:
    """The numbers in the sentence, put into the formula, give the advantages."""
    config = AdvantageConfig(ddof=ddof, epsilon=1e-3)
    sentence = text_of(ObjectiveConfig(advantage=config))["advantage"]
    assert "A_i = (r_i - mean(r)) / (std(r) + 0.001)" in sentence and f"ddof {ddof}" in sentence
    std = math.sqrt((1 + 1) / (3 - ddof))
    got = group_advantages(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64), config).values[0, 2].item()
    assert got == pytest.approx(1 / (std + 0.001), rel=1e-12)


def test_the_stated_shaping_and_divisor_are_the_computed_ones() -> None:
    """The numbers of the soft overlong punishment and of the constant aggregation, read from the sentences."""
    config = ObjectiveConfig(soft_overlong_tokens=20, aggregation="constant")
    found = manifest(config, SamplingConfig(max_completion_tokens=100))
    assert found["reward shaping"].startswith("r_i + max(-1, min(0, (80 - |o_i|) / 20))")
    assert soft_overlong([85], 100, 20) == [max(-1, min(0, (80 - 85) / 20))]
    assert found["aggregation"].startswith("1/(N * 100)")
    assert row_weights(torch.tensor([3, 4]), config, 100).tolist() == [1 / 200, 1 / 200]
