"""The folder of a directory witness: its key, its memory, its lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger.folders import is_project_id, replace_file, sync_folder
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.notes import Checkpoint, NoteError, VerifierKey, open_note
from grpo_audit.witness.cosignature import Cosigner, CosignerKey
from grpo_audit.witness.protocol import WitnessRefused, WitnessUnavailable

ORIGIN_PREFIX = "grpo-audit/"
_LOCK_SECONDS = 30


class HeadFile(BaseModel):
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


def load_cosigner(folder: Path) -> Cosigner:
    """The witness' private key under the name that its public file states. Raises WitnessUnavailable."""
    public = read_key(folder / "witness.vkey")
    try:
        cosigner = cosigner_of(public.name, SigningKey.load(folder / "witness.key"))
    except WitnessUnavailable:
        raise
    except StorageError as error:
        raise WitnessUnavailable(error.what, found=error.found, next_step=error.next_step) from error
    if cosigner.key != public:
        raise WitnessUnavailable(f"The keys in {folder} do not belong together", next_step="Restore the folder")
    return cosigner


def cosigner_of(name: str, key: SigningKey) -> Cosigner:
    """A key under a name. Raises ConfigError for what cannot be a name."""
    try:
        return Cosigner(name, key.private)
    except NoteError as error:
        raise ConfigError(f"{name!r} cannot be the name of a witness", found=str(error)) from error


def read_key(path: Path) -> CosignerKey:
    """The public key in a file. Raises WitnessUnavailable."""
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


def origin_of_note(note: bytes) -> str:
    """The first line of a note, not verified."""
    return note.split(b"\n", 1)[0].decode("utf-8", errors="replace")


def read_head(folder: Path, origin: str) -> HeadFile | None:
    """What is remembered of a log, with its signature checked. Raises WitnessUnavailable when it is broken."""
    path = _head_path(folder, origin)
    try:
        entry = HeadFile.model_validate_json(path.read_bytes())
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


def write_head(folder: Path, origin: str, entry: HeadFile) -> None:
    """Remember a head; on disk when this returns. Raises WitnessUnavailable."""
    write_durably(_head_path(folder, origin), entry.model_dump_json(indent=1).encode())


def write_durably(path: Path, data: bytes) -> None:
    """Durable when it returns: file and folder are synced."""
    try:
        replace_file(path, data)
        sync_folder(path.parent)
    except OSError as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: OSError) -> WitnessUnavailable:
    """The error for a folder that cannot be written."""
    found = error.strerror or str(error)
    return WitnessUnavailable(f"The witness cannot write {path}", found=found, next_step="Free space, or remount it")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time: comparing with the remembered head and replacing it must not be torn apart."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as error:
        raise WitnessUnavailable(f"The witness in {folder} is busy", next_step="Ask again") from error
    except OSError as error:
        raise unusable(folder, error) from error
    try:
        yield
    finally:
        lock.release()
