"""Step (14) for a bundle: the files in it have the digests that the run's events state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from grpo_audit.errors import ModelError
from grpo_audit.record.events import FileDigest
from grpo_audit.record.identity import TOKENIZER_FILES, weights_digest
from grpo_audit.verify.bundle import RENDERED, BundleSource
from grpo_audit.verify.course import RunCourse
from grpo_audit.verify.verdict import Tally


class BundledFiles:
    """Compares the files of a bundle with the digests in the record, as ``Files`` does with a run folder.

    Every member under ``files/`` must be named by an event of the run, the rendered report and card excepted. What an
    event names and the bundle lacks is reported; a model or an artifact that is missing fails only when ``required``.
    """

    def __init__(self, source: BundleSource, tally: Tally, *, required: bool) -> None:
        self._source = source
        self._files = source.files
        self._tally = tally
        self._required = required
        self._named = set(RENDERED)
        self.absent: list[str] = []
        """Named in the record, but not there to be checked."""

    def compare(self, course: RunCourse) -> None:
        """Look at everything that the events of one run name, then at what they do not."""
        for seq, artifact in course.artifacts:
            if artifact.location is not None:
                named = FileDigest(name=artifact.location, size=artifact.size, digest=artifact.digest)
                self._compare_all(seq, f"artifact {artifact.name}", artifact.location, "", [named], may_be_gone=False)
        for seq, snapshot in course.snapshots:
            self._compare_all(seq, "snapshot", snapshot.location, snapshot.location, snapshot.files, may_be_gone=True)
        for seq, saved in course.saved:
            files = saved.model.files
            if self._compare_all(seq, "the saved model", saved.location, saved.location, files, may_be_gone=False):
                self._compare_weights(seq, saved.location, saved.model.weights_digest)
                self._refuse_added(seq, saved.location, {file.name for file in files})
            if saved.adapter_location is not None and saved.adapter_digest is not None:
                self._compare_adapter(seq, saved.adapter_location, saved.adapter_digest)
        for name in sorted(self._files.keys() - self._named):
            self._tally.wrong(f"{name[:80]} is in the bundle, but no event of the run names it")
        unvouched = [name for name in RENDERED if name in self._files]
        if unvouched:
            self._tally.remark(f"not compared, rendered from the record: {', '.join(unvouched)}")

    def _compare_all(
        self, seq: int, what: str, location: str, folder: str, files: list[FileDigest], *, may_be_gone: bool
    ) -> bool:
        """Compare a file or a folder of files; whether it is there."""
        paths = {f"{folder}/{file.name}" if folder else file.name: file for file in files}
        if not paths.keys() & self._files.keys():
            self.absent.append(f"{what} of event {seq} ({location})")
            if self._required and not may_be_gone:
                self._tally.saw()
                self._tally.wrong(f"{what} of event {seq} is missing: {location}")
            return False
        for path, file in paths.items():
            self._named.add(path)
            self._tally.saw()
            if path not in self._files:
                self._tally.wrong(f"{path} of event {seq} is missing")
            elif self._files[path] != file.digest:
                self._tally.wrong(f"{path} of event {seq} was changed")
        return True

    def _refuse_added(self, seq: int, location: str, known: set[str]) -> None:
        for path in self._under(location):
            name = path.removeprefix(f"{location}/")
            # such a file would change what the model says although no recorded file was touched
            if name not in known and (name in TOKENIZER_FILES or name.endswith(".safetensors")):
                self._named.add(path)
                self._tally.wrong(f"{path} was added to the saved model of event {seq}")

    def _compare_adapter(self, seq: int, location: str, digest: str) -> None:
        inside = self._under(location)
        self._named.update(inside)
        if inside:
            self._compare_weights(seq, location, digest)
        else:
            self.absent.append(f"the adapters of event {seq} ({location})")

    def _compare_weights(self, seq: int, location: str, digest: str) -> None:
        self._tally.saw()
        try:
            # the digest needs no more of a path than this offers
            found = weights_digest(cast(Path, _Place(self._source, location)))
        except (ModelError, OSError, KeyError, TypeError, ValueError) as error:
            self._tally.wrong(f"the weights of event {seq} cannot be read: {error}")
            return
        if found != digest:
            self._tally.wrong(f"the weights in {location} are not those of event {seq}")

    def _under(self, location: str) -> list[str]:
        return [name for name in self._files if name.startswith(f"{location}/")]


@dataclass(frozen=True)
class _Place:
    """As much of a path, into a bundle, as the digest of weights asks for."""

    source: BundleSource
    location: str

    @property
    def name(self) -> str:
        return self.location.rpartition("/")[2]

    @property
    def st_size(self) -> int:
        return self.source.file_size(self.location)

    def __str__(self) -> str:
        return self.location

    def __lt__(self, other: _Place) -> bool:
        return self.location < other.location

    def stat(self) -> _Place:
        return self

    def open(self, mode: str) -> BinaryIO:
        assert mode == "rb"
        return self.source.open_file(self.location)

    def glob(self, pattern: str) -> Iterator[_Place]:
        suffix = pattern.removeprefix("*")
        for name in self.source.files:
            folder, _, file = name.rpartition("/")
            if folder == self.location and file.endswith(suffix):
                yield _Place(self.source, name)
