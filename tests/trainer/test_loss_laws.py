"""The objective: the formula written out token by token, and what must not matter to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from grpo_audit.config.objective import CorrectionConfig, KLConfig, ObjectiveConfig, SurrogateConfig
from grpo_audit_trainer.loss import LossMetrics, grpo_loss, row_weights, top_entropy_mask

LIMIT = 10


def objective(aggregation: str = "token-mean", **parts: Any) -> ObjectiveConfig:
    """Without KL term unless given."""
    return ObjectiveConfig(aggregation=aggregation, **({"kl": KLConfig(beta=0.0)} | parts))


KINDS = [
    SurrogateConfig(clip_low=0.2, clip_high=0.3),
    SurrogateConfig(clip_low=0.2, clip_high=0.3, dual_clip=1.5),
    SurrogateConfig(level="sequence", clip_low=0.05, clip_high=0.1),
    SurrogateConfig(level="trajectory"),
    SurrogateConfig(kind="cispo", clip_low=1.0, clip_high=0.5),
    SurrogateConfig(kind="sapo"),
]
CORRECTIONS = [
    CorrectionConfig(),
    CorrectionConfig(level="token", mode="mask", cap=1.2),
    CorrectionConfig(level="sequence", cap=1.2),
]


def test_what_is_outside_of_the_mask_is_never_read() -> None:
    """NaN and infinity behind the end of a row change neither loss, gradient nor any figure, for every surrogate."""
    mask = torch.tensor([[1, 0], [1, 0]])
    for surrogate in KINDS:
        for correction in CORRECTIONS:
            config = objective(
                surrogate=surrogate, correction=correction, kl=KLConfig(beta=0.1, times_ratio=True), top_entropy=0.5
            )
            results = []
            for outside in (0.0, math.nan, math.inf, -math.inf):
                end = torch.full((2, 1), outside)
                logp = torch.cat([torch.tensor([[-1.0], [-2.0]]), end], 1).requires_grad_()
                other = torch.cat([torch.tensor([[-1.1], [-1.9]]), end], 1)
                advantages = torch.cat([torch.tensor([[1.0], [-1.0]]), end], 1)
                weights = row_weights(mask.sum(1), config, LIMIT)
                counted = top_entropy_mask(other, mask, 1.0)
                loss, metrics = grpo_loss(
                    logp, other, other - 0.1, advantages, mask, weights, config,
                    surrogate_mask=counted, sampler_logp=other + 0.1,
                )  # fmt: skip
                loss.backward()
                figures = [float(getattr(metrics, name)) for name in LossMetrics.__slots__]
                results.append([*figures, *logp.grad.flatten().tolist()])
            assert all(map(math.isfinite, results[0]))
            assert results[0][-1] == results[0][-3] == 0.0
            assert results[1:] == [results[0]] * 3


@pytest.mark.parametrize("level", ["token", "sequence", "trajectory"])
@pytest.mark.parametrize("kind", ["clipped", "cispo", "sapo"])
def test_a_ratio_beyond_float32_neither_poisons_the_gradient_nor_the_figures(kind: str, level: str) -> None:
    """A token with rho = e^300 and A > 0 has a finite cost and gradient; the largest ratio is reported as e^80."""
    config = objective(surrogate=SurrogateConfig(kind=kind, level=level))
    logp = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    old = torch.tensor([[-601.0, -1.0]])
    loss, metrics = grpo_loss(logp, old, None, torch.tensor([1.0]), torch.ones(1, 2), torch.tensor([0.5]), config)
    loss.backward()
    assert math.isfinite(loss.item()) and logp.grad.isfinite().all()
    assert metrics.ratio_max.item() == pytest.approx(math.exp(80), rel=1e-4)
    assert metrics.drift_sum.isfinite()


def oracle(batch: dict[str, Any], config: ObjectiveConfig) -> float:
    """The formula, token by token, in Python floats."""
    surrogate, rows = config.surrogate, []
    low, high = 1 - surrogate.clip_low, 1 + surrogate.clip_high
    for i, length in enumerate(batch["lengths"]):
        a = batch["advantages"][i]
        logp, old, ref = (batch[name][i][:length] for name in ("logp", "old", "ref"))
        steps = [x - y for x, y in zip(logp, old, strict=True)]
        levels = {
            "token": steps,
            "sequence": [sum(steps) / length] * length,
            "trajectory": [sum(steps)] * length,
        }[surrogate.level]
        costs = []
        for t in range(length):
            rho = math.exp(levels[t])
            clipped = max(low, min(high, rho))
            if surrogate.kind == "cispo":
                s = clipped * a * logp[t]
            elif surrogate.kind == "sapo":
                tau = surrogate.tau_positive if a > 0 else surrogate.tau_negative
                s = 4 / tau / (1 + math.exp(-tau * (rho - 1))) * a
            else:
                s = min(rho * a, clipped * a)
                if surrogate.dual_clip is not None and a < 0:
                    s = max(s, surrogate.dual_clip * a)
            d = ref[t] - logp[t]
            kl = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[config.kl.estimator]
            costs.append(-s + config.kl.beta * kl * (rho if config.kl.times_ratio else 1))
        rows.append(costs)
    sums, n = [sum(row) for row in rows], len(rows)
    match config.aggregation:
        case "sequence-mean":
            return sum(total / len(row) for total, row in zip(sums, rows, strict=True)) / n
        case "token-mean":
            return sum(sums) / sum(batch["lengths"])
        case "block-token-mean":
            size = config.block_rows
            blocks = [range(start, min(start + size, n)) for start in range(0, n, size)]
            return sum(sum(sums[i] for i in b) / sum(len(rows[i]) for i in b) for b in blocks) / len(blocks)
        case "sequence-sum":
            return sum(sums) / n
        case _:
            return sum(sums) / (n * LIMIT)


AGGREGATIONS = ["sequence-mean", "token-mean", "block-token-mean", "sequence-sum", "constant"]


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Ragged batches, objectives, and how the rows are dealt into parts."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=7))
    number = st.floats(-3, 0, width=32)
    table = st.lists(st.lists(number, min_size=6, max_size=6), min_size=len(lengths), max_size=len(lengths))
    kl = st.builds(
        KLConfig,
        beta=st.sampled_from([0.0, 0.04]),
        estimator=st.sampled_from(["k1", "k2", "k3"]),
        times_ratio=st.booleans(),
    )
    return {
        "lengths": lengths,
        "logp": draw(table),
        "old": draw(table),
        "ref": draw(table),
        "sampler": draw(table),
        "advantages": draw(st.lists(st.floats(-2, 2, width=32), min_size=len(lengths), max_size=len(lengths))),
        "config": objective(
            draw(st.sampled_from(AGGREGATIONS)),
            kl=draw(kl),
            surrogate=draw(st.sampled_from(KINDS)),
            block_rows=draw(st.integers(1, 4)),
        ),
        "correction": draw(st.sampled_from(CORRECTIONS)),
        "share": draw(st.sampled_from([1.0, 0.4])),
        "part": draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths))),
        "order": draw(st.permutations(range(len(lengths)))),
    }


@given(batches())
@settings(deadline=None)
def test_agrees_with_the_formula_written_out(batch: dict[str, Any]) -> None:
    """Every surrogate, level, aggregation, estimator and clip gives the numbers of the formula, token by token."""
    mask = torch.arange(6) < torch.tensor(batch["lengths"])[:, None]
    tensors = [torch.tensor(batch[name], dtype=torch.float64) for name in ("logp", "old", "ref", "advantages")]
    loss, _ = grpo_loss(*tensors, mask, row_weights(mask.sum(dim=1), batch["config"], LIMIT), batch["config"])
    assert loss.item() == pytest.approx(oracle(batch, batch["config"]), rel=1e-9, abs=1e-9)


def run_parts(batch: dict[str, Any], order: list[int], parts: list[list[int]]) -> tuple[torch.Tensor, list[float]]:
    """Gradient [N, 6] and figures of an update whose rows come in ``order``, computed in ``parts`` of their places."""
    config = batch["config"].model_copy(update={"correction": batch["correction"], "top_entropy": batch["share"]})
    names = ("logp", "old", "ref", "sampler", "advantages")
    table = {name: torch.tensor(batch[name], dtype=torch.float64)[order] for name in names}
    lengths = torch.tensor(batch["lengths"])[order]
    mask = torch.arange(6) < lengths[:, None]
    weights = row_weights(lengths, config, LIMIT)
    counted = top_entropy_mask(table["old"].neg(), mask, config.top_entropy)
    logp = table["logp"].requires_grad_()
    total = LossMetrics.zero(torch.device("cpu"))
    for rows in parts:
        width = int(lengths[rows].max())
        loss, metrics = grpo_loss(
            logp[rows, :width],
            table["old"][rows, :width],
            table["ref"][rows, :width],
            table["advantages"][rows],
            mask[rows, :width],
            weights[rows],
            config,
            surrogate_mask=counted[rows, :width],
            sampler_logp=table["sampler"][rows, :width],
        )
        loss.backward()
        total = total + metrics
    gradient = torch.zeros_like(logp)
    gradient[order] = logp.grad
    return gradient, [float(getattr(total, name)) for name in LossMetrics.__slots__]


@given(batches())
@settings(deadline=None)
def test_the_cut_into_parts_does_not_matter(batch: dict[str, Any]) -> None:
    """However the rows are dealt into microbatches or over processes, trimmed each to its own longest row, losses,
    gradients and figures add up to those of the whole update, to 1e-10."""
    places = list(range(len(batch["lengths"])))
    dealt = [[row for row in places if batch["part"][row] == number] for number in range(4)]
    whole_gradient, whole = run_parts(batch, places, [places])
    cut_gradient, cut = run_parts(batch, places, [rows for rows in dealt if rows])
    np.testing.assert_allclose(cut_gradient.numpy(), whole_gradient.numpy(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(cut, whole, rtol=1e-10, atol=1e-10)


@given(batches())
@settings(deadline=None)
def test_the_order_of_the_rows_does_not_matter(batch: dict[str, Any]) -> None:
    """Except for blocks of consecutive rows, a permutation of the completions changes nothing."""
    places = list(range(len(batch["lengths"])))
    if batch["config"].aggregation != "block-token-mean":
        gradient, figures = run_parts(batch, places, [places])
        permuted_gradient, permuted = run_parts(batch, list(batch["order"]), [places])
        np.testing.assert_allclose(permuted_gradient.numpy(), gradient.numpy(), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(permuted, figures, rtol=1e-10, atol=1e-10)
