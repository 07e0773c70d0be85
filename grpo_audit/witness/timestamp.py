"""Time-stamps of tree heads by an authority (RFC 3161): proof that a head existed at a time.

The token is over SHA-256 of the checkpoint's text. An authority remembers nothing: it does not notice two histories,
but neither can it be talked into an earlier time. Needs ``pip install 'grpo-audit[timestamp]'``.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.folders import replace_file
from grpo_audit.ledger.notes import Checkpoint, Note, NoteError
from grpo_audit.witness.authority import Authority, decode, imprint_problem, short
from grpo_audit.witness.der import sorted_certificates
from grpo_audit.witness.protocol import Submission, WitnessRefused, WitnessUnavailable

KIND = "rfc3161"
TIMEOUT_S = 20
_MAX_REPLY = 1 << 18


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
            reason = self.authority.refusal(decode(reply), shown, nonce)
        except Exception as error:  # noqa: BLE001  hostile ASN.1 makes the libraries raise nearly anything
            reason = short(error)
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
            return imprint_problem(decode(statement), head)
        except ConfigError:
            return None  # the library is not installed: then there is no anchor either
        except Exception as error:  # noqa: BLE001  hostile ASN.1 makes the libraries raise nearly anything
            return f"no time-stamp: {short(error)}"


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
