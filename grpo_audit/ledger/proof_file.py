"""A proof in one small file that anybody can check offline, as https://c2sp.org/tlog-proof defines it.

Our opaque extra data is the body of the event, so the file says what was recorded and proves it; it is checked against
its leaf hash before it is believed.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from grpo_audit.ledger.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from grpo_audit.ledger.notes import Checkpoint, NoteError, VerifierKey, open_note, strict_base64

MAGIC = "c2sp.org/tlog-proof@v1"
SUFFIX = ".tlog-proof"
MAX_BYTES = 32 << 20
_MAX_PATH = 63
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True)
class ProofFile:
    """One event, its place in the tree, and the signed head. ``ProofFile.parse(p.encode()) == p``. Nothing is verified
    until ``check``.
    """

    body: bytes
    """Canonical bytes of the event."""
    index: int
    path: tuple[bytes, ...]
    note: bytes
    """The signed checkpoint, with cosignatures of witnesses where there are some."""

    def encode(self) -> bytes:
        """The file."""
        lines = [MAGIC, f"extra {base64.b64encode(self.body).decode()}", f"index {self.index}"]
        lines += [base64.b64encode(item).decode() for item in self.path]
        return "\n".join(lines).encode() + b"\n\n" + self.note

    @classmethod
    def parse(cls, data: bytes) -> ProofFile:
        """Read a file without trusting it. Raises NoteError."""
        if len(data) > MAX_BYTES:
            raise NoteError(f"a proof of {len(data)} bytes; at most {MAX_BYTES} are read")
        top, separator, note = data.partition(b"\n\n")
        try:
            lines = top.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise NoteError("a proof begins with ASCII lines") from error
        if not separator or lines[0] != MAGIC:
            raise NoteError(f"no proof: the first line is not {MAGIC}")
        if len(lines) < 3 or not lines[1].startswith("extra "):
            raise NoteError("the proof does not carry the event: no line 'extra'")
        match = _INDEX.fullmatch(lines[2])
        if match is None:
            raise NoteError(f"{lines[2]!r:.60} is no index line")
        path = tuple(strict_base64(line) for line in lines[3:])
        if len(path) > _MAX_PATH or any(len(item) != HASH_BYTES for item in path):
            raise NoteError(f"an inclusion proof has at most {_MAX_PATH} hashes of {HASH_BYTES} bytes")
        return cls(strict_base64(lines[1].removeprefix("extra ")), int(match[1]), path, note)

    def check(self, key: VerifierKey) -> Checkpoint:
        """The head that proves the event, signed by ``key``. Raises NoteError when anything does not hold."""
        head = Checkpoint.parse(open_note(self.note, key))
        if head.origin != key.name:
            raise NoteError(f"the head is of {head.origin}, not of {key.name}")
        if not verify_inclusion(leaf_hash(self.body), self.index, head.size, self.path, head.root):
            raise NoteError(f"the event is not at {self.index} in the head over {head.size} events")
        return head
