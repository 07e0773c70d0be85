"""Training runs of a few steps: what they compute, and that their bits depend on the seed and on nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo_audit.config.objective import AdvantageConfig
from grpo_audit.errors import RewardError, TrainingError
from grpo_audit.prompts import order
from grpo_audit.rewards.runner import RowReward
from grpo_audit_trainer.advantage import group_advantages
from grpo_audit_trainer.loop import StepOutcome, TrainResult, train
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout.native import NativeEngine

ARCHITECTURES = ("qwen2", "llama", "gemma2")


class Run:
    """A finished run with everything it reported."""

    def __init__(self, policy: Policy, prompts: Any, rewards: Any, config: Any, folder: Path, **kwargs: Any) -> None:
        self.policy = policy
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
    """Trains from scratch with a configuration."""
    count = iter(range(100))

    def start(architecture: str = "llama", *, with_rewards: Any = None, **sections: Any) -> Run:
        policy = make_policy(architecture, **sections.get("model", {}))
        config = make_config(architecture, **sections)
        return Run(policy, prompts, with_rewards or rewards, config, tmp_path / str(next(count)))

    return start


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_seed_same_bits(run: Any, architecture: str) -> None:
    """Two runs with one seed end with one weights digest and the same completions; another seed ends elsewhere."""
    first, second, other = run(architecture), run(architecture), run(architecture, run={"seed": 1})
    assert first.digest == second.digest != other.digest
    assert [step.fingerprint for step in first.steps] == [step.fingerprint for step in second.steps]
    for one, two in zip(first.steps[-1].rollouts, second.steps[-1].rollouts, strict=True):
        assert one.token_ids.tolist() == two.token_ids.tolist() and one.logp.tolist() == two.logp.tolist()


def test_the_global_random_state_is_neither_read_nor_moved(run: Any) -> None:
    """Whatever was drawn from torch's generator before, the bits are the same; and it stays where it was."""
    torch.manual_seed(1)
    first = run()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert run().digest == first.digest
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_a_step_reports_what_happened(run: Any, prompts: Any, beta: float) -> None:
    """Prompts are those of the drawing order, advantages those of the rewards, counts add up, on-policy loss is 0 in
    value and its gradient is not, sampler and scorer agree, and the KL at step 0 is 0."""
    finished = run(objective={"kl": {"beta": beta, "measure_every": 2}})
    for step in finished.steps:
        rows = order.draw(0, step.step, 10, 3)
        assert [group.prompt_id for group in step.groups] == [prompts.rows[row].id for row in rows]
        assert [group.exposure for group in step.groups] == order.exposures(0, step.step, 10, 3)
        table = torch.tensor([rollout.reward for rollout in step.rollouts], dtype=torch.float64).view(3, 4)
        expected = group_advantages(table, AdvantageConfig()).values.flatten().tolist()
        assert [rollout.advantage for rollout in step.rollouts] == expected
        assert step.used == 12 and step.rejected == 0
        assert step.completion_tokens == sum(len(rollout.token_ids) for rollout in step.rollouts)
        assert step.agreement < 1e-5 and step.agreement_max < 1e-4
        assert step.grad_norm > 0.01
        assert step.clip_low_share == step.clip_high_share == 0
        assert step.rewards["vowels"] == pytest.approx(np.mean([r.rewards["vowels"] for r in step.rollouts]))
        assert set(step.seconds) == {"rollout", "reward", "reference", "update"}
    assert abs(finished.steps[0].loss) < 1e-6 and finished.steps[0].kl == pytest.approx(0, abs=1e-7)
    measured = [step.kl is not None for step in finished.steps]
    assert measured == ([True] * 4 if beta else [True, False, True, True])
    assert finished.steps[3].kl > 1e-4
    if beta:
        assert finished.steps[3].kl_loss > 0
    else:
        assert finished.steps[3].kl_loss is None
    assert finished.result.steps == 4
    assert finished.result.completion_tokens == sum(step.completion_tokens for step in finished.steps)


def test_the_kl_is_that_of_the_two_models(run: Any, make_policy: Any) -> None:
    """With beta 0, the KL of a step is the mean of k3 over all tokens, taken from the plain models, also where the
    gradient skipped rows."""

    class Half:
        """Rewards that leave most groups without signal."""

        def score(self, prompts: list[str], completions: list[str], columns: Any) -> Sequence[RowReward]:
            return [RowReward({"r": float(i == 0)}, {}, float(i == 0)) for i in range(len(prompts))]

    finished = run(with_rewards=Half(), training={"steps": 2}, objective={"kl": {"beta": 0.0, "measure_every": 1}})
    base = make_policy()
    start = run(with_rewards=Half(), training={"steps": 1})  # the weights before step 1
    step = finished.steps[1]
    assert step.zero_variance_share == pytest.approx(2 / 3)
    total, tokens = 0.0, 0
    for rollout in step.rollouts:
        prompt = base.encode_prompt(step.groups[rollout.group].prompt_text).ids
        ids = torch.tensor([prompt + rollout.token_ids.tolist()])
        with torch.no_grad():
            both = [
                p.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for p in (start.policy, base)
            ]
        logp, ref = (table.gather(-1, ids[0, len(prompt) :, None])[:, 0].double() for table in both)
        total += ((ref - logp).exp() - (ref - logp) - 1).sum().item()
        tokens += len(rollout.token_ids)
    assert step.kl == pytest.approx(total / tokens, rel=1e-3)


def test_skipping_rows_without_advantage_changes_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing the rows of advantage 0 after all gives the same weights, to rounding: the normaliser counted them."""
    from grpo_audit_trainer.loop import Trainer

    class Sparse:
        def score(self, prompts: list[str], completions: list[str], columns: Any) -> Sequence[RowReward]:
            values = [float("a" in text) if index < 4 else 1.0 for index, text in enumerate(completions)]
            return [RowReward({"r": value}, {}, value) for value in values]

    skipped = run(with_rewards=Sparse())
    monkeypatch.setattr(Trainer, "_moving_rows", lambda _self, _data, rows: rows)
    whole = run(with_rewards=Sparse())
    assert skipped.steps[0].grad_norm == pytest.approx(whole.steps[0].grad_norm, rel=1e-5)
    assert skipped.steps[0].zero_variance_share > 0.5
    for one, two in zip(skipped.policy.model.parameters(), whole.policy.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-4, rtol=0)


def test_the_size_of_microbatches_changes_only_rounding(run: Any) -> None:
    """The gradient norm is the same for one large and for many small microbatches."""
    norms = [run(training={"microbatch_tokens": size, "steps": 1}).steps[0].grad_norm for size in (40, 120, 4000)]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)


def test_gradient_checkpointing_changes_only_rounding(run: Any) -> None:
    """It is a matter of memory, not of numbers."""
    plain = run(training={"steps": 2})
    checkpointed = run(training={"steps": 2}, model={"gradient_checkpointing": "on"})
    assert [s.grad_norm for s in checkpointed.steps] == pytest.approx([s.grad_norm for s in plain.steps], rel=1e-3)
    assert not checkpointed.policy.model.training


def test_bfloat16_keeps_float32_weights(run: Any) -> None:
    """Autocast is on in the forward passes (the first token's log-probability is off by rounding), the weights stay
    float32, and sampler and scorer still agree roughly."""
    finished = run(training={"steps": 2}, model={"precision": "bfloat16"})
    exact = run(training={"steps": 1})
    pairs = zip(finished.steps[0].rollouts, exact.steps[0].rollouts, strict=True)
    gaps = [abs(one.logp[0] - two.logp[0]) for one, two in pairs if one.token_ids[0] == two.token_ids[0]]
    assert len(gaps) > 6 and 1e-5 < max(gaps) < 0.05
    assert {p.dtype for p in finished.policy.model.parameters()} == {torch.float32}
    assert finished.steps[0].agreement < 0.05
    saved = json.loads((finished.result.snapshot.folder / "config.json").read_text())
    assert saved["dtype"] == "float32" and "sdpa_float32" not in json.dumps(saved)


def test_attention_is_float32_under_autocast_on_a_cpu(make_policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of the attention kernel sees float32, also on the cache of a decoding step, and its result is close to
    that of float32 throughout."""
    kernel = torch.nn.functional.scaled_dot_product_attention
    seen: list[torch.dtype] = []

    def watched(query: Any, key: Any, value: Any, **kwargs: Any) -> Any:
        seen.extend(tensor.dtype for tensor in (query, key, value))
        return kernel(query, key, value, **kwargs)

    policy, exact = make_policy(precision="bfloat16"), make_policy()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    prompts = [policy.encode_prompt(text).ids for text in ("ab", "longer")]
    batch = NativeEngine(policy).sample(prompts, 2, torch.arange(4), temperature=1.0, max_tokens=6)
    assert set(seen) == {torch.float32} and len(seen) > 12
    ids = torch.tensor([prompts[1]])
    with torch.no_grad():
        expected = exact.model(ids).logits
        with policy.autocast():
            rounded = policy.model(ids).logits.float()
    torch.testing.assert_close(rounded, expected, atol=0.05, rtol=0.05)
    assert batch.logp.isfinite().all()


def test_a_learnable_reward_is_learned(run: Any) -> None:
    """Over 25 steps the reward rises by more than five standard errors of a step's mean."""
    finished = run(
        sampling={"prompts_per_step": 6, "group_size": 6},
        training={"steps": 25, "learning_rate": 1e-2, "snapshot_every": 25},
    )
    means = [step.reward_mean for step in finished.steps]
    error = finished.steps[0].reward_std / math.sqrt(36)
    assert np.mean(means[-5:]) - np.mean(means[:5]) > 5 * error


def test_the_learning_rate_warms_up(run: Any) -> None:
    """Linearly, so that the last warm-up step is the first with the full rate; constant afterwards."""
    steps = run(training={"warmup_steps": 3, "learning_rate": 3e-3}).steps
    assert [step.learning_rate for step in steps] == pytest.approx([1e-3, 2e-3, 3e-3, 3e-3])


class Scripted:
    """Rewards by row, the same at each step."""

    def __init__(self, values: list[float | None], errors: dict[int, str] | None = None) -> None:
        self.values, self.errors = values, errors or {}

    def score(self, prompts: list[str], completions: list[str], columns: Any) -> Sequence[RowReward]:
        return [
            RowReward({"r": value}, {"r": self.errors[i]} if i in self.errors else {}, value)
            for i, value in enumerate(self.values)
        ]


def test_rows_without_reward_are_left_out_with_their_reason(run: Any) -> None:
    """An error, a source that does not apply, and a group with one reward left are three reasons; such rows have
    advantage 0, and the step goes on with the others."""
    values: list[float | None] = [None, 1.0, 0.0, 0.5, None, None, None, 3.0, 1.0, 1.0, 1.0, 1.0]
    step = run(with_rewards=Scripted(values, {0: "it raised"}), training={"steps": 1}).steps[0]
    assert [rollout.reason for rollout in step.rollouts] == [
        "reward error", "", "", "",
        "no reward applies", "no reward applies", "no reward applies", "fewer than two rewards in the group",
        "", "", "", "",
    ]  # fmt: skip
    assert [rollout.used for rollout in step.rollouts] == [rollout.reason == "" for rollout in step.rollouts]
    assert (step.used, step.rejected) == (7, 5)
    assert all(rollout.advantage == 0 for rollout in step.rollouts if not rollout.used)
    assert step.zero_variance_share == pytest.approx(2 / 3)
    assert step.groups[1].reward_std is None and step.groups[1].reward_mean == 3.0
    assert step.groups[0].reward_std == pytest.approx(0.5)
    assert step.rollouts[0].errors == {"r": "it raised"}


def test_no_reward_at_all_stops_the_run_before_the_weights_move(
    make_policy: Any, make_config: Any, prompts: Any, tmp_path: Path
) -> None:
    """RewardError names the first error; the weights are those from before."""
    policy = make_policy()
    before = [p.clone() for p in policy.model.parameters()]
    with pytest.raises(RewardError, match=r"no completion has a reward.*it raised"):
        train(policy, prompts, Scripted([None] * 12, {3: "it raised"}), make_config(), folder=tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(before, policy.model.parameters(), strict=True))


def test_a_step_without_signal_moves_by_momentum_only(run: Any) -> None:
    """All rewards equal: gradient exactly 0, agreement measured all the same, and the first step moves nothing."""
    finished = run(with_rewards=Scripted([1.0] * 12), training={"steps": 2})
    assert [step.grad_norm for step in finished.steps] == [0.0, 0.0]
    assert all(0 < step.agreement < 1e-5 for step in finished.steps)
    assert finished.steps[0].fingerprint == finished.steps[1].fingerprint


def test_truncated_completions_can_be_left_out(run: Any) -> None:
    """With mask_truncated they are rejected, but their rewards count in the group's mean."""
    step = run(objective={"mask_truncated": True, "kl": {"beta": 0.0}}, training={"steps": 1}).steps[0]
    reasons = {rollout.finish_reason: rollout.reason for rollout in step.rollouts}
    assert reasons == {"stop": "", "length": "truncated"}
    assert step.rejected == sum(rollout.finish_reason == "length" for rollout in step.rollouts)
    for group in step.groups:
        rewards = [r.reward for r in step.rollouts if r.group == group.group]
        assert group.reward_mean == pytest.approx(np.mean(rewards))


def test_a_disagreeing_sampler_stops_step_zero(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the sampler's log-probabilities are not the scorer's (here: another temperature), the run ends at once."""
    from grpo_audit_trainer.rollout import native

    original = native.draw
    monkeypatch.setattr(native, "draw", lambda scaled, streams: original(scaled / 0.7, streams))
    with pytest.raises(TrainingError, match=r"disagree.*training\.agreement_tolerance"):
        run()


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TrainingError, with the weights of the step before."""
    from grpo_audit_trainer import update

    original = update.grpo_loss
    seen: list[Any] = []

    def poisoned(**kwargs: Any) -> Any:
        loss, metrics = original(**kwargs)
        seen.append(loss)
        return (loss * math.inf if len(seen) > 3 else loss), metrics

    moved: list[int] = []
    monkeypatch.setattr(update, "grpo_loss", poisoned)
    monkeypatch.setattr(update.Updater, "apply", lambda _, step: moved.append(step))
    with pytest.raises(TrainingError, match="not finite"):
        run(training={"microbatch_tokens": 40})
    assert moved == []


@pytest.mark.parametrize(
    ("where", "setting"),
    [
        ("grpo_audit_trainer.rollout.native.NativeEngine.sample", "sampling.prompts_per_step"),
        ("grpo_audit_trainer.update.Updater.gradient", "training.microbatch_tokens"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")],
)
def test_running_out_of_memory_names_the_setting(
    run: Any, monkeypatch: pytest.MonkeyPatch, where: str, setting: str, error: Exception
) -> None:
    """One line that says what to lower, for the GPU and for the CPU."""

    def exhausted(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(where, exhausted)
    with pytest.raises(TrainingError, match=setting):
        run()
