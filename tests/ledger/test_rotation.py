"""Another key signs from here on."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger import keys
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.notes import NoteError, open_note
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.store import Store
from grpo_audit.ledger.tables import EventRow
from grpo_audit.record.events import Annotation, EventKind, KeyRotated


def note(value: str = "v") -> NewEvent:
    """Any event."""
    return NewEvent(Annotation(author="a", field="f", value=value, reason="r"), None)


def test_the_head_over_a_rotation_has_both_signatures_and_later_ones_the_new(location: str) -> None:
    """key.rotated is signed by the old key and the new one; what follows by the new one only; the new one is pinned."""
    new = SigningKey.generate()
    with Project.open(location, mode="create") as project:
        project.append([note()])
        head = project.rotate_key(new, author="A", reason="yearly")
        project.append([note()])
        old_key, new_key = (period.key for period in project.keys_in_force())
        assert [period.from_seq for period in project.keys_in_force()] == [0, 2]
        event = next(project.events(kinds=[EventKind.KEY_ROTATED]))
        assert event.payload == KeyRotated(author="A", reason="yearly", old_key=str(old_key), new_key=str(new_key))
        assert (event.seq, event.run_id, head.size) == (2, None, 3)
        signed = {(size, key) for size in (1, 2, 3, 4) for key in (old_key, new_key) if _signs(project, size, key)}
        assert signed == {(1, old_key), (2, old_key), (3, old_key), (3, new_key), (4, new_key)}
        assert keys.pinned(project.project_id) == new_key
        assert project.public_key == str(old_key)


def _signs(project: Project, size: int, key: keys.VerifierKey) -> bool:
    try:
        return bool(open_note(project.checkpoint(size).note, key))
    except NoteError:
        return False


def test_whoever_has_the_key_in_force_goes_on(location: str) -> None:
    """After a rotation the old key alone opens nothing for writing, and the error names both keys; the new one does."""
    old, new = SigningKey.generate(), SigningKey.generate()
    with Project.open(location, mode="create", key=old) as project:
        project.rotate_key(new, author="A", reason="r")
        name = f"grpo-audit/{project.project_id}"
    with pytest.raises(StorageError, match="signed by another key") as caught:
        Project.open(location, mode="write", key=old)
    assert old.signer(name).verifier.key_id.hex() in str(caught.value)
    assert str(new.signer(name).verifier) in str(caught.value)
    with Project.open(location, mode="write", key=new) as project:
        assert project.append([note()]).size == 3


def test_the_key_in_force_is_found_among_the_users_keys(tmp_path: Path) -> None:
    """A record made before the user's key changed is written with the retired key until it is rotated, then with the
    current one, and a new record with the current one."""
    older, newer = tmp_path / "older.db", tmp_path / "newer.db"
    Project.open(older, mode="create").close()
    current = keys.rotate()
    with Project.open(older, mode="write") as project, Project.open(newer, mode="create") as other:
        project.append([note()])
        assert current.public in (keys.SigningKey.load_or_create().public,)
        assert project.keys_in_force()[-1].key.public != other.keys_in_force()[-1].key.public
        project.rotate_key(current, author="A", reason="r")
    with Project.open(older, mode="write") as project:
        project.append([note()])
        assert project.keys_in_force()[-1].key.public == other.keys_in_force()[-1].key.public


def test_a_key_does_not_come_back(location: str) -> None:
    """Rotating to the key in force, or to an earlier one, raises ConfigError, and nothing is appended."""
    old, new = SigningKey.generate(), SigningKey.generate()
    with Project.open(location, mode="create", key=old) as project:
        head = project.rotate_key(new, author="A", reason="r")
        for key in (old, new):
            with pytest.raises(ConfigError, match="in force before"):
                project.rotate_key(key, author="A", reason="r")
        assert project.head == head
        assert project.append([note()]).size == head.size + 1


def test_another_writer_follows_a_rotation_when_it_has_the_key(postgres_url: str) -> None:
    """A process that has the record open goes on after another rotated the key if that key is its user's, and otherwise
    raises StorageError and appends nothing."""
    old = keys.all_private()[0]
    with (
        Project.open(postgres_url, mode="create") as one,
        Project.open(postgres_url, mode="write") as other,
        Project.open(postgres_url, mode="write", key=old) as stranger,
    ):
        one.append([note()])
        new = keys.rotate()
        one.rotate_key(new, author="A", reason="r")
        with pytest.raises(StorageError, match="signed by another key"):
            stranger.append([note()])
    with Project.open(postgres_url, mode="write") as late:
        assert late.append([note()]).size == 4
        with Project.open(postgres_url, mode="write", key=new) as same:
            same.append([note()])
            assert late.append([note()]).size == 6
    assert other.head.size == 1


@pytest.mark.parametrize(("field", "why"), [("old_key", "does not rotate the key in force"), ("new_key", "event 1")])
def test_rotations_that_contradict_each_other_are_damage(tmp_path: Path, field: str, why: str) -> None:
    """A stored rotation that does not begin with the key in force, or names no key, opens for writing no more."""
    path = tmp_path / "record.db"
    with Project.open(path, mode="create") as project:
        project.rotate_key(SigningKey.generate(), author="A", reason="r")
        event = next(project.events(kinds=[EventKind.KEY_ROTATED]))
        assert isinstance(event.payload, KeyRotated)
        forged = event.body.replace(getattr(event.payload, field).encode(), b"nonsense")
    store = Store.write(path)
    with store.transaction() as connection:
        connection.execute(update(EventRow).where(EventRow.seq == 1).values(body=forged))
    store.close()
    with pytest.raises(StorageError, match=why):
        Project.open(path, mode="write")
