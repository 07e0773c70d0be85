"""Snapshots: weights, optimiser and step on disk, complete or not there at all.

A snapshot is a folder ``snapshots/step-000010`` that is also a loadable model folder::

    model.safetensors config.json ...     the weights in float32, as the released model has them
    optimizer/optimizer.safetensors       first and second moments and step count of AdamW, by parameter name
    state.json                            steps done, fingerprint of the initial weights, digest of every file

It is written under another name, brought to the disk, and renamed. Nothing in it is ever unpickled. All else that a
step depends on is a pure function of the configuration and the step number, so there is nothing more to save.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_audit.errors import StorageError, TrainingError
from grpo_audit.record.events import FileDigest
from grpo_audit.record.identity import TOKENIZER_FILES, file_digest, weights_digest
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.pretrained import quiet

FOLDER = "snapshots"
_FORMAT = 1
_STATE = "state.json"
_OPTIMIZER = "optimizer/optimizer.safetensors"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete snapshot on disk."""

    folder: Path
    step: int
    """Steps done."""
    weights_digest: str
    initial_fingerprint: str
    """Of the weights the run started from."""
    files: tuple[FileDigest, ...]
    """All files but ``state.json``, names relative to the folder."""

    @property
    def location(self) -> str:
        """Relative to the run folder."""
        return f"{FOLDER}/{self.folder.name}"

    @classmethod
    def open(cls, folder: Path) -> Snapshot:
        """Read a snapshot and check every digest. Raises StorageError when it is not what was written."""
        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            if state["format"] != _FORMAT:
                raise StorageError(
                    f"Cannot read the snapshot {folder}",
                    found=f"format {state['format']}",
                    expected=f"format {_FORMAT}",
                    next_step="Upgrade grpo-audit",
                )
            files = tuple(FileDigest.model_validate(item) for item in state["files"])
            changed = [item.name for item in files if file_digest(folder / item.name) != item.digest]
            snapshot = cls(folder, state["step"], state["weights_digest"], state["initial_fingerprint"], files)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(folder, str(error) or type(error).__name__) from error
        if changed:
            raise _unreadable(folder, f"{changed[0]} is not the file that was written")
        return snapshot


def save_snapshot(
    policy: Policy, optimizer: torch.optim.Optimizer, run_folder: Path, *, step: int, initial_fingerprint: str
) -> Snapshot:
    """Write the snapshot after ``step`` steps. Raises StorageError (disk full, read-only folder)."""
    target = run_folder / FOLDER / f"step-{step:06d}"

    def write(folder: Path) -> None:
        with quiet():
            policy.model.save_pretrained(folder)
        (folder / _OPTIMIZER).parent.mkdir()
        save_file(_optimizer_tensors(policy, optimizer), folder / _OPTIMIZER)
        state = {
            "format": _FORMAT,
            "step": step,
            "initial_fingerprint": initial_fingerprint,
            "weights_digest": weights_digest(folder),
            "files": [item.model_dump() for item in _files(folder)],
        }
        (folder / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")

    _write_atomically(target, write)
    return Snapshot.open(target)


def load_snapshot(policy: Policy, optimizer: torch.optim.Optimizer, snapshot: Snapshot) -> None:
    """Put weights and optimiser state back, bit by bit. The snapshot was checked when it was opened."""
    with quiet():
        saved = type(policy.model).from_pretrained(snapshot.folder, dtype=torch.float32, use_safetensors=True)
    policy.model.load_state_dict(saved.state_dict())
    tensors = load_file(snapshot.folder / _OPTIMIZER, device=str(policy.device))
    for name, parameter in policy.model.named_parameters():
        prefix = f"{name}:"
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not state:
            raise TrainingError(f"The snapshot {snapshot.folder} has no optimiser state of {name}")
        optimizer.state[parameter] = state


def snapshots(run_folder: Path) -> list[Path]:
    """Folders of all complete snapshots, oldest first."""
    return sorted((run_folder / FOLDER).glob("step-*"))


def latest(run_folder: Path) -> Snapshot | None:
    """The newest snapshot; None when there is none. Raises StorageError when it was changed."""
    found = snapshots(run_folder)
    return Snapshot.open(found[-1]) if found else None


def prune(run_folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` snapshots, and what a killed process left half-written."""
    for folder in snapshots(run_folder)[:-keep]:
        shutil.rmtree(folder)
    for leftover in (run_folder / FOLDER).glob(".*.partial"):
        shutil.rmtree(leftover)


def save_model(policy: Policy, folder: Path) -> Path:
    """Write the released model: float32 safetensors, generation settings, and the tokenizer's files byte for byte as
    they were loaded, so that its digest stays. Returns ``folder``. Raises StorageError."""

    def write(partial: Path) -> None:
        with quiet():
            policy.model.save_pretrained(partial)
        for name in TOKENIZER_FILES:
            if (policy.folder / name).is_file():
                shutil.copyfile(policy.folder / name, partial / name)

    _write_atomically(folder, write)
    return folder


def _optimizer_tensors(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}:{key}": value.contiguous()
        for name, parameter in policy.model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def _files(folder: Path) -> list[FileDigest]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        FileDigest(name=path.relative_to(folder).as_posix(), size=path.stat().st_size, digest=file_digest(path))
        for path in paths
    ]


def _write_atomically(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder under another name, bring it to the disk, rename it. A folder that is there already is replaced."""
    partial = target.parent / f".{target.name}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write(partial)
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        _sync(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(
            f"Cannot write {target}",
            found=str(error),
            next_step="Free some space or make the folder writable, then go on with --resume",
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unreadable(folder: Path, found: str) -> StorageError:
    return StorageError(
        f"The snapshot {folder} cannot be used",
        found=found,
        expected="the files as they were written",
        next_step="Remove that folder to go on from an older snapshot",
    )
