"""The objectives against TRL 1.16, whose own methods are called: equal where the meaning is the same, and shown to
differ, with the reason, where it is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_audit.config.objective import AdvantageConfig, CorrectionConfig, KLConfig, ObjectiveConfig, SurrogateConfig
from grpo_audit_trainer.advantage import group_advantages
from tests.trainer.trl_differences import DIFFERENCES, Difference
from tests.trainer.trl_oracle import (
    Batch,
    ours,
    random_batch,
    trl_advantages,
    trl_importance,
    trl_loss,
    trl_rloo_advantages,
    trl_rloo_loss,
)

BATCHES = 200
TOLERANCE = 1e-5


def objective(**parts: Any) -> ObjectiveConfig:
    """Without KL term unless given."""
    return ObjectiveConfig(**({"kl": KLConfig(beta=0.0)} | parts))


HIGHER = SurrogateConfig(clip_low=0.2, clip_high=0.28)
TIGHT = SurrogateConfig(level="sequence", clip_low=0.03, clip_high=0.04)

SAME: dict[str, tuple[ObjectiveConfig, dict[str, Any]]] = {
    "grpo": (objective(), {"loss_type": "grpo"}),
    "grpo with KL": (objective(kl=KLConfig(beta=0.04)), {"beta": 0.04}),
    "grpo with KL times rho": (
        objective(kl=KLConfig(beta=0.3, times_ratio=True)),
        {"beta": 0.3, "use_bias_correction_kl": True},
    ),
    "dapo": (objective(aggregation="token-mean", surrogate=HIGHER), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "bnpo, one block": (objective(aggregation="block-token-mean"), {"loss_type": "bnpo"}),
    "dr_grpo": (objective(aggregation="constant"), {"loss_type": "dr_grpo"}),
    "gspo": (
        objective(surrogate=TIGHT),
        {"importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
    ),
    "gspo with the paper's clip": (
        objective(surrogate=SurrogateConfig(level="sequence", clip_low=3e-4, clip_high=4e-4)),
        {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
    "gspo with KL times rho": (
        objective(surrogate=TIGHT, kl=KLConfig(beta=0.3, times_ratio=True)),
        {
            "importance_sampling_level": "sequence",
            "epsilon": 0.03,
            "epsilon_high": 0.04,
            "beta": 0.3,
            "use_bias_correction_kl": True,
        },
    ),
    "luspo": (
        objective(surrogate=TIGHT, aggregation="sequence-sum"),
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
    ),
    "cispo, cap 1.3": (
        objective(
            surrogate=SurrogateConfig(kind="cispo", clip_low=1.0, clip_high=0.3),
            aggregation="token-mean",
        ),
        {"loss_type": "cispo", "epsilon_high": 1.3},
    ),
    "sapo": (objective(surrogate=SurrogateConfig(kind="sapo")), {"loss_type": "sapo"}),
    "dual clip": (
        objective(surrogate=SurrogateConfig(clip_low=0.2, clip_high=0.2, dual_clip=1.5)),
        {"delta": 1.5},
    ),
    "top entropy 0.2": (
        objective(top_entropy=0.2, kl=KLConfig(beta=0.04)),
        {"top_entropy_quantile": 0.2, "beta": 0.04},
    ),
    "top entropy 0.7": (
        objective(top_entropy=0.7, aggregation="token-mean"),
        {"top_entropy_quantile": 0.7, "loss_type": "dapo"},
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_loss_and_gradient_are_those_of_trl(name: str) -> None:
    """On 200 random ragged batches in float32, loss and gradient agree to 1e-5 relative."""
    config, settings = SAME[name]
    for seed in range(BATCHES):
        batch = random_batch(seed)
        same(ours(batch, config), trl_loss(batch, **settings), batch)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_the_importance_correction_is_that_of_trl(level: str, mode: str) -> None:
    """w as TRL makes it from the same log-probabilities of a sampler, in its four modes, and the KL term without it."""
    config = objective(
        correction=CorrectionConfig(level=level, mode=mode, cap=1.5), kl=KLConfig(beta=0.1), aggregation="token-mean"
    )
    for seed in range(BATCHES):
        batch = random_batch(seed)
        ratio = trl_importance(batch, f"{level}_{mode}", 1.5)
        same(
            ours(batch, config),
            trl_loss(batch, loss_type="dapo", beta=0.1, importance_sampling_ratio=ratio),
            batch,
        )


def test_rloo_is_that_of_trl() -> None:
    """The ratio of whole trajectories, clipped: RLOOTrainer."""
    config = objective(surrogate=SurrogateConfig(level="trajectory"))
    for seed in range(BATCHES):
        batch = random_batch(seed)
        same(ours(batch, config), trl_rloo_loss(batch), batch)


def test_bnpo_with_blocks_is_the_mean_over_microbatches_of_trl() -> None:
    """Where TRL's microbatches are our blocks, its accumulated loss and gradient are ours."""
    config = objective(aggregation="block-token-mean", block_rows=2)
    compared = 0
    for seed in range(2 * BATCHES):
        batch = random_batch(seed)
        rows = len(batch.mask)
        if rows % 2 == 0:
            steps = rows // 2
            parts = [
                trl_loss(batch.rows(2 * i, 2 * i + 2), loss_type="bnpo", gradient_accumulation_steps=steps)
                for i in range(steps)
            ]
            same(
                ours(batch, config), (torch.stack([p[0] for p in parts]).sum(), torch.cat([p[1] for p in parts])), batch
            )
            compared += 1
    assert compared >= 150


def test_the_comparison_would_see_a_fault() -> None:
    """The planted fault: a clip of 0.201 instead of 0.2 is seen by the same comparison."""
    config = objective(surrogate=SurrogateConfig(clip_low=0.2, clip_high=0.201))
    with pytest.raises(AssertionError):
        for seed in range(BATCHES):
            batch = random_batch(seed)
            same(ours(batch, config), trl_loss(batch), batch)


def same(mine: tuple[torch.Tensor, torch.Tensor], theirs: tuple[torch.Tensor, torch.Tensor], batch: Batch) -> None:
    """Loss to 1e-5 of its size, or, where positive and negative tokens cancel, of the mean |A|; gradient to 1e-5 of
    its norm."""
    size = max(abs(theirs[0].item()), batch.advantages.abs().mean().item())
    assert abs(mine[0] - theirs[0]).item() <= TOLERANCE * size
    assert (mine[1] - theirs[1]).norm().item() <= TOLERANCE * theirs[1].norm().item()


# --- Advantages ------------------------------------------------------------------------------------------------------


def random_rewards(seed: int, sources: int = 1) -> torch.Tensor:
    """[S, P, G] with NaN, and at least two rewards in each group; no group of equal rewards."""
    random = torch.Generator().manual_seed(seed)
    groups, size = (int(torch.randint(low, 6, (), generator=random)) for low in (1, 3))
    rewards = torch.randn(sources, groups, size, generator=random)
    missing = torch.rand(sources, groups, size, generator=random) < 0.2
    missing[..., :2] = False
    return torch.where(missing, torch.nan, rewards)


def by_row(rewards: torch.Tensor) -> torch.Tensor:
    """[S, P, G] as TRL's [N, S]."""
    return rewards.flatten(1).T.contiguous()


@pytest.mark.parametrize("normaliser", ["group", "batch", "none"])
def test_advantages_are_those_of_trl(normaliser: str) -> None:
    """scale_rewards 'group', 'batch' and 'none', with missing rewards."""
    for seed in range(BATCHES):
        rewards = random_rewards(seed)
        got = group_advantages(rewards[0], AdvantageConfig(normaliser=normaliser)).values.flatten()
        expected = trl_advantages(by_row(rewards), rewards.shape[2], scale=normaliser)
        torch.testing.assert_close(got.float(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_each_source_normalised_is_that_of_trl() -> None:
    """GDPO: multi_objective_aggregation 'normalize_then_sum', with weights and missing sources."""
    for seed in range(BATCHES):
        rewards = random_rewards(seed, sources=3)
        weights = torch.tensor([1.0, 0.3, -0.5])
        total = torch.where(rewards.isnan().all(dim=0), torch.nan, (rewards * weights[:, None, None]).nansum(dim=0))
        config = AdvantageConfig(normaliser="batch", sources="normalise-each")
        got = group_advantages(total, config, sources=rewards, weights=weights).values.flatten()
        expected = trl_advantages(by_row(rewards), rewards.shape[2], aggregation="normalize_then_sum", weights=weights)
        torch.testing.assert_close(got.float(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_leave_one_out_is_that_of_trl() -> None:
    """RLOOTrainer's advantages, with missing rewards."""
    config = AdvantageConfig(baseline="leave-one-out", normaliser="none")
    for seed in range(BATCHES):
        rewards = random_rewards(seed)
        got = group_advantages(rewards[0], config).values.flatten()
        expected = trl_rloo_advantages(by_row(rewards), rewards.shape[2])
        torch.testing.assert_close(got.float(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_kl_penalty_in_the_reward_is_that_of_trl() -> None:
    """k1 summed over the completion, times beta, subtracted before the baseline: RLOOTrainer."""
    config = AdvantageConfig(baseline="leave-one-out", normaliser="none")
    for seed in range(BATCHES):
        batch = random_batch(seed)
        rows = len(batch.mask)
        rewards = torch.randn(rows, 1, generator=torch.Generator().manual_seed(seed))
        if rows >= 2:
            penalty = 0.05 * ((batch.old - batch.ref) * batch.mask).sum(1)
            got = group_advantages((rewards[:, 0] - penalty)[None], config).values.flatten()
            expected = trl_rloo_advantages(rewards, rows, beta=0.05, batch=batch)
            torch.testing.assert_close(got.float(), expected, rtol=TOLERANCE, atol=TOLERANCE)


# --- Deliberate differences ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda item: item.name)
def test_a_deliberate_difference_is_one(difference: Difference) -> None:
    """Each row of the table: what is computed here and what TRL computes are different numbers."""
    here, there = difference.shown()
    assert here.isfinite().all(), "what is computed here is a number"
    assert not torch.allclose(here.double(), there.double(), rtol=1e-3, atol=1e-6)


def test_the_table_in_the_documentation_is_this_one() -> None:
    """docs/design/objectives.md has exactly these rows."""
    text = (Path(__file__).parents[2] / "docs" / "design" / "objectives.md").read_text(encoding="utf-8")
    section = text.partition("## Deliberate differences from TRL")[2].partition("\n## ")[0]
    rows = [re.split(r" \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")]
    expected = [[item.name, item.here, item.trl, item.reason] for item in DIFFERENCES]
    assert rows[1:] == expected  # the first one is the head
