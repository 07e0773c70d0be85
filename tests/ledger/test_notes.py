"""Notes, keys and checkpoints are those of the published specifications."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, strategies as st

from grpo_audit.ledger.notes import Checkpoint, Note, NoteError, Signer, VerifierKey, open_note, sign

# Test vectors of golang.org/x/mod/sumdb/note, the implementation the specification was written from.
KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
OTHER_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
NOTE = f"{TEXT}\n\u2014 PeterNeumann {SIGNATURE}\n".encode()


def _peter() -> Signer:
    return Signer("PeterNeumann", Ed25519PrivateKey.from_private_bytes(base64.b64decode(SECRET)[1:]))


def test_signing_gives_the_published_note() -> None:
    """Ed25519 is deterministic: the same key and text give the specification's bytes."""
    assert sign(TEXT, _peter()) == NOTE
    assert str(_peter().verifier) == KEY


def test_the_published_note_opens_with_the_published_key() -> None:
    """open_note gives the text back."""
    assert open_note(NOTE, VerifierKey.parse(KEY)) == TEXT


@pytest.mark.parametrize("text", [KEY, OTHER_KEY])
def test_a_key_is_its_string(text: str) -> None:
    """str(VerifierKey.parse(text)) == text."""
    assert str(VerifierKey.parse(text)) == text


def test_every_mangled_key_is_refused() -> None:
    """A verifier key with any part cut out or any character changed is no key."""
    for start in range(len(KEY)):
        for end in range(start + 1, len(KEY) + 1):
            with pytest.raises(NoteError):
                VerifierKey.parse(KEY[:start] + KEY[end:])
        with pytest.raises(NoteError):
            VerifierKey.parse(KEY[:start] + chr(ord(KEY[start]) + 1) + KEY[start + 1 :])


@pytest.mark.parametrize(
    "key",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # wrong length, fitting hash
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # unknown algorithm, fitting hash
        "",
    ],
)
def test_other_algorithms_and_lengths_are_refused(key: str) -> None:
    """Only Ed25519 keys of 32 bytes are keys, even when the key hash fits."""
    with pytest.raises(NoteError):
        VerifierKey.parse(key)


@given(st.integers(0, len(NOTE) - 1), st.integers(1, 255))
def test_a_note_with_any_byte_changed_does_not_open(position: int, change: int) -> None:
    """No single byte can be changed: text, separator, name or signature."""
    changed = bytearray(NOTE)
    changed[position] ^= change
    with pytest.raises(NoteError):
        open_note(bytes(changed), VerifierKey.parse(KEY))


@given(st.binary(max_size=80))
def test_parsing_garbage_raises_one_kind_of_error(data: bytes) -> None:
    """Whatever the bytes, parse gives a note or raises NoteError."""
    try:
        note = Note.parse(data)
    except NoteError:
        return
    assert Note.parse(note.encode()) == note


def test_signatures_of_unknown_keys_are_ignored() -> None:
    """A cosigned note opens with either key; a note without a signature of the key does not."""
    enoch = Signer("EnochRoot", Ed25519PrivateKey.generate())
    both = sign(TEXT, enoch, _peter())
    assert open_note(both, VerifierKey.parse(KEY)) == TEXT
    assert open_note(both, enoch.verifier) == TEXT
    with pytest.raises(NoteError, match="not signed by"):
        open_note(sign(TEXT, enoch), VerifierKey.parse(KEY))


def test_one_false_signature_of_the_key_rejects_the_note() -> None:
    """A true signature does not excuse a false one under the same name and key id."""
    true = _peter().signature(TEXT)
    false = _peter().signature("something else\n")
    with pytest.raises(NoteError, match="does not hold"):
        open_note(Note(TEXT, (true, false)).encode(), VerifierKey.parse(KEY))


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode() + b"\n",
        NOTE[:-1],
        NOTE.replace(b" PeterNeumann ", b" Peter Neumann "),
        NOTE.replace(b"If you", b"If\tyou"),
        NOTE.replace("\u2014".encode(), b"-"),
        b"x\n\n" + f"\u2014 PeterNeumann {SIGNATURE}\n".encode() * 100,
        b"x" * (2 << 20),
    ],
)
def test_malformed_notes_are_refused(data: bytes) -> None:
    """Stripped signatures, control characters, other dashes, spaces in names and too much of anything raise."""
    with pytest.raises(NoteError):
        open_note(data, VerifierKey.parse(KEY))


@given(st.integers(0, 2**53), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_is_its_text(size: int, root: bytes) -> None:
    """Checkpoint.parse(c.text()) == c."""
    checkpoint = Checkpoint("example.com/log", size, root)
    assert Checkpoint.parse(checkpoint.text()) == checkpoint


def test_the_checkpoint_of_the_specification_is_read() -> None:
    """The example of c2sp.org/tlog-checkpoint gives its origin, size and root."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    read = Checkpoint.parse(text)
    assert (read.origin, read.size, read.text()) == ("example.com/behind-the-sofa", 20852163, text)


@pytest.mark.parametrize(
    "text",
    [
        "a\n01\n" + "A" * 43 + "=\n",
        "a\n-1\n" + "A" * 43 + "=\n",
        "\n1\n" + "A" * 43 + "=\n",
        "a\n1\n" + "A" * 43 + "=\nextension\n",
        "a\n1\n" + "A" * 43 + "=",
        "a\n1\n" + "A" * 42 + "B=\n",
        "a\n1\nAAAA\n",
        "a\n\u0661\nx\n",
    ],
)
def test_other_checkpoints_are_refused(text: str) -> None:
    """Leading zeros, signs, short roots, extensions, no origin, loose base64 and other digits raise NoteError."""
    with pytest.raises(NoteError):
        Checkpoint.parse(text)
