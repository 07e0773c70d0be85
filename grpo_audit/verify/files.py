"""Step (14): files kept outside of the record are hashed again."""

from __future__ import annotations

from pathlib import Path

from grpo_audit.errors import ModelError
from grpo_audit.record.events import Artifact, FileDigest, ModelSaved, Snapshot
from grpo_audit.record.identity import TOKENIZER_FILES, file_digest, weights_digest
from grpo_audit.verify.course import RunCourse
from grpo_audit.verify.verdict import Tally


class Files:
    """Compares a run folder with the digests in the record.

    A file that is there must be unchanged. A snapshot that is gone was pruned, as ``training.keep_snapshots`` says; a
    model or an artifact that is gone is reported, and fails only when ``required``.
    """

    def __init__(self, folder: Path, tally: Tally, *, required: bool) -> None:
        self._folder = folder
        self._root = folder.resolve()
        self._tally = tally
        self._required = required
        self.absent: list[str] = []
        """Named in the record, but not there to be checked."""

    def compare(self, course: RunCourse) -> None:
        """Hash everything of one run."""
        for seq, artifact in course.artifacts:
            if artifact.location is not None:
                self._artifact(seq, artifact, artifact.location)
        for seq, snapshot in course.snapshots:
            self._snapshot(seq, snapshot)
        for seq, saved in course.saved:
            self._saved(seq, saved)

    def _artifact(self, seq: int, artifact: Artifact, location: str) -> None:
        path = self._find(seq, f"artifact {artifact.name}", location, may_be_gone=False)
        if path is None:
            return
        if not path.is_file():
            self._tally.wrong(f"artifact {location} of event {seq} is no file")
            return
        self._compare_file(seq, path, artifact.digest)

    def _snapshot(self, seq: int, snapshot: Snapshot) -> None:
        path = self._find(seq, "snapshot", snapshot.location, may_be_gone=True)
        if path is not None:
            self._compare_folder(seq, path, snapshot.files)
            self._compare_weights(seq, path, snapshot.weights_digest)

    def _saved(self, seq: int, saved: ModelSaved) -> None:
        path = self._find(seq, "the saved model", saved.location, may_be_gone=False)
        if path is None:
            return
        self._compare_folder(seq, path, saved.model.files)
        self._compare_weights(seq, path, saved.model.weights_digest)
        known = {file.name for file in saved.model.files}
        for name in sorted(entry.name for entry in path.iterdir()):
            # such a file would change what the model says although no recorded file was touched
            if name not in known and (name in TOKENIZER_FILES or name.endswith(".safetensors")):
                self._tally.wrong(f"{saved.location}/{name} was added to the saved model of event {seq}")

    def _find(self, seq: int, what: str, location: str, *, may_be_gone: bool) -> Path | None:
        """The path, unless it leads out of the run folder or is not there."""
        path = self._folder / location
        if not path.resolve().is_relative_to(self._root):
            self._tally.saw()
            self._tally.wrong(f"{what} of event {seq} lies outside of the run folder: {location!r:.80}")
            return None
        if path.exists():
            return path
        self.absent.append(f"{what} of event {seq} ({location})")
        if self._required and not may_be_gone:
            self._tally.saw()
            self._tally.wrong(f"{what} of event {seq} is missing: {location}")
        return None

    def _compare_folder(self, seq: int, folder: Path, files: list[FileDigest]) -> None:
        for file in files:
            path = folder / file.name
            if not path.resolve().is_relative_to(folder.resolve()):
                self._tally.saw()
                self._tally.wrong(f"event {seq} names a file outside of its folder: {file.name!r:.80}")
            elif not path.is_file():
                self._tally.saw()
                self._tally.wrong(f"{folder.name}/{file.name} of event {seq} is missing")
            else:
                self._compare_file(seq, path, file.digest)

    def _compare_file(self, seq: int, path: Path, digest: str) -> None:
        self._tally.saw()
        try:
            found = file_digest(path)
        except OSError as error:
            self._tally.wrong(f"{path.name} of event {seq} cannot be read: {error.strerror}")
            return
        if found != digest:
            self._tally.wrong(f"{path.relative_to(self._folder)} of event {seq} was changed")

    def _compare_weights(self, seq: int, folder: Path, digest: str) -> None:
        self._tally.saw()
        try:
            found = weights_digest(folder)
        except (ModelError, OSError) as error:
            self._tally.wrong(f"the weights of event {seq} cannot be read: {error}")
            return
        if found != digest:
            self._tally.wrong(f"the weights in {folder.relative_to(self._folder)} are not those of event {seq}")
