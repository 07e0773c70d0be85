"""Proof files are those of c2sp.org/tlog-proof, and hold for one event in one signed head only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.merkle import inclusion_proof, leaf_hash, tree_root
from grpo_audit.ledger.notes import Checkpoint, NoteError, VerifierKey, sign
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.proof_file import ProofFile
from grpo_audit.ledger.proofs import RecordLeaves, prove_inclusion

ORIGIN = "grpo-audit/" + "0" * 32
SIGNER = SigningKey.generate().signer(ORIGIN)


def made(size: int, index: int) -> ProofFile:
    """A proof over small made-up events."""
    bodies = [f'{{"seq":{number}}}'.encode() for number in range(size)]
    leaves = [leaf_hash(body) for body in bodies]
    note = sign(Checkpoint(ORIGIN, size, tree_root(leaves)).text(), SIGNER)
    return ProofFile(bodies[index], index, tuple(inclusion_proof(leaves, index)), note)


def test_the_file_is_laid_out_as_specified() -> None:
    """Magic line, extra, index, one hash a line, an empty line, the checkpoint verbatim."""
    proof = made(3, 1)
    lines = proof.encode().decode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1].startswith("extra ") and lines[2] == "index 1"
    assert len(lines[3]) == len(lines[4]) == 44 and lines[5] == ""
    assert "\n".join(lines[6:]).encode() == proof.note


@given(st.integers(1, 40), st.data())
def test_a_proof_is_its_file_and_holds(size: int, data: st.DataObject) -> None:
    """ProofFile.parse(p.encode()) == p, and p holds under the log's key."""
    proof = made(size, data.draw(st.integers(0, size - 1)))
    assert ProofFile.parse(proof.encode()) == proof
    assert proof.check(SIGNER.verifier).size == size


def test_another_event_place_path_head_or_key_does_not_hold() -> None:
    """Whatever is exchanged, the proof is refused."""
    proof, other = made(9, 4), made(10, 4)
    thief = SigningKey.generate()
    forged = sign(Checkpoint(ORIGIN, 9, leaf_hash(proof.body)).text(), thief.signer(ORIGIN))
    foreign = sign(Checkpoint("grpo-audit/" + "1" * 32, 9, bytes(32)).text(), SIGNER)
    for changed in (
        replace(proof, body=b"{}"),
        replace(proof, index=5),
        replace(proof, path=proof.path[:-1]),
        replace(proof, path=(*proof.path, proof.path[0])),
        replace(proof, note=other.note),
        replace(proof, note=forged),
        replace(proof, note=foreign),
    ):
        with pytest.raises(NoteError):
            changed.check(SIGNER.verifier)
    with pytest.raises(NoteError, match="not signed by"):
        proof.check(thief.signer(ORIGIN).verifier)


DATA = made(6, 2).encode()


@settings(max_examples=300)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_no_byte_of_a_proof_can_be_changed(position: int, change: int) -> None:
    """Every changed byte is refused, in the event, the path, the head or the signature."""
    spoilt = bytearray(DATA)
    spoilt[position] ^= change
    with pytest.raises(NoteError):
        ProofFile.parse(bytes(spoilt)).check(SIGNER.verifier)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"c2sp.org/tlog-proof@v1\nindex 0\n\nnote",
        DATA.replace(b"@v1", b"@v2"),
        DATA.replace(b"index 2", b"index 02"),
        DATA.replace(b"index 2", b"index -2"),
        DATA.replace(b"\nindex 2", b"\nindex 2\nAAAA"),
        b"c2sp.org/tlog-proof@v1\nextra AA==\nindex 0\n" + b"A" * 43 + b"=\n" * 80 + b"\nx",
        b"\xff" + DATA,
    ],
)
def test_malformed_files_are_refused(data: bytes) -> None:
    """Another version, no event, loose numbers, short or too many hashes raise NoteError."""
    with pytest.raises(NoteError):
        ProofFile.parse(data).check(SIGNER.verifier)


def test_a_record_hands_out_proofs_that_hold_without_it(tmp_path: Path, build_record: Callable[..., str]) -> None:
    """A proof made from a real record is checked from its bytes alone."""
    build_record(tmp_path / "record.db", steps=1)
    with Project.open(tmp_path / "record.db", mode="read") as project:
        size, root, note = project.checkpoint()
        key = VerifierKey.parse(project.public_key)
        files = [
            ProofFile(event.body, event.seq, tuple(prove_inclusion(RecordLeaves(project), event.seq, size, root)), note)
            for event in project.events()
        ]
    assert len(files) == size
    for file in files:
        assert ProofFile.parse(file.encode()).check(key) == Checkpoint(key.name, size, root)
