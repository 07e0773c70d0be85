"""What does a replay at level L2 catch, and how often does it refuse an honest record?

On the built-in model, in float32 and in bfloat16 autocast. Honest replays: fresh rollouts, sampled in batches of other
shapes and with other thread counts than they are checked with. Faults: a pool of rollouts is made wrong in one way, the
decision rule is applied to random draws from it, and the share that is refused is counted: once with the
log-probabilities that the sampler reported, once with log-probabilities forged to fit the claimed weights, which leaves
the noise as the only witness.

The constants of ``grpo_audit_trainer.replay_verdict`` rest on this program. About fifteen minutes of CPU time.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.verdict import report
from grpo_audit.config.load import resolve
from grpo_audit.config.sections import ModelConfig
from grpo_audit.prompts.loading import load
from grpo_audit.rewards.runner import RewardRunner
from grpo_audit_builtin import RECIPE
from grpo_audit_trainer import noise
from grpo_audit_trainer.loop import Trainer
from grpo_audit_trainer.policy import Policy, load_policy
from grpo_audit_trainer.replay import honest_gaps
from grpo_audit_trainer.replay_record import Place
from grpo_audit_trainer.replay_tokens import ForcedRow, force
from grpo_audit_trainer.replay_verdict import Calibration, Decision, Row, decide
from grpo_audit_trainer.rollout.native import NativeEngine

SEED, GROUP, MAX_TOKENS = 17, 8, 128
DRAWS = 50
SMALL, LARGE = 8, 64
"""Rollouts of a replay."""
BEYOND = ("one step later, rate 3e-08", "one step later, rate 1e-08")
"""Shown, not promised."""
STEPS = 5
"""Optimiser steps from which the last one is taken: Adam's very first step is larger than any later one."""


@dataclass(frozen=True)
class Pool:
    """Rollouts as a record would have them."""

    prompts: list[list[int]]
    ids: list[str]
    tokens: list[list[int]]
    logp: list[NDArray[np.float32]]

    def key(self, row: int, seed: int = SEED) -> int:
        """Of the noise that the record claims."""
        return noise.row_key(seed, 0, self.ids[row // GROUP], row % GROUP)


def sample(
    policy: Policy, prompts: list[list[int]], ids: list[str], *, temperature: float = 1.0, compact: float = 0.8
) -> Pool:
    """A pool of ``GROUP`` rollouts a prompt."""
    keys = noise.row_keys(SEED, 0, [(name, row) for name in ids for row in range(GROUP)], policy.device)
    engine = NativeEngine(policy, compact_below=compact)
    batch = engine.sample(prompts, GROUP, keys, temperature=temperature, max_tokens=MAX_TOKENS)
    lengths = batch.lengths.tolist()
    tokens = [batch.tokens[row, :length].tolist() for row, length in enumerate(lengths)]
    return Pool(prompts, ids, tokens, [batch.logp[row, :length].numpy() for row, length in enumerate(lengths)])


def check(
    policy: Policy,
    pool: Pool,
    *,
    rows: Sequence[int] | None = None,
    tokens_of: Callable[[int], int] = lambda row: row,
    prompt_of: Callable[[int], int] = lambda row: row // GROUP,
    seed: int = SEED,
    batch_tokens: int = 2048,
    forged: bool = False,
) -> list[Row]:
    """What the replay sees of a pool, under the weights of ``policy``."""
    rows = range(len(pool.tokens)) if rows is None else rows
    wanted = [ForcedRow(pool.prompts[prompt_of(row)], pool.tokens[tokens_of(row)], pool.key(row, seed)) for row in rows]
    forced = force(policy, wanted, temperature=1.0, microbatch_tokens=batch_tokens)
    return [
        Row(
            Place(0, row // GROUP, row % GROUP),
            row,
            item.margin,
            item.logp * 0 if forged else item.logp - pool.logp[tokens_of(row)],
        )
        for row, item in zip(rows, forced, strict=True)
    ]


def honest(
    policy: Policy, prompts: list[list[int]], ids: list[str], precision: str, replays: int
) -> tuple[int, int, float]:
    """Refused honest replays, tokens checked, and the largest mean gap as a multiple of the calibration's."""
    refused = tokens = 0
    largest = 0.0
    rng = random.Random(1)
    per_batch = 12  # prompts sampled together; each replay then checks one prompt's eight rollouts
    for start in range(0, replays, per_batch):
        chosen = [place % len(prompts) for place in range(start, min(start + per_batch, replays))]
        torch.set_num_threads(rng.choice((1, 2)))
        rounds = start // len(prompts)
        names = [f"{ids[place]}#{rounds}" for place in chosen]
        pool = sample(policy, [prompts[place] for place in chosen], names, compact=rng.choice((0.0, 0.5, 0.8, 1.0)))
        torch.set_num_threads(rng.choice((1, 2)))
        rows = check(policy, pool, batch_tokens=rng.choice((1, 256, 1024, 2048, 8192)))
        for place in range(len(chosen)):
            own = rows[place * GROUP : (place + 1) * GROUP]
            noise_here = Calibration.of(
                honest_gaps(policy, [pool.prompts[place]] * 2, 1.0, MAX_TOKENS, str(rng.random()))
            )
            decision = decide(own, noise_here, precision)
            refused += not decision.ok
            tokens += decision.tokens
            largest = max(largest, (decision.mean_gap or 0.0) / noise_here.mean)
    torch.set_num_threads(1)
    return refused, tokens, largest


def quantised(policy: Policy, bits: int) -> Policy:
    """Every matrix rounded to ``bits``, symmetric, a scale for each row."""

    def change(parameter: torch.Tensor) -> torch.Tensor:
        top = 2 ** (bits - 1) - 1
        scale = parameter.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / top
        return (parameter / scale).round().clamp(-top, top) * scale

    model = copy.deepcopy(policy.model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(change(parameter))
    return dataclasses.replace(policy, model=model)


def one_step(precision: str) -> tuple[Policy, dict[str, torch.Tensor]]:
    """The weights before the last of ``STEPS`` real steps of the shipped recipe, and how far that step moves them at
    a learning rate of 1. The recipe has no weight decay, so AdamW's step is proportional to the rate."""
    settings = ["sampling.prompts_per_step=6", f"model.precision={precision}", "model.device=cpu"]
    resolved = resolve(RECIPE, [*settings, "evaluation.suite=null"])
    rate = resolved.config.training.learning_rate
    assert resolved.config.training.weight_decay == 0
    policy = load_policy(resolved.config.model, resolved.base_dir)
    with RewardRunner(resolved.config.rewards, resolved.base_dir) as rewards:
        trainer = Trainer(policy, load(resolved.config.prompts, resolved.base_dir), rewards, resolved.config)
        for step in range(STEPS - 1):
            trainer.step(step)
        before = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
        trainer.step(STEPS - 1)
    after = dict(policy.model.named_parameters())
    with torch.no_grad():
        moved = {name: (after[name].double() - old.double()) / rate for name, old in before.model.named_parameters()}
    return before, moved


def moved_by(policy: Policy, step: dict[str, torch.Tensor], rate: float) -> tuple[Policy, float]:
    """The policy a step later, and the share of its weights that such a step changes at all: float32 has an end."""
    model = copy.deepcopy(policy.model)
    changed = total = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            old = parameter.clone()
            parameter.copy_((parameter.double() + rate * step[name]).float())
            changed, total = changed + int((parameter != old).sum()), total + parameter.numel()
    return dataclasses.replace(policy, model=model), changed / total


class Faults:
    """Pools made wrong, and what the rule says of draws from them."""

    def __init__(self, policy: Policy, prompts: list[list[int]], ids: list[str], precision: str) -> None:
        self.policy, self.prompts, self.ids, self.precision = policy, prompts, ids, precision
        self.pool = sample(policy, prompts, ids)
        self.good = check(policy, self.pool)
        self.calibration = Calibration.of(honest_gaps(policy, prompts[:8], 1.0, MAX_TOKENS, "faults"))

    def all_wrong(self, rows: list[Row], calibration: Calibration | None = None) -> dict[int, tuple[float, float]]:
        """Every rollout is wrong."""
        return self._draws(lambda size, rng: rng.sample(rows, size), calibration or self.calibration)

    def some_wrong(self, rows: list[Row], wrong: int) -> dict[int, tuple[float, float]]:
        """``wrong`` neighbouring rollouts of a draw are, the rest is honest."""

        def draw(size: int, rng: random.Random) -> list[Row]:
            first = rng.randrange(0, len(rows) - wrong + 1, wrong)
            return rng.sample(self.good, size - wrong) + rows[first : first + wrong]

        return self._draws(draw, self.calibration)

    def _draws(
        self, draw: Callable[[int, random.Random], list[Row]], calibration: Calibration
    ) -> dict[int, tuple[float, float]]:
        """By size: share of draws that are refused, and their mean number of tokens."""
        rng = random.Random(2)
        found = {}
        for size in (SMALL, LARGE):
            decisions: list[Decision] = [decide(draw(size, rng), calibration, self.precision) for _ in range(DRAWS)]
            refused = sum(not item.ok for item in decisions) / DRAWS
            found[size] = (refused, sum(item.tokens for item in decisions) / DRAWS)
        return found


def faults(
    policy: Policy, prompts: list[list[int]], ids: list[str], precision: str, rates: Sequence[float]
) -> dict[str, Any]:
    """Every fault of the issue: name to shares refused."""
    bench = Faults(policy, prompts, ids, precision)
    found: dict[str, Any] = {}

    def both(name: str, claimed: Policy, pool: Pool, calibration: Calibration | None = None) -> None:
        found[name] = bench.all_wrong(check(claimed, pool), calibration)
        found[f"{name}, log-prob. forged"] = bench.all_wrong(check(claimed, pool, forged=True), calibration)

    before, step = one_step(precision)
    calibration = Calibration.of(honest_gaps(before, prompts[:8], 1.0, MAX_TOKENS, "faults"))
    for rate in rates:
        after, share = moved_by(before, step, rate)
        name = f"one step later, rate {rate:g} ({share:.0%} of weights move)"
        both(name, before, sample(after, prompts, ids), calibration)
    for temperature in (0.95, 1.05):
        both(f"temperature {temperature}", policy, sample(policy, prompts, ids, temperature=temperature))
    for bits in (8, 4):
        both(f"int{bits} weights", policy, sample(quantised(policy, bits), prompts, ids))
    pool = bench.pool
    found["another seed"] = bench.all_wrong(check(policy, pool, seed=SEED + 1, forged=True))
    found["another prompt, one rollout"] = bench.some_wrong(
        check(policy, pool, prompt_of=lambda row: (row // GROUP + 1) % len(prompts), forged=True), 1
    )
    pairs = [row for row in range(0, len(pool.tokens), 2) if pool.tokens[row] != pool.tokens[row + 1]]
    swapped = [row for first in pairs for row in (first, first + 1)]
    found["two samples of a group exchanged"] = bench.some_wrong(
        check(policy, pool, rows=swapped, tokens_of=lambda row: row ^ 1, forged=True), 2
    )
    found["two rollouts of two prompts exchanged"] = bench.some_wrong(
        check(policy, pool, tokens_of=lambda row: row ^ GROUP, forged=True), 1
    )
    return found


def main() -> None:
    """Print a table for each precision, then the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replays", type=int, default=60, help="honest replays for each precision")
    parser.add_argument("--prompts", type=int, default=12)
    arguments = parser.parse_args()
    resolved = resolve(RECIPE, ["evaluation.suite=null"])
    rows = load(resolved.config.prompts, resolved.base_dir).rows[: arguments.prompts]
    measured: dict[str, object] = {}
    met = True
    for precision, rates in (("float32", (1e-6, 1e-7, 3e-8, 1e-8)), ("bfloat16", (1e-4, 1e-5))):
        torch.set_num_threads(1)
        policy = load_policy(ModelConfig.model_validate({"path": "builtin", "device": "cpu", "precision": precision}))
        prompts = [policy.encode_prompt(row.text, row.messages).ids for row in rows]
        ids = [row.id for row in rows]
        refused, tokens, largest = honest(policy, prompts, ids, precision, arguments.replays)
        found = faults(policy, prompts, ids, precision, rates)
        table = Table("fault", f"{SMALL} rollouts", f"{LARGE} rollouts", "tokens", title=f"Refused, {precision}")
        for name, shares in found.items():
            table.add_row(name, f"{shares[SMALL][0]:.0%}", f"{shares[LARGE][0]:.0%}", f"{shares[LARGE][1]:,.0f}")
        table.add_row("honest", f"{refused} of {arguments.replays}", "", f"{tokens:,} in all")
        Console(width=110).print(table)
        caught = {name: shares[LARGE][0] for name, shares in found.items()}
        measured[precision] = {
            "refused": caught,
            "honest_refused": refused,
            "honest_replays": arguments.replays,
            "honest_tokens": tokens,
            "largest_honest_gap_over_calibration": round(largest, 2),
        }
        if precision == "float32":
            asked = [share for name, share in caught.items() if "forged" not in name and not name.startswith(BEYOND)]
            met &= min(asked) == 1.0
        met &= refused == 0
    report(
        "replay_power",
        target=f"float32: every fault refused in all draws of {LARGE} rollouts (one step later: at rates of 1e-7 and "
        "more); both precisions: no honest replay refused",
        measured=measured,
        met=bool(met),
    )


if __name__ == "__main__":
    main()
