"""The formula in the record is that of the loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_audit.config.formula import EQUAL_REWARDS, manifest
from grpo_audit.config.objective import AdvantageConfig, KLConfig, ObjectiveConfig, SurrogateConfig
from grpo_audit.config.sections import SamplingConfig
from grpo_audit_trainer.advantage import group_advantages

KEYS = {
    "advantage", "equal rewards", "missing rewards", "ratio", "surrogate", "kl", "aggregation", "loss", "gradient",
    "truncated completions", "sampling", "same words elsewhere",
}  # fmt: skip

objectives = st.builds(
    ObjectiveConfig,
    advantage=st.one_of(
        st.builds(AdvantageConfig, ddof=st.integers(0, 1), epsilon=st.sampled_from([1e-4, 1e-6])),
        st.just(AdvantageConfig(normaliser="none")),
    ),
    surrogate=st.builds(SurrogateConfig, clip_low=st.sampled_from([0.2, 0.1]), clip_high=st.sampled_from([0.28, 10.0])),
    kl=st.builds(KLConfig, beta=st.sampled_from([0.0, 0.001]), estimator=st.sampled_from(["k1", "k2", "k3"])),
    aggregation=st.sampled_from(["sequence-mean", "token-mean", "constant"]),
    mask_truncated=st.booleans(),
)


@given(objectives, objectives)
def test_different_objectives_have_different_formulas(one: ObjectiveConfig, two: ObjectiveConfig) -> None:
    """Two objectives have one formula exactly when they are equal: every number that enters the loss is in it."""
    first, second = (manifest(config, SamplingConfig()) for config in (one, two))
    assert set(first) == KEYS and all(first.values())
    assert (first == second) == (one == two)


def test_the_sampling_settings_that_enter_the_objective_are_in_it() -> None:
    """Group size, temperature and, for the constant aggregation, the length limit."""
    sampling = SamplingConfig(group_size=5, temperature=0.7, max_completion_tokens=77)
    text = " ".join(manifest(ObjectiveConfig(aggregation="constant"), sampling).values())
    assert "G = 5" in text and "0.7" in text and "N * 77" in text


def test_the_tolerance_for_equal_rewards_is_the_one_that_is_used() -> None:
    """Just inside of the stated tolerance the advantages are 0, just outside they are not."""
    assert repr(EQUAL_REWARDS) in manifest(ObjectiveConfig(), SamplingConfig())["equal rewards"]
    for factor, silent in ((0.99, True), (1.01, False)):
        rewards = torch.tensor([[1.0, 1.0 - factor * EQUAL_REWARDS]], dtype=torch.float64)
        assert group_advantages(rewards, AdvantageConfig()).no_signal.item() is silent


@pytest.mark.parametrize("ddof", [0, 1])
def test_the_stated_advantage_is_the_computed_one(ddof: int) -> None:
    """The numbers in the sentence, put into the formula, give the advantages."""
    config = AdvantageConfig(ddof=ddof, epsilon=1e-3)
    sentence = manifest(ObjectiveConfig(advantage=config), SamplingConfig())["advantage"]
    assert "A_i = (r_i - mean(r)) / (std(r) + 0.001)" in sentence and f"ddof {ddof}" in sentence
    std = math.sqrt((1 + 1) / (3 - ddof))
    got = group_advantages(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64), config).values[0, 2].item()
    assert got == pytest.approx(1 / (std + 0.001), rel=1e-12)
