"""PPO: values, the loop against a plain implementation, learning, bits and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from grpo_audit.config.formula import manifest
from grpo_audit.config.sections import KL_PENALTY
from grpo_audit.errors import TrainingError
from grpo_audit.rewards.runner import RowReward
from grpo_audit_trainer.loop import StepOutcome, TrainResult, train
from grpo_audit_trainer.scoring import Completions
from grpo_audit_trainer.snapshot import Snapshot, latest, snapshots
from grpo_audit_trainer.value import MODEL, OPTIMIZER, ValueModel
from tests.trainer.plain_ppo import Plain

PPO: dict[str, Any] = {
    "advantage": {"baseline": "value-model", "normaliser": "batch"},
    "kl": {"beta": 0.0, "measure_every": 2},
    "value": {"learning_rate": 3e-3, "gae_lambda": 0.9, "discount": 0.97},
    "aggregation": "token-mean",
}
IN_REWARD = {"beta": 0.05, "estimator": "k1", "placement": "reward"}


class Run:
    """A finished run with everything it reported."""

    def __init__(self, policy: Any, prompts: Any, rewards: Any, config: Any, folder: Path, **kwargs: Any) -> None:
        self.policy, self.config, self.folder = policy, config, folder
        self.steps: list[StepOutcome] = []
        self.result: TrainResult = train(
            policy, prompts, rewards, config, folder=folder, on_step=self.steps.append, **kwargs
        )

    @property
    def files(self) -> dict[str, str]:
        """Digest of each file of the last snapshot: policy, value model and both optimisers."""
        assert self.result.snapshot is not None
        return {item.name: item.digest for item in self.result.snapshot.files}


@pytest.fixture
def run(make_policy: Any, make_config: Any, prompts: Any, rewards: Any, tmp_path: Path) -> Any:
    """Trains with PPO; ``objective`` overrides parts of it."""
    count = iter(range(100))

    def start(
        architecture: str = "llama",
        *,
        objective: Any = None,
        start: Any = None,
        with_rewards: Any = None,
        **sections: Any,
    ) -> Run:
        config = make_config(architecture, objective={**PPO, **(objective or {})}, **sections)
        policy = make_policy(architecture, **sections.get("model", {}))
        folder = tmp_path / str(next(count))
        return Run(policy, prompts, with_rewards or rewards, config, folder, start=start)

    return start


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_values_come_from_the_state_before_each_token(make_policy: Any, make_config: Any, architecture: str) -> None:
    """With a head that is not zero, the value of each token is the head on the decoder's hidden state one position
    earlier, whether prompts are shared (llama) or rows are read whole (gemma2); the policy's weights are its own."""
    policy = make_policy(architecture)
    model = ValueModel(policy, make_config(architecture, objective=PPO))
    with torch.no_grad():
        model.network.head.weight.copy_(torch.linspace(-1, 1, 32))
        model.network.head.bias.fill_(0.25)
        policy.model.get_input_embeddings().weight.add_(1)  # a copy does not notice
    prompts, lengths = [[3, 4, 5, 6, 7], [8, 9, 10]], [7, 2, 9, 4]
    tokens = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    found = model.values(Completions(prompts, [0, 0, 1, 1], tokens, lengths), [0, 2, 3])
    for row, length in enumerate(lengths):
        prompt = prompts[row // 2]
        ids = torch.tensor([prompt + tokens[row, :length].tolist()])
        with torch.no_grad():
            hidden = model.network.decoder(input_ids=ids).last_hidden_state[0]
        expected = hidden[len(prompt) - 1 : -1] @ torch.linspace(-1, 1, 32) + 0.25
        if row == 1:
            assert not found[row].any()  # not asked for
        else:
            torch.testing.assert_close(found[row, :length], expected, atol=1e-5, rtol=1e-5)
            assert not found[row, length:].any()


def test_nothing_about_it_is_random(make_policy: Any, make_config: Any) -> None:
    """First values are exactly 0, its decoder starts as the policy's, and torch's generator is not touched."""
    policy, state = make_policy(), torch.random.get_rng_state()
    model = ValueModel(policy, make_config(objective=PPO))
    assert torch.equal(torch.random.get_rng_state(), state)
    values = model.values(Completions([[3, 4]], [0], torch.tensor([[5, 6, 7]]), [3]), [0])
    assert values.tolist() == [[0, 0, 0]]
    for mine, theirs in zip(model.network.decoder.parameters(), policy.model.model.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()


# --- the loop --------------------------------------------------------------------------------------------------------


class Vowels:
    """The reward is the share of vowels, unrounded."""

    def score(self, prompts: list[str], completions: list[str], columns: Any) -> Sequence[RowReward]:
        shares = [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions]
        return [RowReward({"vowels": share}, {}, share) for share in shares]


def test_several_updates_equal_a_plain_implementation(run: Any, make_policy: Any, make_config: Any) -> None:
    """Two steps of two passes with three minibatches, KL in the reward, clipped values and gradients, a falling rate:
    policy and value model end, to rounding, where a plain implementation ends, and the recorded advantages are the
    means of its own."""
    sections = {
        "objective": {"kl": IN_REWARD, "value": {**PPO["value"], "clip": 0.02}},
        "training": {
            "iterations": 2,
            "minibatches": 3,
            "steps": 2,
            "learning_rate": 1e-3,
            "adam_epsilon": 1e-5,
            "schedule": "linear",
            "max_grad_norm": 0.03,
        },
    }
    ours = run(with_rewards=Vowels(), **sections)
    config = make_config(**{**sections, "objective": {**PPO, **sections["objective"]}})
    plain = Plain(make_policy(), config)
    for step in ours.steps:
        means = plain.follow(step)
        assert [r.advantage for r in step.rollouts] == pytest.approx(means, abs=2e-3)
    for one, two in zip(ours.policy.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=3e-4, rtol=0)
    critic = load_file(ours.result.snapshot.folder / MODEL)
    moved = torch.zeros(())
    for name, parameter in plain.decoder.named_parameters():
        torch.testing.assert_close(critic[f"decoder.{name}"], parameter.detach(), atol=5e-4, rtol=0)
        moved = torch.maximum(moved, (parameter - plain.reference.model.get_parameter(name)).abs().max().detach())
    torch.testing.assert_close(critic["head.weight"][0], plain.weight.detach(), atol=3e-4, rtol=0)
    torch.testing.assert_close(critic["head.bias"], plain.bias.detach(), atol=3e-4, rtol=0)
    assert moved > 5e-3 and plain.weight.abs().max() > 5e-3


def test_it_learns(run: Any) -> None:
    """The share of vowels more than doubles in twenty steps."""
    steps = run(with_rewards=Vowels(), training={"steps": 20, "minibatches": 2}).steps
    assert sum(s.reward_mean for s in steps[-4:]) / 4 > 2.5 * sum(s.reward_mean for s in steps[:2]) / 2
    assert all(s.value_loss is not None for s in steps)


class ByPrompt:
    """The reward is known from the prompt alone."""

    def score(self, prompts: list[str], completions: list[str], columns: Any) -> Sequence[RowReward]:
        return [RowReward({"r": float(level % 2)}, {}, float(level % 2)) for level in columns["level"]]


def test_in_its_warm_up_only_the_value_model_learns(run: Any) -> None:
    """The policy stays at its first weights while the value loss falls and the explained variance rises from 0; then
    the policy moves. With lambda 1 the returns hold no values, so that nothing flatters them."""
    steps = run(
        with_rewards=ByPrompt(),
        objective={"value": {"learning_rate": 1e-2, "gae_lambda": 1.0, "warmup_steps": 9, "clip": 10.0}},
        sampling={"group_size": 2, "prompts_per_step": 10, "max_completion_tokens": 8, "max_prompt_tokens": 16},
        training={"steps": 10, "iterations": 2, "snapshot_every": 10},
    ).steps
    assert {s.fingerprint for s in steps[:9]} == {steps[0].sampled_by} != {steps[9].fingerprint}
    updates = [update for step in steps[:9] for update in step.updates]
    assert all(u.grad_norm > 0 and u.ratio_max == pytest.approx(1, abs=1e-4) for u in updates)
    assert steps[0].explained_variance == 0
    assert sum(s.value_loss for s in steps[6:9]) < 0.2 * sum(s.value_loss for s in steps[:3])
    assert min(s.explained_variance for s in steps[6:9]) > 0.8


def test_the_same_seed_gives_the_same_bits(run: Any) -> None:
    """Policy, value model and both optimisers; another seed ends elsewhere."""
    training = {"iterations": 2, "minibatches": 2}
    first, second = run(training=training), run(training=training)
    assert first.files == second.files and {MODEL, OPTIMIZER} <= first.files.keys()
    other = run(training=training, run={"seed": 1})
    assert all(first.files[name] != other.files[name] for name in (MODEL, OPTIMIZER, "model.safetensors"))


@pytest.mark.parametrize("warmup", [0, 2])
def test_resuming_from_any_snapshot_is_exact(run: Any, warmup: int) -> None:
    """From each snapshot, those taken during the warm-up of the value model too, every file of the last one comes out
    bit by bit."""
    sections = {
        "objective": {"kl": IN_REWARD, "value": {**PPO["value"], "warmup_steps": warmup}},
        "training": {"iterations": 2, "minibatches": 2, "schedule": "linear", "weight_decay": 0.01},
    }
    whole = run(**sections)
    kept = [Snapshot.open(folder) for folder in snapshots(whole.folder)]
    assert [item.step for item in kept] == [1, 2, 3, 4]
    for start in kept[:-1]:
        rest = run(start=start, **sections)
        assert rest.files == whole.files
        assert [s.explained_variance for s in rest.steps] == [s.explained_variance for s in whole.steps[start.step :]]


@pytest.mark.slow
def test_killed_between_its_updates(
    make_policy: Any, make_config: Any, prompts: Any, rewards: Any, tmp_path: Path
) -> None:
    """kill -9 before the second and before the last of the four updates of a step, resumed in a new process each time:
    all files of the last snapshot are those of the uninterrupted run."""
    training = {"iterations": 2, "minibatches": 2, "steps": 3, "snapshot_every": 1, "keep_snapshots": 1}
    config = make_config(objective=PPO, training=training)
    whole = train(make_policy(), prompts, rewards, config, folder=tmp_path / "whole")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, Path(__file__).with_name("train_in_process.py"), tmp_path]
    for update in (1, 3):  # each process finishes one step and dies in the next one
        environment = {**os.environ, "KILL_BEFORE_UPDATE": str(4 + update)}
        killed = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    subprocess.run(command, capture_output=True, check=True)
    last = latest(tmp_path / "killed")
    assert last is not None and whole.snapshot is not None
    assert (last.step, last.files) == (3, whole.snapshot.files)


@pytest.mark.parametrize("damage", ["missing", "other shape", "no state"])
def test_a_snapshot_with_another_value_model_is_refused(run: Any, damage: str) -> None:
    """It is one clear line, not a run with a fresh value model."""
    whole = run(training={"steps": 1})
    folder = whole.result.snapshot.folder
    path = folder / (OPTIMIZER if damage == "no state" else MODEL)
    tensors = load_file(path)
    path.unlink()
    if damage == "other shape":
        save_file({**tensors, "head.weight": torch.zeros(1, 7)}, path)
    elif damage == "no state":
        save_file({key: value for key, value in tensors.items() if not key.startswith("head.bias:")}, path)
    with pytest.raises(TrainingError, match="value model"):
        ValueModel(whole.policy, whole.config).restore(folder)


def test_the_record_of_a_step(run: Any) -> None:
    """A reward is what its tokens' rewards sum to, the KL part visible; a run without a value model reports None."""
    steps = run(objective={"kl": IN_REWARD}, training={"steps": 3, "minibatches": 2}).steps
    for step in steps:
        for rollout in step.rollouts:
            assert rollout.reward == pytest.approx(round(rollout.rewards["vowels"], 1) + rollout.rewards[KL_PENALTY])
        assert step.value_loss > 0 and "value" in step.seconds
    assert any(r.rewards[KL_PENALTY] for r in steps[-1].rollouts)
    plain = run(objective={"advantage": {}, "aggregation": "sequence-mean"}, training={"steps": 1})
    assert plain.steps[0].value_loss is None and plain.steps[0].explained_variance is None
    assert not any(name.startswith("value/") for name in plain.files)


def test_rows_that_are_left_out_are_left_out_of_everything(run: Any) -> None:
    """A completion without a reward has advantage 0 and does not change the others' whitening."""

    class Holes(Vowels):
        def score(self, prompts: list[str], completions: list[str], columns: Any) -> Sequence[RowReward]:
            rows = super().score(prompts, completions, columns)
            return [RowReward({"vowels": None}, {}, None) if i % 3 == 0 else row for i, row in enumerate(rows)]

    step = run(with_rewards=Holes(), training={"steps": 1}).steps[0]
    assert [r.used for r in step.rollouts] == [i % 3 != 0 for i in range(12)]
    assert all((r.advantage != 0) == r.used for r in step.rollouts)
    total = sum(r.advantage * len(r.token_ids) for r in step.rollouts)
    assert total == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("model", [{"gradient_checkpointing": "on"}, {"precision": "bfloat16"}])
def test_checkpointing_and_autocast(run: Any, model: Any) -> None:
    """Checkpointing changes rounding only; under autocast the value model's weights and values stay float32."""
    ours, plain = run(training={"steps": 2}, model=model), run(training={"steps": 2})
    tolerance = 1e-4 if "precision" not in model else 0.2
    assert ours.steps[0].value_loss == pytest.approx(plain.steps[0].value_loss, rel=tolerance)
    assert {item.dtype for item in load_file(ours.result.snapshot.folder / MODEL).values()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_run(run: Any) -> None:
    """One line that names the value model's learning rate."""
    with pytest.raises(TrainingError, match=r"value model is not finite.*objective\.value\.learning_rate"):
        run(objective={"value": {"learning_rate": 1e30, "clip": 1e30}})


def test_the_manifest_names_the_value_model(make_config: Any) -> None:
    """Discount, lambda, clip, learning rate and warm-up are in the formula that is recorded."""
    config = make_config(objective={**PPO, "value": {"discount": 0.5, "gae_lambda": 0.25, "warmup_steps": 7}})
    text = manifest(config.objective, config.sampling)["value model"]
    for expected in ("0.5 * 0.25", "0.5 V_i,t+1", "+- 0.2", "1e-05", "first 7 steps"):
        assert expected in text


def test_with_lora_the_value_model_trains_adapters_of_its_own(run: Any) -> None:
    """A snapshot holds its adapters and its head, no base weights, and resuming from it is exact."""
    sections = {"model": {"lora": {"rank": 2, "targets": ["q_proj", "down_proj"]}}, "training": {"steps": 3}}
    whole = run(**sections)
    saved = load_file(whole.result.snapshot.folder / MODEL)
    adapters = [name for name in saved if "lora_" in name]
    assert len(adapters) == 2 * 2 * 2 and saved.keys() == {*adapters, "head.weight", "head.bias"}
    assert any(tensor.any() for name, tensor in saved.items() if "lora_B" in name)  # they start at 0
    start = Snapshot.open(whole.folder / "snapshots" / "step-000002")
    assert run(start=start, **sections).files == whole.files


@pytest.mark.slow
def test_two_processes_give_what_one_gives(make_config: Any, tmp_path: Path) -> None:
    """Two gloo processes draw the same tokens over three steps, and advantages (which rest on the values) and losses
    agree with those of one process to rounding."""
    training = {"iterations": 2, "minibatches": 2, "steps": 3, "snapshot_every": 3, "learning_rate": 1e-3}
    config = make_config(objective={**PPO, "kl": IN_REWARD}, training=training)
    script = [Path(__file__).with_name("train_together.py"), tmp_path]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, prefix in (("one", []), ("two", launcher)):
        (tmp_path / "jobs.json").write_text(json.dumps([{"name": name, "config": config.model_dump(mode="json")}]))
        command = [sys.executable, *prefix, *script]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["world"][:2] == [2, "ddp"]
    for mine, theirs in zip(one["steps"], two["steps"], strict=True):
        assert mine["tokens"] == theirs["tokens"]
        assert theirs["advantages"] == pytest.approx(mine["advantages"], abs=1e-4)
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-5)
