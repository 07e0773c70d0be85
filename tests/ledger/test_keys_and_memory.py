"""The user's key, pinned keys and remembered heads live outside of the record and are protected."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from grpo_audit.errors import StorageError
from grpo_audit.ledger import folders, keys, memory
from grpo_audit.ledger.attestation_key import AttestationKey, verify
from grpo_audit.ledger.memory import Head, Memory, recall

PROJECT = "0123456789abcdef" * 2


def test_the_key_is_made_once_and_only_the_user_may_read_it(own_home: Path) -> None:
    """load_or_create makes a key with mode 0600 in the configuration folder, and afterwards reads the same one."""
    first = keys.SigningKey.load_or_create()
    path = own_home / "config" / "signing-key.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.SigningKey.load_or_create().pem() == first.pem()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_is_refused(own_home: Path, mode: int) -> None:
    """Group- or world-readable private keys raise StorageError that names the mode."""
    keys.SigningKey.load_or_create()
    (own_home / "config" / "signing-key.pem").chmod(mode)
    with pytest.raises(StorageError, match=f"mode {mode:04o}"):
        keys.SigningKey.load_or_create()


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_broken_key_is_refused_and_never_replaced(own_home: Path, content: bytes) -> None:
    """A key file that cannot be read raises StorageError; it is not overwritten by a new key."""
    path = own_home / "config" / "signing-key.pem"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StorageError, match="is no private key"):
        keys.SigningKey.load_or_create()
    assert path.read_bytes() == content


def test_the_first_of_two_writers_of_a_new_key_wins(own_home: Path) -> None:
    """create_file never replaces a file, so two processes that start at once end with one key."""
    folders.create_file(own_home / "key", b"first")
    folders.create_file(own_home / "key", b"second")
    assert (own_home / "key").read_bytes() == b"first"
    assert [path.name for path in own_home.iterdir()] == ["key"]


def test_a_pinned_key_comes_back() -> None:
    """pinned() gives what pin() was given, and None for a project this machine does not know."""
    verifier = keys.SigningKey.generate().signer("grpo-audit/x").verifier
    assert keys.pinned(PROJECT) is None
    keys.pin(PROJECT, verifier)
    assert keys.pinned(PROJECT) == verifier


def test_a_broken_pin_is_no_missing_pin(own_home: Path) -> None:
    """A pin file that cannot be read raises instead of falling back to the record's own key."""
    keys.pin(PROJECT, keys.SigningKey.generate().signer("x").verifier)
    (own_home / "config" / "pinned" / f"{PROJECT}.vkey").write_text("nonsense")
    with pytest.raises(StorageError, match="pinned key"):
        keys.pinned(PROJECT)


@pytest.mark.parametrize("project_id", ["", "../../etc/passwd", "x" * 32, PROJECT.upper(), PROJECT + "\n"])
def test_a_hostile_project_id_never_becomes_a_path(project_id: str) -> None:
    """Only 32 lower-case hexadecimal digits are used as a file name."""
    with pytest.raises(StorageError, match="project id"):
        keys.pinned(project_id)
    with pytest.raises(StorageError, match="project id"):
        recall(project_id)


def test_a_head_is_remembered_at_once_then_at_most_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first update is written, quick ones wait, flush writes the newest."""
    clock = [0.0]
    monkeypatch.setattr(memory.time, "monotonic", lambda: clock[0])
    remembers = Memory(PROJECT)
    heads = [Head(size, bytes([size]) * 32) for size in range(1, 5)]
    remembers.update(heads[0], b"note")
    clock[0] = 0.5
    remembers.update(heads[1], b"note")
    seen = recall(PROJECT)
    assert seen is not None and seen.head == heads[0]
    clock[0] = 1.5
    remembers.update(heads[2], b"note")
    seen = recall(PROJECT)
    assert seen is not None and seen.head == heads[2]
    remembers.update(heads[3], b"note \xe2\x80\x94")
    remembers.flush()
    seen = recall(PROJECT)
    assert seen is not None and (seen.head, seen.note) == (heads[3], "note \u2014")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"size": 1, "root": "xy", "note": ""}'])
def test_a_broken_memory_is_no_missing_memory(own_home: Path, content: str) -> None:
    """A memory file that cannot be read raises: whoever cut a record may also have touched the memory."""
    path = own_home / "state" / "heads" / f"{PROJECT}.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(StorageError, match="remembered head"):
        recall(PROJECT)


def test_a_retired_key_stays_usable(own_home: Path) -> None:
    """rotate() makes another key current; the old ones come after it in all_private(), newest first, each mode 0600."""
    first = keys.SigningKey.load_or_create()
    assert [key.public for key in keys.all_private()] == [first.public]
    second, third = keys.rotate(), keys.rotate()
    assert keys.SigningKey.load_or_create().public == third.public
    assert [key.public for key in keys.all_private()] == [third.public, second.public, first.public]
    for path in (keys.current_path(), *keys.retired_paths()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rotation_that_was_killed_in_between_loses_no_key(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the new key is in place, the old one is still current, and counted once."""
    first = keys.SigningKey.load_or_create()

    def killed(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keys, "replace_private", killed)
        with pytest.raises(KeyboardInterrupt):
            keys.rotate()
    assert [key.public for key in keys.all_private()] == [first.public]
    second = keys.rotate()
    assert [key.public for key in keys.all_private()] == [second.public, first.public]


def test_one_broken_retired_key_is_not_passed_over(own_home: Path) -> None:
    """A retired key that others may read raises like the current one: it may still sign projects."""
    keys.SigningKey.load_or_create()
    keys.rotate()
    keys.retired_paths()[0].chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        keys.all_private()


def test_the_attestation_key_signs_what_openssl_verifies(own_home: Path, tmp_path: Path) -> None:
    """ECDSA P-256 over SHA-256 in DER, public key in PEM: openssl accepts the signature, and no other data."""
    key = AttestationKey.load_or_create()
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert AttestationKey.load_or_create().key_id == key.key_id
    signature = key.sign(b"data")
    for name, content in (("data", b"data"), ("other", b"Data"), ("sig", signature), ("key", key.public_pem())):
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "sig"]
    assert subprocess.run([*command, "data"], cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert subprocess.run([*command, "other"], cwd=tmp_path, capture_output=True, check=False).returncode != 0
    assert verify(key.public_pem(), b"data", signature)
    assert not verify(key.public_pem(), b"Data", signature)
    assert not verify(key.public_pem(), b"data", signature[:-1])
    assert not verify(b"no key", b"data", signature)


def test_an_attestation_key_of_another_kind_is_refused(own_home: Path) -> None:
    """An Ed25519 key, a P-384 key and garbage are no attestation key."""
    path = own_home / "config" / "attestation-key.pem"
    path.parent.mkdir(parents=True)
    other = ec.generate_private_key(ec.SECP384R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (keys.SigningKey.generate().pem(), pem, b"garbage"):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(StorageError, match="no attestation key"):
            AttestationKey.load_or_create()
