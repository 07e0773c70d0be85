"""Signed notes and tree heads in the formats of the Community Cryptography Specification Project:
https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint, with Ed25519 (signature type 0x01) only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import ClassVar, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = 0x01
_MAX_NOTE = 1 << 20
_MAX_SIGNATURES = 64
_DASH = "\u2014"
_SIGNATURE_LINE = re.compile(rf"{_DASH} (\S+) (\S+)")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class NoteError(ValueError):
    """A note, a key or a checkpoint is malformed, or no trusted signature holds."""


@dataclass(frozen=True)
class NamedKey:
    """A named Ed25519 public key for one type of signature. ``parse(str(key)) == key``."""

    signature_type: ClassVar[int]
    what: ClassVar[str]
    """What the key is called in errors."""
    name: str
    public: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.public) != 32:
            raise NoteError(f"an Ed25519 public key has 32 bytes, found {len(self.public)}")

    @property
    def key_id(self) -> bytes:
        """SHA-256(name || 0x0A || type || public key), first four bytes."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.signature_type]) + self.public).digest()[:4]

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([self.signature_type]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME+KEYHASH+BASE64``. Raises NoteError."""
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise NoteError(f"{text[:200]!r} is no {cls.what}; expected NAME+KEYHASH+BASE64")
        name, key_id, encoded = parts
        material = strict_base64(encoded)
        if not material or material[0] != cls.signature_type:
            raise NoteError(f"the {cls.what} of {name} is not of type 0x{cls.signature_type:02x}")
        key = cls(name, material[1:])
        if key.key_id.hex() != key_id:
            raise NoteError(f"the {cls.what} of {name} does not fit its key hash {key_id[:20]}")
        return key


class VerifierKey(NamedKey):
    """The key of a log, or of whoever signs a note: signature type 0x01."""

    signature_type = ED25519
    what = "verifier key"


class Signer:
    """A named Ed25519 private key."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.verifier = VerifierKey(name, private.public_key().public_bytes_raw())

    def signature(self, text: str) -> Signature:
        """Sign a note's text."""
        return Signature(self.verifier.name, self.verifier.key_id, self._private.sign(text.encode()))


@dataclass(frozen=True)
class Signature:
    """One signature line, not verified."""

    name: str
    key_id: bytes
    value: bytes

    def line(self) -> str:
        """As it stands under a note, with its newline. ``signature_line(s.line()[:-1]) == s``."""
        return f"{_DASH} {self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"


@dataclass(frozen=True)
class Note:
    """A text and the signatures under it, not verified. ``Note.parse(note.encode()) == note``."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The bytes of the note. Raises NoteError when the text does not end in a newline or has control characters."""
        _check_text(self.text)
        return (self.text + "\n" + "".join(item.line() for item in self.signatures)).encode()

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Read a note without trusting it. Raises NoteError."""
        if len(data) > _MAX_NOTE:
            raise NoteError(f"a note of {len(data)} bytes; at most {_MAX_NOTE} are read")
        try:
            whole = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NoteError("a note must be UTF-8") from error
        text, separator, tail = whole.rpartition("\n\n")
        if not separator or not tail.endswith("\n"):
            raise NoteError("no signatures under the note")
        text += "\n"
        _check_text(text)
        lines = tail[:-1].split("\n")
        if len(lines) > _MAX_SIGNATURES:
            raise NoteError(f"{len(lines)} signatures; at most {_MAX_SIGNATURES} are read")
        return cls(text, tuple(signature_line(line) for line in lines))


def sign(text: str, *signers: Signer) -> bytes:
    """The note that says ``text``, signed by each signer. Raises NoteError."""
    if not signers:
        raise NoteError("a note needs a signature")
    return Note(text, tuple(signer.signature(text) for signer in signers)).encode()


def open_note(data: bytes, key: VerifierKey) -> str:
    """The text of a note that this key signed. Raises NoteError otherwise.

    Signatures of other keys are ignored, as the specification demands; one by this key that does not hold rejects the
    note.
    """
    note = Note.parse(data)
    ours = [item for item in note.signatures if item.name == key.name and item.key_id == key.key_id]
    if not ours:
        signers = ", ".join(item.name + "+" + item.key_id.hex() for item in note.signatures)
        raise NoteError(f"not signed by {key.name}+{key.key_id.hex()}, but by {signers}")
    public = Ed25519PublicKey.from_public_bytes(key.public)
    for item in ours:
        try:
            public.verify(item.value, note.text.encode())
        except InvalidSignature as error:
            raise NoteError(f"the signature of {key.name}+{key.key_id.hex()} does not hold") from error
    return note.text


@dataclass(frozen=True)
class Checkpoint:
    """A tree head: which log, how many leaves, which root. ``Checkpoint.parse(c.text()) == c``."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note text: origin, size, root."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a note text. Extension lines are refused: we write none, and nothing would audit them.

        Raises NoteError.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0]:
            raise NoteError("a checkpoint is three lines: origin, size and root")
        origin, size, root = lines[:3]
        if not _SIZE.fullmatch(size):
            raise NoteError(f"{size!r} is no tree size")
        digest = strict_base64(root)
        if len(digest) != 32:
            raise NoteError(f"a root hash has 32 bytes, found {len(digest)}")
        return cls(origin, int(size), digest)


def signature_line(line: str) -> Signature:
    """Read a signature line, without its newline. Raises NoteError."""
    match = _SIGNATURE_LINE.fullmatch(line)
    if match is None:
        raise NoteError(f"{line!r} is no signature line")
    check_name(match[1])
    value = strict_base64(match[2])
    if len(value) < 5:
        raise NoteError(f"the signature of {match[1]} is empty")
    return Signature(match[1], value[:4], value[4:])


def check_name(name: str) -> None:
    """Raises NoteError for what cannot be the name of a key."""
    if not name or "+" in name or any(character.isspace() for character in name):
        raise NoteError(f"{name!r} is no key name: it must not be empty nor contain spaces or '+'")


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise NoteError("the text of a note ends in a newline")
    if _CONTROL.search(text):
        raise NoteError("a note must not contain control characters")


def strict_base64(text: str) -> bytes:
    """Strict: one spelling for one value."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError(f"{text!r} is not base64") from error
    if base64.b64encode(data).decode() != text:
        raise NoteError(f"{text!r} is not canonical base64")
    return data
