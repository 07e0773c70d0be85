"""Hostile bundles: what somebody can do who can write any bytes, and may know the format."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from grpo_audit.ledger import canonical
from grpo_audit.verify.archive import Archive, Member, end_of_archive
from grpo_audit.verify.manifest import MANIFEST

Contents = dict[str, bytes]


def read_members(path: Path) -> Contents:
    """Name to bytes of a good bundle, in order."""
    with path.open("rb") as file:
        archive = Archive(file)
        return {name: archive.open(name).read() for name in archive.members}


def write_members(path: Path, members: list[tuple[str, bytes]]) -> None:
    """An archive of these members in this order, in the spelling of the format."""
    data, listed = bytearray(), []
    for name, content in members:
        member = Member(name, len(content), zlib.crc32(content), len(data))
        listed.append(member)
        data += member.local_header() + content
    directory = b"".join(member.central_header() for member in listed)
    path.write_bytes(data + directory + end_of_archive(len(listed), len(data), len(directory)))


def with_manifest(members: Contents, change: Callable[[dict[str, object]], None] = lambda _: None) -> Contents:
    """The members with a manifest that fits them: sizes, digests, order, and what ``change`` does to it."""
    rest = {name: members[name] for name in sorted(members.keys() - {MANIFEST}, key=str.encode)}
    manifest = canonical.loads(members[MANIFEST])
    manifest["members"] = [
        {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in rest.items()
    ]
    manifest["withheld"]["events"] = manifest["events"] - rest.get("events.jsonl", b"").count(b"\n")
    change(manifest)
    return {MANIFEST: canonical.dumps(manifest), **rest}


def write_consistent(
    path: Path, members: Contents, change: Callable[[dict[str, object]], None] = lambda _: None
) -> None:
    """What a careful attacker writes: everything in the archive and the manifest fits the changed members."""
    write_members(path, list(with_manifest(members, change).items()))


def central_offset(data: bytes) -> int:
    """Where the central directory begins."""
    return int(struct.unpack("<L", data[-6:-2])[0])
