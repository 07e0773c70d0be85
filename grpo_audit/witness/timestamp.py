"""Time-stamps of tree heads by an authority (RFC 3161): proof that a head existed at a time.

The token is over SHA-256 of the checkpoint's text. An authority remembers nothing: it does not notice two histories,
but neither can it be talked into an earlier time. Needs ``pip install 'grpo-audit[timestamp]'``.
"""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.folders import replace_file
from grpo_audit.ledger.notes import Checkpoint, Note, NoteError
from grpo_audit.witness.der import sorted_certificates
from grpo_audit.witness.protocol import Judged, Judgement, Submission, WitnessRefused, WitnessUnavailable

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

KIND = "rfc3161"
TIMEOUT_S = 20
_MAX_REPLY = 1 << 18
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
        _library()
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
            return self._judged(_decode(statement), head)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001  hostile ASN.1 makes the libraries raise nearly anything
            return Judged(Judgement.BROKEN, f"no time-stamp: {_short(error)}")

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

        problem = _imprint_problem(response, head)
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
            return f"the time-stamp does not hold: {_short(error)}"
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


@dataclass(frozen=True)
class TimeStampWitness:
    """An authority that is asked over HTTP, or through a folder that somebody carries to it."""

    url: str
    authority: Authority
    kind: str = KIND

    @property
    def name(self) -> str:
        """``tsa/`` and the host, or the name of the folder."""
        parts = urlsplit(self.url)
        return f"tsa/{parts.hostname or Path(unquote(parts.path)).name}"

    def anchor(self) -> str:
        """Its certificates."""
        return self.authority.text

    def remembers(self, origin: str) -> int:  # noqa: ARG002
        """Nothing."""
        return 0

    def see(self, head: Submission) -> bytes:
        """Have the head's text stamped, and check the answer before it is kept."""
        try:
            shown = Checkpoint.parse(Note.parse(head.note).text)
        except NoteError as error:
            raise WitnessRefused(f"{self.name} was shown no tree head", found=str(error)) from error
        if urlsplit(self.url).scheme == "file":
            return self._through_folder(shown)
        query, nonce = _query(shown)
        return self._accepted(self._post(query), shown, nonce)

    def _accepted(self, reply: bytes, shown: Checkpoint, nonce: int | None) -> bytes:
        try:
            reply = sorted_certificates(reply)
            reason = self.authority.refusal(_decode(reply), shown, nonce)
        except Exception as error:  # noqa: BLE001  hostile ASN.1 makes the libraries raise nearly anything
            reason = _short(error)
        if reason is not None:
            raise WitnessUnavailable(
                f"{self.name} gave an answer that cannot be used",
                found=reason,
                expected=f"a time-stamp under {self.authority.label}",
                next_step="Check the URL and the CA certificate of the authority",
            )
        return reply

    def _post(self, query: bytes) -> bytes:
        request = urllib.request.Request(  # only http and https get here
            self.url, data=query, headers={"Content-Type": "application/timestamp-query"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                reply: bytes = answer.read(_MAX_REPLY + 1)
                found = answer.headers.get_content_type()
        except (OSError, ValueError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", None) or error
            raise WitnessUnavailable(
                f"The time-stamp authority {self.url} cannot be reached",
                found=str(reason),
                next_step="Ask later with grpo-audit witness ask",
            ) from error
        if found != "application/timestamp-reply" or len(reply) > _MAX_REPLY:
            raise WitnessUnavailable(f"{self.url} is no time-stamp authority", found=f"an answer of type {found}")
        return reply

    def _through_folder(self, shown: Checkpoint) -> bytes:
        """``SIZE-ROOT.tsq`` waits in the folder until somebody puts the answer, ``SIZE-ROOT.tsr``, beside it."""
        folder = Path(unquote(urlsplit(self.url).path))
        base = f"{shown.origin.removeprefix('grpo-audit/')}-{shown.size}-{shown.root.hex()[:16]}"
        if not re.fullmatch(r"[0-9a-f-]+", base):
            raise WitnessRefused("A foreign log was shown", found=shown.origin)
        question, answer = folder / f"{base}.tsq", folder / f"{base}.tsr"
        try:
            if answer.is_file():
                return self._accepted(answer.read_bytes()[: _MAX_REPLY + 1], shown, _nonce_of(question))
            if not question.is_file():
                if not folder.is_dir():
                    raise FileNotFoundError(f"{folder} is not there")
                replace_file(question, _query(shown)[0])
        except OSError as error:
            raise WitnessUnavailable(f"{self.url} cannot be used", found=str(error)) from error
        raise WitnessUnavailable(
            f"A time-stamp question waits in {question}",
            next_step=f"Have it answered, put the answer at {answer}, then grpo-audit witness ask --size {shown.size}",
        )


class TimeStampKind:
    """``tsa:URL#CA.pem`` to ask, ``tsa:CA.pem`` to trust; both with ``,policy=OID`` where the policy matters."""

    name = KIND
    prefix = "tsa"

    def settled(self, rest: str) -> str:
        """The certificate's absolute path."""
        url, hash_, authority = rest.partition("#")
        return f"{url}{hash_}{Path(authority).absolute() if authority else ''}"

    def witness(self, rest: str) -> TimeStampWitness:
        """The authority at a URL. Raises ConfigError."""
        url, _, authority = rest.partition("#")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "file") or "@" in parts.netloc or not authority:
            raise ConfigError(
                f"{rest!r:.200} is no time-stamp authority to ask",
                expected="tsa:https://HOST/PATH#CA.pem, or tsa:file:///FOLDER#CA.pem on a machine without network",
                next_step="The CA certificate is published by the authority; its answers are checked with it",
            )
        return TimeStampWitness(url, Authority.read(authority))

    def trusted(self, rest: str) -> Authority:
        """A CA certificate."""
        return Authority.read(rest.partition("#")[2] if rest.startswith(("http:", "https:", "file:")) else rest)

    def contradiction(self, statement: bytes, head: Checkpoint) -> str | None:
        """A time-stamp of something else."""
        try:
            return _imprint_problem(_decode(statement), head)
        except ConfigError:
            return None  # the library is not installed: then there is no anchor either
        except Exception as error:  # noqa: BLE001  hostile ASN.1 makes the libraries raise nearly anything
            return f"no time-stamp: {_short(error)}"


def _library() -> None:
    try:
        import rfc3161_client  # noqa: F401
    except ImportError as error:
        raise ConfigError("Time-stamps need the library rfc3161-client", next_step=INSTALL) from error


def _query(head: Checkpoint) -> tuple[bytes, int | None]:
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    request = TimestampRequestBuilder().data(head.text().encode()).hash_algorithm(HashAlgorithm.SHA256).build()
    return request.as_bytes(), request.nonce


def _nonce_of(question: Path) -> int | None:
    """The nonce asked with: the last INTEGER of a request of ours (RFC 3161, 2.4.1), before its ``certReq``."""
    try:
        data = question.read_bytes()
    except OSError:
        return None
    if not data.endswith(b"\x01\x01\xff"):
        return None
    body = data[:-3]
    for length in range(1, 33):
        if len(body) > length + 2 and body[-length - 2 : -length] == bytes([2, length]):
            return int.from_bytes(body[-length:], "big")
    return None


def _decode(data: bytes) -> TimeStampResponse:
    """Raises ValueError for what is no granted response; ConfigError without the library."""
    _library()
    from rfc3161_client import decode_timestamp_response

    response = decode_timestamp_response(data)
    if response.as_bytes() != data:
        raise ValueError("a response with something behind it, or not in DER")
    if response.status != 0:
        raise ValueError(f"the authority did not grant it: status {response.status} {response.status_string}")
    response.tst_info  # noqa: B018  raises ValueError when there is no token
    return response


def _short(error: Exception) -> str:
    """The reason inside what OpenSSL prints, else the first words of the error."""
    text = " ".join(str(error).split()) or type(error).__name__
    inner = re.findall(r'data: "([^"]+)"', text) or re.findall(r'reason: "([^"]+)"', text)
    return (inner[-1] if inner else text)[:200]


def _imprint_problem(response: TimeStampResponse, head: Checkpoint) -> str | None:
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
