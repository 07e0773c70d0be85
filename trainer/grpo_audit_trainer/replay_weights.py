"""Which weights drew which rollouts, and whether they are still at hand. Found by digest, never by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from grpo_audit.config.sections import ModelConfig
from grpo_audit.errors import ModelError, StorageError, VerificationError
from grpo_audit.record.events import ModelIdentity, Snapshot as SnapshotEvent
from grpo_audit.record.identity import model_identity, weights_digest
from grpo_audit_trainer.execution import BF16_FROM_PARAMETERS
from grpo_audit_trainer.policy import Policy, load_policy, resolve_folder
from grpo_audit_trainer.replay_record import RunIndex
from grpo_audit_trainer.snapshot import Snapshot, load_weights


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """A folder that has the run's tokenizer and architecture."""

    folder: Path
    is_base: bool
    """Whether it also has the weights the run started from."""


@dataclass(frozen=True, slots=True)
class WeightsAtHand:
    """Where the weights are that drew the rollouts of each step."""

    model: ModelPlace
    folders: dict[int, tuple[Path, SnapshotEvent]]
    """Steps done to the snapshot on disk; not checked yet. Step 0 is the base model's."""

    def steps(self) -> list[int]:
        """Steps whose weights are there, as far as names say."""
        return sorted({*self.folders, *([0] if self.model.is_base else [])})


def find_weights(index: RunIndex, run_folder: Path, recipe_folder: Path, model: Path | None) -> WeightsAtHand:
    """Look for the base model and the snapshots. Raises ModelError when no folder has the run's tokenizer."""
    folders: dict[int, tuple[Path, SnapshotEvent]] = {}
    root = run_folder.resolve()
    for step in sorted({item.step for item in index.snapshots}):
        event = index.snapshot_before(step)
        if event is None or step == 0:  # the weights of step 0 are the registered base model's, whatever else is said
            continue
        folder = run_folder / event.location
        if folder.is_dir() and folder.resolve().is_relative_to(root):
            folders[step] = (folder, event)
    return WeightsAtHand(find_model(index, run_folder, recipe_folder, model), folders)


def find_model(index: RunIndex, run_folder: Path, recipe_folder: Path, model: Path | None) -> ModelPlace:
    """The base model's folder; else the released model's, which has the same tokenizer but other weights.

    Raises ModelError.
    """
    wanted = index.registered.model
    if model is not None:
        found = _identity(model, wanted)
        if found is None or found.tokenizer_digest != wanted.tokenizer_digest:
            raise ModelError(
                f"{model} is not the model of run {index.run_id}",
                found=f"tokenizer {found.tokenizer_digest}" if found else "no model folder",
                expected=f"tokenizer {wanted.tokenizer_digest}, weights {wanted.weights_digest}",
            )
        return ModelPlace(model, _same(found, wanted))
    try:
        candidates = [resolve_folder(index.config.model, recipe_folder)]
    except ModelError:
        candidates = []
    candidates.append(run_folder / "model")
    places = [
        ModelPlace(folder, _same(found, wanted))
        for folder in candidates
        if (found := _identity(folder, wanted)) is not None and found.tokenizer_digest == wanted.tokenizer_digest
    ]
    for place in sorted(places, key=lambda item: not item.is_base):
        return place
    raise ModelError(
        f"The model of run {index.run_id} is not at hand",
        found=f"neither {index.config.model.path!r:.80} below {recipe_folder} nor the released model in {run_folder}",
        expected=f"weights {wanted.weights_digest}, tokenizer {wanted.tokenizer_digest}",
        next_step="Name the base model's folder with --model, or the recipe's folder with --recipe-folder",
    )


def load_for_replay(index: RunIndex, place: ModelPlace, *, as_trained: bool = False) -> Policy:
    """The policy as the run had it, on the device of this machine, in the precision of the run. ``as_trained`` keeps
    gradient checkpointing, which a forward pass alone does not need."""
    model = index.config.model
    settings: ModelConfig = model.model_copy(
        update={
            "path": str(place.folder.absolute()),
            "revision": None,
            "device": model.device if torch.cuda.is_available() else "cpu",
            "precision": precision_of(index),
            "gradient_checkpointing": model.gradient_checkpointing if as_trained else "off",
        }
    )
    if model.lora is not None and not place.is_base:  # adapters mean nothing upon other weights
        raise ModelError(
            f"The base model of run {index.run_id} is not at hand, and its snapshots hold adapters only",
            found=f"{place.folder}, whose weights are others",
            expected=f"weights {index.registered.model.weights_digest}",
            next_step="Name the base model's folder with --model",
        )
    return load_policy(settings, seed=index.config.seed)


def precision_of(index: RunIndex) -> str:
    """``float32`` or ``bfloat16``: what ``auto`` became on the machine of the run."""
    model = index.config.model
    if model.precision != "auto":
        return model.precision
    on_cuda = index.registered.environment.accelerator is not None and model.device != "cpu"
    return "bfloat16" if on_cuda and index.registered.model.parameters > BF16_FROM_PARAMETERS else "float32"


def put_weights(policy: Policy, weights: WeightsAtHand, step: int) -> None:
    """Put the weights that drew the rollouts of ``step`` into a policy; those of step 0 must still be in it.

    Raises VerificationError when a snapshot is not what was recorded.
    """
    if step in weights.folders:
        load_weights(policy, checked_snapshot(*weights.folders[step]))


def checked_snapshot(folder: Path, event: SnapshotEvent) -> Snapshot:
    """The snapshot on disk, which must be the recorded one. Raises VerificationError."""
    recorded = {item.name: item.digest for item in event.files}
    try:
        snapshot = Snapshot.open(folder)
        found = weights_digest(folder)
    except (StorageError, ModelError) as error:
        raise VerificationError(str(error)) from error
    files = {item.name: item.digest for item in snapshot.files}
    if found != event.weights_digest or files != recorded or snapshot.step != event.step:
        raise VerificationError(
            f"The snapshot {folder} is not the recorded one",
            found=f"weights {found} after {snapshot.step} steps",
            expected=f"weights {event.weights_digest} after {event.step} steps",
        )
    return snapshot


def _identity(folder: Path, wanted: ModelIdentity) -> ModelIdentity | None:
    try:
        return model_identity(folder, source=wanted.source, revision=wanted.revision)
    except (ModelError, OSError):
        return None


def _same(found: ModelIdentity, wanted: ModelIdentity) -> bool:
    names = ("weights_digest", "tokenizer_digest", "chat_template_digest", "config_digest")
    return all(getattr(found, name) == getattr(wanted, name) for name in names)
