"""The author's signature under an annotation."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from grpo_audit.ledger.annotations import check_annotation, sign_annotation
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.notes import NoteError
from grpo_audit.record.events import Annotation

PROJECT = "0123456789abcdef" * 2
RUN = "run-20260101-000000-abcd"
KEY = SigningKey.generate()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
AUTHOR = TEXT.filter(lambda text: bool(text.strip()))


def made(project: str = PROJECT, run: str | None = RUN, key: SigningKey = KEY, **said: str) -> Annotation:
    """A signed annotation."""
    said = {"author": "Ada L.", "field": "a.approver", "value": "yes", "reason": "read it"} | said
    signed, public_key = sign_annotation(key, project, run, **said)
    return Annotation(**said, signed=signed, public_key=public_key)


@settings(max_examples=60, deadline=None)
@given(author=AUTHOR, field=TEXT, value=TEXT, reason=TEXT, whole=st.booleans())
def test_what_was_signed_is_accepted(author: str, field: str, value: str, reason: str, whole: bool) -> None:
    """For any text, check accepts what sign made and names the signing key."""
    run = None if whole else RUN
    note = made(run=run, author=author, field=field, value=value, reason=reason)
    assert str(check_annotation(note, PROJECT, run)) == note.public_key


@pytest.mark.parametrize("what", ["author", "field", "value", "reason"])
def test_every_part_is_bound(what: str) -> None:
    """Another author, field, value or reason under the same signature is refused."""
    changed = made().model_copy(update={what: "something else"})
    with pytest.raises(NoteError):
        check_annotation(changed, PROJECT, RUN)


@pytest.mark.parametrize(("project", "run"), [("f" * 32, RUN), (PROJECT, "other-run"), (PROJECT, None)])
def test_it_holds_for_no_other_run_or_project(project: str, run: str | None) -> None:
    """A signature carried to another run or project, or to the whole project, is refused."""
    with pytest.raises(NoteError, match="another run or project"):
        check_annotation(made(), project, run)


def test_another_authors_key_does_not_pass() -> None:
    """A note signed by Mallory's key under Mallory's name is refused as Ada's, and so is a key with Ada's name that
    did not sign."""
    mallory = made(author="Mallory", key=SigningKey.generate())
    stolen = mallory.model_copy(update={"author": "Ada L."})
    with pytest.raises(NoteError, match="not the author's name"):
        check_annotation(stolen, PROJECT, RUN)
    swapped = made().model_copy(update={"public_key": made(key=SigningKey.generate()).public_key})
    with pytest.raises(NoteError, match="not signed by"):
        check_annotation(swapped, PROJECT, RUN)


@pytest.mark.parametrize(
    "broken",
    [
        {"signed": ""},
        {"public_key": ""},
        {"public_key": "no key"},
        {"signed": "\ud800"},
        {"signed": "a note\n\nwithout a signature\n"},
        {"signed": "\x00"},
    ],
)
def test_a_broken_signature_is_refused_by_one_error(broken: dict[str, Any]) -> None:
    """Missing and malformed signatures raise NoteError and nothing else."""
    with pytest.raises(NoteError):
        check_annotation(made().model_copy(update=broken), PROJECT, RUN)


@pytest.mark.parametrize(
    ("project", "run", "author"),
    [
        ("x", RUN, "Ada"),
        (PROJECT, "a\nrun b", "Ada"),
        (PROJECT, RUN, " "),
        (PROJECT, RUN, "\ud800"),
        (PROJECT, "-", "Ada"),
        (PROJECT, RUN, "a" * 201),
    ],
)
def test_what_cannot_be_named_is_not_signed(project: str, run: str, author: str) -> None:
    """A project id, run id or author that could forge a line of the note is refused."""
    with pytest.raises(NoteError):
        made(project=project, run=run, author=author)


def test_the_note_is_what_the_format_page_says() -> None:
    """Four lines, rebuilt here from the page's words alone: a stranger's verifier would build the same."""
    note = made()
    said = b'{"author":"Ada L.","field":"a.approver","reason":"read it","value":"yes"}'
    text = f"grpo-audit/annotation/v1\nproject {PROJECT}\nrun {RUN}\nsha256 {hashlib.sha256(said).hexdigest()}\n"
    assert note.signed.startswith(text + "\n\u2014 grpo-audit-author/Ada%20L. ")
    assert note.public_key.startswith("grpo-audit-author/Ada%20L.+")
