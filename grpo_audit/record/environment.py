"""Where a run happens: interpreter, packages, lock, code revision, processor, accelerator."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpo_audit
from grpo_audit.record.events import Environment
from grpo_audit.record.identity import bytes_digest, file_digest

LOCK_VARIABLE = "GRPO_AUDIT_LOCK"
"""Names the constraints file the environment was installed from; without it the one beside the code is taken."""


@dataclass(frozen=True)
class Accelerator:
    """What torch reports; the record itself never asks torch."""

    name: str | None
    driver: str | None
    threads: int
    deterministic: bool
    processes: int = 1
    strategy: str = "single process"
    backend: str | None = None


def lock_file() -> Path | None:
    """The constraints file of this installation, when it is known."""
    named = os.environ.get(LOCK_VARIABLE)
    path = Path(named) if named else _source_root() / "constraints.txt"
    return path if path.is_file() else None


def environment(accelerator: Accelerator) -> Environment:
    """Everything about this machine and installation that the record keeps."""
    lock = lock_file()
    revision, dirty = _code_revision()
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_processor(),
        cpu_count=os.cpu_count() or 1,
        memory_bytes=_memory(),
        accelerator=accelerator.name,
        driver=accelerator.driver,
        threads=accelerator.threads,
        deterministic_algorithms=accelerator.deterministic,
        packages=_packages(),
        lock_digest=file_digest(lock) if lock else None,
        code_revision=revision,
        code_dirty_digest=dirty,
        processes=accelerator.processes,
        strategy=accelerator.strategy,
        backend=accelerator.backend,
        sqlite=sqlite3.sqlite_version,
    )


def _source_root() -> Path:
    return Path(grpo_audit.__file__).resolve().parent.parent


def _packages() -> dict[str, str]:
    found = {
        dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions() if dist.metadata["Name"]
    }
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None  # not every system tells


def _code_revision() -> tuple[str | None, str | None]:
    """Commit of the checkout this package runs from, and the digest of what differs from it."""
    root = _source_root()
    if not (root / ".git").exists():
        return None, None
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        return None, None
    difference = _git(root, "diff", "HEAD") or b""
    return revision.decode().strip(), bytes_digest(difference) if difference else None


def _git(root: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git here: the record says unknown
    return done.stdout if done.returncode == 0 else None
