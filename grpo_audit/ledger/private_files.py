"""Files that hold private keys: mode 0600, written whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from grpo_audit.errors import StorageError
from grpo_audit.ledger.folders import create_file, replace_file


def read_private(path: Path) -> bytes:
    """The bytes of a private key's file. Raises StorageError when others may read it, or nobody can."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name == "posix" and mode & 0o077:
            raise StorageError(
                f"Private key {path} may be read by others",
                found=f"mode {mode:04o}",
                expected="mode 0600",
                next_step=f"Run: chmod 600 {path}. If others may have read it, rotate it: grpo-audit keys rotate",
            )
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"Cannot read the private key {path}", found=error.strerror or str(error)) from error


def write_private(path: Path, data: bytes) -> None:
    """Keep a private key with mode 0600, unless there is one at ``path`` already. Raises StorageError."""
    _written(path, create_file, data)


def replace_private(path: Path, data: bytes) -> None:
    """Put another private key in the place of the one at ``path``. Raises StorageError."""
    _written(path, replace_file, data)


def _written(path: Path, write: Callable[[Path, bytes], None], data: bytes) -> None:
    try:
        write(path, data)
    except OSError as error:
        raise StorageError(
            f"Cannot write the private key {path}",
            found=error.strerror or str(error),
            next_step="Set GRPO_AUDIT_HOME to a folder that can be written",
        ) from error
