"""The trainer's side of one reward process: start it, ask it, kill it when it takes too long.

A process of our own rather than a pool library: a pool's spawned workers import the program's main module again (the
whole command line, torch with it, in each reward process), unpickle what user code returns in the trainer, and go on
spinning when the trainer is killed. POSIX only (Linux, macOS).
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grpo_audit.rewards.frames import MAX_ANSWER, ConnectionLost, FrameTooLong, receive, send
from grpo_audit.rewards.signature import Option

_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from grpo_audit.rewards.worker import main; main(int(sys.argv[1]))"
)


class CallFailed(Exception):
    """A call as a whole failed: it raised, hung, died or answered nonsense. The text is for the record."""


class LoadFailed(Exception):
    """The function cannot be loaded. ``problem`` is what kind, ``message`` the details."""

    def __init__(self, problem: str, message: str) -> None:
        super().__init__(f"{problem}: {message}")
        self.problem = problem
        self.message = message


@dataclass(frozen=True)
class Loaded:
    """What the process found when it loaded the function."""

    file: Path
    digest: str
    accepted: frozenset[str] | None
    """Names of the function's arguments; None when it takes any."""
    required: tuple[str, ...]
    keyword_only: tuple[str, ...]
    named: tuple[str, ...]
    """Arguments it names, also where it takes any."""
    options: dict[str, Option]
    declared: dict[str, str]
    facts: dict[str, str]
    modules: dict[str, str]
    """Other files loaded with it: name relative to its folder -> digest."""
    has_examples: bool
    """Whether its module makes examples for it."""

    def files(self) -> dict[str, str]:
        """Path -> digest of the function's file and of the modules beside it."""
        root = self.file.resolve().parent
        return {str(self.file): self.digest} | {str(root / name): digest for name, digest in self.modules.items()}


class RewardProcess:
    """One long-lived process with one user function in it. Not thread-safe; ``kill`` may be called from any thread."""

    def __init__(
        self,
        source: str,
        base_dir: Path,
        *,
        startup_limit_s: float,
        log_fd: int = 2,
        options: Mapping[str, Option] | None = None,
    ) -> None:
        """``log_fd`` takes what user code prints; the default is standard error."""
        self._source = source
        self._base_dir = base_dir
        self._options = dict(options or {})
        self._startup_limit_s = startup_limit_s
        self._log_fd = log_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._closed = False
        self._lock = threading.Lock()  # between starting in one thread and closing in another

    @property
    def pid(self) -> int | None:
        """Process id, while there is a process."""
        return self._process.pid if self._process else None

    def start(self, expected: Mapping[str, str] | None = None) -> Loaded:
        """Start the process and load the function; with ``expected`` (path -> digest), only if those files still have
        these digests.

        Raises LoadFailed.
        """
        self._spawn()
        request = {
            "do": "load",
            "source": self._source,
            "base_dir": str(self._base_dir),
            "options": self._options,
            "expected": dict(expected or {}),
        }
        try:
            answer = self._ask(pickle.dumps(request), self._startup_limit_s)
        except CallFailed as error:
            raise LoadFailed("failed to import", str(error)) from error
        if "problem" in answer:
            self.kill()
            raise LoadFailed(answer["problem"], answer["message"])
        accepted = None if answer["accepted"] is None else frozenset(answer["accepted"])
        return Loaded(
            file=Path(answer["file"]),
            digest=answer["digest"],
            accepted=accepted,
            required=tuple(answer["required"]),
            keyword_only=tuple(answer["keyword_only"]),
            named=tuple(answer["named"]),
            options=answer["options"],
            declared=answer["declared"],
            facts=answer["facts"],
            modules=answer["modules"],
            has_examples=answer["has_examples"],
        )

    def call(self, request: bytes, time_limit_s: float, expected: Mapping[str, str]) -> dict[str, Any]:
        """Score one pickled request; starts the process again when the last call killed it.

        Returns what ``worker.score`` (or ``worker.examples``) does. Raises CallFailed.
        """
        if self._process is None:
            try:
                self.start(expected)
            except LoadFailed as error:
                raise CallFailed(f"could not be loaded again: {error}") from error
        answer = self._ask(request, time_limit_s)
        if "failure" in answer:
            raise CallFailed(answer["failure"])
        return answer

    def _spawn(self) -> None:
        with self._lock:
            if self._closed:
                raise LoadFailed("closed", "the run is over")
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), json.dumps(sys.path)],
                    stdin=subprocess.PIPE,  # never written to: its end tells the process that the trainer is gone
                    stdout=self._log_fd,
                    stderr=self._log_fd,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C in the terminal does not reach it; its children die with it
                )
            self._connection = ours

    def _ask(self, request: bytes, time_limit_s: float) -> dict[str, Any]:
        connection = self._connection
        if connection is None:
            raise CallFailed("the run is over")
        deadline = time.monotonic() + time_limit_s
        try:
            send(connection, request, deadline)
            answer: dict[str, Any] = json.loads(receive(connection, deadline, MAX_ANSWER))
        except TimeoutError as error:
            self.kill()
            raise CallFailed(f"took longer than {time_limit_s:g} s") from error
        except (ConnectionLost, OSError) as error:
            raise CallFailed(self._cause_of_death()) from error
        except (FrameTooLong, ValueError) as error:
            self.kill()
            raise CallFailed("disturbed the connection to the trainer") from error
        except BaseException:  # Ctrl-C between question and answer: the next answer would be to this question
            self.kill()
            raise
        return answer

    def _cause_of_death(self) -> str:
        # A process that is dying keeps its own exit code, so killing it now does not hide the cause.
        code = self.kill()
        if code is None:
            return "the run is over"
        if code < 0:
            names = {int(item): item.name for item in signal.Signals}
            return f"the process died ({names.get(-code, f'signal {-code}')})"
        return f"the process ended with exit code {code}"

    def close(self) -> None:
        """Kill the process for good. A call that another thread is in fails at once."""
        self._closed = True
        self.kill()

    def kill(self) -> int | None:
        """Kill the process and everything it started. Returns its exit code, None when there was no process."""
        with self._lock:
            process, self._process = self._process, None
            connection, self._connection = self._connection, None
        if process is not None:
            # Before wait(): until the leader is waited for, no other group can get its number.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for the answer
            connection.close()
        return None if process is None else process.returncode
