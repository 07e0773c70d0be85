"""The objective: numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from grpo_audit.config.objective import CorrectionConfig, KLConfig, ObjectiveConfig, SurrogateConfig
from grpo_audit_trainer.loss import LossMetrics, grpo_loss, row_weights, top_entropy_mask, value_loss

LOGP = [[-1.0, -2.0, -0.5], [-0.3, -0.7, 9.0]]  # the last token of row 2 is outside of the mask
MASK = [[1, 1, 1], [1, 1, 0]]
ADVANTAGES = [1.0, -2.0]
LIMIT = 10


def objective(aggregation: str = "token-mean", **parts: Any) -> ObjectiveConfig:
    """Without KL term unless given."""
    return ObjectiveConfig(aggregation=aggregation, **({"kl": KLConfig(beta=0.0)} | parts))


def loss_of(
    logp: Any, old: Any, ref: Any, advantages: Any, mask: Any, config: ObjectiveConfig, **others: Any
) -> tuple[torch.Tensor, LossMetrics]:
    """The loss of lists, in float64, the batch being the whole update."""
    mask = torch.as_tensor(mask)
    weights = row_weights(mask.sum(dim=1), config, LIMIT)
    tensors = [None if item is None else torch.as_tensor(item, dtype=torch.float64) for item in (logp, old, ref)]
    return grpo_loss(*tensors, torch.as_tensor(advantages, dtype=torch.float64), mask, weights, config, **others)


# --- By hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sequence-mean", -(1.0 + -2.0) / 2),  # each sequence's mean is its advantage
        ("token-mean", -(3 * 1.0 + 2 * -2.0) / 5),
        ("block-token-mean", -(3 * 1.0 + 2 * -2.0) / 5),  # one block
        ("sequence-sum", -(3 * 1.0 + 2 * -2.0) / 2),
        ("constant", -(3 * 1.0 + 2 * -2.0) / (2 * 10)),
    ],
)
def test_on_policy_value_by_hand(aggregation: str, expected: float) -> None:
    """With ratio 1 each token costs -A; the aggregations differ in what they divide by."""
    loss, metrics = loss_of(LOGP, LOGP, None, ADVANTAGES, MASK, objective(aggregation))
    assert loss.item() == pytest.approx(expected, abs=1e-15)
    assert metrics.loss.item() == loss.item()
    assert metrics.ratio_max.item() == 1.0 and metrics.drift_sum.item() == 0.0


def test_on_policy_gradient_is_the_policy_gradient() -> None:
    """In value nothing, in gradient -A / T on each token in the mask, and 0 outside."""
    logp = torch.tensor(LOGP, dtype=torch.float64, requires_grad=True)
    loss, _ = loss_of(logp, logp.detach(), None, ADVANTAGES, MASK, objective())
    loss.backward()
    np.testing.assert_allclose(logp.grad.numpy(), [[-0.2, -0.2, -0.2], [0.4, 0.4, 0.0]], atol=1e-15)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sequence-mean", [1 / 6, 1 / 3, 1 / 12]),
        ("token-mean", [1 / 7, 1 / 7, 1 / 7]),
        ("block-token-mean", [1 / (2 * 3), 1 / (2 * 3), 1 / (2 * 4)]),  # blocks of 2 rows: 3 tokens, 4 tokens
        ("sequence-sum", [1 / 3, 1 / 3, 1 / 3]),
        ("constant", [1 / 30, 1 / 30, 1 / 30]),
    ],
)
def test_row_weights_by_hand(aggregation: str, expected: list[float]) -> None:
    """Rows of 2, 1 and 4 tokens."""
    config = objective(aggregation, block_rows=2)
    weights = row_weights(torch.tensor([2, 1, 4]), config, LIMIT)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-15)
    assert weights.dtype == torch.float64


def test_an_update_without_rows_is_refused() -> None:
    """There is no mean of nothing."""
    with pytest.raises(ValueError, match="nothing to normalise"):
        row_weights(torch.tensor([], dtype=torch.int64), objective(), LIMIT)


@pytest.mark.parametrize(
    ("ratio", "advantage", "cost", "clipped"),
    [
        (1.5, 1.0, -1.3, (0, 1)),  # clipped above: no more than 1 + clip_high
        (1.5, -1.0, 1.5, (0, 0)),  # the pessimistic side is not clipped
        (0.5, 1.0, -0.5, (0, 0)),
        (0.5, -1.0, 0.8, (1, 0)),  # clipped below
        (2.5, -1.0, 2.0, (0, 1)),  # the dual clip
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, cost: float, clipped: tuple[int, int]) -> None:
    """-min(rho A, clip(rho, 0.8, 1.3) A), at most 2 |A|, and the counts of the tokens that lose their gradient."""
    config = objective(surrogate=SurrogateConfig(clip_low=0.2, clip_high=0.3, dual_clip=2.0))
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    loss, metrics = loss_of(logp, [[0.0]], None, [advantage], [[1]], config)
    loss.backward()
    assert loss.item() == pytest.approx(cost, rel=1e-12)
    assert (metrics.clipped_low.item(), metrics.clipped_high.item()) == clipped
    assert (logp.grad.item() == 0) == any(clipped)
    assert metrics.ratio_max.item() == pytest.approx(ratio, rel=1e-12)
    assert metrics.drift_sum.item() == pytest.approx(ratio - 1 - math.log(ratio), rel=1e-12)


@pytest.mark.parametrize(("ratio", "weight", "clipped"), [(3.0, 1.5, (0, 1)), (0.3, 0.8, (1, 0)), (1.2, 1.2, (0, 0))])
def test_cispo_by_hand(ratio: float, weight: float, clipped: tuple[int, int]) -> None:
    """The clipped ratio weighs A log p, and no token loses its gradient."""
    config = objective(surrogate=SurrogateConfig(kind="cispo", clip_low=0.2, clip_high=0.5))
    logp = torch.tensor([[-2.0]], dtype=torch.float64, requires_grad=True)
    loss, metrics = loss_of(logp, [[-2.0 - math.log(ratio)]], None, [3.0], [[1]], config)
    loss.backward()
    assert loss.item() == pytest.approx(-weight * 3.0 * -2.0, rel=1e-12)
    assert logp.grad.item() == pytest.approx(-weight * 3.0, rel=1e-12)
    assert (metrics.clipped_low.item(), metrics.clipped_high.item()) == clipped


def test_sapo_has_the_gradient_of_the_policy_at_ratio_one_and_fades_away_from_it() -> None:
    """4/tau sigmoid(tau (rho - 1)) has slope 1 at rho = 1 and nearly none at rho = 20."""
    config = objective(surrogate=SurrogateConfig(kind="sapo"))
    for ratio, slope in ((1.0, 1.0), (20.0, 0.0)):
        logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
        loss_of(logp, [[0.0]], None, [2.0], [[1]], config)[0].backward()
        assert logp.grad.item() == pytest.approx(-2.0 * slope, abs=1e-5)


@pytest.mark.parametrize(("estimator", "value"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) + 0.5 - 1)])
def test_kl_estimators_by_hand(estimator: str, value: float) -> None:
    """With logp_theta - logp_ref = 1/2: k1 = 1/2, k2 = 1/8, k3 = exp(-1/2) + 1/2 - 1; weighted with beta, and with
    rho = 2 where the product is asked for."""
    for times_ratio, factor in ((False, 1.0), (True, 2.0)):
        config = objective(kl=KLConfig(beta=0.1, estimator=estimator, times_ratio=times_ratio))
        loss, metrics = loss_of([[-1.0]], [[-1.0 - math.log(2)]], [[-1.5]], [0.0], [[1]], config)
        assert metrics.kl_sum.item() == pytest.approx(value, rel=1e-12)
        assert metrics.kl_loss.item() == pytest.approx(0.1 * factor * value, rel=1e-12)
        assert loss.item() == pytest.approx(0.1 * factor * value, rel=1e-12)


@pytest.mark.parametrize("kl", [KLConfig(beta=0.0), KLConfig(beta=0.1, estimator="k1", placement="reward")])
def test_a_distance_that_is_not_in_the_loss_is_measured_and_not_minimised(kl: KLConfig) -> None:
    """With beta 0, or with the penalty in the reward, a reference may be given: its sum is reported, the loss does not
    see it."""
    loss, metrics = loss_of([[-1.0]], [[-1.0]], [[-1.5]], [0.0], [[1]], objective(kl=kl))
    assert metrics.kl_sum.item() > 0
    assert loss.item() == 0 and metrics.kl_loss.item() == 0


def test_a_missing_tensor_is_refused() -> None:
    """A penalty without a reference, and a correction without a sampler, are refused, not silently dropped."""
    with pytest.raises(ValueError, match="no reference"):
        loss_of([[-1.0]], [[-1.0]], None, [0.0], [[1]], objective(kl=KLConfig(beta=0.1)))
    with pytest.raises(ValueError, match="of the sampler"):
        config = objective(correction=CorrectionConfig(level="token"))
        loss_of([[-1.0]], [[-1.0]], None, [0.0], [[1]], config)


@pytest.mark.parametrize(
    ("level", "mode", "weights", "corrected"),
    [
        ("token", "truncate", [2.0, 0.5], 1),
        ("token", "mask", [0.0, 0.5], 1),
        ("sequence", "truncate", [1.5, 1.5], 0),
        ("sequence", "mask", [1.5, 1.5], 0),
    ],
)
def test_importance_correction_by_hand(level: str, mode: str, weights: list[float], corrected: int) -> None:
    """pi_old / pi_sampler is 3 and 1/2, their product 3/2, the cap 2; the KL term is not weighted."""
    config = objective(
        correction=CorrectionConfig(level=level, mode=mode, cap=2.0), kl=KLConfig(beta=1.0, estimator="k1")
    )
    old = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)
    sampler = old - torch.tensor([[3.0, 0.5]], dtype=torch.float64).log()
    loss, metrics = loss_of(old, old, old - 1, [1.0], [[1, 1]], config, sampler_logp=sampler)
    assert loss.item() == pytest.approx(-sum(weights) / 2 + 1.0, rel=1e-12)
    assert metrics.corrected.item() == corrected


def test_a_sequence_above_the_cap_counts_with_all_its_tokens() -> None:
    """At sequence level the cap acts on the completion."""
    config = objective(correction=CorrectionConfig(level="sequence", mode="mask", cap=2.0))
    loss, metrics = loss_of(
        [[0.0, 0.0]], [[0.0, 0.0]], None, [1.0], [[1, 1]], config, sampler_logp=torch.tensor([[-1.0, -1.0]])
    )
    assert loss.item() == 0 and metrics.corrected.item() == 2


def test_tokens_without_surrogate_keep_their_kl_term_and_their_place_in_the_normaliser() -> None:
    """The surrogate mask drops the surrogate of a token and nothing else; such a token is not counted as clipped."""
    config = objective(kl=KLConfig(beta=1.0, estimator="k1"))
    counted = torch.tensor([[True, False]])
    loss, metrics = loss_of([[1.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]], [1.0], [[1, 1]], config, surrogate_mask=counted)
    assert loss.item() == pytest.approx((-1.2 + 1.0 + 1.0) / 2, rel=1e-12)
    assert metrics.clipped_high.item() == 1


def test_figures_add_up_and_the_largest_ratio_is_the_largest() -> None:
    """Sums are sums, in float64 and int64, so that many microbatches lose nothing; the maximum is the maximum."""
    config = objective(surrogate=SurrogateConfig(clip_low=0.2, clip_high=0.2))
    parts = [loss_of([[math.log(ratio)]], [[0.0]], None, [1.0], [[1]], config)[1] for ratio in (1.5, 3.0, 0.5)]
    total = LossMetrics.zero(torch.device("cpu"))
    for part in parts:
        total = total + part
    assert total.loss.item() == pytest.approx(-1.2 - 1.2 - 0.5, rel=1e-12)
    assert total.ratio_max.item() == pytest.approx(3.0, rel=1e-12)
    assert total.clipped_high.item() == 2
    assert (total.loss.dtype, total.clipped_high.dtype) == (torch.float64, torch.int64)


# --- Top entropy -----------------------------------------------------------------------------------------------------


def test_top_entropy_by_hand() -> None:
    """Of ten tokens the share 0.2 keeps the two with the highest entropy, and what ties with the second."""
    entropy = torch.arange(10.0).view(2, 5)
    mask = torch.ones(2, 5)
    assert top_entropy_mask(entropy, mask, 0.2).nonzero().tolist() == [[1, 3], [1, 4]]
    entropy[0, 0] = 8.0
    assert top_entropy_mask(entropy, mask, 0.2).nonzero().tolist() == [[0, 0], [1, 3], [1, 4]]
    assert top_entropy_mask(entropy, mask, 1.0).all()
    eleven = torch.arange(11.0)[
        None
    ]  # 1 - 0.7 is a little more than 0.3 in binary, and the quantile is the third all the same
    assert top_entropy_mask(eleven, torch.ones(1, 11), 0.7).nonzero()[:, 1].tolist() == list(range(3, 11))
    assert not top_entropy_mask(entropy, torch.zeros(2, 5), 0.2).any()


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 99), st.permutations(range(40)))
def test_top_entropy_is_a_quantile_and_does_not_depend_on_the_order(
    values: list[int], percent: int, order: list[int]
) -> None:
    """The choice is torch's linear quantile, ties and all, whatever stands outside the mask and in whatever order."""
    entropy = torch.tensor([float(value) for value in values])
    share = percent / 100
    got = top_entropy_mask(entropy[None], torch.ones(1, len(values)), share)[0]
    expected = entropy.double() >= torch.quantile(entropy.double(), 1 - share) - 1e-9
    assert got.tolist() == expected.tolist()
    shuffled = [index for index in order if index < len(values)]
    padded = torch.cat([entropy[shuffled], torch.full((3,), math.nan)])[None]
    mask = torch.arange(padded.shape[1])[None] < len(values)
    assert top_entropy_mask(padded, mask, share)[0, : len(values)].tolist() == got[shuffled].tolist()
    assert got.sum() >= max(1, math.floor(share * len(values)))


# --- Value loss ------------------------------------------------------------------------------------------------------


def test_value_loss_by_hand() -> None:
    """Half of the larger of the plain and the clipped squared error, over 2 tokens; what is outside is not read."""
    values = torch.tensor([[2.0, 0.1, math.nan]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[0.0, 0.0, math.inf]], dtype=torch.float64)
    returns = torch.tensor([[3.0, 1.0, math.nan]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0]])
    loss = value_loss(values, old, returns, mask, torch.tensor([0.5]), 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * (0.5 * (0.2 - 3) ** 2 + 0.5 * (0.1 - 1) ** 2), rel=1e-12)
    np.testing.assert_allclose(values.grad.numpy(), [[0.0, 0.5 * (0.1 - 1), 0.0]], rtol=1e-12)


def test_advantages_per_token_are_taken_per_token() -> None:
    """[B, T] of equal columns gives what [B] gives."""
    one = loss_of(LOGP, LOGP, None, ADVANTAGES, MASK, objective())[0]
    table = torch.tensor(ADVANTAGES)[:, None].expand(2, 3)
    assert loss_of(LOGP, LOGP, None, table, MASK, objective())[0].item() == one.item()
    only = loss_of(LOGP, LOGP, None, [[0.0, 5.0, 0.0], [0.0, 0.0, 9.0]], MASK, objective())[0]
    assert only.item() == pytest.approx(-1.0, abs=1e-15)
