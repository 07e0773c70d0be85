"""An annotation's own signature: the author's key over what was said, about which run of which project.

The log's key vouches that an annotation was appended; the author's key says who stands behind it. The signed note
(https://c2sp.org/signed-note) names the project, the run and the SHA-256 of the canonical bytes of
``{"author", "field", "value", "reason"}``, so it holds for no other run, project or wording. The key's name is made
from the author's, so one author's signature does not pass for another's. Whose key it is, is the author's claim: a
reader who knows the public key compares it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import quote

from grpo_audit.ledger import canonical
from grpo_audit.ledger.folders import is_project_id
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.notes import NoteError, VerifierKey, open_note, sign
from grpo_audit.record.events import Annotation

_FORMAT: Final = "grpo-audit/annotation/v1"
_NAME: Final = "grpo-audit-author/"
_MAX_AUTHOR: Final = 200
_WHOLE_PROJECT: Final = "-"
_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def sign_annotation(
    key: SigningKey, project_id: str, run_id: str | None, author: str, field: str, value: str, reason: str
) -> tuple[str, str]:
    """The signed note and the verifier key (``NAME+KEYHASH+BASE64``) that go into an ``annotation`` event.

    ``run_id`` is None for what is said about the whole project.
    ``check_annotation(Annotation(..., signed=signed, public_key=public), project_id, run_id)`` accepts them.

    Raises NoteError when the author, the run or the project cannot be named, or a text has no canonical bytes.
    """
    text = _text(project_id, run_id, author, field, value, reason)
    signer = key.signer(_key_name(author))
    return sign(text, signer).decode("utf-8"), str(signer.verifier)


def check_annotation(payload: Annotation, project_id: str, run_id: str | None) -> VerifierKey:
    """The key that signed this annotation, for this project and run.

    Raises NoteError when it is not signed, the key belongs to another author's name, the signature does not hold, or
    it was made for another project, run, author, field, value or reason.
    """
    if not payload.signed or not payload.public_key:
        raise NoteError("the annotation is not signed by its author")
    key = VerifierKey.parse(payload.public_key)
    if key.name != _key_name(payload.author):
        raise NoteError(f"the key is named {key.name}, which is not the author's name")
    expected = _text(project_id, run_id, payload.author, payload.field, payload.value, payload.reason)
    try:
        note = payload.signed.encode("utf-8")
    except UnicodeEncodeError as error:
        raise NoteError("a note must be UTF-8") from error
    if open_note(note, key) != expected:
        raise NoteError("the author signed another text, or the same for another run or project")
    return key


def _text(project_id: str, run_id: str | None, author: str, field: str, value: str, reason: str) -> str:
    if not is_project_id(project_id):
        raise NoteError(f"{project_id[:80]!r} is no project id")
    if run_id is not None and not _RUN_ID.fullmatch(run_id):
        raise NoteError(f"{run_id[:80]!r} is no run id")
    try:
        said = canonical.dumps({"author": author, "field": field, "value": value, "reason": reason})
    except canonical.CanonicalError as error:
        raise NoteError(f"the annotation has no canonical bytes: {error}") from error
    run = _WHOLE_PROJECT if run_id is None else run_id
    return f"{_FORMAT}\nproject {project_id}\nrun {run}\nsha256 {hashlib.sha256(said).hexdigest()}\n"


def _key_name(author: str) -> str:
    """The author's name as a key name, which has neither spaces nor ``+``: percent-encoded UTF-8."""
    if not author.strip() or len(author) > _MAX_AUTHOR:
        raise NoteError(f"an author has a name of 1 to {_MAX_AUTHOR} characters")
    try:
        return _NAME + quote(author, safe="")
    except UnicodeEncodeError as error:
        raise NoteError("the author's name has no UTF-8 form") from error
