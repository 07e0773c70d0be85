"""Cosignatures of tree heads, as https://c2sp.org/tlog-cosignature defines them: Ed25519, signature type 0x04.

A cosignature says: of the log of this origin, this is the largest consistent tree head I had seen at this time.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from grpo_audit.ledger.notes import Checkpoint, NamedKey, NoteError, Signature, signature_line

COSIGNATURE = 0x04
_TIME_BYTES = 8
_SIGNATURE_BYTES = 64
_LAST_SECOND = 253_402_300_799
"""31 December 9999: a larger timestamp is no time that can be shown."""


class CosignerKey(NamedKey):
    """The key of a witness: signature type 0x04."""

    signature_type = COSIGNATURE
    what = "witness key"


@dataclass(frozen=True)
class Cosignature:
    """A cosignature line, not verified."""

    name: str
    key_id: bytes
    timestamp: int
    """Seconds since the Epoch."""
    signature: bytes

    @classmethod
    def parse(cls, line: bytes) -> Cosignature:
        """Read one note signature line, with its newline. Raises NoteError."""
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NoteError("a cosignature must be UTF-8") from error
        if not text.endswith("\n") or "\n" in text[:-1]:
            raise NoteError("a cosignature is one line")
        return cls.of(signature_line(text[:-1]))

    @classmethod
    def of(cls, item: Signature) -> Cosignature:
        """A signature of a note as a cosignature. Raises NoteError when it cannot be one."""
        if len(item.value) != _TIME_BYTES + _SIGNATURE_BYTES:
            raise NoteError(f"the signature of {item.name} is no cosignature: {len(item.value)} bytes, not 72")
        timestamp = int.from_bytes(item.value[:_TIME_BYTES], "big")
        if timestamp > _LAST_SECOND:
            raise NoteError(f"the cosignature of {item.name} is of no time: {timestamp}")
        return cls(item.name, item.key_id, timestamp, item.value[_TIME_BYTES:])

    def is_by(self, key: CosignerKey) -> bool:
        """Whether it names this key: same name, same key id."""
        return (self.name, self.key_id) == (key.name, key.key_id)

    def holds(self, key: CosignerKey, head: Checkpoint) -> bool:
        """Whether this key cosigned exactly this head at exactly this time."""
        if not self.is_by(key):
            return False
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(self.signature, message(head, self.timestamp))
        except InvalidSignature:
            return False
        return True


class Cosigner:
    """A witness' private key under its name."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = CosignerKey(name, private.public_key().public_bytes_raw())

    def cosign(self, head: Checkpoint, timestamp: int) -> bytes:
        """The signature line over a head, with its newline."""
        value = timestamp.to_bytes(_TIME_BYTES, "big") + self._private.sign(message(head, timestamp))
        return Signature(self.key.name, self.key.key_id, value).line().encode()


def message(head: Checkpoint, timestamp: int) -> bytes:
    """What is signed: header line, timestamp line, and the text of the checkpoint."""
    return f"cosignature/v1\ntime {timestamp}\n{head.text()}".encode()
