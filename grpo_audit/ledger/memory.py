"""The newest head of each project that this machine has seen, kept in the user's state folder, outside of the record.

Cutting the newest events together with their checkpoints, or putting back an older database, leaves a record that is
consistent in itself; only somebody else's memory shows it. This is the cheapest such memory. A memory older than the
record is normal (the process was killed before it could write); the root at the remembered size must agree.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from grpo_audit.errors import StorageError
from grpo_audit.ledger.folders import is_project_id, replace_file, state_folder

INTERVAL_S = 1.0
"""At most one write a second; ``flush`` writes the rest."""


@dataclass(frozen=True)
class Head:
    """The head of a log: events in the tree, and their root."""

    size: int
    root: bytes


@dataclass(frozen=True)
class RememberedHead:
    """What was remembered."""

    head: Head
    note: str
    """The signed checkpoint, as evidence."""
    path: Path


def recall(project_id: str) -> RememberedHead | None:
    """The newest head seen here, if any. Raises StorageError when the file is there but broken."""
    path = _file(project_id)
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        head = Head(int(entry["size"]), bytes.fromhex(entry["root"]))
        return RememberedHead(head, str(entry["note"]), path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"Cannot read the remembered head {path}",
            found=str(error),
            next_step="Find out who changed it; remove it only when you know that the record is whole",
        ) from error


class Memory:
    """Remembers the heads of one project while it is written."""

    def __init__(self, project_id: str) -> None:
        self._project_id = project_id
        self._path = _file(project_id)
        self._pending: tuple[Head, bytes] | None = None
        self._written_at = float("-inf")

    def update(self, head: Head, note: bytes) -> None:
        """Take note of a committed head; written now, or by a later call. Raises StorageError."""
        self._pending = (head, note)
        if time.monotonic() - self._written_at >= INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, unless another process remembered a newer head meanwhile. Raises StorageError."""
        if self._pending is None:
            return
        head, note = self._pending
        known = recall(self._project_id)
        if known is not None and known.head.size > head.size:
            self._pending = None
            return
        entry = {"size": head.size, "root": head.root.hex(), "note": note.decode("utf-8")}
        try:
            replace_file(self._path, json.dumps(entry, indent=1).encode())
        except OSError as error:
            raise StorageError(
                f"Cannot remember the head of the record in {self._path}",
                found=error.strerror or str(error),
                next_step="Set GRPO_AUDIT_HOME to a folder that can be written",
            ) from error
        self._pending = None
        self._written_at = time.monotonic()


def _file(project_id: str) -> Path:
    if not is_project_id(project_id):
        raise StorageError("Malformed project id in the record", found=repr(project_id)[:80])
    return state_folder() / "heads" / f"{project_id}.json"
