"""Where this project computes something else than TRL 1.16 on purpose: the table of docs/design/objectives.md, with a
demonstration of each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_audit.config.objective import AdvantageConfig, KLConfig, ObjectiveConfig, SurrogateConfig
from grpo_audit_trainer.advantage import group_advantages
from grpo_audit_trainer.loss import row_weights, top_entropy_mask
from tests.trainer.trl_oracle import (
    MAX_COMPLETION,
    Batch,
    ours,
    random_batch,
    trl_advantages,
    trl_loss,
    trl_rloo_advantages as rloo,
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of the table."""

    name: str
    here: str
    trl: str
    reason: str
    shown: Callable[[], tuple[Tensor, Tensor]]
    """What is computed here, and what TRL computes."""


def _six_rows() -> Batch:
    return next(batch for seed in range(1000) if len((batch := random_batch(seed)).mask) == 6)


def _plain(**parts: object) -> ObjectiveConfig:
    return ObjectiveConfig.model_validate({"kl": KLConfig(beta=0.0)} | parts)


def _cispo_cap() -> tuple[Tensor, Tensor]:
    batch = _six_rows()
    config = _plain(surrogate=SurrogateConfig(kind="cispo", clip_high=0.2), aggregation="token-mean")
    return ours(batch, config)[1], trl_loss(batch, loss_type="cispo", epsilon_high=0.2)[1]


def _kl_times_rho() -> tuple[Tensor, Tensor]:
    batch = _six_rows()
    config = ObjectiveConfig(kl=KLConfig(beta=0.04))
    return ours(batch, config)[1], trl_loss(batch, beta=0.04, use_bias_correction_kl=True)[1]


def _bnpo_blocks() -> tuple[Tensor, Tensor]:
    batch = _six_rows()
    config = _plain(aggregation="block-token-mean", block_rows=3)
    weights = row_weights(batch.lengths, config, MAX_COMPLETION)
    cut = [(0, 2), (2, 4), (4, 6)]
    here = sum((ours(batch.rows(*part), config, weights=weights[slice(*part)])[0] for part in cut), torch.zeros(()))
    torch.testing.assert_close(here, ours(batch, config)[0])  # the cut does not matter here
    there = [trl_loss(batch.rows(*part), loss_type="bnpo", gradient_accumulation_steps=3)[0] for part in cut]
    return here, torch.stack(there).sum()


def _tokens_of_the_update() -> tuple[Tensor, Tensor]:
    batch = _six_rows()
    first = batch.rows(0, 3)
    there = trl_loss(first, loss_type="dapo", num_items_in_batch=batch.mask.sum(), steps_per_generation=2)[0]
    return ours(first, _plain(aggregation="token-mean"))[0], there


def _left_out() -> tuple[Tensor, Tensor]:
    batch = _six_rows()
    batch.mask[5] = 0
    return ours(batch.rows(0, 5), _plain())[0], trl_loss(batch)[0]


def _entropy_scope() -> tuple[Tensor, Tensor]:
    batch = _six_rows()
    batch.entropy = torch.arange(6.0)[:, None].expand_as(batch.logp)  # the last rows are the uncertain ones
    config = _plain(top_entropy=0.3, aggregation="token-mean")
    counted = top_entropy_mask(batch.entropy, batch.mask, 0.3)
    whole = dict(num_items_in_batch=batch.mask.sum(), loss_type="dapo", top_entropy_quantile=0.3)
    parts = [trl_loss(batch.rows(*part), **whole)[1] for part in ((0, 3), (3, 6))]
    return ours(batch, config, counted=counted)[1], torch.cat(parts)


def _rounding_noise() -> tuple[Tensor, Tensor]:
    rewards = torch.tensor([[1e6, 1e6 + 0.0625, 1e6]])
    return group_advantages(rewards, AdvantageConfig()).values.flatten(), trl_advantages(rewards.T, 3)


def _lone_reward() -> tuple[Tensor, Tensor]:
    rewards = torch.tensor([[9.0, torch.nan, torch.nan], [0.0, 1.0, 2.0]])
    here = group_advantages(rewards, AdvantageConfig(normaliser="batch")).values[1]
    return here, trl_advantages(rewards.reshape(-1, 1), 3, scale="batch")[3:]


def _rloo_normaliser() -> tuple[Tensor, Tensor]:
    rewards = torch.tensor([[0.0, 1.0, 4.0], [10.0, 11.0, 12.0]])
    config = AdvantageConfig(baseline="leave-one-out", normaliser="batch")
    return group_advantages(rewards, config).values.flatten(), rloo(rewards.reshape(-1, 1), 3, normalize=True)


def _overflow() -> tuple[Tensor, Tensor]:
    batch = _six_rows()
    batch.logp, batch.old = batch.logp.clone(), batch.old.clone()
    batch.advantages[0], batch.old[0, 0], batch.logp[0, 0] = 1.0, -100.0, -1.0
    return ours(batch, _plain())[1], trl_loss(batch)[1]


DIFFERENCES = (
    Difference(
        "CISPO's cap",
        "1 + clip_high, and a lower bound 1 - clip_low",
        "epsilon_high itself, no lower bound",
        "the paper's equation; with TRL's default 0.2 every weight is 0.2",
        _cispo_cap,
    ),
    Difference(
        "KL term and rho",
        "k3 as it is, unless kl.times_ratio",
        "k3 times rho, unless use_bias_correction_kl is off",
        "the gradient of the GRPO paper's equation is the default, TRL's can be chosen",
        _kl_times_rho,
    ),
    Difference(
        "bnpo's blocks",
        "block_rows consecutive completions of the update",
        "the microbatch of a device",
        "the loss must not depend on how the batch is cut for memory",
        _bnpo_blocks,
    ),
    Difference(
        "tokens of token-mean",
        "those of the update",
        "those of the batch of rollouts, divided by its updates",
        "with several updates a batch each one is a mean over its own tokens",
        _tokens_of_the_update,
    ),
    Difference(
        "completions left out",
        "not counted in N",
        "counted in N with an empty mask",
        "a mean over what is in the loss; otherwise every truncated completion shrinks the step",
        _left_out,
    ),
    Difference(
        "top-entropy threshold",
        "quantile over the update",
        "quantile over a microbatch on all devices",
        "as for bnpo's blocks",
        _entropy_scope,
    ),
    Difference(
        "equal rewards",
        "a spread within 2^-20 of the magnitude is none",
        "divided by std + 1e-4 whatever it is",
        "rounding noise would become advantages of order one",
        _rounding_noise,
    ),
    Difference(
        "a group's only reward",
        "left out, also of the deviation of the step",
        "advantage 0, but in the deviation of the batch",
        "it cannot be compared with anything",
        _lone_reward,
    ),
    Difference(
        "RLOO, normalised",
        "divided by the deviation of the rewards of the step",
        "centred and divided by the deviation of the advantages",
        "one meaning of `batch` for every baseline",
        _rloo_normaliser,
    ),
    Difference(
        "ratios beyond float32",
        "the clipped side has gradient 0",
        "gradient NaN (0 times infinity)",
        "a token that is clipped must not end the run",
        _overflow,
    ),
)
