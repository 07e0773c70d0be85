"""Reading a bundle as a ``Source``: straight from the archive, streamed, nothing unpacked. docs/bundle-format.md

``BundleSource.open`` refuses whatever is not a bundle of this format, by name; what the events, notes and contents say
is for the procedure to judge, as it is with a database.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from grpo_audit.ledger import canonical
from grpo_audit.ledger.event import BodyError, parse
from grpo_audit.ledger.folders import is_project_id
from grpo_audit.ledger.merkle import HASH_BYTES
from grpo_audit.ledger.packing import PLAIN
from grpo_audit.ledger.storage_errors import storage_errors
from grpo_audit.record.events import ProjectCreated
from grpo_audit.verify import manifest as layout
from grpo_audit.verify.archive import Archive, BundleError, Refusal, open_archive
from grpo_audit.verify.manifest import Manifest, read_manifest
from grpo_audit.verify.source import StoredCheckpoint, StoredContent, StoredEvent, StoredWitness

__all__ = ["BundleError", "BundleSource", "Refusal", "is_bundle_file"]

_BODY_END = re.compile(
    rb'"kind":"([a-z.]{1,40})","prev":"[0-9a-f]{64}","run":(null|"(?:[^"\\]|\\.){0,200}"),'
    rb'"seq":(0|[1-9][0-9]{0,15}),"time":"[^"\\]{0,40}","v":1\}\n\Z'
)
"""The keys of a body are sorted, so these stand at its end; read from here, they spare a second parse."""
_TAIL = 512
RENDERED = ("MODEL_CARD.md", "report.html", "report.json")
"""Files made from the record after its seal, so no event states their digest."""


class BundleSource:
    """An open bundle. A context manager; every iterator may raise BundleError for a line that is no such line."""

    is_bundle = True

    def __init__(self, archive: Archive, manifest: Manifest, name: str) -> None:
        self._archive = archive
        self.manifest = manifest
        self.name = name

    @classmethod
    def open(cls, path: Path) -> BundleSource:
        """Open a bundle and compare every member with the manifest.

        Raises BundleError, with the reason as ``refusal``; StorageError when the file cannot be read.
        """
        with storage_errors(f"Cannot read {path}"):
            archive = open_archive(path)
            try:
                source = cls(archive, read_manifest(archive), str(path))
                source._check_claims()
            except BaseException:
                archive.close()
                raise
        return source

    @property
    def run_id(self) -> str:
        """The run the bundle is about: all its events are here."""
        return self.manifest.run

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def __enter__(self) -> BundleSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- Source -----------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """Number of events, withheld ones included."""
        return self.manifest.events

    def events(self, start: int = 0, stop: int | None = None) -> Iterator[StoredEvent]:
        """Events with start <= seq < stop; those withheld have a leaf hash only."""
        total = self.count()
        stop = total if stop is None else min(stop, total)
        given = 0
        with self._archive.open(layout.LEAVES) as leaves:
            following = 0
            for line in self._lines(layout.EVENTS, canonical.MAX_BYTES):
                event = _event(line, following)
                seq = event.seq
                if type(seq) is not int or not following <= seq < total:
                    found = f"event {seq} where events {following} to {total - 1} may follow"
                    raise BundleError(Refusal.STRAY_EVENT, found)
                for hidden in range(following, seq):
                    leaf = leaves.read(HASH_BYTES)
                    if start <= hidden < stop:
                        yield StoredEvent(hidden, None, None, None, leaf)
                leaf = leaves.read(HASH_BYTES)
                if start <= seq < stop:
                    yield event._replace(leaf_hash=leaf)
                following, given = seq + 1, given + 1
                if following >= stop < total:
                    return
            for hidden in range(following, stop):
                leaf = leaves.read(HASH_BYTES)
                if start <= hidden:
                    yield StoredEvent(hidden, None, None, None, leaf)
        if stop == total and total - given != self.manifest.withheld.events:
            found = f"{total - given} events withheld, the manifest says {self.manifest.withheld.events}"
            raise BundleError(Refusal.CONTRADICTION, found)

    def checkpoints(self, start: int = 0, stop: int | None = None) -> Iterator[StoredCheckpoint]:
        """Tree heads with start < size <= stop."""
        for value in self._rows(layout.CHECKPOINTS, {"note": str, "root": str, "size": int}, ("size",)):
            if start < value["size"] and (stop is None or value["size"] <= stop):
                yield StoredCheckpoint(value["size"], _hex(value["root"]), value["note"].encode(), None)

    def contents(self, start: int = 0, stop: int | None = None) -> Iterator[StoredContent]:
        """Content of events with start <= seq < stop."""
        types = {"data": str, "encoding": str, "name": str, "salt": str, "seq": int}
        for value in self._rows(layout.CONTENTS, types, ("seq", "name")):
            if stop is not None and value["seq"] >= stop:
                return
            if start <= value["seq"]:
                plain = _data(value["encoding"], value["data"])
                yield StoredContent(value["seq"], value["name"], _hex(value["salt"]), PLAIN, plain)

    def witnesses(self) -> Iterator[StoredWitness]:
        """Every statement of a witness."""
        types = {"at": str, "kind": str, "name": str, "size": int, "statement": str}
        for value in self._rows(layout.WITNESS, types, ("size", "name")):
            statement = _base64(value["statement"])
            yield StoredWitness(value["size"], value["name"], value["kind"], statement, value["at"])

    # --- what only a bundle has -------------------------------------------------------------------------------------

    def withholds_content(self, kind: str) -> bool:
        """Whether the maker left out the content of this kind of event; the verdict has to say so."""
        return kind in self.manifest.withheld.contents

    @property
    def files(self) -> dict[str, str]:
        """Path in the run folder to ``sha256:`` digest of its bytes, as compared when the bundle was opened."""
        return {
            member.name.removeprefix(layout.FILES): f"sha256:{member.sha256}"
            for member in self.manifest.members
            if member.name.startswith(layout.FILES)
        }

    @property
    def exports(self) -> list[str]:
        """Names of what was exported for other programs, without the folder."""
        names = (member.name for member in self.manifest.members)
        return [name.removeprefix(layout.EXPORTS) for name in names if name.startswith(layout.EXPORTS)]

    def open_file(self, path: str) -> BinaryIO:
        """A file of the run folder. Raises KeyError."""
        return self._archive.open(layout.FILES + path)

    def file_size(self, path: str) -> int:
        """Bytes of a file of the run folder. Raises KeyError."""
        return self._archive.members[layout.FILES + path].size

    def open_export(self, name: str) -> BinaryIO:
        """An export. Raises KeyError."""
        return self._archive.open(layout.EXPORTS + name)

    def not_shown(self) -> list[str]:
        """What the bundle lacks, in words for the verdict."""
        withheld, limits = self.manifest.withheld, []
        if withheld.events:
            limits.append(
                f"what {withheld.events:,} events of the log say, of which the bundle gives the hash only: "
                "events of other runs, says its maker, and nothing but the whole record shows that no registration "
                "after this run's seal is among them (the seal counts those before it)"
            )
        if withheld.contents:
            limits.append(f"the texts of {', '.join(withheld.contents)}: left out of the bundle")
        for why, words in (
            ("absent", "not there when the bundle was made"),
            ("not asked for", "left out of the bundle"),
        ):
            names = [file.name for file in withheld.files if file.why == why]
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                limits.append(f"files {words}: {', '.join(names[:5])}{more}")
        extra = [name for name in RENDERED if name in self.files] + ["exports"] * bool(self.exports)
        if extra:
            limits.append(f"that what was rendered from the record says the same: {', '.join(extra)}")
        return limits

    # --- lines ------------------------------------------------------------------------------------------------------

    def _check_claims(self) -> None:
        """The manifest speaks of the project and key that the first event creates, and of as many events as leaves."""
        if self._archive.members[layout.LEAVES].size != HASH_BYTES * self.count():
            raise BundleError(Refusal.CONTRADICTION, f"not {HASH_BYTES} bytes for each event", where=layout.LEAVES)
        if not is_project_id(self.manifest.project):
            raise BundleError(Refusal.MANIFEST, f"project {self.manifest.project[:80]!r}")
        for line in self._lines(layout.EVENTS, canonical.MAX_BYTES):
            try:
                payload = parse(line[:-1]).event.payload
            except (canonical.CanonicalError, BodyError):
                return  # the procedure says what is wrong with a body
            if isinstance(payload, ProjectCreated):
                if payload.project_id != self.manifest.project:
                    raise BundleError(Refusal.CONTRADICTION, "a manifest of another project than its events")
                if payload.public_key != self.manifest.key:
                    raise BundleError(Refusal.SWAPPED_KEY, "a manifest that names another key than its events")
            return
        raise BundleError(Refusal.CONTRADICTION, "no event at all", where=layout.EVENTS)

    def _lines(self, member: str, limit: int) -> Iterator[bytes]:
        """Lines with their newline. Raises BundleError for one that is too long or has no end."""
        with self._archive.open(member) as stream:
            number = 0
            while line := stream.readline(limit + 2):
                number += 1
                if not line.endswith(b"\n"):
                    refusal = Refusal.TOO_LARGE if len(line) > limit else Refusal.BAD_LINE
                    raise BundleError(refusal, f"line {number} has no end", where=member)
                yield line

    def _rows(self, member: str, types: dict[str, type], order: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """Canonical objects of one shape, strictly ascending in the keys of ``order``."""
        last: tuple[Any, ...] | None = None
        for number, line in enumerate(self._lines(member, canonical.MAX_BYTES), 1):
            where = f"{member}, line {number}"
            try:
                value = canonical.loads(line[:-1])
            except canonical.CanonicalError as error:
                raise BundleError(Refusal.BAD_LINE, str(error), where=where) from error
            if not isinstance(value, dict) or {key: type(item) for key, item in value.items()} != types:
                raise BundleError(Refusal.BAD_LINE, f"not an object of {', '.join(types)}", where=where)
            place = tuple(value[key] for key in order)
            if last is not None and place <= last:
                raise BundleError(Refusal.BAD_LINE, f"{place} after {last}", where=where)
            last = place
            yield value


def is_bundle_file(path: Path) -> bool:
    """Whether a file is to be read as a bundle: whatever ``zipfile`` takes for an archive, or is named like one."""
    return path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path))


def _event(line: bytes, following: int) -> StoredEvent:
    """The entry in a line. A body that does not end as bodies do stands where the next event belongs."""
    match = _BODY_END.search(line, max(0, len(line) - _TAIL))
    if match is None:
        return StoredEvent(following, None, None, line[:-1], None)
    kind, run, seq = match.groups()
    try:
        run_id = json.loads(run)
    except ValueError:
        run_id = None
    return StoredEvent(int(seq), run_id, kind.decode(), line[:-1], None)


def _data(encoding: str, data: str) -> bytes:
    """The plain bytes. Bytes that are a text stand as one, so that there is one spelling."""
    if encoding == "text":
        return data.encode()
    if encoding != "base64":
        raise BundleError(Refusal.BAD_LINE, f"encoding {encoding[:40]!r}", where=layout.CONTENTS)
    plain = _base64(data)
    if is_text(plain):
        raise BundleError(Refusal.BAD_LINE, "a text in base64", where=layout.CONTENTS)
    return plain


def is_text(data: bytes) -> bool:
    """Whether content stands in a bundle as a text: valid UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BundleError(Refusal.BAD_LINE, "not base64") from error
    if base64.b64encode(data).decode() != text:
        raise BundleError(Refusal.BAD_LINE, "base64 that is not canonical")
    return data


def _hex(text: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise BundleError(Refusal.BAD_LINE, "not hexadecimal") from error
    if data.hex() != text:
        raise BundleError(Refusal.BAD_LINE, "hexadecimal that is not canonical")
    return data
