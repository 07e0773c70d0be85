"""A witness in a folder: on another disk, a network mount, a colleague's machine.

The folder holds the witness' own Ed25519 key (``witness.key``, mode 0600; ``witness.vkey`` is its public half) and, for
each log it was shown, the newest head it cosigned (``heads/<project id>.json``). It signs a head only when the log's
key signed it and a consistency proof ties it to the head it remembers; what it remembers is on disk before it answers.
It is worth as much as the folder is out of reach of whoever writes the record.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger.folders import create_file, sync_folder
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.merkle import verify_consistency
from grpo_audit.ledger.notes import Checkpoint, NoteError, VerifierKey, open_note
from grpo_audit.witness.cosignature import Cosignature, CosignerKey
from grpo_audit.witness.folder import (
    HeadFile,
    cosigner_of,
    load_cosigner,
    locked,
    origin_of_note,
    read_head,
    read_key,
    unusable,
    write_durably,
    write_head,
)
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
CLOCK_SLACK_S = 60
"""Seconds that the witness' clock may have been set back since it last signed; then it repeats its last time."""


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
        seen = read_head(self.folder, origin)
        return seen.head if seen else None

    def see(self, head: Submission) -> bytes:
        """Check the head against what is remembered, remember it, cosign it."""
        with locked(self.folder):
            cosigner = load_cosigner(self.folder)
            if cosigner.key != self.key:
                raise WitnessUnavailable(f"The witness in {self.folder} changed its key", expected=str(self.key))
            origin = origin_of_note(head.note)
            seen = read_head(self.folder, origin)
            log_key = self._log_key(head, origin, seen)
            shown = self._opened(head.note, log_key, origin)
            if log_key.public == cosigner.key.public:
                raise WitnessRefused(f"{self.name} does not witness a log that is signed with the witness' own key")
            if seen is not None:
                _compare(self.name, head, shown, seen.head)
            timestamp = _now_after(self.name, seen.timestamp if seen else 0)
            new_key = followed_key(head.rotation, shown, log_key)
            entry = HeadFile(origin=origin, key=str(new_key), note=head.note.decode(), timestamp=timestamp)
            write_head(self.folder, origin, entry)
            return cosigner.cosign(shown, timestamp)

    def _log_key(self, head: Submission, origin: str, seen: HeadFile | None) -> VerifierKey:
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
    with locked(folder):
        key_file = folder / "witness.key"
        if not key_file.exists():
            name = name or f"grpo-audit-witness/{secrets.token_hex(4)}"
            private = SigningKey.generate()
            key = cosigner_of(name, private).key
            write_durably(folder / "witness.vkey", f"{key}\n".encode())
            try:
                create_file(key_file, private.pem())
                sync_folder(folder)
            except OSError as error:
                raise unusable(folder, error) from error
        return DirectoryWitness(folder, load_cosigner(folder).key)


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
            seen = read_head(self.folder, origin)
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
                return CosignerAnchor(read_key(path / "witness.vkey"), path)
            if path.is_file():
                return CosignerAnchor(read_key(path))
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
