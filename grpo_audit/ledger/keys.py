"""The key that signs records, and the keys this machine has pinned.

One Ed25519 key a user, made on first use, in the user's configuration folder and never in a record. A rotation retires
it, it is not thrown away: projects that were not rotated yet are still signed by it. The verifier key of each project
made here is pinned beside it, so that ``verify`` on this machine does not have to believe the record.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from grpo_audit.errors import StorageError
from grpo_audit.ledger.attestation_key import AttestationKey
from grpo_audit.ledger.folders import config_folder, is_project_id, replace_file
from grpo_audit.ledger.notes import NoteError, Signer, VerifierKey
from grpo_audit.ledger.private_files import read_private, replace_private, write_private

__all__ = [
    "AttestationKey",
    "SigningKey",
    "all_private",
    "current_path",
    "pin",
    "pinned",
    "retired_paths",
    "rotate",
]


class SigningKey:
    """An Ed25519 private key; each project signs with it under the project's own name."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key, kept nowhere."""
        return cls(Ed25519PrivateKey.generate())

    def signer(self, name: str) -> Signer:
        """This key under a name. Raises NoteError when the name cannot be a key name."""
        return Signer(name, self._private)

    def pem(self) -> bytes:
        """PKCS #8, not encrypted: the file's mode protects it."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def private(self) -> Ed25519PrivateKey:
        """The key itself."""
        return self._private

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes: what makes two of these the same key."""
        return self._private.public_key().public_bytes_raw()

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a private key. Raises StorageError when others may read it, or when it is no Ed25519 key."""
        try:
            private = load_pem_private_key(read_private(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _broken(path) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise _broken(path)
        return cls(private)

    @classmethod
    def load_or_create(cls, path: Path | None = None) -> SigningKey:
        """The user's key, made on first use. Raises StorageError."""
        path = path or current_path()
        if not path.exists():
            write_private(path, cls.generate().pem())
        return cls.load(path)


def current_path() -> Path:
    """Where the user's signing key is."""
    return config_folder() / "signing-key.pem"


def retired_paths() -> list[Path]:
    """Where the retired signing keys are, the one retired last first."""
    return sorted((config_folder() / "retired").glob("*.pem"), reverse=True)


def all_private() -> list[SigningKey]:
    """Every private key of this user: the current one first (made when there is none), then the retired ones, newest
    first, each once. Raises StorageError when one cannot be read.
    """
    found: dict[bytes, SigningKey] = {}
    for key in (SigningKey.load_or_create(), *(SigningKey.load(path) for path in retired_paths())):
        found.setdefault(key.public, key)
    return list(found.values())


def rotate() -> SigningKey:
    """Make a new current key and retire the old one, which stays readable by ``all_private``.

    Projects go on being signed by the old one until ``Project.rotate_key`` tells each of them. Killed in between, the
    old key is in both places and still current. Raises StorageError.
    """
    old = SigningKey.load_or_create()
    number = len(retired_paths()) + 1
    write_private(config_folder() / "retired" / f"{number:04d}-{old.public.hex()[:16]}.pem", old.pem())
    new = SigningKey.generate()
    replace_private(current_path(), new.pem())
    return new


def _broken(path: Path) -> StorageError:
    return StorageError(
        f"{path} is no private key",
        expected="an Ed25519 key in PEM, not encrypted",
        next_step="Restore it from a backup; without it the records it signed can still be verified, but not continued",
    )


def pin(project_id: str, key: VerifierKey) -> None:
    """Remember that this project is signed by this key. Raises StorageError."""
    path = _pin_file(project_id)
    try:
        replace_file(path, f"{key}\n".encode())
    except OSError as error:
        raise StorageError(f"Cannot pin the key in {path}", found=error.strerror or str(error)) from error


def pinned(project_id: str) -> VerifierKey | None:
    """The key this machine has pinned for a project. Raises StorageError when the file is there but broken."""
    path = _pin_file(project_id)
    try:
        return VerifierKey.parse(path.read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, NoteError) as error:
        raise StorageError(f"Cannot read the pinned key {path}", found=str(error)) from error


def _pin_file(project_id: str) -> Path:
    if not is_project_id(project_id):
        raise StorageError("Malformed project id in the record", found=repr(project_id)[:80])
    return config_folder() / "pinned" / f"{project_id}.vkey"
