"""Snapshots: exact resume from every step and after kill -9, and nothing that was changed is used."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from grpo_audit.errors import StorageError, TrainingError
from grpo_audit.record.identity import weights_digest
from grpo_audit_trainer import snapshot as snapshots
from grpo_audit_trainer.fingerprint import fingerprint
from grpo_audit_trainer.loop import train
from grpo_audit_trainer.snapshot import Snapshot, latest, prune, save_model


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma2"])
def test_resuming_at_every_step_is_exact(
    make_policy: Any, make_config: Any, prompts: Any, rewards: Any, tmp_path: Path, architecture: str
) -> None:
    """A run that goes on from the snapshot after any step ends with the digest and the fingerprints of the
    uninterrupted run."""
    config = make_config(
        architecture, objective={"kl": {"beta": 0.01}}, training={"weight_decay": 0.01, "warmup_steps": 3}
    )
    whole: list[Any] = []
    policy = make_policy(architecture)
    result = train(policy, prompts, rewards, config, folder=tmp_path / "whole", on_step=whole.append)
    for step in (1, 2, 3):
        start = Snapshot.open(tmp_path / "whole" / "snapshots" / f"step-{step:06d}")
        rest: list[Any] = []
        folder = tmp_path / f"from-{step}"
        resumed = train(
            make_policy(architecture), prompts, rewards, config, folder=folder, start=start, on_step=rest.append
        )
        assert resumed.snapshot.weights_digest == result.snapshot.weights_digest
        assert [s.fingerprint for s in rest] == [s.fingerprint for s in whole[step:]]
        assert [s.kl for s in rest] == [s.kl for s in whole[step:]]


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_weights(
    make_policy: Any, make_config: Any, prompts: Any, rewards: Any, tmp_path: Path
) -> None:
    """kill -9 at several moments, each resumed from the newest snapshot in a new process: the final digest is that of
    the uninterrupted run."""
    config = make_config(training={"steps": 12, "snapshot_every": 2, "keep_snapshots": 2})
    whole = train(make_policy(), prompts, rewards, config, folder=tmp_path / "whole")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    killed = 0
    for reach in (1, 7, 12):
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("train_in_process.py"), tmp_path],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if reach < 12 and line.strip() == f"step {reach}":
                time.sleep(0.01 * reach)  # into the next step, or into writing a snapshot
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
        assert process.wait(60) == (-signal.SIGKILL if reach < 12 else 0)
    assert killed == 2
    final = latest(tmp_path / "killed")
    assert final is not None and final.step == 12
    assert final.weights_digest == whole.snapshot.weights_digest
    assert len(snapshots.snapshots(tmp_path / "killed")) == 2


@pytest.fixture
def trained(make_policy: Any, make_config: Any, prompts: Any, rewards: Any, tmp_path: Path) -> Any:
    """A policy after two steps, and its run folder."""
    policy = make_policy()
    result = train(policy, prompts, rewards, make_config(training={"steps": 2}), folder=tmp_path)
    return policy, result.snapshot, tmp_path


def test_a_snapshot_is_a_model_folder(trained: Any, make_policy: Any) -> None:
    """Its weights are those of the policy, in float32, under their released names; the released model has the same
    digest; the tokenizer's files are byte for byte those that were loaded."""
    policy, snapshot, folder = trained
    assert snapshot.location == "snapshots/step-000002"
    assert weights_digest(snapshot.folder) == snapshot.weights_digest
    released = save_model(policy, folder / "model")
    assert weights_digest(released) == snapshot.weights_digest
    assert (released / "tokenizer.json").read_bytes() == (policy.folder / "tokenizer.json").read_bytes()
    tensors = load_file(released / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert torch.equal(tensors["model.norm.weight"], policy.model.model.norm.weight)


def test_the_fingerprint_sees_each_tensor(make_policy: Any) -> None:
    """Changing one sampled element of any tensor changes the fingerprint; reading it changes nothing."""
    model = make_policy().model
    before = fingerprint(model)
    assert fingerprint(model) == before
    for parameter in model.parameters():
        with torch.no_grad():
            kept = parameter.flatten()[0].clone()
            parameter.view(-1)[0] = kept + 1e-6
            assert fingerprint(model) != before
            parameter.view(-1)[0] = kept
    assert fingerprint(model) == before


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer/optimizer.safetensors", "config.json"])
def test_a_changed_file_is_refused(trained: Any, name: str) -> None:
    """One flipped bit in any file of a snapshot is named, and the snapshot is not used."""
    _, snapshot, folder = trained
    path = snapshot.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=name):
        latest(folder)


@pytest.mark.parametrize("damage", ["not json", "{}", '{"format": 99}'])
def test_a_state_that_cannot_be_read_is_refused(trained: Any, damage: str) -> None:
    """Broken, incomplete and newer state files are one line each."""
    _, snapshot, _ = trained
    (snapshot.folder / "state.json").write_text(damage)
    with pytest.raises(StorageError, match=r"snapshot"):
        Snapshot.open(snapshot.folder)


def test_missing_optimiser_state_is_refused(
    trained: Any, make_policy: Any, make_config: Any, prompts: Any, rewards: Any
) -> None:
    """A snapshot whose optimiser lacks a tensor is not gone on from, although its digests fit."""
    _, snapshot, folder = trained
    path = snapshot.folder / "optimizer" / "optimizer.safetensors"
    save_file({key: value for key, value in load_file(path).items() if "norm" not in key}, path)
    state = json.loads((snapshot.folder / "state.json").read_text())
    state["files"] = [item.model_dump() for item in snapshots._files(snapshot.folder) if item.name != "state.json"]
    (snapshot.folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(TrainingError, match="no optimiser state"):
        train(make_policy(), prompts, rewards, make_config(), folder=folder, start=Snapshot.open(snapshot.folder))


def test_another_base_model_is_refused(
    trained: Any, make_policy: Any, make_config: Any, prompts: Any, rewards: Any, tmp_path: Path
) -> None:
    """A run goes on from the base model it was started with: the reference is part of it."""
    _, snapshot, folder = trained
    other = make_policy()
    with torch.no_grad():
        other.model.model.norm.weight[0] += 1
    with pytest.raises(TrainingError, match="another base model"):
        train(other, prompts, rewards, make_config(), folder=folder, start=snapshot)


def test_what_is_half_written_is_not_there(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, the error is one line, the older snapshots stay, and nothing half-written is left."""
    policy, snapshot, folder = trained

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshots, "save_file", full)
    optimizer = torch.optim.AdamW(policy.model.parameters())
    with pytest.raises(StorageError, match="No space left on device"):
        snapshots.save_snapshot(policy, optimizer, folder, step=3, rounds=3, initial_fingerprint="x")
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == ["step-000001", "step-000002"]
    assert latest(folder) == snapshot


def test_pruning_keeps_the_newest_and_sweeps_up(trained: Any) -> None:
    """All but the newest K go, and so does what a killed process left behind."""
    _, snapshot, folder = trained
    (folder / "snapshots" / ".step-000009.partial").mkdir()
    prune(folder, 1)
    assert [path.name for path in (folder / "snapshots").iterdir()] == ["step-000002"]
    assert latest(folder) == snapshot


def test_no_snapshot_is_no_error(tmp_path: Path) -> None:
    """A run that was killed before its first snapshot starts from the beginning."""
    assert latest(tmp_path) is None


def test_a_kill_while_pruning_leaves_no_half_snapshot(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removal that stops after its first file leaves whole snapshots only, and the next one tidies up."""
    _, snapshot, folder = trained
    before = [item.name for item in snapshots.snapshots(folder)]
    assert len(before) == 2

    def killed(path: Path) -> None:
        next(item for item in sorted(path.rglob("*")) if item.is_file()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(snapshots.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(folder, 1)
    assert [Snapshot.open(item).step for item in snapshots.snapshots(folder)] == [snapshot.step]
    prune(folder, 1)
    assert sorted(item.name for item in (folder / snapshots.FOLDER).iterdir()) == [snapshot.folder.name]
