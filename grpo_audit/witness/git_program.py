"""Running git: arguments as a list, an environment of its own, no hooks, no prompts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from grpo_audit.witness.protocol import WitnessUnavailable

TIMEOUT_S = 60
IDENTITY = ("grpo-audit", "grpo-audit@localhost")
"""Author and committer of the commits: the signature that counts is the one under the head."""


def git(folder: Path, *arguments: str, given: bytes = b"", more: dict[str, str] | None = None) -> bytes:
    """What git prints. Raises WitnessUnavailable when it fails."""
    done = call(folder, *arguments, given=given, more=more)
    if done.returncode:
        found = " ".join(done.stderr.decode(errors="replace").split())[:300]
        raise WitnessUnavailable(f"git {arguments[0]} failed in {folder}", found=found or f"status {done.returncode}")
    return done.stdout


def call(
    folder: Path, *arguments: str, given: bytes = b"", more: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder, whatever its status. Raises WitnessUnavailable when it cannot be run or does not end."""
    settings = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "commit.gpgSign=false", "protocol.ext.allow=never")
    command = ["git", *(part for item in settings for part in ("-c", item)), "--literal-pathspecs", *arguments]
    try:
        return subprocess.run(
            command,
            cwd=folder,
            input=given,
            capture_output=True,
            env=_environment(more),
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        missing = "git" if folder.is_dir() else str(folder)
        raise WitnessUnavailable(f"{missing} is not there", next_step="Install git, or name another witness") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WitnessUnavailable(f"git {arguments[0]} did not end in {folder}", found=str(error)) from error


def _environment(more: dict[str, str] | None) -> dict[str, str]:
    """Only what git needs: the user's aliases, hooks, templates and editors must not have a say."""
    passed = {
        name: os.environ[name] for name in ("PATH", "SSH_AUTH_SOCK", "TMPDIR", "SYSTEMROOT") if name in os.environ
    }
    author, mail = IDENTITY
    return {
        **passed,
        "HOME": os.devnull,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_AUTHOR_NAME": author,
        "GIT_AUTHOR_EMAIL": mail,
        "GIT_COMMITTER_NAME": author,
        "GIT_COMMITTER_EMAIL": mail,
        **(more or {}),
    }
