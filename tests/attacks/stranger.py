"""A verifier of bundles by somebody who has only docs/record-format.md and docs/bundle-format.md.

Standard library and ``cryptography``; nothing of grpo_audit. It checks the archive, the manifest, bodies, links, leaf
hashes, every signed head, rotations, content and the seal, and no more. Run it: python stranger.py BUNDLE.zip KEY
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LOG = ("checkpoints.jsonl", "contents.jsonl", "events.jsonl", "leaves.bin", "witness.jsonl")
OF_EVERY_RUN = {"run.registered", "run.resumed", "run.sealed", "run.aborted", "run.abandoned", "erasure"}
BODY = {"v", "seq", "run", "kind", "time", "prev", "data", "content"}


class BundleRejected(Exception):
    """The bundle does not hold."""


def demand(holds: bool, what: str) -> None:
    """Reject unless it holds."""
    if not holds:
        raise BundleRejected(what)


# --- the archive (small ones only: no ZIP64) -------------------------------------------------------------------------


def headers(name: bytes, crc: int, size: int, offset: int) -> tuple[bytes, bytes]:
    """The local and the central header of a member: nothing else is left to say."""
    flags = 0 if name.isascii() else 0x0800
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, flags, 0, 0, 0x21, crc, size, size, len(name), 0)
    central = struct.pack(
        "<4s6H3L5H2L",
        *(b"PK\x01\x02", 3 << 8 | 20, 20, flags, 0, 0, 0x21, crc, size, size),
        *(len(name), 0, 0, 0, 0, 0o100644 << 16, offset),
    )
    return local + name, central + name


def read_archive(data: bytes) -> dict[str, bytes]:
    """Members by name, in order."""
    demand(len(data) >= 22 and data[-22:-18] == b"PK\x05\x06", "no end of the archive")
    count, _, size, at = struct.unpack("<2H2L", data[-14:-2])
    demand(data[-22:] == struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, at, 0), "another end")
    demand(at + size + 22 == len(data), "bytes that belong to nothing")
    members: dict[str, bytes] = {}
    following, place = 0, at
    for _ in range(count):
        crc, length, _, name_length = struct.unpack("<3LH", data[place + 16 : place + 30])
        name = data[place + 46 : place + 46 + name_length]
        local, central = headers(name, crc, length, following)
        demand(data[place : place + len(central)] == central, "a central header in another spelling")
        demand(data[following : following + len(local)] == local, "a local header in another spelling")
        content = data[following + len(local) : following + len(local) + length]
        demand(len(content) == length and zlib.crc32(content) == crc, "checksum")
        demand(name.decode() not in members, "twice the same name")
        members[name.decode()] = content
        following += len(local) + length
        place += len(central)
    demand(following == at, "a gap before the directory")
    return members


# --- canonical JSON --------------------------------------------------------------------------------------------------


def canonical(data: bytes) -> Any:
    """The value of canonical bytes."""

    def refuse(text: str) -> Any:
        raise BundleRejected(f"a number that is no integer: {text}")

    try:
        value = json.loads(data.decode(), parse_float=refuse, parse_constant=refuse)
        again = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BundleRejected(f"no JSON: {error}") from error
    demand(again == data, "JSON in another spelling")
    return value


def lines(data: bytes) -> Iterator[bytes]:
    """Lines without their newline."""
    demand(not data or data.endswith(b"\n"), "a last line without end")
    return iter(data.split(b"\n")[:-1])


# --- tree and signatures ---------------------------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


class Tree:
    """RFC 6962: the roots of the complete subtrees, largest first."""

    def __init__(self) -> None:
        self.subtrees: list[tuple[int, bytes]] = []

    def append(self, leaf: bytes) -> None:
        """One more leaf."""
        self.subtrees.append((1, leaf))
        while len(self.subtrees) > 1 and self.subtrees[-2][0] == self.subtrees[-1][0]:
            (left_size, left), (right_size, right) = self.subtrees[-2:]
            self.subtrees[-2:] = [(left_size + right_size, sha256(b"\x01" + left + right))]

    def root(self) -> bytes:
        """The root."""
        root = self.subtrees[-1][1]
        for _, left in reversed(self.subtrees[:-1]):
            root = sha256(b"\x01" + left + root)
        return root


class Key:
    """A verifier key, NAME+KEYHASH+BASE64."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.name, self.id, encoded = text.split("+", 2)
        material = base64.b64decode(encoded, validate=True)
        demand(material[:1] == b"\x01" and len(material) == 33, "no Ed25519 key")
        demand(sha256(self.name.encode() + b"\n" + material)[:4].hex() == self.id, "another key hash")
        self.public = Ed25519PublicKey.from_public_bytes(material[1:])

    def signed(self, note: str) -> str | None:
        """The text of a note, if this key signed it."""
        text, _, signatures = note.rpartition("\n\n")
        for line in signatures.split("\n")[:-1]:
            match = re.fullmatch("\u2014 (\\S+) (\\S+)", line)
            demand(match is not None, "no signature line")
            assert match is not None
            value = base64.b64decode(match[2], validate=True)
            if match[1] == self.name and value[:4].hex() == self.id:
                try:
                    self.public.verify(value[4:], (text + "\n").encode())
                except InvalidSignature as error:
                    raise BundleRejected("a signature that does not hold") from error
                return text + "\n"
        return None


# --- the procedure ---------------------------------------------------------------------------------------------------


class Verification:
    """One bundle, verified with one key. ``run`` rejects or returns a summary."""

    def __init__(self, data: bytes, key: str) -> None:
        self.members = read_archive(data)
        self.key = Key(key)
        self.manifest = self.read_manifest()
        self.events: dict[int, dict[str, Any]] = {}
        self.bodies: dict[int, bytes] = {}

    def read_manifest(self) -> dict[str, Any]:
        """The manifest, compared with the members."""
        demand(next(iter(self.members), None) == "manifest.json", "no manifest")
        manifest: dict[str, Any] = canonical(self.members["manifest.json"])
        rest = {name: data for name, data in self.members.items() if name != "manifest.json"}
        demand(manifest["format"] == 1, "another format")
        demand(list(rest) == sorted(rest, key=str.encode) and set(LOG) <= rest.keys(), "members")
        demand(
            manifest["members"]
            == [{"name": name, "sha256": sha256(data).hex(), "size": len(data)} for name, data in rest.items()],
            "the manifest names other members",
        )
        demand(all(name in LOG or name.startswith(("files/", "exports/")) for name in rest), "an unknown member")
        demand(len(rest["leaves.bin"]) == 32 * manifest["events"], "leaves")
        return manifest

    def run(self) -> dict[str, int]:
        """Every step."""
        self.read_events()
        self.check_heads()
        num_contents = self.check_content()
        self.check_seal()
        return {"events": self.manifest["events"], "disclosed": len(self.events), "contents": num_contents}

    def leaf(self, seq: int) -> bytes:
        """A leaf hash; 64 zeros stand before the first."""
        return self.members["leaves.bin"][32 * seq : 32 * seq + 32] if seq >= 0 else bytes(32)

    def read_events(self) -> None:
        """Bodies, their numbers, links and leaf hashes; which events are there."""
        last = -1
        for line in lines(self.members["events.jsonl"]):
            event = canonical(line)
            demand(event.keys() == BODY and event["v"] == 1, "no body")
            seq = event["seq"]
            demand(type(seq) is int and last < seq < self.manifest["events"], "an event out of order")
            demand(sha256(b"\x00" + line) == self.leaf(seq), f"event {seq} is not what was hashed")
            demand(event["prev"] == self.leaf(seq - 1).hex(), f"event {seq} follows another event")
            demand(
                event["run"] in (None, self.manifest["run"]) or event["kind"] in OF_EVERY_RUN,
                f"event {seq} is none of the run's",
            )
            self.events[seq], last = event, seq
        demand(self.manifest["withheld"]["events"] == self.manifest["events"] - len(self.events), "withheld events")
        created = self.events.get(0, {})
        demand(created.get("kind") == "project.created", "the first event creates no project")
        demand(created["data"]["public_key"] == self.manifest["key"], "another key than the project's")
        demand(created["data"]["project_id"] == self.manifest["project"], "another project")

    def keys(self) -> list[tuple[int, Key]]:
        """First event that each key signs alone, and the key, oldest first."""
        chain = [(0, Key(self.events[0]["data"]["public_key"]))]
        for seq, event in self.events.items():
            if event["kind"] == "key.rotated":
                demand(event["data"]["old_key"] == chain[-1][1].text, "a rotation from another key")
                chain.append((seq, Key(event["data"]["new_key"])))
        demand(self.key.text in {key.text for _, key in chain}, "signed by another key than the one known")
        return chain

    def check_heads(self) -> None:
        """Every head is that of the leaves, and signed by the keys in force; the newest covers all."""
        chain, tree, size, previous = self.keys(), Tree(), 0, 0
        for line in lines(self.members["checkpoints.jsonl"]):
            head = canonical(line)
            demand(head["size"] > size, "heads out of order")
            for seq in range(size, head["size"]):
                demand(len(self.leaf(seq)) == 32, "a head over events that are missing")
                tree.append(self.leaf(seq))
            previous, size = size, head["size"]
            root = base64.b64encode(tree.root()).decode()
            demand(head["root"] == tree.root().hex(), f"head {size} is of another tree")
            in_force = [
                key
                for (since, key), until in zip(chain, [*(s for s, _ in chain[1:]), None], strict=True)
                if since < size and (until is None or until >= previous)
            ]
            for key in in_force:
                demand(key.signed(head["note"]) == f"{key.name}\n{size}\n{root}\n", f"head {size} is not signed")
        demand(size == self.manifest["events"], "events under no head")

    def check_content(self) -> int:
        """Every content has its digest and an event that names it; what lacks was erased or is said to be withheld."""
        named = {(seq, name): digest for seq, event in self.events.items() for name, digest in event["content"].items()}
        gone = {
            (item["seq"], name)
            for event in self.events.values()
            if event["kind"] == "erasure"
            for item in event["data"]["contents"]
            for name in item["names"]
        }
        count = 0
        for line in lines(self.members["contents.jsonl"]):
            row = canonical(line)
            plain = row["data"].encode() if row["encoding"] == "text" else base64.b64decode(row["data"], validate=True)
            digest = named.pop((row["seq"], row["name"]), None)
            found = "sha256:" + sha256(bytes.fromhex(row["salt"]) + plain).hex()
            demand(digest == found, f"content {row['name']} of event {row['seq']}")
            count += 1
        for seq, name in named.keys() - gone:
            kind = self.events[seq]["kind"]
            demand(kind in self.manifest["withheld"]["contents"], f"content {name} of event {seq} is missing")
        return count

    def check_seal(self) -> None:
        """The seal states what the run has."""
        counts: Counter[str] = Counter()
        sealed = False
        for event in self.events.values():
            if event["run"] == self.manifest["run"]:
                if event["kind"] == "run.sealed":
                    sealed = True
                    demand(event["data"]["by_kind"] == dict(counts), "the seal states other events")
                counts[event["kind"]] += 1
        demand(sealed, "the run is not sealed")


def verify(stream: BinaryIO, key: str) -> dict[str, int]:
    """Verify a bundle. Raises BundleRejected."""
    step: Callable[[], dict[str, int]] = Verification(stream.read(), key).run
    return step()


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:  # noqa: PTH123
        print(json.dumps(verify(file, sys.argv[2])))
