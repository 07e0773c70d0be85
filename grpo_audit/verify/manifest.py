"""``manifest.json`` of a bundle: what is in it, and what is not. Claims, each compared with what is there."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grpo_audit.ledger import canonical
from grpo_audit.record.events import EventKind
from grpo_audit.verify.archive import Archive, BundleError, Refusal

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
LEAVES = "leaves.bin"
CHECKPOINTS = "checkpoints.jsonl"
CONTENTS = "contents.jsonl"
WITNESS = "witness.jsonl"
LOG_MEMBERS = (CHECKPOINTS, CONTENTS, EVENTS, LEAVES, WITNESS)
"""Always there, if only empty."""
FILES = "files/"
"""Files of the run folder, under their path in it."""
EXPORTS = "exports/"
"""What was exported for other programs; no digest in the record vouches for it."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class MemberClaim(_Strict):
    """One member."""

    name: str
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str = Field(pattern=re.compile(r"^[0-9a-f]{64}$"))


class WithheldFile(_Strict):
    """A file that the record names and the bundle lacks."""

    name: str
    """Path in the run folder."""
    why: Literal["absent", "not asked for"]
    """``absent``: it was not in the run folder when the bundle was made."""


class Withheld(_Strict):
    """What the maker of the bundle left out, or did not have."""

    events: int = Field(ge=0)
    """Events of other runs of which only the leaf hash is given."""
    contents: list[str]
    """Kinds of event whose content is left out."""
    files: list[WithheldFile]


class Manifest(_Strict):
    """The whole manifest."""

    format: int
    project: str
    """Project id."""
    key: str
    """Verifier key that ``project.created`` names."""
    run: str
    """The run this bundle is about."""
    events: int = Field(ge=1)
    """Events in the log, withheld ones included."""
    withheld: Withheld
    members: list[MemberClaim]
    """Every member but the manifest, in the order of the archive."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return canonical.dumps(self.model_dump())


def read_manifest(archive: Archive) -> Manifest:
    """The manifest, compared with the archive: same members, in the same order, with these sizes and digests.

    Raises BundleError.
    """
    manifest = _parse(archive)
    claimed = {member.name: member for member in manifest.members}
    there = archive.members.keys() - {MANIFEST}
    for name in sorted(there - claimed.keys()):
        raise BundleError(Refusal.UNLISTED_MEMBER, "not named by the manifest", where=name)
    for name in [*(name for name in claimed if name not in there), *(set(LOG_MEMBERS) - there)]:
        raise BundleError(Refusal.MISSING_MEMBER, "named by the manifest, but not there", where=name)
    if list(archive.members) != [MANIFEST, *sorted(there, key=str.encode)]:
        raise BundleError(Refusal.MEMBER_ORDER, "members that are not sorted by name after the manifest")
    if [member.name for member in manifest.members] != sorted(there, key=str.encode):
        raise BundleError(Refusal.MANIFEST, "members that are not sorted by name, each once")
    for name in there:
        if name not in LOG_MEMBERS and not name.startswith((FILES, EXPORTS)):
            raise BundleError(Refusal.UNLISTED_MEMBER, "no member of this format", where=name)
        if claimed[name].size != archive.members[name].size:
            found = f"{archive.members[name].size} bytes, the manifest says {claimed[name].size}"
            raise BundleError(Refusal.SIZE_MISMATCH, found, where=name)
    for name, digest in archive.digests().items():
        if name != MANIFEST and digest != claimed[name].sha256:
            raise BundleError(Refusal.DIGEST_MISMATCH, f"sha256 {digest}", where=name)
    return manifest


def _parse(archive: Archive) -> Manifest:
    if MANIFEST not in archive.members:
        raise BundleError(Refusal.MISSING_MEMBER, "not there", where=MANIFEST)
    if archive.members[MANIFEST].size > canonical.MAX_BYTES:
        raise BundleError(Refusal.TOO_LARGE, f"{archive.members[MANIFEST].size} bytes", where=MANIFEST)
    with archive.open(MANIFEST) as stream:
        data = stream.read()
    try:
        value = canonical.loads(data)
    except canonical.CanonicalError as error:
        raise BundleError(Refusal.MANIFEST, str(error)) from error
    version = value.get("format") if isinstance(value, dict) else None
    if type(version) is int and version != FORMAT_VERSION:
        found = f"format {version}; this version reads {FORMAT_VERSION}"
        raise BundleError(Refusal.FORMAT_VERSION, found)
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(Refusal.MANIFEST, f"{where}: {first['msg']}") from error
    kinds = manifest.withheld.contents
    if kinds != sorted(set(kinds) & {kind.value for kind in EventKind}):
        raise BundleError(Refusal.MANIFEST, "withheld.contents: not a sorted list of kinds of event")
    return manifest
