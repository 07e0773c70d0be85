"""Writing a bundle: one run of a record as one file that a stranger can verify. docs/bundle-format.md

The same record and files give the same bytes: members are sorted, stored, and carry no time. Every member is made
twice, first to learn its size and digest for the manifest, which comes first, and then to be written, so nothing has to
fit into memory.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from grpo_audit.errors import ConfigError, GrpoAuditError
from grpo_audit.export.bundle_files import export_files, run_files
from grpo_audit.export.bundle_log import BundledLog
from grpo_audit.ledger.storage_errors import DamagedRecordError, storage_errors
from grpo_audit.ledger.store import Store
from grpo_audit.verify.archive import MAX_MEMBERS, Member, check_names, end_of_archive
from grpo_audit.verify.bundle import is_bundle_file
from grpo_audit.verify.manifest import (
    EXPORTS,
    FILES,
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    MemberClaim,
    Withheld,
    WithheldFile,
)

Progress = Callable[[str, int, int], None]
"""Called with ``measure`` and members done and in all, then with ``write`` and MiB done and in all."""
_Members = dict[str, Callable[[], Iterator[bytes]]]
"""Name to what makes the bytes, as often as it is called."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class BundleOptions:
    """What goes into a bundle besides the log."""

    with_weights: bool = False
    """Also the saved model and its adapters."""
    without_text: bool = False
    """Leave out what prompts and models said: content of groups, rollouts and evaluation samples."""
    exports: Path | None = None
    """Folder with exports to put in."""


@dataclass(frozen=True)
class WrittenBundle:
    """What was written."""

    path: Path
    size: int
    sha256: str
    """Of the whole file, hexadecimal: the name of exactly this bundle."""
    manifest: Manifest


@dataclass(frozen=True)
class _Measured:
    """A member before it is written."""

    pieces: Callable[[], Iterator[bytes]]
    claim: MemberClaim
    crc: int


def write_bundle(
    location: str | Path,
    run_id: str,
    folder: Path,
    target: Path,
    options: BundleOptions = BundleOptions(),
    progress: Progress | None = None,
) -> WrittenBundle:
    """Write the bundle of a run whose files lie in ``folder``. ``target`` appears when it is whole, or not at all.

    Raises DamagedRecordError when the record or a file is not what the log says, ConfigError when the target is some
    other file, StorageError when something cannot be read or written.
    """
    if target.exists() and not is_bundle_file(target):
        raise ConfigError(f"Refusing to overwrite {target}", found="a file that is no bundle", next_step="Name another")
    report = progress or (lambda *_: None)
    store = Store.read(location)
    try:
        with store.connect() as connection, storage_errors(f"Cannot read the files of run {run_id}"):
            log = BundledLog(connection, store.name, run_id, without_text=options.without_text)
            files, withheld = run_files(
                log.named_files, folder, with_weights=options.with_weights, without_text=options.without_text
            )
            members: _Members = dict(log.members())
            members |= {FILES + name: partial(_file_pieces, path) for name, path in files.items()}
            if options.exports is not None:
                exported = export_files(options.exports, but=target)
                members |= {EXPORTS + name: partial(_file_pieces, path) for name, path in exported.items()}
            if len(members) >= MAX_MEMBERS:
                raise ConfigError(f"{len(members)} files are too many for a bundle", expected=f"below {MAX_MEMBERS}")
            _check_names(members)
            measured = _measure(members, report)
            log.named_files.check(
                {name.removeprefix(FILES): f"sha256:{item.claim.sha256}" for name, item in measured.items()}
            )
            manifest = _manifest(log, run_id, measured, withheld)
            with storage_errors(f"Cannot write {target}"):
                return _write(target, manifest, measured, report)
    finally:
        store.close()


def _check_names(members: _Members) -> None:
    try:
        check_names([MANIFEST, *members])
    except GrpoAuditError as error:
        raise ConfigError("A file has a name that no bundle may hold", found=str(error)) from error


def _measure(members: _Members, report: Progress) -> dict[str, _Measured]:
    """Size, digest and checksum of every member, in the order of the archive."""
    measured: dict[str, _Measured] = {}
    for name in sorted(members, key=str.encode):
        report("measure", len(measured), len(members))
        size, crc, sha256 = 0, 0, hashlib.sha256()
        for piece in members[name]():
            size, crc = size + len(piece), zlib.crc32(piece, crc)
            sha256.update(piece)
        claim = MemberClaim(name=name, size=size, sha256=sha256.hexdigest())
        measured[name] = _Measured(members[name], claim, crc)
    report("measure", len(measured), len(members))
    return measured


def _manifest(
    log: BundledLog,
    run_id: str,
    measured: dict[str, _Measured],
    withheld: list[WithheldFile],
) -> Manifest:
    left_out = Withheld(events=log.num_withheld, contents=log.withheld_contents, files=withheld)
    return Manifest(
        format=FORMAT_VERSION,
        project=log.created.project_id,
        key=log.created.public_key,
        run=run_id,
        events=log.num_events,
        withheld=left_out,
        members=[member.claim for member in measured.values()],
    )


def _write(target: Path, manifest: Manifest, measured: dict[str, _Measured], report: Progress) -> WrittenBundle:
    data = manifest.encode()
    claim = MemberClaim(name=MANIFEST, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    first = _Measured(lambda: iter([data]), claim, zlib.crc32(data))
    total = len(data) + sum(member.claim.size for member in measured.values())
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with unfinished.open("xb") as file:
            out = _Out(file, total, report)
            _write_archive(out, [first, *measured.values()])
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return WrittenBundle(target, out.written, out.sha256.hexdigest(), manifest)


class _Out:
    """The file being written, with its digest so far."""

    def __init__(self, file: BinaryIO, total: int, report: Progress) -> None:
        self._file, self._total, self._report = file, total, report
        self.written = 0
        self._reported = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.written += len(data)
        if self.written - self._reported >= _CHUNK or self.written >= self._total:
            self._reported = self.written
            self._report("write", -(-min(self.written, self._total) // _CHUNK), -(-self._total // _CHUNK))


def _write_archive(out: _Out, measured: list[_Measured]) -> None:
    members = []
    for item in measured:
        member = Member(item.claim.name, item.claim.size, item.crc, out.written)
        members.append(member)
        out.write(member.local_header())
        sha256 = hashlib.sha256()
        for piece in item.pieces():
            sha256.update(piece)
            out.write(piece)
        if sha256.hexdigest() != item.claim.sha256 or out.written != member.end:
            raise DamagedRecordError(
                f"{item.claim.name} changed while the bundle was written", next_step="Run grpo-audit bundle again"
            )
    offset = out.written
    for member in members:
        out.write(member.central_header())
    out.write(end_of_archive(len(members), offset, out.written - offset))


def _file_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece
