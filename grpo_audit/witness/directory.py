"""A witness in a folder: on another disk, a network mount, a colleague's machine.

The folder holds the witness' own Ed25519 key (``witness.key``, mode 0600; ``witness.vkey`` is its public half) and, for
each log it was shown, the newest head it cosigned (``heads/<project id>.json``). It signs a head only when the log's
key signed it and a consistency proof ties it to the head it remembers; what it remembers is on disk before it answers.
It is worth as much as the folder is out of reach of whoever writes the record.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger.folders import create_file, is_project_id, replace_file, sync_folder
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.merkle import verify_consistency
from grpo_audit.ledger.notes import Checkpoint, NoteError, VerifierKey, open_note
from grpo_audit.witness.cosignature import Cosignature, Cosigner, CosignerKey
from grpo_audit.witness.protocol import (
    Judged,
    Judgement,
    Remembered,
    Submission,
    WitnessRefused,
    WitnessUnavailable,
)
from grpo_audit.witness.rotation import followed_key

KIND = "directory"
ORIGIN_PREFIX = "grpo-audit/"
CLOCK_SLACK_S = 60
"""Seconds that the witness' clock may have been set back since it last signed; then it repeats its last time."""
_LOCK_SECONDS = 30


class _HeadFile(BaseModel):
    """``heads/<project id>.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    origin: str
    key: str
    """Verifier key of the log: the first one seen, then what rotations led to."""
    note: str
    """The newest checkpoint that was cosigned."""
    timestamp: int
    """Of the newest cosignature."""

    @property
    def head(self) -> Checkpoint:
        """What the note says. Raises NoteError."""
        return Checkpoint.parse(open_note(self.note.encode(), VerifierKey.parse(self.key)))


@dataclass(frozen=True)
class DirectoryWitness:
    """The witness in one folder."""

    folder: Path
    key: CosignerKey
    kind: str = KIND

    @property
    def name(self) -> str:
        """Name of its key."""
        return self.key.name

    def anchor(self) -> str:
        """Its public key."""
        return str(self.key)

    def remembers(self, origin: str) -> int:
        """Size of the newest head of this log that it cosigned."""
        head = self.memory_head(origin)
        return head.size if head else 0

    def memory_head(self, origin: str) -> Checkpoint | None:
        """The newest head of this log that it cosigned."""
        seen = _read_head(self.folder, origin)
        return seen.head if seen else None

    def see(self, head: Submission) -> bytes:
        """Check the head against what is remembered, remember it, cosign it."""
        with _locked(self.folder):
            cosigner = _load_cosigner(self.folder)
            if cosigner.key != self.key:
                raise WitnessUnavailable(f"The witness in {self.folder} changed its key", expected=str(self.key))
            origin = _origin_of(head.note)
            seen = _read_head(self.folder, origin)
            log_key = self._log_key(head, origin, seen)
            shown = self._opened(head.note, log_key, origin)
            if log_key.public == cosigner.key.public:
                raise WitnessRefused(f"{self.name} does not witness a log that is signed with the witness' own key")
            if seen is not None:
                _compare(self.name, head, shown, seen.head)
            timestamp = _now_after(self.name, seen.timestamp if seen else 0)
            new_key = followed_key(head.rotation, shown, log_key)
            entry = _HeadFile(origin=origin, key=str(new_key), note=head.note.decode(), timestamp=timestamp)
            _write_head(self.folder, origin, entry)
            return cosigner.cosign(shown, timestamp)

    def _log_key(self, head: Submission, origin: str, seen: _HeadFile | None) -> VerifierKey:
        """The key that the log is known by; on first sight the one that the record names."""
        if seen is not None:
            return VerifierKey.parse(seen.key)
        if head.log_key is None or head.log_key.name != origin:
            raise WitnessRefused(f"{self.name} has not seen {origin} before and was not told its key")
        return head.log_key

    def _opened(self, note: bytes, key: VerifierKey, origin: str) -> Checkpoint:
        try:
            shown = Checkpoint.parse(open_note(note, key))
        except NoteError as error:
            raise WitnessRefused(
                f"{self.name} refuses a head that the key it knows did not sign",
                found=str(error),
                expected=f"a head signed by {key}",
                next_step="If the key was rotated, show the witness the head that both keys signed",
            ) from error
        if shown.origin != origin or key.name != origin:
            raise WitnessRefused(f"{self.name} refuses a head of another log", found=shown.origin, expected=origin)
        return shown


def _compare(name: str, head: Submission, shown: Checkpoint, remembered: Checkpoint) -> None:
    """Raises WitnessRefused unless the shown head extends the remembered one."""
    both = {"found": f"shown: {_say(shown)}", "expected": f"remembered: {_say(remembered)}"}
    if shown.size < remembered.size:
        raise WitnessRefused(
            f"{name} refuses to go back: the record is shorter than what it has seen",
            **both,
            next_step="Run grpo-audit verify; find out who put an older record back",
        )
    if head.old_size != remembered.size:
        raise WitnessUnavailable(f"{name} has seen another head meanwhile", **both, next_step="Ask again")
    if not verify_consistency(remembered.size, shown.size, head.proof, remembered.root, shown.root):
        raise WitnessRefused(
            f"{name} refuses another history: the record does not contain what it has seen",
            **both,
            next_step="Run grpo-audit verify; two records of one project have gone separate ways",
        )


def _say(head: Checkpoint) -> str:
    return f"{head.size} events, root {head.root.hex()}"


def _now_after(name: str, last: int) -> int:
    """Now, never before the last timestamp. Raises WitnessUnavailable when the clock was set back further."""
    now = int(time.time())
    if now < last - CLOCK_SLACK_S:
        raise WitnessUnavailable(
            f"The clock of {name} went back",
            found=_utc(now),
            expected=f"{_utc(last)} or later",
            next_step="Set the clock of this machine, then ask again",
        )
    return max(now, last)


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the folder -------------------------------------------------------------------------------------------------------


def open_folder(folder: Path, name: str | None = None) -> DirectoryWitness:
    """The witness in a folder, made on first use. Raises WitnessUnavailable when the folder is not there.

    A folder that does not exist is not made: a mount that is missing must not become a folder on this disk.
    """
    if not folder.is_dir():
        raise WitnessUnavailable(
            f"The witness folder {folder} is not there",
            next_step="Mount it, or make it (mkdir) where the writer of the record cannot take things back",
        )
    with _locked(folder):
        key_file = folder / "witness.key"
        if not key_file.exists():
            name = name or f"grpo-audit-witness/{secrets.token_hex(4)}"
            private = SigningKey.generate()
            key = _cosigner(name, private).key
            _write(folder / "witness.vkey", f"{key}\n".encode())
            try:
                create_file(key_file, private.pem())
                sync_folder(folder)
            except OSError as error:
                raise _unusable(folder, error) from error
        return DirectoryWitness(folder, _load_cosigner(folder).key)


def _load_cosigner(folder: Path) -> Cosigner:
    """The witness' private key under the name that its public file states. Raises WitnessUnavailable."""
    public = _read_key(folder / "witness.vkey")
    try:
        cosigner = _cosigner(public.name, SigningKey.load(folder / "witness.key"))
    except WitnessUnavailable:
        raise
    except StorageError as error:
        raise WitnessUnavailable(error.what, found=error.found, next_step=error.next_step) from error
    if cosigner.key != public:
        raise WitnessUnavailable(f"The keys in {folder} do not belong together", next_step="Restore the folder")
    return cosigner


def _cosigner(name: str, key: SigningKey) -> Cosigner:
    try:
        return Cosigner(name, key.private)
    except NoteError as error:
        raise ConfigError(f"{name!r} cannot be the name of a witness", found=str(error)) from error


def _read_key(path: Path) -> CosignerKey:
    try:
        return CosignerKey.parse(path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError, NoteError) as error:
        raise WitnessUnavailable(f"Cannot read the witness key {path}", found=str(error)) from error


def _head_path(folder: Path, origin: str) -> Path:
    project_id = origin.removeprefix(ORIGIN_PREFIX)
    if not origin.startswith(ORIGIN_PREFIX) or not is_project_id(project_id):
        raise WitnessRefused(
            "A foreign log was shown to a witness", found=repr(origin)[:100], expected=f"{ORIGIN_PREFIX}<project id>"
        )
    return folder / "heads" / f"{project_id}.json"


def _origin_of(note: bytes) -> str:
    return note.split(b"\n", 1)[0].decode("utf-8", errors="replace")


def _read_head(folder: Path, origin: str) -> _HeadFile | None:
    path = _head_path(folder, origin)
    try:
        entry = _HeadFile.model_validate_json(path.read_bytes())
        if entry.head.origin != origin or entry.origin != origin:
            raise NoteError(f"it is about {entry.origin}")
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, NoteError) as error:
        raise WitnessUnavailable(
            f"Cannot read what the witness remembers in {path}",
            found=" ".join(str(error).split())[:200],
            next_step="Find out who changed it: a broken memory is no missing memory",
        ) from error
    return entry


def _write_head(folder: Path, origin: str, entry: _HeadFile) -> None:
    _write(_head_path(folder, origin), entry.model_dump_json(indent=1).encode())


def _write(path: Path, data: bytes) -> None:
    """Durable when it returns: file and folder are synced."""
    try:
        replace_file(path, data)
        sync_folder(path.parent)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> WitnessUnavailable:
    found = error.strerror or str(error)
    return WitnessUnavailable(f"The witness cannot write {path}", found=found, next_step="Free space, or remount it")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time: comparing with the remembered head and replacing it must not be torn apart."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise WitnessUnavailable(f"The witness in {folder} is busy", next_step="Ask again") from error
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


# --- what a verifier trusts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CosignerAnchor:
    """A witness' public key; with its folder at hand, its memory too."""

    key: CosignerKey
    folder: Path | None = None

    @property
    def label(self) -> str:
        """Name of the key."""
        return self.key.name

    def judge(self, name: str, statement: bytes, head: Checkpoint) -> Judged:
        """Whether this key cosigned exactly this head."""
        try:
            cosignature = Cosignature.parse(statement)
        except NoteError as error:
            claims = name == self.key.name
            return Judged(Judgement.BROKEN if claims else Judgement.OTHER, f"no cosignature: {error}")
        if self.key.name not in (cosignature.name, name):
            return Judged(Judgement.OTHER, f"by {cosignature.name}")
        if cosignature.name != name:
            return Judged(Judgement.BROKEN, f"kept under the name {name!r:.80}, but by {cosignature.name}")
        if not cosignature.is_by(self.key):
            return Judged(Judgement.BROKEN, f"signed by another key than {self.key}")
        if not cosignature.holds(self.key, head):
            return Judged(Judgement.BROKEN, "the cosignature does not hold over this head: forged, or of another head")
        return Judged(
            Judgement.HOLDS, f"cosigned by {self.key.name}+{self.key.key_id.hex()}", _utc(cosignature.timestamp)
        )

    def memory(self, origin: str) -> Remembered | None:
        """What the folder remembers, when it is at hand."""
        if self.folder is None:
            return None
        try:
            seen = _read_head(self.folder, origin)
        except WitnessRefused:
            return None
        return Remembered(seen.head, _utc(seen.timestamp)) if seen else None


class DirectoryKind:
    """``dir:FOLDER``."""

    name = KIND
    prefix = "dir"

    def settled(self, rest: str) -> str:
        """The absolute path."""
        return str(Path(rest).absolute())

    def witness(self, rest: str) -> DirectoryWitness:
        """The witness in a folder, made on first use."""
        return open_folder(Path(rest).absolute())

    def trusted(self, rest: str) -> CosignerAnchor:
        """A folder, a witness key, or a file that holds one."""
        path = Path(rest)
        try:
            if path.is_dir():
                return CosignerAnchor(_read_key(path / "witness.vkey"), path)
            if path.is_file():
                return CosignerAnchor(_read_key(path))
            return CosignerAnchor(CosignerKey.parse(rest))
        except (StorageError, NoteError, OSError) as error:
            raise ConfigError(
                f"{rest!r:.200} is no witness to trust",
                found=str(error),
                expected="a witness folder, a witness key NAME+KEYHASH+BASE64, or a file that holds one",
            ) from error

    def contradiction(self, statement: bytes, head: Checkpoint) -> str | None:  # noqa: ARG002
        """Without the key nothing can be said of a cosignature."""
        return None
