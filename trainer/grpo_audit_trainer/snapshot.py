"""Snapshots: weights, optimiser and step on disk, complete or not there at all.

A snapshot is a folder ``snapshots/step-000010`` that is also a loadable model folder::

    model.safetensors config.json ...     the weights in float32, as the released model has them; with LoRA
                                          adapter_model.safetensors and adapter_config.json, peft's own format
    optimizer/optimizer.safetensors       first and second moments and step count of AdamW, by parameter name
    value/model.safetensors ...           with PPO, the value model and its optimiser; not part of ``weights_digest``
    state.json                            steps done, rounds of prompts drawn, fingerprint of the initial weights,
                                          digest of every file

It is written under another name, brought to the disk, and renamed. Nothing in it is ever unpickled. All else that a
step depends on is a pure function of the configuration, the step number and the number of rounds, so there is nothing
more to save. A snapshot stands between steps, never between the updates of one step: a step that was interrupted is
done again as a whole, from its rollouts on, and comes out the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_audit.errors import StorageError, TrainingError
from grpo_audit.record.events import FileDigest
from grpo_audit.record.identity import TOKENIZER_FILES, file_digest, weights_digest
from grpo_audit_trainer import adapter as adapters
from grpo_audit_trainer.distributed import World
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.pretrained import quiet
from grpo_audit_trainer.sharding import as_spread, as_whole, put

FOLDER = "snapshots"
_FORMAT = 2
_STATE = "state.json"
_OPTIMIZER = "optimizer/optimizer.safetensors"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete snapshot on disk."""

    folder: Path
    step: int
    """Steps done."""
    rounds: int
    """Rounds of prompts drawn; more than steps only with dynamic sampling."""
    weights_digest: str
    """Over all weight tensors; with LoRA over the adapters' tensors, and the base weights, which never change, are
    those of the run's registration."""
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
            snapshot = cls(
                folder, state["step"], state["rounds"], state["weights_digest"], state["initial_fingerprint"], files
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(folder, str(error) or type(error).__name__) from error
        if changed:
            raise _unreadable(folder, f"{changed[0]} is not the file that was written")
        return snapshot


def save_snapshot(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    run_folder: Path,
    *,
    step: int,
    rounds: int,
    initial_fingerprint: str,
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
    world: World | None = None,
) -> Snapshot:
    """Write the snapshot after ``step`` steps; ``extra`` are further tensors, by file name. Of several processes, which
    call this together, the first writes.

    Raises StorageError (disk full, read-only folder).
    """
    world = world or World()
    target = folder_of(run_folder, step)
    moments = _optimizer_tensors(policy, optimizer, keep=world.first)

    def write(folder: Path) -> None:
        if policy.adapter is not None:
            adapters.save_adapter(policy.adapter, adapters.adapter_tensors(policy.model), folder)
        else:
            with quiet():
                policy.model.save_pretrained(folder, state_dict=_whole_weights(policy))
        (folder / _OPTIMIZER).parent.mkdir()
        save_file(moments, folder / _OPTIMIZER)
        for name, tensors in (extra or {}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            save_file(dict(tensors), folder / name)
        state = {
            "format": _FORMAT,
            "step": step,
            "rounds": rounds,
            "initial_fingerprint": initial_fingerprint,
            "weights_digest": weights_digest(folder),
            "files": [item.model_dump() for item in _files(folder)],
        }
        (folder / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")

    with policy.whole():
        if world.first:
            _write_atomically(target, write)
    if world.size == 1:
        return Snapshot.open(target)
    opened = Snapshot.open(target) if world.first else None
    files = [item.model_dump() for item in opened.files] if opened else []
    told = world.tell([opened.weights_digest if opened else "", files])  # the others wait until it is written
    found = tuple(FileDigest.model_validate(item) for item in told[1])
    return Snapshot(target, step, rounds, told[0], initial_fingerprint, found)


def load_snapshot(
    policy: Policy, optimizer: torch.optim.Optimizer, snapshot: Snapshot, *, warming_up: bool = False
) -> None:
    """Put weights and optimiser state back, bit by bit. The snapshot was checked when it was opened. ``warming_up``:
    only the value model has learned so far, so the policy's optimiser has no state."""
    load_weights(policy, snapshot)
    if warming_up:
        return
    tensors = load_file(snapshot.folder / _OPTIMIZER, device=str(policy.device))
    for name, parameter in _trained(policy):
        prefix = f"{name}:"
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not state:
            raise TrainingError(f"The snapshot {snapshot.folder} has no optimiser state of {name}")
        # the step count is a scalar that is never spread
        optimizer.state[parameter] = {
            key: as_spread(value, parameter) if value.ndim else value for key, value in state.items()
        }


def load_weights(policy: Policy, snapshot: Snapshot) -> None:
    """Put the weights of a snapshot into a policy of the same architecture; with LoRA the adapters, whose base weights
    must be in it."""
    if policy.adapter is not None:
        adapters.put_tensors(policy.model, adapters.load_adapter(policy.model, snapshot.folder))
        return
    with quiet():
        saved = type(policy.model).from_pretrained(snapshot.folder, dtype=torch.float32, use_safetensors=True)
    if policy.shards is None:
        policy.model.load_state_dict(saved.state_dict())
        return
    whole = dict(saved.named_parameters())
    for name, parameter in policy.model.named_parameters():
        put(parameter, whole[name])


def folder_of(run_folder: Path, step: int) -> Path:
    """Where the snapshot after ``step`` steps is kept."""
    return run_folder / FOLDER / f"step-{step:06d}"


def snapshots(run_folder: Path) -> list[Path]:
    """Folders of all complete snapshots, oldest first."""
    return sorted((run_folder / FOLDER).glob("step-*"))


def latest(run_folder: Path) -> Snapshot | None:
    """The newest snapshot; None when there is none. Raises StorageError when it was changed."""
    found = snapshots(run_folder)
    return Snapshot.open(found[-1]) if found else None


def prune(run_folder: Path, keep: int, *, needed: int = 0) -> None:
    """Remove all but the newest ``keep`` snapshots and the one after ``needed`` steps (the reference policy's), and
    what a killed process left half-written."""
    for folder in snapshots(run_folder)[:-keep]:
        if folder != folder_of(run_folder, needed):
            # renamed first: a process killed in between leaves no snapshot with files missing
            shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.partial")))
    for leftover in (run_folder / FOLDER).glob(".*.partial"):
        shutil.rmtree(leftover)


def save_model(policy: Policy, folder: Path) -> Path:
    """Write the released model: float32 safetensors, adapters merged into the weights in float32, generation settings,
    and the tokenizer's files byte for byte as they were loaded, so that its digest stays. Returns ``folder``. Raises
    StorageError."""

    def write(partial: Path) -> None:
        weights = None if policy.adapter is None else adapters.merged_weights(policy.model)
        with quiet():
            policy.model.save_pretrained(partial, state_dict=weights)
        for name in TOKENIZER_FILES:
            if (policy.folder / name).is_file():
                shutil.copyfile(policy.folder / name, partial / name)

    _write_atomically(folder, write)
    return folder


def save_adapter(policy: Policy, folder: Path) -> Path:
    """Write the adapters alone, in peft's format. Returns ``folder``. Raises StorageError."""
    adapter = policy.adapter
    if adapter is None:
        raise ValueError("the policy has no adapters")
    _write_atomically(
        folder, lambda partial: adapters.save_adapter(adapter, adapters.adapter_tensors(policy.model), partial)
    )
    return folder


def _optimizer_tensors(policy: Policy, optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Tensor]:
    """All processes call this together; with FSDP those that ``keep`` them get the whole tensors, on the CPU."""
    kept: dict[str, Tensor] = {}
    for name, parameter in _trained(policy):
        for key, value in optimizer.state[parameter].items():
            whole = as_whole(value)
            if keep:
                kept[f"{name}:{key}"] = (whole if whole is value else whole.cpu()).contiguous()
    return kept


def _whole_weights(policy: Policy) -> dict[str, Tensor] | None:
    """With FSDP, which would give the spread ones, and inside ``Policy.whole``; None: as the model has them."""
    if policy.shards is None:
        return None
    return {name: parameter.detach() for name, parameter in policy.model.named_parameters()} | dict(
        policy.model.named_buffers()
    )


def _trained(policy: Policy) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in policy.model.named_parameters() if parameter.requires_grad]


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
