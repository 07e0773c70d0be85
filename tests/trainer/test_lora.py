"""LoRA: the base model at step 0, adapters only, exact to resume, merged for release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from grpo_audit.config.sections import ModelConfig
from grpo_audit.errors import ModelError, StorageError
from grpo_audit.record.identity import weights_digest
from grpo_audit_trainer import adapter as adapters
from grpo_audit_trainer.loop import StepOutcome, Trainer, train
from grpo_audit_trainer.policy import Policy, load_policy
from grpo_audit_trainer.pretrained import load_model
from grpo_audit_trainer.rollout.native import NativeEngine
from grpo_audit_trainer.scoring import Completions, Scorer
from grpo_audit_trainer.snapshot import Snapshot, load_weights, save_adapter, save_model, snapshots

LORA = {"rank": 4, "alpha": 8.0}
TRAINING = {"steps": 4, "learning_rate": 3e-2, "snapshot_every": 1, "keep_snapshots": 8, "microbatch_tokens": 120}


@pytest.fixture
def lora_config(make_config: Any, model_folder: Any) -> Any:
    """A small run with adapters; each keyword updates one section."""

    def make(architecture: str = "llama", **sections: Any) -> Any:
        model = {"path": str(model_folder(architecture)), "device": "cpu", "lora": LORA, **sections.pop("model", {})}
        training = {**TRAINING, **sections.pop("training", {})}
        return make_config(architecture, model=model, training=training, **sections)

    return make


@pytest.fixture
def run(lora_config: Any, prompts: Any, rewards: Any, tmp_path: Path) -> Any:
    """Trains with adapters; gives the policy, the steps and the result."""
    count = iter(range(100))

    def start(*, start: Snapshot | None = None, **sections: Any) -> tuple[Policy, list[StepOutcome], Any]:
        config = lora_config(**sections)
        policy = load_policy(config.model, seed=config.seed)
        folder = tmp_path / str(next(count)) if start is None else start.folder.parent.parent
        steps: list[StepOutcome] = []
        result = train(policy, prompts, rewards, config, folder=folder, start=start, on_step=steps.append)
        return policy, steps, result

    return start


def some_completions(policy: Policy) -> Completions:
    """Twelve random completions of three prompts."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, policy.vocabulary, (12, 9), generator=generator)
    prompts = [[5, 6, 7, 8, 9], [10, 11], [4] * 12]
    return Completions(prompts, [row // 4 for row in range(12)], tokens, [1 + row % 9 for row in range(12)])


def base_tensors(policy: Policy) -> dict[str, torch.Tensor]:
    """The frozen weights, under the names of the plain model."""
    return {
        name.replace(".base_layer.", "."): value.clone()
        for name, value in policy.model.state_dict().items()
        if ".lora_" not in name
    }


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
def test_the_first_policy_is_the_base_model_exactly(architecture: str, model_folder: Any) -> None:
    """Before the first update log-probabilities equal those of the frozen base model bit by bit, and sampled tokens
    are the same. (torch takes another kernel for some products when a weight does not ask for a gradient, so the same
    model frozen and not frozen may differ in the last bit.)"""
    path = str(model_folder(architecture))
    base = load_policy(ModelConfig(path=path, device="cpu"))
    base.model.requires_grad_(False)
    lora = load_policy(ModelConfig(path=path, device="cpu", lora=LORA))
    completions = some_completions(base)
    one, two = (
        Scorer(policy, temperature=0.7, microbatch_tokens=60).logp(completions, range(12)) for policy in (base, lora)
    )
    assert torch.equal(one, two) and one.abs().sum() > 1
    keys = torch.arange(8) * 7919
    drawn = [
        NativeEngine(policy).sample([[5, 6, 7], [9]], 4, keys, temperature=1.0, max_tokens=12)
        for policy in (base, lora)
    ]
    assert torch.equal(drawn[0].tokens, drawn[1].tokens) and torch.equal(drawn[0].logp, drawn[1].logp)


def test_adapters_start_as_a_function_of_seed_and_name_alone(model_folder: Any) -> None:
    """torch's global random state is neither read nor moved; another seed gives other adapters; no two are alike."""

    def made(seed: int) -> dict[str, torch.Tensor]:
        config = ModelConfig(path=str(model_folder("llama")), device="cpu", lora=LORA)
        return adapters.adapter_tensors(load_policy(config, seed=seed).model)

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = made(5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = made(5), made(6)
    assert all(torch.equal(one[name], two[name]) for name in one)
    downs = [name for name in one if "lora_A" in name]
    assert len(downs) == 14 and not any(torch.equal(one[name], other[name]) for name in downs)
    assert len({tuple(one[name].flatten()[:4].tolist()) for name in downs}) == len(downs)
    assert all(one[name].abs().max() <= one[name].shape[1] ** -0.5 for name in downs)
    assert all(0.5 < one[name].std() * (3 * one[name].shape[1]) ** 0.5 < 1.5 for name in downs)
    assert all(not one[name].any() for name in one if "lora_B" in name)


def test_only_adapters_train(run: Any, model_folder: Any) -> None:
    """After training the base weights have the digest of the base model's file, the adapters have moved, and the
    optimiser holds two moments of the adapters and nothing else."""
    policy, _, result = run()
    before = load_model(model_folder("llama"), "base").state_dict()
    after = base_tensors(policy)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    moved = [name for name, value in adapters.adapter_tensors(policy.model).items() if "lora_B" in name and value.any()]
    assert len(moved) == 14
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    assert policy.adapter.trained == trained == 4 * 2 * (32 + 32 + 32 + 16 + 32 + 16 + 32 + 32 + 3 * (32 + 48))
    size = (result.snapshot.folder / "optimizer" / "optimizer.safetensors").stat().st_size
    assert 8 * trained < size < 8 * trained + 16_000


def test_the_optimiser_is_that_of_the_adapters_only(lora_config: Any, prompts: Any, rewards: Any) -> None:
    """In memory AdamW holds two moments for each trained parameter and none for the base weights, and no copy of the
    model is made for the reference."""
    config = lora_config()
    policy = load_policy(config.model)
    trainer = Trainer(policy, prompts, rewards, config)
    trainer.step(0)
    moments = [v for state in trainer.updater.optimizer.state.values() for k, v in state.items() if k != "step"]
    assert sum(item.numel() for item in moments) == 2 * policy.adapter.trained
    assert all(p.grad is None for p in policy.model.parameters() if not p.requires_grad)
    assert trainer.references.initial.scorer.policy.model is policy.model


def test_the_distance_to_the_base_is_0_before_the_first_update(run: Any) -> None:
    """KL to the reference, the adapters switched off, is exactly 0 at step 0 and grows after it."""
    _, steps, _ = run(objective={"kl": {"beta": 0.04}})
    assert steps[0].kl == 0.0 and steps[0].agreement < 1e-5
    assert all(step.kl > 1e-6 for step in steps[1:])


def test_the_reference_is_the_base_model(run: Any, model_folder: Any) -> None:
    """The KL that training reports for its last step equals the one computed from the base model's own files and the
    snapshot before that step."""
    policy, steps, result = run(objective={"kl": {"beta": 0.04, "estimator": "k1"}})
    base = load_policy(ModelConfig(path=str(model_folder("llama")), device="cpu"))
    load_weights(policy, Snapshot.open(snapshots(result.snapshot.folder.parent.parent)[-2]))
    last = steps[-1]
    width = max(len(rollout.token_ids) for rollout in last.rollouts)
    tokens = torch.zeros(len(last.rollouts), width, dtype=torch.int64)
    for row, rollout in enumerate(last.rollouts):
        tokens[row, : len(rollout.token_ids)] = torch.tensor(rollout.token_ids.astype("int64"))
    prompts = [policy.encode_prompt(group.prompt_text).ids for group in last.groups]
    lengths = [len(rollout.token_ids) for rollout in last.rollouts]
    completions = Completions(prompts, [rollout.group for rollout in last.rollouts], tokens, lengths)
    used = [row for row, rollout in enumerate(last.rollouts) if rollout.used]
    one, two = (Scorer(item, temperature=1.0, microbatch_tokens=500).logp(completions, used) for item in (policy, base))
    tokens_in_loss = sum(lengths[row] for row in used)
    assert float((one - two).sum()) / tokens_in_loss == pytest.approx(last.kl, rel=1e-3)


def test_same_seed_same_bits_and_resuming_is_exact(run: Any) -> None:
    """Two runs of one seed end at the same adapters; from each snapshot, in a fresh policy, the rest of the run comes
    out bit by bit."""
    sections: dict[str, Any] = {"training": {**TRAINING, "iterations": 2, "minibatches": 3}}
    _, whole_steps, whole = run(**sections)
    _, _, again = run(**sections)
    assert again.snapshot.weights_digest == whole.snapshot.weights_digest
    kept = [Snapshot.open(folder) for folder in snapshots(whole.snapshot.folder.parent.parent)]
    assert len(kept) == 4
    for start in kept[:-1]:
        _, steps, rest = run(start=start, **sections)
        assert [s.fingerprint for s in steps] == [s.fingerprint for s in whole_steps[start.step :]]
        assert rest.snapshot.weights_digest == whole.snapshot.weights_digest


def test_a_replaced_reference_is_a_copy_of_the_adapters(run: Any) -> None:
    """Right after a replacement the KL to the reference is 0 and to the base it is not; resuming behind it takes the
    reference from its snapshot and goes on bit by bit."""
    sections: dict[str, Any] = {
        "objective": {"kl": {"beta": 0.05, "replace_reference_every": 2, "measure_every": 1}},
        "training": {**TRAINING, "steps": 5},
    }
    _, whole, result = run(**sections)
    assert [step.kl_reference is not None for step in whole] == [False, False, True, True, True]
    assert whole[2].kl_reference == 0.0 and whole[3].kl_reference > 1e-6 and whole[2].kl > 1e-5
    start = Snapshot.open(snapshots(result.snapshot.folder.parent.parent)[2])
    _, rest, resumed = run(start=start, **sections)
    assert [s.kl_reference for s in rest] == [s.kl_reference for s in whole[3:]]
    assert resumed.snapshot.weights_digest == result.snapshot.weights_digest


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_released_model_is_the_base_with_the_adapters_merged(
    run: Any, architecture: str, model_folder: Any, tmp_path: Path
) -> None:
    """The merged files are a plain model whose logits equal those of base and adapter; the adapter folder is one that
    peft itself loads upon the base model, with the same logits; writing both changes nothing in memory."""
    policy, _, _ = run(architecture=architecture)
    before = adapters.adapter_tensors(policy.model)
    merged = load_policy(ModelConfig(path=str(save_model(policy, tmp_path / "model")), device="cpu"))
    assert merged.adapter is None
    assert merged.model.state_dict().keys() == load_model(model_folder(architecture), "base").state_dict().keys()
    ids = torch.randint(3, policy.vocabulary, (3, 20), generator=torch.Generator().manual_seed(0))
    folder = save_adapter(policy, tmp_path / "adapter")
    with_peft = PeftModel.from_pretrained(load_model(model_folder(architecture), "base"), folder).eval()
    with torch.no_grad():
        wanted = policy.model(input_ids=ids).logits
        torch.testing.assert_close(merged.model(input_ids=ids).logits, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(with_peft(input_ids=ids).logits, wanted, atol=1e-6, rtol=1e-6)
        base = load_model(model_folder(architecture), "base")(input_ids=ids).logits
    assert (base - wanted).abs().max() > 1e-3
    assert all(torch.equal(before[name], value) for name, value in adapters.adapter_tensors(policy.model).items())


def test_the_adapter_files_are_a_function_of_the_adapters(run: Any, tmp_path: Path) -> None:
    """Written twice, every file is the same, byte for byte, and the digest is the snapshot's."""
    policy, _, result = run()
    one, two = (save_adapter(policy, tmp_path / name) for name in "ab")
    names = sorted(path.name for path in one.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert weights_digest(one) == result.snapshot.weights_digest


def test_named_targets_only(run: Any) -> None:
    """Adapters sit on the layers the recipe names and nowhere else."""
    policy, _, _ = run(model={"lora": {**LORA, "targets": ["v_proj", "q_proj"]}}, training={"steps": 1})
    names = {name.rpartition(".")[2] for name, _ in adapters.lora_layers(policy.model)}
    assert names == {"q_proj", "v_proj"} and policy.adapter.identity.targets == ["q_proj", "v_proj"]
    assert policy.adapter.identity.layers == 4


@pytest.mark.parametrize(
    ("target", "found"),
    [("qq_proj", "no layer of that name"), ("lm_head", "output layer"), ("embed_tokens", "not linear")],
)
def test_targets_that_cannot_have_an_adapter_are_refused(model_folder: Any, target: str, found: str) -> None:
    """A name that matches nothing, the output layer and the embedding are one clear line that names what there is."""
    config = ModelConfig(path=str(model_folder("llama")), device="cpu", lora={"rank": 2, "targets": [target]})
    with pytest.raises(ModelError, match=found) as caught:
        load_policy(config)
    assert "q_proj" in str(caught.value)


def test_a_snapshot_of_other_adapters_is_refused(run: Any, lora_config: Any) -> None:
    """Adapters of other layers are not loaded in part."""
    _, _, result = run(training={"steps": 1})
    other = load_policy(lora_config(model={"lora": {**LORA, "targets": ["q_proj"]}}).model)
    with pytest.raises(StorageError, match="does not fit"):
        load_weights(other, result.snapshot)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_checkpointing_and_autocast_train_adapters(run: Any, precision: str) -> None:
    """Gradient checkpointing and bfloat16 autocast reach the adapters too."""
    policy, steps, _ = run(
        model={"gradient_checkpointing": "on", "precision": precision},
        training={"steps": 1, "agreement_tolerance": 1.0},
    )
    assert steps[0].grad_norm > 0 and steps[0].fingerprint != steps[0].sampled_by
    assert policy.execution.gradient_checkpointing
