"""Generalised advantage estimation, per-token rewards, whitening, explained variance: against their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from grpo_audit_trainer.value import explained_variance, gae, token_rewards, whitened
from tests.trainer.plain_ppo import by_definition


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ragged completions with a reward and a value for every token, garbage behind their ends."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (len(lengths), max(lengths) + draw(st.integers(0, 2)))
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    rewards, values = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    garbage = torch.where(mask, 0.0, torch.nan)
    return rewards + garbage, values + garbage, mask


SHARES = st.floats(0, 1).map(lambda x: round(x, 3))


@settings(max_examples=60, deadline=None)
@given(batches(), SHARES, SHARES)
def test_gae_is_its_definition(batch: Any, discount: float, lam: float) -> None:
    """The recursion gives the sum of equation 16 for every token, the returns are advantage plus value, and whatever
    stands behind an end changes nothing."""
    rewards, values, mask = batch
    advantages, returns = gae(rewards, values, mask, discount, lam)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        expected = by_definition(rewards[row].tolist(), values[row].tolist(), length, discount, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-12)
        assert not advantages[row, length:].any() and not returns[row, length:].any()
        assert returns[row, :length].tolist() == pytest.approx((advantages[row] + values[row])[:length].tolist())


@settings(max_examples=30, deadline=None)
@given(batches())
def test_the_ends_of_lambda(batch: Any) -> None:
    """With lambda 1 and discount 1 the advantage is what is still to come minus the value; with lambda 0 it is the
    error of one step."""
    rewards, values, mask = batch
    known, value = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    to_come = known.flip(1).cumsum(1).flip(1)
    monte_carlo, returns = gae(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(monte_carlo, torch.where(mask, to_come - value, 0.0))
    torch.testing.assert_close(returns, torch.where(mask, to_come, 0.0))
    following = torch.nn.functional.pad(value[:, 1:], (0, 1))
    one_step, _ = gae(rewards, values, mask, 0.9, 0.0)
    torch.testing.assert_close(one_step, torch.where(mask, known + 0.9 * following - value, 0.0))


def test_rewards_stand_at_the_last_token_and_penalties_at_each() -> None:
    """A completion's tokens sum to its reward minus its summed penalty; one that is not in the mask has none."""
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    terminal = torch.tensor([2.0, 3.0, 5.0])
    assert token_rewards(terminal, None, mask).tolist() == [[0, 0, 2], [3, 0, 0], [0, 0, 0]]
    found = token_rewards(terminal, torch.full((3, 3), 0.25), mask)
    assert found.tolist() == [[-0.25, -0.25, 1.75], [2.75, 0, 0], [0, 0, 0]]


def test_whitening_counts_the_tokens_of_the_mask_only() -> None:
    """Mean 0 and deviation 1 over them with the ddof and the epsilon of the objective; others are 0 and do not matter;
    of fewer than two tokens there is no deviation."""
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    table = torch.tensor([[1.0, 2.0, 4.0], [8.0, 1e9, torch.nan]], dtype=torch.float64)
    for ddof in (0, 1):
        out = whitened(table, mask, ddof=ddof, epsilon=0.1)
        values = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
        expected = (values - 3.75) / (values.std(correction=ddof) + 0.1)
        torch.testing.assert_close(out[mask], expected)
        assert out[~mask].tolist() == [0, 0]
    assert not whitened(table, torch.tensor([[1, 0, 0], [0, 0, 0]]), ddof=1, epsilon=1e-4).any()
    assert not whitened(table, torch.zeros(2, 3), ddof=1, epsilon=1e-4).any()


def test_explained_variance() -> None:
    """1 for values that are the returns up to a constant, 0 for a constant, negative for worse; None, not 0, when there
    is nothing to explain."""
    returns = torch.tensor([1.0, 2.0, 4.0])
    assert explained_variance(returns - 7, returns) == pytest.approx(1)
    assert explained_variance(torch.zeros(3), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(torch.zeros(3), torch.ones(3)) is None
    assert explained_variance(torch.zeros(1), torch.ones(1)) is None
