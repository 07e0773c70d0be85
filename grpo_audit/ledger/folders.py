"""Where the user's keys and the memory of log heads live: outside of every record."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

HOME_VARIABLE = "GRPO_AUDIT_HOME"
"""Overrides both folders: ``$GRPO_AUDIT_HOME/config`` and ``$GRPO_AUDIT_HOME/state``."""

_PROJECT_ID = re.compile(r"[0-9a-f]{32}")


def config_folder() -> Path:
    """Keys and pinned keys."""
    home = os.environ.get(HOME_VARIABLE)
    return Path(home) / "config" if home else Path(platformdirs.user_config_dir("grpo-audit"))


def state_folder() -> Path:
    """Newest heads this machine has seen."""
    home = os.environ.get(HOME_VARIABLE)
    return Path(home) / "state" if home else Path(platformdirs.user_state_dir("grpo-audit"))


def is_project_id(text: str) -> bool:
    """Whether a record's project id may be used as a file name."""
    return _PROJECT_ID.fullmatch(text) is not None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, never a part of it. Raises OSError."""
    with _written_beside(path, data) as temporary:
        temporary.replace(path)


def create_file(path: Path, data: bytes) -> None:
    """Write a whole file, unless there is one already: the first writer wins. Raises OSError."""
    with _written_beside(path, data) as temporary, suppress(FileExistsError):
        os.link(temporary, path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    if os.name != "posix":
        return  # Windows cannot open folders, and does this by itself
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A durable temporary file (mode 0600) in the folder of ``path``; removed if it is still there afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
