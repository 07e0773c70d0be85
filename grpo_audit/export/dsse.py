"""DSSE envelopes around in-toto statements (https://github.com/secure-systems-lab/dsse, protocol 1.0.2).

What is signed is PAE(type, payload) = ``DSSEv1 LEN(type) type LEN(payload) payload``. Signatures are ECDSA P-256 over
SHA-256 with the deterministic nonce of RFC 6979, so that the same statement gives the same bytes; an Ed25519 signature
of the log's key may stand beside. ``keyid`` is the SHA-256 of the public key (SubjectPublicKeyInfo, DER): a hint only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from grpo_audit.errors import ConfigError
from grpo_audit.export.text import compact_json, parse_json
from grpo_audit.ledger.keys import AttestationKey, SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_KEY_BYTES = 1 << 16

PublicKey = ec.EllipticCurvePublicKey | Ed25519PublicKey


class EnvelopeError(ValueError):
    """The envelope is malformed, or nobody we trust signed it."""


class Signer(Protocol):
    """Whoever signs a statement."""

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key in DER, hexadecimal."""

    def sign(self, data: bytes) -> bytes:
        """A signature over the data; the same data, the same bytes."""


class EcdsaSigner:
    """The attestation key, with nonces by RFC 6979."""

    def __init__(self, key: AttestationKey) -> None:
        self._key = key

    @property
    def key_id(self) -> str:
        """As of the key."""
        return self._key.key_id

    def sign(self, data: bytes) -> bytes:
        """ECDSA over SHA-256, in DER. Raises ConfigError where the installed OpenSSL cannot derive the nonce."""
        try:
            return self._key.private.sign(data, ec.ECDSA(SHA256(), deterministic_signing=True))
        except UnsupportedAlgorithm as error:
            raise ConfigError(
                "The installed OpenSSL cannot sign deterministically",
                found=str(error),
                expected="OpenSSL 3.2 or newer",
                next_step="Install cryptography as a wheel from the package index, which brings its own",
            ) from error


class Ed25519Signer:
    """The key of the log, for those who know that one only."""

    def __init__(self, key: SigningKey) -> None:
        private = load_pem_private_key(key.pem(), password=None)
        assert isinstance(private, Ed25519PrivateKey)
        self._private = private

    @property
    def key_id(self) -> str:
        """As of the key."""
        return key_id(self._private.public_key())

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(data)


def key_id(public: PublicKey) -> str:
    """SHA-256 of SubjectPublicKeyInfo in DER, hexadecimal."""
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """What is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def envelope(statement: Mapping[str, Any], signers: Sequence[Signer]) -> dict[str, Any]:
    """A signed statement, as JSON."""
    payload = compact_json(statement)
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"keyid": signer.key_id, "sig": base64.b64encode(signer.sign(pae(payload))).decode()} for signer in signers
        ],
    }


def opened(data: bytes, key: PublicKey) -> Any:
    """The statement in an envelope, after its signature by ``key`` was checked. Raises EnvelopeError."""
    try:
        found = parse_json(data)
    except ValueError as error:
        raise EnvelopeError(f"it is not JSON: {error}") from error
    return opened_object(found, key)


def opened_object(found: object, key: PublicKey) -> Any:
    """The same for an envelope inside another file."""
    if not isinstance(found, dict) or not isinstance(found.get("signatures"), list):
        raise EnvelopeError("it is no DSSE envelope")
    if found.get("payloadType") != PAYLOAD_TYPE:
        raise EnvelopeError(f"its payload is no in-toto statement but {found.get('payloadType')!s:.60}")
    payload = _bytes(found.get("payload"))
    signatures = [_bytes(item.get("sig")) for item in found["signatures"] if isinstance(item, dict)]
    if not any(_is_by(key, signature, pae(payload)) for signature in signatures):
        raise EnvelopeError("no signature in it is by the given key" if signatures else "it is not signed")
    try:
        return parse_json(payload)
    except ValueError as error:
        raise EnvelopeError(f"its payload is not JSON: {error}") from error


def _is_by(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, data)
        else:
            key.verify(signature, data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise EnvelopeError("a part of it is no base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EnvelopeError("a part of it is no base64") from error


def read_public_key(path: Path) -> PublicKey:
    """The public key of a PEM file: an ECDSA P-256 or an Ed25519 one. A private key's file gives its public part.

    Raises ConfigError.
    """
    try:
        data = path.read_bytes()[: MAX_KEY_BYTES + 1]
    except OSError as error:
        raise ConfigError(f"Cannot read the key {path}", found=error.strerror or str(error)) from error
    key: object = None
    try:
        key = load_pem_private_key(data, password=None) if b"PRIVATE KEY" in data else load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, ec.EllipticCurvePrivateKey | Ed25519PrivateKey):
        key = key.public_key()
    is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if isinstance(key, Ed25519PublicKey) or (is_p256 and isinstance(key, ec.EllipticCurvePublicKey)):
        return key
    raise ConfigError(
        f"{path} holds no key that signs exports",
        expected="an ECDSA P-256 or Ed25519 public key in PEM",
        next_step="Ask whoever made the export for what grpo-audit keys export --attestation prints, on another way",
    )
