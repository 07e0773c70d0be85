"""Run a recorded reward source again, from its recorded text, where it can do no harm."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import grpo_audit
from grpo_audit.record.events import RewardIdentity
from grpo_audit.rewards.sandbox import Ended, Isolation, Limits, SandboxError, describe, run
from grpo_audit.verify.recompute.registration import plain_digest

_INSIDE: Final = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
_OWN: Final = "/auditor"
_MEMORY_MB: Final = 2048
_PROCESSES: Final = 8
_STARTUP_S: Final = 60.0
_SLOWER: Final = 3
"""The verifying machine may be so many times slower than the one that trained."""
_LONGEST_CALL_S: Final = 300.0
"""Whatever time the record gives a call: a record must not keep the verifier for days."""
_CALLS_THAT_HANG: Final = 2
"""Calls of a chunk that may use up every time limit before the chunk is given up."""
_LIMITS_PER_CALL: Final = 7
"""Time limits that one hanging call can cost: itself, four for its rows, the row under way, and one to spare."""

Value = float | str | None
"""A reward, the text of an error, or None where the source does not apply."""


class NotRunnable(Exception):
    """The source cannot be run here; the text says why. No statement about the record."""


class NoAnswer(Exception):
    """The source was run and did not answer; the text says what happened."""


@dataclass(frozen=True)
class Call:
    """The rows of one call, as in training."""

    prompts: list[str]
    completions: list[str]
    columns: dict[str, list[object]]

    @property
    def size(self) -> int:
        """Characters, about."""
        return sum(map(len, self.prompts)) + sum(map(len, self.completions))


@dataclass(frozen=True)
class Recorded:
    """A reward source as recorded: its identity and its texts, whose digests were checked."""

    identity: RewardIdentity
    texts: Mapping[str, bytes]
    """File name relative to the folder of the source -> text; its own file first."""

    @property
    def time_limit_s(self) -> float:
        """Seconds a call may take here."""
        return min(_SLOWER * self.identity.time_limit_s, _LONGEST_CALL_S)

    @property
    def has_own_sandbox(self) -> bool:
        """Whether it is, to the byte, the module of this program that runs code in a sandbox of its own, which does not
        work inside another one. It is code that the auditor already has, and it reaches neither files nor network."""
        strict = self.identity.options.get("isolation") == "strict"  # an option of the record; else nothing protects us
        if self.identity.source != "grpo_audit.rewards.code:score" or not strict:
            return False
        folder = Path(grpo_audit.__file__).parent / "rewards"
        digests = {self.identity.source_file: self.identity.source_digest, **self.identity.modules}
        return all(_has_digest(folder / name, digest) for name, digest in digests.items())

    def request(self, calls: Sequence[Call], *, installed: bool) -> dict[str, Any]:
        """What the program inside is asked; ``installed`` takes the files from the package instead of the record, with
        which they agree. Raises NotRunnable."""
        module, _, function = self.identity.source.rpartition(":")
        file = PurePosixPath(self.identity.source_file)
        if module.endswith(".py"):
            package, source = [], f"{file}:{function}"
        else:
            parts = module.split(".")
            # a function may be written in another file than the module that names it: then the module is its package
            package = parts[:-1] if parts[-1] == file.stem else parts
            source = self.identity.source
        files = {"/".join([*package, name]): _text(name, text) for name, text in self.texts.items()}
        return {
            "source": source,
            "package": [] if installed else package,
            "files": {} if installed else files,
            "options": self.identity.options,
            "time_limit_s": self.time_limit_s,
            "calls": [vars(call) for call in calls],
        }


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return plain_digest(path.read_bytes()) == digest
    except (OSError, ValueError):
        return False


def _text(name: str, text: bytes) -> str:
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise NotRunnable(f"it names the file {name!r:.60}")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise NotRunnable(f"{name} is not UTF-8") from error


def sandbox_problem(isolation: Isolation) -> str | None:
    """Why the sandbox does not work on this machine, found by trying; None when it does."""
    try:
        describe(Limits(isolation=isolation))
    except (SandboxError, OSError) as error:
        return str(error)
    return None


def score(
    source: Recorded, calls: Sequence[Call], isolation: Isolation, *, installed: bool = False
) -> list[list[Value]]:
    """The rewards of each row of each call.

    ``strict`` runs the code in namespaces of its own: no network, no files but the interpreter and the installed
    packages, both read-only, no other process, limits on everything. ``limits`` runs it as an ordinary process of the
    user. Raises NotRunnable, NoAnswer.
    """
    request = source.request(calls, installed=installed)
    packages = sorted({sysconfig.get_paths()[name] for name in ("purelib", "platlib")})
    own = Path(grpo_audit.__file__).parent
    folders: dict[str, str] = {}
    if isolation == "strict":
        folders = {f"{_OWN}/grpo_audit": str(own)}
        folders |= {f"/packages/{number}": place for number, place in enumerate(packages)}
        request |= {"own": _OWN, "packages": [f"/packages/{number}" for number in range(len(packages))]}
    else:
        request |= {"own": str(own.parent), "packages": packages}
    limit = source.time_limit_s
    limits = Limits(
        seconds=_STARTUP_S + limit * (len(calls) + _CALLS_THAT_HANG * _LIMITS_PER_CALL),
        memory_mb=_MEMORY_MB,
        processes=_PROCESSES,
        isolation=isolation,
    )
    try:
        ended = run(_INSIDE, json.dumps(request).encode(), limits, folders=folders)
    except SandboxError as error:
        raise NotRunnable(f"the sandbox failed: {error}") from error
    return _answer(ended, [len(call.completions) for call in calls])


def _answer(ended: Ended, sizes: Sequence[int]) -> list[list[Value]]:
    """Nothing that comes out of the sandbox is believed before its shape is checked."""
    if ended.stopped or ended.code != 0:
        raise NoAnswer(ended.stopped or f"it ended with exit code {ended.code}")
    try:
        answer = json.loads(ended.output)
    except (ValueError, RecursionError) as error:
        raise NoAnswer("its answer cannot be read") from error
    if isinstance(answer, dict) and isinstance(answer.get("problem"), list):
        raise NotRunnable("it cannot be loaded: " + ": ".join(str(part)[:200] for part in answer["problem"]))
    calls = answer.get("calls") if isinstance(answer, dict) else None
    if not isinstance(calls, list) or [len(call) if isinstance(call, list) else -1 for call in calls] != list(sizes):
        raise NoAnswer("its answer has another shape than the question")
    return [[_value(item) for item in call] for call in calls]


def _value(item: object) -> Value:
    if item is None or isinstance(item, str):
        return item
    if isinstance(item, int | float) and not isinstance(item, bool):
        return float(item)
    return "returned no number"


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
