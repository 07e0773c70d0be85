"""Believing a time-stamp: the certificates of an authority, and what makes a token one of theirs about a head."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.notes import Checkpoint
from grpo_audit.witness.protocol import Judged, Judgement

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

_SHA256 = "2.16.840.1.101.3.4.2.1"
_PEM = "-----BEGIN CERTIFICATE-----"
_POLICY = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
INSTALL = "Install it: pip install 'grpo-audit[timestamp]'"


@dataclass(frozen=True)
class Authority:
    """Certificates, and perhaps a policy, that make a token believable. The anchor of this kind."""

    certificates: tuple[x509.Certificate, ...]
    """Self-signed ones are roots, others intermediates."""
    policy: str | None
    text: str
    """What it was read from; ``Authority.read(a.text) == a``."""

    @classmethod
    def read(cls, rest: str) -> Authority:
        """From ``FILE[,policy=OID]``, or from the text of an earlier one. Raises ConfigError."""
        need_library()
        head, _, policy = rest.partition(",policy=") if _PEM not in rest else (rest, "", "")
        text = head
        if _PEM in rest:
            first, _, body = rest.partition("\n")
            if first.startswith("policy="):
                policy, text = first.removeprefix("policy="), body
        else:
            try:
                text = Path(head).read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"Cannot read the certificate of the time-stamp authority {head!r:.200}",
                    found=str(error),
                    expected="a file with its CA certificate in PEM",
                ) from error
        if policy and not _POLICY.fullmatch(policy):
            raise ConfigError(f"{policy!r:.100} is no time-stamp policy", expected="an OID such as 1.2.3.4")
        try:
            certificates = tuple(x509.load_pem_x509_certificates(text.encode()))
        except ValueError as error:
            raise ConfigError(f"{rest!r:.200} holds no certificate in PEM", found=str(error)) from error
        if not any(_is_root(item) for item in certificates):
            raise ConfigError(
                f"{rest!r:.200} holds no root certificate", expected="the self-signed CA certificate among them"
            )
        return cls(certificates, policy or None, f"policy={policy}\n{text}" if policy else text)

    @property
    def label(self) -> str:
        """Subject of its root."""
        root = next(item for item in self.certificates if _is_root(item))
        policy = f", policy {self.policy}" if self.policy else ""
        return f"{root.subject.rfc4514_string()}{policy}"

    def judge(self, name: str, statement: bytes, head: Checkpoint) -> Judged:  # noqa: ARG002
        """Whether this authority stamped exactly this head."""
        try:
            return self._judged(decode(statement), head)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001  hostile ASN.1 makes the libraries raise nearly anything
            return Judged(Judgement.BROKEN, f"no time-stamp: {short(error)}")

    def _judged(self, response: TimeStampResponse, head: Checkpoint) -> Judged:
        if not self._issued(response):
            return Judged(Judgement.OTHER, f"the time-stamp is by another authority than {self.label}")
        reason = self.refusal(response, head, nonce=None)
        if reason is not None:
            return Judged(Judgement.BROKEN, reason)
        at = response.tst_info.gen_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Judged(Judgement.HOLDS, f"time-stamped under {self.label}", at)

    def refusal(self, response: TimeStampResponse, head: Checkpoint, nonce: int | None) -> str | None:
        """Why the response is no time-stamp of this head by this authority; None when it is one."""
        from rfc3161_client import VerificationError, VerifierBuilder

        problem = imprint_problem(response, head)
        if problem is not None:
            return problem
        if nonce is not None and response.tst_info.nonce != nonce:
            return "the time-stamp answers another question: its nonce is not ours"
        if self.policy is not None and response.tst_info.policy.dotted_string != self.policy:
            return f"the time-stamp is under policy {response.tst_info.policy.dotted_string}, not {self.policy}"
        verifier = VerifierBuilder(
            roots=[item for item in self.certificates if _is_root(item)],
            intermediates=[item for item in self.certificates if not _is_root(item)],
        ).build()
        try:
            verifier.verify(response, hashlib.sha256(head.text().encode()).digest())
        except (VerificationError, ValueError) as error:
            return f"the time-stamp does not hold: {short(error)}"
        return None

    def _issued(self, response: TimeStampResponse) -> bool:
        """Whether the signer's certificate chains, by signatures, to one of ours. Times and purposes come later."""
        pool = [*self.certificates]
        embedded = [x509.load_der_x509_certificate(item) for item in response.signed_data.certificates]
        signers = {(item.issuer, item.serial_number) for item in response.signed_data.signer_infos}
        known = [item for item in [*embedded, *pool] if (item.issuer, item.serial_number) in signers]
        for _ in range(8):
            if any(item in pool for item in known):
                return True
            issuers = [issuer for item in known for issuer in [*embedded, *pool] if _is_issued_by(item, issuer)]
            known = [item for item in issuers if item not in known]
            if not known:
                return False
        return False

    def memory(self, origin: str) -> None:  # noqa: ARG002
        """An authority remembers nothing."""
        return


def need_library() -> None:
    """Raises ConfigError without rfc3161-client."""
    try:
        import rfc3161_client  # noqa: F401
    except ImportError as error:
        raise ConfigError("Time-stamps need the library rfc3161-client", next_step=INSTALL) from error


def decode(data: bytes) -> TimeStampResponse:
    """Raises ValueError for what is no granted response; ConfigError without the library."""
    need_library()
    from rfc3161_client import decode_timestamp_response

    response = decode_timestamp_response(data)
    if response.as_bytes() != data:
        raise ValueError("a response with something behind it, or not in DER")
    if response.status != 0:
        raise ValueError(f"the authority did not grant it: status {response.status} {response.status_string}")
    response.tst_info  # noqa: B018  raises ValueError when there is no token
    return response


def short(error: Exception) -> str:
    """The reason inside what OpenSSL prints, else the first words of the error."""
    text = " ".join(str(error).split()) or type(error).__name__
    inner = re.findall(r'data: "([^"]+)"', text) or re.findall(r'reason: "([^"]+)"', text)
    return (inner[-1] if inner else text)[:200]


def imprint_problem(response: TimeStampResponse, head: Checkpoint) -> str | None:
    """Why the token is not over SHA-256 of this head's text; None when it is."""
    imprint = response.tst_info.message_imprint
    if imprint.hash_algorithm.dotted_string != _SHA256:
        return f"the time-stamp is not over SHA-256 but {imprint.hash_algorithm.dotted_string}"
    if imprint.message != hashlib.sha256(head.text().encode()).digest():
        return "the time-stamp is of another text than this head"
    return None


def _is_root(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
