"""Several updates on one batch of rollouts, dynamic sampling, replaced references: against a plain implementation, and
resumed from anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_audit.config.sections import KL_PENALTY, SOFT_OVERLONG, TrainingConfig
from grpo_audit.prompts import order
from grpo_audit.rewards.runner import RowReward
from grpo_audit_trainer.collect import NO_SIGNAL, SURPLUS
from grpo_audit_trainer.loop import StepOutcome, TrainResult, train
from grpo_audit_trainer.snapshot import Snapshot, latest, snapshots
from grpo_audit_trainer.update import parts_of_step

MANY = {"iterations": 2, "minibatches": 3}


class Run:
    """A finished run with everything it reported."""

    def __init__(self, policy: Any, prompts: Any, rewards: Any, config: Any, folder: Path, **kwargs: Any) -> None:
        self.policy, self.folder = policy, folder
        self.steps: list[StepOutcome] = []
        self.result: TrainResult = train(
            policy, prompts, rewards, config, folder=folder, on_step=self.steps.append, **kwargs
        )

    @property
    def digest(self) -> str:
        assert self.result.snapshot is not None
        return self.result.snapshot.weights_digest


@pytest.fixture
def run(make_policy: Any, make_config: Any, prompts: Any, rewards: Any, tmp_path: Path) -> Any:
    """Trains with a configuration, from scratch or from a snapshot."""
    count = iter(range(100))

    def start(*, with_rewards: Any = None, start: Snapshot | None = None, **sections: Any) -> Run:
        policy = make_policy(**sections.get("model", {}))
        folder = tmp_path / str(next(count)) if start is None else start.folder.parent.parent
        return Run(policy, prompts, with_rewards or rewards, make_config(**sections), folder, start=start)

    return start


class Sparse:
    """Whole groups without signal, some with; the same rule in every round."""

    def score(self, prompts: list[str], completions: list[str], columns: Any) -> Sequence[RowReward]:
        values = [float("a" in text or "e" in text) for text in completions]
        return [RowReward({"r": value}, {}, value) for value in values]


# --- several updates -------------------------------------------------------------------------------------------------


def plain_training(policy: Any, steps: Sequence[StepOutcome], config: Any) -> torch.nn.Module:
    """The same training in the plainest way: whole padded batch, whole logits, the paper's formula, torch's AdamW, on
    the recorded rollouts. The reference is a deep copy; old log-probabilities come from the model itself."""
    import copy

    model = policy.model
    reference = copy.deepcopy(model)
    training, kl, temperature = config.training, config.objective.kl, config.sampling.temperature
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=0.0)

    def logp(net: Any, ids: torch.Tensor, prompt: int) -> torch.Tensor:
        logits = net(input_ids=ids[None]).logits[0, prompt - 1 : -1] / temperature
        return logits.log_softmax(-1).gather(-1, ids[prompt:, None])[:, 0]

    for step in steps:
        prompts = [policy.encode_prompt(group.prompt_text).ids for group in step.groups]
        ids = [torch.tensor(prompts[r.group] + [int(t) for t in r.token_ids]) for r in step.rollouts]
        starts = [len(prompts[r.group]) for r in step.rollouts]
        with torch.no_grad():
            old = [logp(model, row, start) for row, start in zip(ids, starts, strict=True)]
        rows = list(range(len(ids)))
        for part in parts_of_step(rows, [r.group for r in step.rollouts], training, seed=config.seed, step=step.step):
            optimizer.zero_grad()
            loss = torch.zeros(())
            for row in part.rows:
                new, advantage = logp(model, ids[row], starts[row]), step.rollouts[row].advantage
                ratio = (new - old[row]).exp()
                low, high = 1 - config.objective.surrogate.clip_low, 1 + config.objective.surrogate.clip_high
                gain = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
                with torch.no_grad():
                    ref = logp(reference, ids[row], starts[row])
                k3 = (ref - new).exp() - (ref - new) - 1
                loss = loss + (kl.beta * k3 - gain).mean() / len(part.rows)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
            optimizer.step()
    return model


def test_several_updates_equal_a_plain_implementation(run: Any, make_policy: Any, make_config: Any) -> None:
    """Two passes of three minibatches over each of two batches end, to rounding, at the weights of a plain
    implementation that knows no microbatches, no shared prompts and no sampler's log-probabilities."""
    sections = {
        "objective": {"kl": {"beta": 0.04}},
        "training": {**MANY, "steps": 2, "learning_rate": 1e-3},
    }
    ours = run(**sections)
    plain = plain_training(make_policy(), ours.steps, make_config(**sections))
    start = make_policy().model
    for one, two, before in zip(ours.policy.model.parameters(), plain.parameters(), start.parameters(), strict=True):
        assert (one - before).abs().max() > 3e-3
        torch.testing.assert_close(one, two, atol=2e-4, rtol=0)


def test_each_update_is_reported(run: Any) -> None:
    """Their number is iterations * minibatches; the first one's ratio is 1, later ones drift away from the old policy
    and begin to be clipped; rows and tokens of a pass add up to those of the step."""
    finished = run(training={**MANY, "learning_rate": 1e-2}, objective={"kl": {"beta": 0.01}})
    for step in finished.steps:
        assert [(u.iteration, u.minibatch) for u in step.updates] == [(i, m) for i in range(2) for m in range(3)]
        assert step.updates[0].ratio_max == pytest.approx(1, abs=1e-4) and step.updates[0].drift < 1e-8
        assert step.updates[-1].drift > 1e-4 and step.updates[-1].ratio_max > 1.05
        for iteration in range(2):
            mine = [u for u in step.updates if u.iteration == iteration]
            assert sum(u.rows for u in mine) == step.used
            assert sum(u.tokens for u in mine) == step.completion_tokens
    assert any(step.clip_high_share > 0 or step.clip_low_share > 0 for step in finished.steps)
    assert [s.sampled_by for s in finished.steps[1:]] == [s.fingerprint for s in finished.steps[:-1]]


def test_the_cut_into_minibatches_is_a_function_of_the_seed() -> None:
    """Groups stay whole, each pass sees each row once, passes differ in their order, and the same arguments give the
    same cut."""
    group = [row // 4 for row in range(40)]
    config = TrainingConfig(iterations=3, minibatches=4)
    parts = parts_of_step(range(40), group, config, seed=5, step=2)
    assert parts == parts_of_step(range(40), group, config, seed=5, step=2)
    assert parts != parts_of_step(range(40), group, config, seed=6, step=2)
    passes = [[part.rows for part in parts if part.iteration == i] for i in range(3)]
    assert passes[0] != passes[1]
    for cut in passes:
        assert sorted(row for one in cut for row in one) == list(range(40))
        for one in cut:
            assert len(one) in (8, 12) and all(one.count(row - row % 4 + k) for row in one for k in range(4))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_old_policy_is_the_one_before_the_first_update(run: Any, precision: str) -> None:
    """Whether its log-probabilities come from the sampler (float32) or from a pass of their own (autocast, where the
    sampler's are off by rounding), the first ratio is 1."""
    step = run(training={**MANY, "steps": 1}, model={"precision": precision}).steps[0]
    assert step.updates[0].ratio_max == pytest.approx(1, abs=1e-4 if precision == "float32" else 0.02)


@pytest.mark.slow
def test_killed_at_every_update_of_a_step(
    make_policy: Any, make_config: Any, prompts: Any, rewards: Any, tmp_path: Path
) -> None:
    """kill -9 before each of the six updates of a step, each time resumed in a new process: the weights end with the
    digest of the uninterrupted run."""
    config = make_config(training={**MANY, "steps": 8, "snapshot_every": 1, "keep_snapshots": 1})
    whole = train(make_policy(), prompts, rewards, config, folder=tmp_path / "whole")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, Path(__file__).with_name("train_in_process.py"), tmp_path]
    for update in range(6):  # each process finishes one step and dies in the next one
        environment = {**os.environ, "KILL_BEFORE_UPDATE": str(6 + update)}
        killed = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        found = latest(tmp_path / "killed")
        assert found is not None and found.step == update + 1
    subprocess.run(command, capture_output=True, check=True)
    last = latest(tmp_path / "killed")
    assert last is not None and whole.snapshot is not None
    assert (last.step, last.weights_digest) == (8, whole.snapshot.weights_digest)


# --- dynamic sampling ------------------------------------------------------------------------------------------------


def test_dynamic_sampling_fills_the_step_and_accounts_for_what_it_dropped(run: Any, prompts: Any) -> None:
    """Rounds of prompts follow the drawing order without gap over the whole run; a group without signal, and one too
    many, is recorded with its reason and not used; what is used has signal and is exactly a step full."""
    finished = run(
        with_rewards=Sparse(),
        sampling={"dynamic_sampling": True, "prompts_per_step": 3, "group_size": 4, "max_completion_tokens": 12,
                  "max_prompt_tokens": 16},
        training={"steps": 4, "learning_rate": 1e-4},
    )  # fmt: skip
    drawn = [prompt for step in finished.steps for prompt in (group.prompt_id for group in step.groups)]
    rounds = sum(step.rounds for step in finished.steps)
    expected = [prompts.rows[row].id for number in range(rounds) for row in order.draw(0, number, 10, 3)]
    assert drawn == expected and rounds > len(finished.steps)
    reasons = set()
    for step in finished.steps:
        kept = [group for group in step.groups if group.reward_std]
        assert step.dropped_groups == len(step.groups) - 3 and step.used == 12
        for rollout in step.rollouts:
            reasons.add(rollout.reason)
            has_signal = step.groups[rollout.group].reward_std > 0
            assert rollout.used <= has_signal
            assert rollout.advantage == 0 or rollout.used
        assert len({r.group for r in step.rollouts if r.used}) == 3 <= len(kept)
    assert NO_SIGNAL in reasons and reasons <= {"", NO_SIGNAL, SURPLUS}


def test_dynamic_sampling_gives_up_after_its_rounds(run: Any) -> None:
    """With rewards that are always equal the step ends after max_rounds, uses nothing, and the weights stay."""

    class Equal:
        def score(self, prompts: list[str], completions: list[str], columns: Any) -> Sequence[RowReward]:
            return [RowReward({"r": 1.0}, {}, 1.0) for _ in completions]

    step = run(
        with_rewards=Equal(),
        sampling={"dynamic_sampling": True, "max_rounds": 2, "prompts_per_step": 3, "group_size": 4,
                  "max_completion_tokens": 12, "max_prompt_tokens": 16},
        training={"steps": 1},
    ).steps[0]  # fmt: skip
    assert (step.rounds, step.used, step.dropped_groups) == (2, 0, 6)
    assert step.fingerprint == step.sampled_by


DYNAMIC = {
    "sampling": {"dynamic_sampling": True, "prompts_per_step": 3, "group_size": 4, "max_completion_tokens": 12,
                 "max_prompt_tokens": 16},
}  # fmt: skip
REPLACED = {
    "objective": {"kl": {"beta": 0.05, "replace_reference_every": 2, "measure_every": 2}},
    "training": {"steps": 5, "learning_rate": 3e-3, "snapshot_every": 3, "keep_snapshots": 1, "microbatch_tokens": 120},
}


@pytest.mark.parametrize(
    "sections",
    [DYNAMIC, REPLACED, {"training": {**MANY, "steps": 4, "snapshot_every": 1, "keep_snapshots": 8}}],
    ids=["dynamic sampling", "replaced reference", "several updates"],
)
def test_resuming_from_any_snapshot_is_exact(run: Any, sections: Any) -> None:
    """From each snapshot that was kept, the rest of the run comes out bit by bit: rounds of prompts, reference and
    optimiser go on where they were."""
    whole = run(with_rewards=Sparse(), **sections)
    kept = [Snapshot.open(folder) for folder in snapshots(whole.folder)]
    for start in kept[:-1]:
        rest = run(with_rewards=Sparse(), start=start, **sections)
        assert [s.fingerprint for s in rest.steps] == [s.fingerprint for s in whole.steps[start.step :]]
        assert [s.kl for s in rest.steps] == [s.kl for s in whole.steps[start.step :]]
        assert rest.digest == whole.digest
    assert len(kept) >= 2


# --- reference and reward shaping ------------------------------------------------------------------------------------


def test_a_replaced_reference_is_the_policy_of_its_snapshot(run: Any) -> None:
    """Right after a replacement the KL to the reference is 0 while that to the initial policy is not; the snapshot it
    came from is kept although the cadence would have removed it."""
    finished = run(**REPLACED)
    assert [step.kl_reference is not None for step in finished.steps] == [False, False, True, True, True]
    assert finished.steps[2].kl_reference == pytest.approx(0, abs=1e-7)
    assert finished.steps[3].kl_reference > 1e-5
    assert finished.steps[4].kl > 1e-4 and finished.steps[3].kl is None
    assert {folder.name for folder in snapshots(finished.folder)} == {"step-000004", "step-000005"}


def test_the_soft_overlong_punishment_is_a_visible_part_of_the_reward(run: Any) -> None:
    """It grows linearly over the last tokens before the limit (DAPO eq. 13), stands beside the sources, and advantages
    rest on the sum."""
    step = run(objective={"soft_overlong_tokens": 8, "kl": {"beta": 0.0}}, training={"steps": 1}).steps[0]
    limit = 20
    for rollout in step.rollouts:
        over = len(rollout.token_ids) - (limit - 8)
        assert rollout.rewards[SOFT_OVERLONG] == pytest.approx(-max(0, over) / 8)
        assert rollout.reward == pytest.approx(round(rollout.rewards["vowels"], 1) + rollout.rewards[SOFT_OVERLONG])
    assert min(r.rewards[SOFT_OVERLONG] for r in step.rollouts) == -1
    assert step.rewards[SOFT_OVERLONG] < 0


def test_a_kl_penalty_in_the_reward_is_a_visible_part_of_it(run: Any) -> None:
    """RLOO: beta times the summed log-ratio to the reference is taken off each completion's reward; the loss has no KL
    term, and the distance is reported."""
    kl = {"beta": 0.5, "placement": "reward", "estimator": "k1"}
    objective = {
        "kl": kl, "advantage": {"baseline": "leave-one-out", "normaliser": "none"}, "aggregation": "sequence-sum",
        "surrogate": {"level": "trajectory"},
    }  # fmt: skip
    steps = run(objective=objective, training={"steps": 3}).steps
    assert all(abs(r.rewards[KL_PENALTY]) < 1e-4 for r in steps[0].rollouts)
    last = steps[-1]
    assert last.kl_loss is None and last.kl is not None
    penalties = [r.rewards[KL_PENALTY] for r in last.rollouts]
    assert -sum(penalties) / 0.5 / last.completion_tokens == pytest.approx(last.kl, rel=1e-4)
    for group in range(3):
        mine = [r for r in last.rollouts if r.group == group]
        for rollout in mine:
            others = [r.reward for r in mine if r is not rollout]
            assert rollout.advantage == pytest.approx(rollout.reward - sum(others) / len(others))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 0.853553, 0.5, 0.146447]),
        ("constant", [0.5] + [1] * 4),
    ],
)
def test_the_learning_rate_follows_its_schedule(run: Any, schedule: str, rates: list[float]) -> None:
    """After a warm-up of two steps: straight down, half a cosine, or flat; all updates of a step share one rate."""
    steps = run(training={"steps": 5, "warmup_steps": 2, "learning_rate": 1e-3, "schedule": schedule}).steps
    assert [step.learning_rate * 1e3 for step in steps] == pytest.approx(rates, rel=1e-5)


def test_the_top_entropy_mask_and_other_objectives_train(run: Any) -> None:
    """Each surrogate, level and aggregation moves the weights, to different places, and is reported without NaN."""
    variants = [
        {},
        {"top_entropy": 0.2},
        {"surrogate": {"kind": "cispo", "clip_high": 4.0, "clip_low": 10.0}, "aggregation": "token-mean"},
        {"surrogate": {"kind": "sapo"}},
        {"surrogate": {"level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}},
        {"surrogate": {"dual_clip": 3.0}, "aggregation": "constant"},
        {"aggregation": "block-token-mean", "block_rows": 4},
        {"advantage": {"normaliser": "batch"}},
        {"kl": {"beta": 0.1, "estimator": "k2", "times_ratio": True}},
    ]
    ends = set()
    for variant in variants:
        finished = run(objective={"kl": {"beta": 0.0}, **variant}, training={**MANY, "steps": 1})
        ends.add(finished.steps[-1].fingerprint)
    assert len(ends) == len(variants)
