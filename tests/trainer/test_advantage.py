"""Advantages: hand-computed numbers, a numpy oracle, and what must be exactly 0."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from grpo_audit.config.objective import AdvantageConfig
from grpo_audit.errors import TrainingError
from grpo_audit_trainer.advantage import group_advantages
from grpo_audit_trainer.shaping import soft_overlong

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


# --- Other baselines and normalisers ---------------------------------------------------------------------------------


def test_leave_one_out_by_hand() -> None:
    """RLOO: each reward minus the mean of the others."""
    got = advantages([[1.0, 2.0, 6.0, NAN]], baseline="leave-one-out", normaliser="none")
    np.testing.assert_allclose(got, [[1 - 4, 2 - 3.5, 6 - 1.5, 0]], rtol=1e-14)


def test_batch_divides_by_the_deviation_of_the_step() -> None:
    """The mean is the group's, the deviation that of all usable rewards; a group's only reward is not one of them."""
    got = advantages([[0.0, 1.0], [4.0, 6.0], [NAN, 100.0]], normaliser="batch", epsilon=1e-6)
    scale = np.std([0.0, 1.0, 4.0, 6.0], ddof=1) + 1e-6
    np.testing.assert_allclose(got, [[-0.5 / scale, 0.5 / scale], [-1 / scale, 1 / scale], [0, 0]], rtol=1e-12)


def test_beta_by_hand() -> None:
    """Success rates 1/4 and 3/4: m = 1/2, v = 1/8, so a = b = 1/2 and alpha = beta = 7/6."""
    rows = [[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]]
    shape = 7 / 6
    constant = math.gamma(shape) ** 2 / math.gamma(2 * shape)
    density = (0.25 * 0.75) ** (shape - 1) / constant
    got = advantages(rows, normaliser="beta")
    np.testing.assert_allclose(got[0], [-0.25 / density] * 3 + [0.75 / density], rtol=1e-12)


def test_beta_is_the_paper_s_link_between_reinforce_and_grpo() -> None:
    """The density of Beta(3/2, 3/2) is proportional to the deviation of a binary reward, which is GRPO: a = b = 3/2
    gives advantages in a fixed proportion to GRPO's with ddof 0 whatever the success rate."""
    rates = [0.125, 0.875, 0.5, 0.5]  # m = 1/2; v and so alpha = beta follow
    rows = [[1.0] * round(8 * rate) + [0.0] * (8 - round(8 * rate)) for rate in rates]
    m, v = 0.5, np.var(rates, ddof=1)
    alpha = 1 + m * (m * (1 - m) / v - 1) / 3
    got = advantages(rows, normaliser="beta")[:, 0]
    proportion = [
        value / ((1 - rate) / (rate * (1 - rate)) ** (alpha - 1)) for value, rate in zip(got, rates, strict=True)
    ]
    np.testing.assert_allclose(proportion, proportion[0], rtol=1e-12)


@pytest.mark.parametrize("rows", [[[0.0, 0.0, 1.0]], [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]])
def test_beta_without_a_spread_of_success_rates_divides_by_one(rows: list[list[float]]) -> None:
    """One group, or equal success rates: nothing to fit, so the advantages are those of Dr. GRPO."""
    np.testing.assert_array_equal(advantages(rows, normaliser="beta"), advantages(rows, normaliser="none"))


def test_beta_multiplies_by_a_million_at_most() -> None:
    """A success rate far out in a narrow distribution meets the stated bound, not infinity."""
    rows = [[0.5 + 1e-4 * sign for sign in (-1, 1)]] * 400 + [[0.0, 2e-3]]
    got = advantages(rows, normaliser="beta")
    np.testing.assert_allclose(got[-1], [-1e-3 * 1e6, 1e-3 * 1e6], rtol=1e-9)


@pytest.mark.parametrize("reward", [1.5, -0.1])
def test_beta_refuses_rewards_that_are_no_success_rates(reward: float) -> None:
    """The error says what was found and what to do."""
    with pytest.raises(TrainingError, match=r"takes rewards as success rates; found .*; expected totals from 0 to 1"):
        advantages([[0.0, reward]], normaliser="beta")


def test_each_source_is_normalised_before_the_sum() -> None:
    """GDPO by hand: two sources of very different size count alike; a source that gives a row nothing is left out of
    that row's sum."""
    sources = torch.tensor([[[0.0, 2.0, 1.0]], [[100.0, NAN, -100.0]]])
    weights = torch.tensor([1.0, 0.5])
    total = torch.tensor([[50.0, 2.0, -49.0]])
    config = AdvantageConfig(normaliser="batch", sources="normalise-each", epsilon=1e-9)
    got = group_advantages(total, config, sources=sources, weights=weights).values[0]
    one, two = np.array([-1.0, 1.0, 0.0]), np.array([1.0, 0.0, -1.0]) / math.sqrt(2)
    expected = one + 0.5 * two
    expected = (expected - expected.mean()) / np.std(expected, ddof=1)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_a_group_has_a_signal_as_long_as_one_source_has() -> None:
    """Equal totals of sources that differ are a signal when each source is normalised for itself; equal sources are
    none. A source of weight 0 is no source."""
    first = [[0.0, 1.0], [3.0, 3.0], [0.0, 1.0]]
    second = [[1.0, 0.0], [2.0, 2.0], [5.0, 5.0]]
    sources = torch.tensor([first, second, [[0.0, 1.0]] * 3])
    config = AdvantageConfig(normaliser="batch", sources="normalise-each")
    weights = torch.tensor([1.0, 0.5, 0.0])
    total = torch.tensor([[0.5, 0.5], [4.0, 4.0], [2.5, 3.5]])
    got = group_advantages(total, config, sources=sources, weights=weights)
    assert got.no_signal.tolist() == [False, True, False]
    assert got.values[0, 0] < 0 < got.values[0, 1] and got.values[1].tolist() == [0.0, 0.0]


def test_what_does_not_fit_is_refused() -> None:
    """Shapes, missing sources, and the value model, which has a module of its own."""
    rewards, each = torch.zeros(2, 3), AdvantageConfig(normaliser="batch", sources="normalise-each")
    with pytest.raises(ValueError, match=r"found shape \(2,\)"):
        group_advantages(torch.zeros(2), AdvantageConfig())
    with pytest.raises(ValueError, match="needs the rewards of each source"):
        group_advantages(rewards, each)
    with pytest.raises(ValueError, match=r"found \(1, 2, 4\)"):
        group_advantages(rewards, each, sources=torch.zeros(1, 2, 4), weights=torch.ones(1))
    with pytest.raises(ValueError, match="value model"):
        group_advantages(rewards, AdvantageConfig(baseline="value-model", normaliser="none"))


# --- Laws ------------------------------------------------------------------------------------------------------------

CONFIGS = [
    AdvantageConfig(baseline=baseline, normaliser=normaliser)
    for baseline in ("group-mean", "leave-one-out")
    for normaliser in ("group", "batch", "beta", "none")
]
tables = st.integers(2, 5).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(0, 8).map(lambda value: value / 8), min_size=size, max_size=size), min_size=1, max_size=5
    )
)


def of(rows: list[list[float]], config: AdvantageConfig) -> np.ndarray:
    """Advantages as numpy."""
    return group_advantages(torch.tensor(rows, dtype=torch.float64), config).values.numpy()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.baseline} {c.normaliser}")
@given(tables, st.randoms())
@settings(deadline=None, max_examples=40)
def test_advantages_of_a_group_sum_to_zero_and_follow_the_rewards(
    config: AdvantageConfig, rows: list[list[float]], random: Random
) -> None:
    """In every group the advantages cancel, are ordered as the rewards, and go along with a permutation of groups and
    of completions."""
    got = of(rows, config)
    scale = max(1.0, np.abs(got).max())
    np.testing.assert_allclose(got.sum(axis=1), 0, atol=1e-9 * scale)
    for row, values in zip(rows, got, strict=True):
        assert all(
            (a <= b) == (x <= y) for a, x in zip(row, values, strict=True) for b, y in zip(row, values, strict=True)
        )
    groups, places = (random.sample(range(n), n) for n in (len(rows), len(rows[0])))
    permuted = of([[rows[g][i] for i in places] for g in groups], config)
    np.testing.assert_allclose(permuted, got[groups][:, places], rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.normaliser != "beta"], ids=lambda c: f"{c.normaliser}")
@given(tables, st.lists(st.integers(-3, 3), min_size=5, max_size=5))
@settings(deadline=None, max_examples=40)
def test_a_constant_added_to_the_rewards_of_a_group_matters_only_to_the_deviation_of_the_step(
    config: AdvantageConfig, rows: list[list[float]], shifts: list[int]
) -> None:
    """group and none: shifting each group by its own constant changes nothing. batch: shifting all by one does not;
    group by group the direction of each group's advantages stays."""
    got = of(rows, config)
    own = of([[value + shift for value in row] for row, shift in zip(rows, shifts, strict=False)], config)
    common = of([[value + shifts[0] for value in row] for row in rows], config)
    np.testing.assert_allclose(common, got, rtol=1e-9, atol=1e-9)
    if config.normaliser == "batch":
        np.testing.assert_array_equal(np.sign(own), np.sign(got))
    else:
        np.testing.assert_allclose(own, got, rtol=1e-9, atol=1e-9)


@given(tables, st.sampled_from([0.25, 3.0, 1000.0]))
@settings(deadline=None, max_examples=60)
def test_a_factor_goes_through_or_cancels(rows: list[list[float]], factor: float) -> None:
    """none: advantages scale with the rewards. group and batch: they do not, up to epsilon."""
    scaled = [[value * factor for value in row] for row in rows]
    np.testing.assert_allclose(
        of(scaled, AdvantageConfig(normaliser="none")), factor * of(rows, AdvantageConfig(normaliser="none")), rtol=1e-9
    )
    for normaliser in ("group", "batch"):
        config = AdvantageConfig(normaliser=normaliser, epsilon=1e-12)
        np.testing.assert_allclose(of(scaled, config), of(rows, config), rtol=1e-9)


@given(tables, st.sampled_from([0.5, 4.0, 100.0]), st.integers(-5, 5))
@settings(deadline=None, max_examples=60)
def test_each_source_normalised_does_not_care_for_the_units_of_a_source(
    rows: list[list[float]], factor: float, shift: int
) -> None:
    """GDPO: a source measured in other units gives the same advantages, up to epsilon."""
    config = AdvantageConfig(normaliser="batch", sources="normalise-each", epsilon=1e-12)
    first = torch.tensor(rows, dtype=torch.float64)
    second = first.flip(1).square()
    weights = torch.tensor([1.0, 0.3], dtype=torch.float64)

    def got(one: torch.Tensor) -> np.ndarray:
        sources = torch.stack([one, second])
        return group_advantages(one + 0.3 * second, config, sources=sources, weights=weights).values.numpy()

    np.testing.assert_allclose(got(first * factor + shift), got(first), rtol=1e-6, atol=1e-6)


# --- Soft overlong punishment ----------------------------------------------------------------------------------------


def test_soft_overlong_by_hand() -> None:
    """DAPO with L = 20480 and C = 4096: nothing up to 16384 tokens, then down to -1 at 20480."""
    assert soft_overlong([1, 16384, 18432, 20480, 30000], 20480, 4096) == [0.0, 0.0, -0.5, -1.0, -1.0]
    for soft in (0, 20480):
        with pytest.raises(ValueError, match="must lie between"):
            soft_overlong([1], 20480, soft)


@given(st.integers(2, 500), st.data())
def test_soft_overlong_never_rises_with_the_length(limit: int, data: st.DataObject) -> None:
    """Between -1 and 0, falling, 0 at L - C and -1 at L."""
    soft = data.draw(st.integers(1, limit - 1))
    got = soft_overlong(range(limit + 3), limit, soft)
    assert got == sorted(got, reverse=True)
    assert (got[0], got[limit - soft], got[limit], got[-1]) == (0.0, 0.0, -1.0, -1.0)
    assert got[limit - soft + 1] == pytest.approx(-1 / soft)
