"""Advantages: hand-computed numbers, a numpy oracle, and what must be exactly 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_audit.config.objective import AdvantageConfig
from grpo_audit_trainer.advantage import group_advantages

NAN = math.nan


def advantages(rows: list[list[float]], **settings: object) -> np.ndarray:
    """Advantages as numpy."""
    return group_advantages(torch.tensor(rows, dtype=torch.float64), AdvantageConfig(**settings)).values.numpy()


def test_by_hand_with_ddof_one() -> None:
    """Rewards 0, 0, 1, 1: mean 1/2, deviation sqrt(1/3)."""
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    got = advantages([[0.0, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(got, [[-expected, -expected, expected, expected]], rtol=1e-14)


def test_by_hand_with_ddof_zero() -> None:
    """Rewards 1, 2, 3: mean 2, deviation sqrt(2/3) with ddof 0."""
    expected = 1 / (math.sqrt(2 / 3) + 1e-6)
    np.testing.assert_allclose(
        advantages([[1.0, 2.0, 3.0]], ddof=0, epsilon=1e-6), [[-expected, 0, expected]], rtol=1e-14
    )


def test_without_normaliser_only_the_mean_goes() -> None:
    """Dr. GRPO: r - mean."""
    assert advantages([[0.0, 0.0, 0.0, 1.0]], normaliser="none").tolist() == [[-0.25, -0.25, -0.25, 0.75]]


def test_a_missing_reward_is_left_out_of_mean_and_deviation() -> None:
    """The other completions get the advantages they would have had in a group without it; it gets 0 and is unusable."""
    got = group_advantages(torch.tensor([[0.0, NAN, 1.0, 2.0]]), AdvantageConfig())
    alone = advantages([[0.0, 1.0, 2.0]])[0]
    assert got.values[0].tolist() == [alone[0], 0.0, alone[1], alone[2]]
    assert got.usable[0].tolist() == [True, False, True, True]


@pytest.mark.parametrize("row", [[NAN, NAN, NAN], [NAN, 5.0, NAN]])
def test_fewer_than_two_rewards_teach_nothing(row: list[float]) -> None:
    """Such a group has advantage 0, is unusable, has no deviation, and counts as without signal."""
    got = group_advantages(torch.tensor([row]), AdvantageConfig())
    assert got.values.tolist() == [[0.0, 0.0, 0.0]]
    assert not got.usable.any()
    assert math.isnan(got.std.item())
    assert got.no_signal.tolist() == [True]
    assert math.isnan(got.mean.item()) == (row == [NAN] * 3)


@pytest.mark.parametrize(
    "row",
    [
        [0.1 + 0.2, 0.3, 0.3],  # 0.30000000000000004
        [1e6, 1e6 + 0.06, 1e6],  # one unit in the last place of a float32
        [0.7, float(np.float32(0.7)), 0.7],
        [0.0, 0.0, 0.0],
        [-1e-300, -1e-300, -1e-300],
    ],
)
@pytest.mark.parametrize("normaliser", ["group", "none"])
def test_rounding_noise_is_no_signal(row: list[float], normaliser: str) -> None:
    """Rewards that are equal within float32 rounding have advantages of exactly 0, also with the smallest epsilon."""
    got = group_advantages(
        torch.tensor([row], dtype=torch.float64),
        AdvantageConfig(normaliser=normaliser, **({"epsilon": 1e-12} if normaliser == "group" else {})),
    )
    assert got.values.tolist() == [[0.0, 0.0, 0.0]]
    assert got.no_signal.tolist() == [True]
    assert got.usable.all()


@pytest.mark.parametrize("row", [[0.0, 1e-9, 0.0], [1.0, 1.0 + 1e-5, 1.0]])
def test_small_differences_that_are_real_stay(row: list[float]) -> None:
    """What counts is the spread relative to the magnitude, not the spread."""
    got = group_advantages(torch.tensor([row], dtype=torch.float64), AdvantageConfig(epsilon=1e-12))
    assert not got.no_signal.any()
    assert got.values[0, 1] > 1


rewards = st.lists(st.one_of(st.none(), st.integers(-20, 20).map(lambda v: v / 4)), min_size=2, max_size=9)


@given(rewards, st.integers(0, 1), st.sampled_from([1e-4, 1e-6]))
def test_agrees_with_numpy(row: list[float | None], ddof: int, epsilon: float) -> None:
    """A second implementation, in numpy, gives the same numbers."""
    got = group_advantages(
        torch.tensor([[NAN if value is None else value for value in row]], dtype=torch.float64),
        AdvantageConfig(ddof=ddof, epsilon=epsilon),
    )
    known = [value for value in row if value is not None]
    expected = [0.0] * len(row)
    if len(known) >= 2 and len(set(known)) > 1:
        mean, std = np.mean(known), np.std(known, ddof=ddof)
        expected = [0.0 if value is None else (value - mean) / (std + epsilon) for value in row]
    np.testing.assert_allclose(got.values[0].numpy(), expected, rtol=1e-12, atol=1e-14)


@given(rewards, rewards)
def test_groups_do_not_see_each_other(first: list[float | None], second: list[float | None]) -> None:
    """The advantages of a group do not depend on the other groups of the step."""
    size = min(len(first), len(second))
    rows = [[NAN if value is None else value for value in row[:size]] for row in (first, second)]
    both = group_advantages(torch.tensor(rows, dtype=torch.float64), AdvantageConfig()).values
    alone = group_advantages(torch.tensor(rows[:1], dtype=torch.float64), AdvantageConfig()).values
    assert both[0].tolist() == alone[0].tolist()
