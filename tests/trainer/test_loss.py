"""The objective: numbers by hand, a numpy oracle in float64, and independence of the cut into microbatches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_audit.config.objective import KLConfig, ObjectiveConfig, SurrogateConfig
from grpo_audit_trainer.loss import LossMetrics, Normaliser, grpo_loss

LOGP = [[-1.0, -2.0, -0.5], [-0.3, -0.7, 9.0]]  # the last token of row 2 is outside of the mask
MASK = [[1, 1, 1], [1, 1, 0]]
ADVANTAGES = [1.0, -2.0]


def objective(
    aggregation: str = "token-mean", beta: float = 0.0, estimator: str = "k3", **clip: float
) -> ObjectiveConfig:
    """An objective with these settings."""
    return ObjectiveConfig(
        aggregation=aggregation, kl=KLConfig(beta=beta, estimator=estimator), surrogate=SurrogateConfig(**clip)
    )


def loss_of(
    logp: Any,
    old: Any,
    ref: Any,
    advantages: Any,
    mask: Any,
    config: ObjectiveConfig,
    normaliser: Normaliser | None = None,
) -> tuple[torch.Tensor, LossMetrics]:
    """The loss of lists, in float64."""
    mask = torch.as_tensor(mask)
    normaliser = normaliser or Normaliser(len(mask), int(mask.sum()), 10)
    tensors = [None if item is None else torch.as_tensor(item, dtype=torch.float64) for item in (logp, old, ref)]
    return grpo_loss(*tensors, torch.as_tensor(advantages, dtype=torch.float64), mask, config, normaliser)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sequence-mean", -(1.0 + -2.0) / 2),  # each sequence's mean is its advantage
        ("token-mean", -(3 * 1.0 + 2 * -2.0) / 5),
        ("constant", -(3 * 1.0 + 2 * -2.0) / (2 * 10)),
    ],
)
def test_on_policy_value_by_hand(aggregation: str, expected: float) -> None:
    """With ratio 1 each token costs -A; the aggregations differ in what they divide by."""
    loss, metrics = loss_of(LOGP, LOGP, None, ADVANTAGES, MASK, objective(aggregation))
    assert loss.item() == pytest.approx(expected, abs=1e-15)
    assert metrics.loss.item() == loss.item()


def test_on_policy_gradient_is_the_policy_gradient() -> None:
    """In value nothing, in gradient -A / T on each token in the mask, and 0 outside."""
    logp = torch.tensor(LOGP, dtype=torch.float64, requires_grad=True)
    loss, _ = grpo_loss(
        logp, logp.detach(), None, torch.tensor(ADVANTAGES), torch.tensor(MASK), objective(), Normaliser(2, 5, 10)
    )
    loss.backward()
    np.testing.assert_allclose(logp.grad.numpy(), [[-0.2, -0.2, -0.2], [0.4, 0.4, 0.0]], atol=1e-15)


@pytest.mark.parametrize(
    ("ratio", "advantage", "cost", "clipped"),
    [
        (1.5, 1.0, -1.3, (0, 1)),  # clipped above: no more than 1 + clip_high
        (1.5, -1.0, 1.5, (0, 0)),  # the pessimistic side is never clipped
        (0.5, 1.0, -0.5, (0, 0)),
        (0.5, -1.0, 0.8, (1, 0)),  # clipped below
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, cost: float, clipped: tuple[int, int]) -> None:
    """-min(rho A, clip(rho, 0.8, 1.3) A), and the counts of the tokens that lose their gradient."""
    config = objective(clip_low=0.2, clip_high=0.3)
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    loss, metrics = grpo_loss(
        logp, torch.zeros(1, 1), None, torch.tensor([advantage]), torch.ones(1, 1), config, Normaliser(1, 1, 1)
    )
    loss.backward()
    assert loss.item() == pytest.approx(cost, rel=1e-6)
    assert (metrics.clipped_low.item(), metrics.clipped_high.item()) == clipped
    assert (logp.grad.item() == 0) == any(clipped)


@pytest.mark.parametrize(("estimator", "value"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) + 0.5 - 1)])
def test_kl_estimators_by_hand(estimator: str, value: float) -> None:
    """With logp_theta - logp_ref = 1/2: k1 = 1/2, k2 = 1/8, k3 = exp(-1/2) + 1/2 - 1; weighted with beta."""
    config = objective(beta=0.1, estimator=estimator)
    loss, metrics = loss_of([[-1.0]], [[-1.0]], [[-1.5]], [0.0], [[1]], config)
    assert metrics.kl_sum.item() == pytest.approx(value, rel=1e-12)
    assert metrics.kl_loss.item() == pytest.approx(0.1 * value, rel=1e-12)
    assert loss.item() == pytest.approx(0.1 * value, rel=1e-12)


def test_with_beta_zero_the_distance_is_measured_and_not_minimised() -> None:
    """A reference may be given with beta 0: its sum is reported, the loss does not see it."""
    loss, metrics = loss_of([[-1.0]], [[-1.0]], [[-1.5]], [0.0], [[1]], objective(beta=0.0))
    assert metrics.kl_sum.item() > 0
    assert loss.item() == 0 and metrics.kl_loss.item() == 0


def test_a_positive_beta_needs_a_reference() -> None:
    """A penalty without a reference is refused, not silently dropped."""
    with pytest.raises(ValueError, match="no reference"):
        loss_of([[-1.0]], [[-1.0]], None, [0.0], [[1]], objective(beta=0.1))


def test_what_is_outside_of_the_mask_is_never_read() -> None:
    """NaN and infinity behind the end of a row change neither loss nor gradient."""
    logp = torch.tensor([[-1.0, math.nan], [-2.0, math.inf]], requires_grad=True)
    old = torch.tensor([[-1.1, math.inf], [-2.0, math.nan]])
    loss, _ = grpo_loss(
        logp,
        old,
        old,
        torch.tensor([1.0, -1.0]),
        torch.tensor([[1, 0], [1, 0]]),
        objective(beta=0.1),
        Normaliser(2, 2, 2),
    )
    loss.backward()
    assert math.isfinite(loss.item())
    assert logp.grad.isfinite().all() and (logp.grad[:, 1] == 0).all()


def test_an_empty_normaliser_is_refused() -> None:
    """There is no mean of nothing."""
    with pytest.raises(ValueError, match="nothing to normalise"):
        Normaliser(0, 0, 10)


def oracle(logp, old, ref, advantages, lengths, config: ObjectiveConfig, limit: int) -> float:  # type: ignore[no-untyped-def]
    """The formula, token by token, in Python floats."""
    rows = []
    for i, length in enumerate(lengths):
        costs = []
        for t in range(length):
            rho = math.exp(logp[i][t] - old[i][t])
            low, high = 1 - config.surrogate.clip_low, 1 + config.surrogate.clip_high
            surrogate = min(rho * advantages[i], max(low, min(high, rho)) * advantages[i])
            d = ref[i][t] - logp[i][t]
            kl = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[config.kl.estimator]
            costs.append(-surrogate + config.kl.beta * kl)
        rows.append(costs)
    match config.aggregation:
        case "sequence-mean":
            return sum(sum(row) / len(row) for row in rows) / len(rows)
        case "token-mean":
            return sum(map(sum, rows)) / sum(lengths)
        case _:
            return sum(map(sum, rows)) / (len(rows) * limit)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Ragged batches, objectives, and how the rows are dealt into microbatches."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=7))
    number = st.floats(-3, 0, width=32)
    table = st.lists(st.lists(number, min_size=6, max_size=6), min_size=len(lengths), max_size=len(lengths))
    return {
        "lengths": lengths,
        "logp": draw(table),
        "old": draw(table),
        "ref": draw(table),
        "advantages": draw(st.lists(st.floats(-2, 2, width=32), min_size=len(lengths), max_size=len(lengths))),
        "config": objective(
            draw(st.sampled_from(["sequence-mean", "token-mean", "constant"])),
            beta=draw(st.sampled_from([0.0, 0.04])),
            estimator=draw(st.sampled_from(["k1", "k2", "k3"])),
            clip_low=0.2,
            clip_high=0.3,
        ),
        "cut": draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths))),
    }


@given(batches())
@settings(deadline=None)
def test_agrees_with_the_formula_written_out(batch: dict[str, Any]) -> None:
    """Every aggregation, estimator and clip gives the numbers of the formula, token by token."""
    mask = torch.arange(6) < torch.tensor(batch["lengths"])[:, None]
    normaliser = Normaliser(len(mask), int(mask.sum()), 6)
    loss, _ = loss_of(batch["logp"], batch["old"], batch["ref"], batch["advantages"], mask, batch["config"], normaliser)
    expected = oracle(
        batch["logp"], batch["old"], batch["ref"], batch["advantages"], batch["lengths"], batch["config"], 6
    )
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(batches())
@settings(deadline=None)
def test_the_cut_into_microbatches_does_not_matter(batch: dict[str, Any]) -> None:
    """However the rows are dealt into microbatches, trimmed each to its own longest row, losses, gradients and metrics
    add up to those of the whole step."""
    mask = torch.arange(6) < torch.tensor(batch["lengths"])[:, None]
    normaliser = Normaliser(len(mask), int(mask.sum()), 6)

    def run(parts: list[list[int]]) -> tuple[torch.Tensor, list[float]]:
        logp = torch.tensor(batch["logp"], dtype=torch.float64, requires_grad=True)
        total = None
        for rows in parts:
            width = max(batch["lengths"][row] for row in rows)
            cut = [torch.tensor(batch[name], dtype=torch.float64)[rows, :width] for name in ("old", "ref")]
            advantages = torch.tensor(batch["advantages"], dtype=torch.float64)[rows]
            loss, metrics = grpo_loss(
                logp[rows, :width], *cut, advantages, mask[rows, :width], batch["config"], normaliser
            )
            loss.backward()
            total = metrics if total is None else total + metrics
        return logp.grad, [float(getattr(total, name)) for name in LossMetrics.__slots__]

    dealt = [[row for row, part in enumerate(batch["cut"]) if part == number] for number in range(4)]
    whole_gradient, whole = run([list(range(len(mask)))])
    cut_gradient, cut = run([rows for rows in dealt if rows])
    np.testing.assert_allclose(cut_gradient.numpy(), whole_gradient.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(cut, whole, rtol=1e-9, atol=1e-12)
