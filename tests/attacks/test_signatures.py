"""Attacks on keys and signatures: swapped, stripped, of another head, of another algorithm."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks.bundles import read_members, write_consistent
from attacks.conftest import Judge
from attacks.forgery import database, edit_value, failed, forge_bundle, own_key, rewrite, strip_signatures
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from grpo_audit.errors import ConfigError
from grpo_audit.ledger import canonical
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.notes import Note, Signature, VerifierKey
from grpo_audit.verify import KeySource, verify


def each_note(record: Path, change: Callable[[Note], bytes]) -> None:
    """Change every checkpoint's note."""
    with database(record) as connection:
        for size, note in connection.execute("SELECT size, note FROM checkpoint").fetchall():
            changed = change(Note.parse(note))
            connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (changed, size))


def test_stripping_a_signature(record: Path, judge: Judge) -> None:
    """A checkpoint whose note carries no signature is no checkpoint."""
    with database(record) as connection:
        size, note = connection.execute("SELECT size, note FROM checkpoint LIMIT 1").fetchone()
        connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (strip_signatures(note), size))
    judge.fails(record, "signed heads")


def test_removing_all_checkpoints(record: Path, judge: Judge) -> None:
    """A record without signatures does not pass for want of something to check."""
    with database(record) as connection:
        connection.execute("DELETE FROM checkpoint")
    judge.fails_at_least(record, "coverage")


def test_signing_another_head(record: Path, judge: Judge) -> None:
    """A true signature over the head of another size does not cover this one."""
    with database(record) as connection:
        rows = connection.execute("SELECT size, note FROM checkpoint ORDER BY size LIMIT 2").fetchall()
        connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (rows[0][1], rows[1][0]))
    judge.fails(record, "signed heads")
    assert any("signs another head" in check.detail for check in judge(record).failures)


@pytest.mark.parametrize("column", ["root", "frontier"])
def test_editing_a_checkpoint(record: Path, judge: Judge, column: str) -> None:
    """Root and frontier beside the note must be those of the tree; a bundle has no frontier."""
    with database(record) as connection:
        connection.execute(f"UPDATE checkpoint SET {column} = zeroblob(32) WHERE size = 1")
    if judge.is_bundle and column == "frontier":
        assert judge(record).ok
    else:
        judge.fails(record, "signed heads")


def _retyped(kind: int) -> Callable[[Note], bytes]:
    """Signatures under a key id that another algorithm of the specification would have."""

    def change(note: Note) -> bytes:
        old = note.signatures[0]
        key_id = hashlib.sha256(old.name.encode() + b"\n" + bytes([kind]) + bytes(32)).digest()[:4]
        return Note(note.text, (Signature(old.name, key_id, old.value),)).encode()

    return change


ALGORITHMS: dict[str, Callable[[Note], bytes]] = {
    "ECDSA (0x02)": _retyped(2),
    "cosignature (0x04)": _retyped(4),
    "unknown (0xff)": _retyped(0xFF),
    "an empty signature": lambda note: Note(
        note.text, tuple(Signature(item.name, item.key_id, b"\x00") for item in note.signatures)
    ).encode(),
    "zeros": lambda note: Note(
        note.text, tuple(Signature(item.name, item.key_id, bytes(64)) for item in note.signatures)
    ).encode(),
    "a bad one beside the good one": lambda note: Note(
        note.text, (*note.signatures, Signature(note.signatures[0].name, note.signatures[0].key_id, bytes(64)))
    ).encode(),
    "of another name": lambda note: Note(
        note.text, tuple(Signature("other", item.key_id, item.value) for item in note.signatures)
    ).encode(),
    "an extension line": lambda note: Note(note.text + "more\n", note.signatures).encode(),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_changing_the_algorithm(record: Path, judge: Judge, algorithm: str) -> None:
    """Only Ed25519 by the key in force counts; what claims to be something else is no signature."""
    each_note(record, ALGORITHMS[algorithm])
    judge.fails(record, "signed heads")


def test_a_key_of_another_algorithm(record: Path, judge: Judge) -> None:
    """A verifier key of another type is refused, not taken for want of a better one."""
    material = bytes([2]) + bytes(32)
    key_id = hashlib.sha256(b"x\n" + material).digest()[:4].hex()
    with pytest.raises(ConfigError, match="key"):
        judge(record, key=f"x+{key_id}+{base64.b64encode(material).decode()}")


def test_swapping_the_key_in_the_record_only(record: Path, judge: Judge) -> None:
    """Naming another key in event 0 changes the first body."""
    with database(record) as connection:
        other = str(SigningKey.generate().signer("grpo-audit/" + "0" * 32).verifier)
        edit_value(connection, 0, lambda value: value["data"].update(public_key=other))
    judge.fails_at_least(record, "leaf hashes")


def test_swapping_the_key_in_the_bundles_manifest(record: Path, tmp_path: Path) -> None:
    """A manifest that names another key than the events is refused by name."""
    forge_bundle(record, tmp_path / "b.zip")
    other = str(SigningKey.generate().signer("grpo-audit/" + "0" * 32).verifier)
    write_consistent(tmp_path / "b.zip", read_members(tmp_path / "b.zip"), lambda value: value.update(key=other))
    report = verify(tmp_path / "b.zip")
    assert failed(report) == {"database"}
    assert "swapped-key" in report.checks[0].detail


def test_swapping_the_key_everywhere_in_the_bundle(record: Path, judge: Judge) -> None:
    """A bundle signed anew by another key is consistent; the key pinned here, or given, is not its key."""
    with database(record) as connection:
        first = connection.execute("SELECT body FROM event WHERE seq = 0").fetchone()[0]
    key = canonical.loads(first)["data"]["public_key"]
    rewrite(record, SigningKey.generate(), rename=True)
    judge.fails_at_least(record, "key")
    judge.fails_at_least(record, "key", key=key)


def test_the_key_of_somebody_else(record: Path, judge: Judge) -> None:
    """A well-formed key that did not sign this record fails, also one under the project's own name."""
    _, origin = own_key(record)
    for name in ("grpo-audit/" + "0" * 32, origin):
        public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        report = judge(record, key=str(VerifierKey(name, public)))
        assert "key" in failed(report) and report.key_source is KeySource.GIVEN
