"""Cosignatures are those of c2sp.org/tlog-cosignature."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, strategies as st

from grpo_audit.ledger.notes import Checkpoint, Note, NoteError, Signer, VerifierKey, open_note, sign
from grpo_audit.witness.cosignature import Cosignature, Cosigner, CosignerKey, message

# The example of the specification: https://c2sp.org/tlog-cosignature
EXAMPLE = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa \
Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 \
jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""
EXAMPLE_MESSAGE = b"""\
cosignature/v1
time 1679315147
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
"""
NAME = "witness.example.com/w1"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HEAD = Checkpoint.parse(Note.parse(EXAMPLE.encode()).text)


def test_the_example_of_the_specification_is_read() -> None:
    """Name, key id and timestamp of the published cosignature, and the published message over its head."""
    item = Cosignature.of(Note.parse(EXAMPLE.encode()).signatures[1])
    assert (item.name, item.key_id.hex(), item.timestamp) == (NAME, "8d66cf3f", 1679315147)
    assert message(HEAD, item.timestamp) == EXAMPLE_MESSAGE


def test_a_cosignature_is_laid_out_as_specified() -> None:
    """Key id, u64 big-endian timestamp, Ed25519 signature over the message: built here by hand from the text."""
    public = PRIVATE.public_key().public_bytes_raw()
    key_id = hashlib.sha256(NAME.encode() + b"\n\x04" + public).digest()[:4]
    blob = key_id + (1679315147).to_bytes(8, "big") + PRIVATE.sign(EXAMPLE_MESSAGE)
    expected = f"— {NAME} {base64.b64encode(blob).decode()}\n".encode()
    cosigner = Cosigner(NAME, PRIVATE)
    assert cosigner.cosign(HEAD, 1679315147) == expected
    assert str(cosigner.key) == f"{NAME}+{key_id.hex()}+{base64.b64encode(bytes([4]) + public).decode()}"


def test_a_key_is_its_string_and_no_other() -> None:
    """CosignerKey.parse(str(key)) == key; a log's key (type 0x01), cut and changed keys are refused."""
    key = Cosigner(NAME, PRIVATE).key
    assert CosignerKey.parse(str(key)) == key
    with pytest.raises(NoteError, match="0x04"):
        CosignerKey.parse(str(VerifierKey(NAME, key.public)))
    text = str(key)
    for start in range(len(text)):
        with pytest.raises(NoteError):
            CosignerKey.parse(text[:start])
        with pytest.raises(NoteError):
            CosignerKey.parse(text[:start] + chr(ord(text[start]) + 1) + text[start + 1 :])


@given(st.integers(0, 10**12), st.binary(min_size=32, max_size=32), st.integers(0, 253_402_300_799))
def test_a_cosignature_holds_for_its_head_and_time_only(size: int, root: bytes, timestamp: int) -> None:
    """It holds for exactly the head that was cosigned, and not under another key or another name."""
    head = Checkpoint("grpo-audit/" + "0" * 32, size, root)
    cosigner = Cosigner(NAME, PRIVATE)
    item = Cosignature.parse(cosigner.cosign(head, timestamp))
    assert item.timestamp == timestamp and item.holds(cosigner.key, head)
    assert not item.holds(cosigner.key, Checkpoint(head.origin, size + 1, root))
    assert not item.holds(cosigner.key, Checkpoint("grpo-audit/" + "1" * 32, size, root))
    assert not item.holds(cosigner.key, Checkpoint(head.origin, size, bytes(32) if any(root) else b"\x01" * 32))
    assert not item.holds(CosignerKey("another", cosigner.key.public), head)
    assert not item.holds(Cosigner(NAME, Ed25519PrivateKey.generate()).key, head)


LINE = Cosigner(NAME, PRIVATE).cosign(HEAD, 1679315147)


@given(st.integers(0, len(LINE) - 1), st.integers(1, 255))
def test_no_byte_of_a_cosignature_can_be_changed(position: int, change: int) -> None:
    """Name, key id, timestamp, signature and spelling: every changed byte is refused or does not hold."""
    changed = bytearray(LINE)
    changed[position] ^= change
    try:
        item = Cosignature.parse(bytes(changed))
    except NoteError:
        return
    assert not item.holds(Cosigner(NAME, PRIVATE).key, HEAD)


@given(st.one_of(st.binary(max_size=120), st.binary(min_size=76, max_size=76)), st.booleans())
def test_garbage_raises_one_kind_of_error(data: bytes, is_line: bool) -> None:
    """Whatever the bytes, alone or in a signature line, parse gives a cosignature of 72 bytes or raises NoteError."""
    line = f"— {NAME} {base64.b64encode(data).decode()}\n".encode() if is_line else data
    try:
        item = Cosignature.parse(line)
    except NoteError:
        return
    assert len(data) == 76 and data == item.key_id + item.timestamp.to_bytes(8, "big") + item.signature


def test_a_timestamp_beyond_all_time_is_refused() -> None:
    """A timestamp that is no date raises NoteError instead of breaking what shows it."""
    key = Cosigner(NAME, PRIVATE)
    blob = key.key.key_id + (2**63).to_bytes(8, "big") + bytes(64)
    with pytest.raises(NoteError, match="no time"):
        Cosignature.parse(f"— {NAME} {base64.b64encode(blob).decode()}\n".encode())


def test_a_cosigned_note_still_opens_with_the_logs_key() -> None:
    """A cosignature line under a note is a signature of an unknown key to whoever only knows the log's."""
    log = Signer("example.com/behind-the-sofa", Ed25519PrivateKey.generate())
    assert open_note(sign(HEAD.text(), log) + LINE, log.verifier) == HEAD.text()
