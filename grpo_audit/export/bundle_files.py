"""Which files beside the record go into a bundle."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.storage_errors import DamagedRecordError
from grpo_audit.record.events import Artifact, ModelSaved, Payload, Snapshot
from grpo_audit.verify.bundle import RENDERED
from grpo_audit.verify.manifest import WithheldFile


@dataclass
class RunFiles:
    """The files that the events of a run name."""

    artifacts: list[Artifact] = field(default_factory=list)
    saved: list[ModelSaved] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)

    def follow(self, payload: Payload) -> None:
        """Take an event of the run into account."""
        match payload:
            case Artifact():
                self.artifacts.append(payload)
            case ModelSaved():
                self.saved.append(payload)
            case Snapshot():
                self.snapshots.append(payload)
            case _:
                pass

    def check(self, digests: Mapping[str, str]) -> None:
        """Compare files, path to ``sha256:`` digest, with what the events state. Raises DamagedRecordError."""
        stated = [(item.location, item.digest) for item in self.artifacts if item.location]
        for saved in self.saved:
            stated += [(f"{saved.location}/{file.name}", file.digest) for file in saved.model.files]
        for location, digest in stated:
            found = digests.get(location, digest)
            if found != digest:
                raise DamagedRecordError(
                    f"{location} in the run folder is not the file that was recorded",
                    found=found[:23],
                    expected=digest[:23],
                    next_step="Put the recorded file back, or move this one away: the bundle says that it is absent",
                )


def run_files(
    named: RunFiles, folder: Path, *, with_weights: bool, without_text: bool
) -> tuple[dict[str, Path], list[WithheldFile]]:
    """Files of the run folder by their path in it, and what the record names but the bundle will lack. What was
    rendered from the record quotes texts: ``without_text`` leaves it out.

    Snapshots are for replay on the machine that has them; they are never bundled.
    """
    files: dict[str, Path] = {}
    withheld: dict[str, WithheldFile] = {}
    for artifact in named.artifacts:
        if artifact.location is not None:
            _take(folder, artifact.location, files, withheld)
    for saved in named.saved:
        for place in (saved.location, saved.adapter_location):
            if place is not None and not with_weights:
                withheld[place] = WithheldFile(name=place, why="not asked for")
        if with_weights:
            for file in saved.model.files:
                _take(folder, f"{saved.location}/{file.name}", files, withheld)
            if saved.adapter_location is not None:
                _take_folder(folder, saved.adapter_location, files, withheld)
    for snapshot in named.snapshots:
        withheld[snapshot.location] = WithheldFile(name=snapshot.location, why="not asked for")
    for name in RENDERED:
        if _inside(folder, name) is None:
            continue
        if without_text:
            withheld[name] = WithheldFile(name=name, why="not asked for")
        else:
            files[name] = folder / name
    return files, [withheld[name] for name in sorted(withheld)]


def export_files(folder: Path, *, but: Path) -> dict[str, Path]:
    """Every regular file under a folder, by its path in it; ``but`` is the bundle itself. Raises ConfigError."""
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}", next_step="Make it with grpo-audit export, or leave it out")
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ConfigError(f"{path} is no regular file", expected="files and folders only, no links")
        if stat.S_ISREG(mode) and path.resolve() != but.resolve():
            found[path.relative_to(folder).as_posix()] = path
    return found


def _take(folder: Path, name: str, files: dict[str, Path], withheld: dict[str, WithheldFile]) -> None:
    path = _inside(folder, name)
    if path is None:
        withheld[name] = WithheldFile(name=name, why="absent")
    else:
        files[name] = path


def _take_folder(folder: Path, name: str, files: dict[str, Path], withheld: dict[str, WithheldFile]) -> None:
    place = folder / name
    if not place.is_dir() or not place.resolve().is_relative_to(folder.resolve()):
        withheld[name] = WithheldFile(name=name, why="absent")
        return
    for path in sorted(place.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            _take(folder, f"{name}/{path.name}", files, withheld)


def _inside(folder: Path, name: str) -> Path | None:
    """The file of that name, if it is one and does not lead out of the folder."""
    path = folder / name
    return path if path.is_file() and path.resolve().is_relative_to(folder.resolve()) else None
