"""The second key: ECDSA P-256, for attestations about a release.

The log is signed with Ed25519. What leaves the project (in-toto statements in DSSE, OpenSSF model signing) is checked
by tools that take elliptic-curve keys only, so it has a key of its own: ``attestation-key.pem`` beside the signing key,
mode 0600, made on first use. Nothing in a record depends on it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from grpo_audit.errors import StorageError
from grpo_audit.ledger.folders import config_folder
from grpo_audit.ledger.private_files import read_private, write_private


class AttestationKey:
    """An ECDSA P-256 private key.

    ``key = AttestationKey.load_or_create()``; ``key.sign(data)`` is a DER signature (ASN.1 SEQUENCE of r and s, RFC
    3279) over SHA-256 of the data, as DSSE, sigstore and OpenSSL expect; ``verify(key.public_pem(), data, signature)``
    in this module checks it. ``path`` is the private PEM file, for tools that read it themselves (model-signing does).
    """

    def __init__(self, private: ec.EllipticCurvePrivateKey, path: Path) -> None:
        self._private = private
        self.path = path
        """The file it was read from."""

    @classmethod
    def load(cls, path: Path) -> AttestationKey:
        """Read a private key. Raises StorageError when others may read it, or when it is no P-256 key."""
        try:
            private = load_pem_private_key(read_private(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _broken(path) from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
            raise _broken(path)
        return cls(private, path)

    @classmethod
    def load_or_create(cls, path: Path | None = None) -> AttestationKey:
        """The user's attestation key, made on first use. Raises StorageError."""
        path = path or attestation_path()
        if not path.exists():
            private = ec.generate_private_key(ec.SECP256R1())
            write_private(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return cls.load(path)

    @property
    def private(self) -> ec.EllipticCurvePrivateKey:
        """The key itself, for libraries that sign with it."""
        return self._private

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """The public key itself."""
        return self._private.public_key()

    def public_pem(self) -> bytes:
        """SubjectPublicKeyInfo in PEM: what to hand to whoever verifies."""
        return self.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key in DER (SubjectPublicKeyInfo), hexadecimal."""
        return hashlib.sha256(self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()

    def sign(self, data: bytes) -> bytes:
        """ECDSA over SHA-256 of the data, in DER."""
        return self._private.sign(data, ec.ECDSA(SHA256()))


def attestation_path() -> Path:
    """Where the user's attestation key is."""
    return config_folder() / "attestation-key.pem"


def verify(public_pem: bytes, data: bytes, signature: bytes) -> bool:
    """Whether the P-256 key of this PEM signed the data. False for a key of another kind."""
    try:
        public = load_pem_public_key(public_pem)
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        return False
    try:
        public.verify(signature, data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _broken(path: Path) -> StorageError:
    return StorageError(
        f"{path} is no attestation key",
        expected="an ECDSA P-256 key in PEM, not encrypted",
        next_step="Restore it from a backup, or move it away: a new one is made",
    )
