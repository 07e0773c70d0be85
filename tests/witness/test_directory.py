"""A witness in a folder: it cosigns what extends what it saw, and nothing else. Each attack has its name."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from witness.logs import copy, grow, head_of

from grpo_audit.errors import ConfigError
from grpo_audit.ledger import keys
from grpo_audit.ledger.merkle import leaf_hash
from grpo_audit.ledger.notes import Checkpoint, Note, Signature, VerifierKey, sign
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.proofs import RecordLeaves, prove_consistency
from grpo_audit.ledger.tip import origin_of
from grpo_audit.witness import directory
from grpo_audit.witness.ask import ask
from grpo_audit.witness.cosignature import Cosignature
from grpo_audit.witness.directory import CosignerAnchor, DirectoryKind, open_folder
from grpo_audit.witness.protocol import Judgement, RotationProof, Submission, WitnessRefused, WitnessUnavailable


def show(record: Path, folder: Path) -> int:
    """Show the newest head of a record to the witness in a folder."""
    with Project.open(record, mode="write") as project:
        return ask(project, open_folder(folder))


def statement(record: Path, size: int) -> tuple[str, bytes]:
    """Name and statement of the witness that is kept for a head."""
    with Project.open(record, mode="read") as project, project.session() as session:
        name, said = session.execute(text("select name, statement from witness where size = :n"), {"n": size}).one()
        return name, said


def test_a_growing_log_is_cosigned_again_and_again(record: Path, folder: Path) -> None:
    """Each newer head is cosigned over exactly its text; the same head is cosigned again."""
    for count in (0, 1, 5, 0):
        grow(record, count)
        size = show(record, folder)
        witness = open_folder(folder)
        name, said = statement(record, size)
        assert name == witness.name
        assert Cosignature.parse(said).holds(witness.key, head_of(record))
        assert witness.remembers(head_of(record).origin) == size


def test_the_witness_key_is_its_own_and_private(record: Path, folder: Path) -> None:
    """The key is made once, has mode 0600 and is not the key that signs the log."""
    first = open_folder(folder)
    assert stat.S_IMODE((folder / "witness.key").stat().st_mode) == 0o600
    assert open_folder(folder).key == first.key
    assert first.key.public != keys.SigningKey.load_or_create().public
    (folder / "witness.key").chmod(0o644)
    with pytest.raises(Exception, match="chmod 600"):
        show(record, folder)


def test_rollback_shown_to_a_witness_is_refused(
    record: Path, folder: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    """An older copy of the record is refused with both heads, and what the witness remembers stays."""
    old = copy(record, tmp_path / "old.db")
    before = head_of(old)
    grow(record, 3)
    show(record, folder)
    seen = head_of(record)
    forget()
    with pytest.raises(WitnessRefused, match="refuses to go back") as caught:
        show(old, folder)
    assert before.root.hex() in str(caught.value) and seen.root.hex() in str(caught.value)
    assert open_folder(folder).remembers(seen.origin) == seen.size


@pytest.mark.parametrize("count", [3, 4, 9])
def test_another_history_of_the_same_project_is_refused(
    record: Path, folder: Path, tmp_path: Path, forget: Callable[[], None], count: int
) -> None:
    """A record that went its own way from an old copy is refused, be it as long as the witnessed one or longer."""
    old = copy(record, tmp_path / "old.db")
    grow(record, 3)
    show(record, folder)
    seen = head_of(record)
    forget()
    grow(old, count, say="forged")
    with pytest.raises(WitnessRefused, match="another history") as caught:
        show(old, folder)
    assert seen.root.hex() in str(caught.value) and head_of(old).root.hex() in str(caught.value)
    assert open_folder(folder).memory_head(seen.origin) == seen


def test_two_histories_shown_to_two_witnesses_are_told_apart_by_either(
    record: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    """Each witness was shown one history; the statement of one does not hold for the other's record."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    other = copy(record, tmp_path / "other.db")
    grow(record, 2, say="true")
    show(record, first)
    forget()
    grow(other, 2, say="false")
    show(other, second)
    name, said = statement(record, 10)
    anchor = CosignerAnchor(open_folder(first).key)
    assert anchor.judge(name, said, head_of(record)).judgement is Judgement.HOLDS
    assert anchor.judge(name, said, head_of(other)).judgement is Judgement.BROKEN
    with pytest.raises(WitnessRefused, match="another history"):
        show(other, first)


def test_a_head_with_a_proof_that_does_not_hold_is_refused(record: Path, folder: Path) -> None:
    """Missing, shortened and foreign consistency proofs are refused."""
    show(record, folder)
    grow(record, 5)
    witness = open_folder(folder)
    with Project.open(record, mode="read") as project:
        size, root, note = project.checkpoint()
        proof = prove_consistency(RecordLeaves(project), 8, size, root)
        key = VerifierKey.parse(project.public_key)
    for bad in ([], proof[:-1], [root, *proof[1:]], [*proof, root]):
        with pytest.raises(WitnessRefused, match="another history"):
            witness.see(Submission(note=note, old_size=8, proof=tuple(bad), log_key=key))
    witness.see(Submission(note=note, old_size=8, proof=tuple(proof), log_key=key))


def test_a_head_by_another_key_is_refused(record: Path, folder: Path) -> None:
    """The key seen first is the log's: a consistent head under another key, or no signature, is refused."""
    show(record, folder)
    head = head_of(record)
    thief = keys.SigningKey.generate().signer(head.origin)
    witness = open_folder(folder)
    for note in (sign(head.text(), thief), Note(head.text(), (Signature(head.origin, b"abcd", bytes(64)),)).encode()):
        with pytest.raises(WitnessRefused, match="did not sign"):
            witness.see(Submission(note=note, old_size=8, proof=(), log_key=thief.verifier))


def test_a_foreign_origin_is_refused(folder: Path) -> None:
    """Only logs of this program, by their project id, become files; another origin under a known key is refused."""
    witness = open_folder(folder)
    for origin in ("example.com/log", "grpo-audit/../../etc", "grpo-audit/" + "A" * 32, ""):
        note = f"{origin}\n1\n{'A' * 43}=\n\n— x AAAAAAAA\n".encode()
        with pytest.raises(WitnessRefused, match="foreign log"):
            witness.see(Submission(note=note, old_size=0, proof=()))
    key = keys.SigningKey.generate()
    mine, other = "grpo-audit/" + "1" * 32, "grpo-audit/" + "2" * 32
    note = sign(Checkpoint(mine, 1, bytes(32)).text(), key.signer(other))
    with pytest.raises(WitnessRefused):
        witness.see(Submission(note=note, old_size=0, proof=(), log_key=key.signer(other).verifier))
    assert not (folder / "heads").exists()


def test_a_witness_does_not_witness_its_own_key(folder: Path) -> None:
    """A log signed with the witness' key is refused: its cosignatures would be no second opinion."""
    witness = open_folder(folder)
    origin = "grpo-audit/" + "3" * 32
    signer = keys.SigningKey.load(folder / "witness.key").signer(origin)
    note = sign(Checkpoint(origin, 1, bytes(32)).text(), signer)
    with pytest.raises(WitnessRefused, match="own key"):
        witness.see(Submission(note=note, old_size=0, proof=(), log_key=signer.verifier))


def test_a_rotation_is_followed(record: Path, folder: Path) -> None:
    """After a recorded rotation the witness knows the new key, be it asked before, at or long after the change."""
    show(record, folder)
    for count in (0, 3):
        with Project.open(record, mode="write") as project:
            project.rotate_key(keys.rotate(), author="A. Person", reason="a test")
        grow(record, count)
        assert show(record, folder) == head_of(record).size
    grow(record, 1)
    show(record, folder)


def test_two_rotations_are_followed_at_once(record: Path, folder: Path) -> None:
    """A witness that missed two rotations is led through both."""
    show(record, folder)
    for _ in range(2):
        with Project.open(record, mode="write") as project:
            project.rotate_key(keys.rotate(), author="A. Person", reason="a test")
        grow(record, 1)
    assert show(record, folder) == head_of(record).size


def test_a_second_signature_is_no_rotation(record: Path, folder: Path) -> None:
    """Whoever adds a signature of their own to a signed head, or proves another event, does not take over the log."""
    show(record, folder)
    grow(record, 1)
    witness = open_folder(folder)
    thief = keys.SigningKey.generate()
    with Project.open(record, mode="read") as project:
        size, root, note = project.checkpoint()
        proof = tuple(prove_consistency(RecordLeaves(project), 8, size, root))
        body = next(project.events(start=8)).body
        origin = origin_of(project.project_id)
    head = Checkpoint(origin, size, root)
    both = Note(head.text(), (*Note.parse(note).signatures, thief.signer(origin).signature(head.text()))).encode()
    forged = RotationProof(body=body.replace(b"annotation", b"key.rotated"), index=8, path=())
    true_but_other = RotationProof(body=body, index=8, path=(leaf_hash(b""),))
    for rotation in (forged, true_but_other):
        with pytest.raises(WitnessRefused):
            witness.see(Submission(note=both, old_size=8, proof=proof, rotation=rotation))
    witness.see(Submission(note=both, old_size=8, proof=proof))
    note = sign(head.text(), thief.signer(origin))
    with pytest.raises(WitnessRefused, match="did not sign"):
        witness.see(Submission(note=note, old_size=size, proof=()))


def test_a_clock_that_went_back_gives_no_cosignature(
    record: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later head is never cosigned at an earlier time: within a minute the last one is repeated, then refused."""
    show(record, folder)
    last = Cosignature.parse(statement(record, 8)[1]).timestamp
    grow(record, 1)
    monkeypatch.setattr(directory.time, "time", lambda: last - 3600.0)
    with pytest.raises(WitnessUnavailable, match="clock"):
        show(record, folder)
    monkeypatch.setattr(directory.time, "time", lambda: last - 5.0)
    show(record, folder)
    assert Cosignature.parse(statement(record, 9)[1]).timestamp == last


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"origin": "x"}'])
def test_a_broken_memory_is_no_missing_memory(record: Path, folder: Path, content: bytes) -> None:
    """A witness whose memory of a log was damaged does not start anew."""
    show(record, folder)
    next((folder / "heads").glob("*.json")).write_bytes(content)
    with pytest.raises(WitnessUnavailable, match="no missing memory"):
        show(record, folder)


def test_a_memory_that_was_edited_is_noticed(record: Path, folder: Path) -> None:
    """A smaller head written into the memory needs the log's signature, and so does not pass."""
    show(record, folder)
    path = next((folder / "heads").glob("*.json"))
    path.write_text(path.read_text().replace("\\n8\\n", "\\n7\\n"))
    with pytest.raises(WitnessUnavailable, match="Cannot read what the witness remembers"):
        show(record, folder)


def test_a_folder_that_is_not_mounted_is_not_made(record: Path, tmp_path: Path) -> None:
    """A missing folder is an error and stays missing: a witness on the same disk would be no witness."""
    with pytest.raises(WitnessUnavailable, match="Mount it"):
        show(record, tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_replaced_witness_is_noticed(record: Path, folder: Path) -> None:
    """A folder whose key was exchanged while it was in use does not go on cosigning."""
    witness = open_folder(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    open_folder(folder)
    with Project.open(record, mode="write") as project, pytest.raises(WitnessUnavailable, match="changed its key"):
        ask(project, witness)


def _race(record: Path, folder: Path, home: str, barrier, results) -> None:
    os.environ["GRPO_AUDIT_HOME"] = home
    witness = open_folder(folder)
    with Project.open(record, mode="read") as project:
        origin, key = origin_of(project.project_id), VerifierKey.parse(project.public_key)
        barrier.wait()
        for size in range(1, project.head.size + 1):
            _, root, note = project.checkpoint(size)
            try:
                old = witness.remembers(origin)
                proof = prove_consistency(RecordLeaves(project), old, size, root) if old <= size else []
                witness.see(Submission(note=note, old_size=old, proof=tuple(proof), log_key=key))
                results.put(size)
            except (WitnessRefused, WitnessUnavailable):
                time.sleep(0)


@pytest.mark.slow
def test_two_processes_at_once_never_take_the_memory_back(record: Path, folder: Path, own_home: Path) -> None:
    """Two processes show every head at the same time: the witness ends with the newest, and it never went back."""
    grow(record, 12)
    open_folder(folder)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_race, args=(record, folder, str(own_home), barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    head = head_of(record)
    assert open_folder(folder).remembers(head.origin) == head.size
    assert not results.empty()


def test_what_is_no_witness_to_trust_is_refused(tmp_path: Path) -> None:
    """An empty folder, a log's key and nonsense are no anchor."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("nonsense")
    log_key = str(keys.SigningKey.generate().signer("x").verifier)
    for rest in (str(tmp_path / "empty"), str(tmp_path / "file"), "nonsense", log_key):
        with pytest.raises(ConfigError, match="no witness to trust"):
            DirectoryKind().trusted(rest)
