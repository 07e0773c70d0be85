"""The program that runs recorded reward code inside the sandbox. Its text is handed to the interpreter there; nothing
imports it. Standard library, and this package's own reward worker, which loads and calls the function as in training.

Standard input: one JSON object, as ``rerun.Recorded.request`` makes it. Standard output: one JSON object,
``{"problem": [kind, message]}`` or ``{"calls": [[value, ...], ...]}`` with a number, null (does not apply), or a text
(the error) for each row.

Two processes: the first keeps time and never runs foreign code; its child does, and is killed and started again when a
call takes too long.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_RETRY_CAP = 4
"""As in training: when a call on many rows fails, its rows are tried one by one for so many time limits."""
_STARTUP_S = 60.0
_LONGEST_ERROR = 80
_LONGEST_ANSWER = 32 << 20

Answer = list[float | str | None]


def main() -> None:
    """Read the request, score, answer."""
    answer_to = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    request: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    os.dup2(null, 0)
    _place(request["files"])
    keeper = _Keeper(request)
    try:
        answer: dict[str, Any] = {"calls": [keeper.score(call) for call in request["calls"]]}
    except _Unloadable as error:
        answer = {"problem": list(error.args)}
    keeper.stop()
    data = json.dumps(answer).encode()
    while data:
        data = data[os.write(answer_to, data) :]
    os._exit(0)


def _place(files: dict[str, str]) -> None:
    for name, text in files.items():
        path = Path("src") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")


class _Unloadable(Exception):
    """The function cannot be loaded here."""


class _Failed(Exception):
    """A call as a whole failed."""


class _Keeper:
    """Keeps time over the child that runs the function."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._limit = float(request["time_limit_s"])
        self._child = 0
        self._requests = self._answers = -1

    def score(self, call: dict[str, Any]) -> Answer:
        """One call; when it fails as a whole, row by row."""
        rows = len(call["completions"])
        try:
            return self._call(call, self._limit)
        except _Failed as failure:
            if rows == 1:
                return [str(failure)]
        deadline = time.monotonic() + _RETRY_CAP * self._limit
        found: Answer = []
        for row in range(rows):
            if time.monotonic() > deadline:
                found.append("not scored: the rows took too long one by one")
                continue
            columns = {name: [values[row]] for name, values in call["columns"].items()}
            one = {"prompts": [call["prompts"][row]], "completions": [call["completions"][row]], "columns": columns}
            try:
                found += self._call(one, self._limit)
            except _Failed as failure:
                found.append(str(failure))
        return found

    def stop(self) -> None:
        """Kill the child and what it started."""
        if self._child:
            os.killpg(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            os.close(self._requests)
            os.close(self._answers)
        self._child = 0

    def _call(self, call: dict[str, Any], limit: float) -> Answer:
        if not self._child:
            self._start()
        answer = self._ask(call, limit)
        if "failure" in answer:
            raise _Failed(str(answer["failure"])[:_LONGEST_ERROR])
        errors = answer["errors"]
        return [
            str(errors[str(row)])[:_LONGEST_ERROR] if str(row) in errors else None if value is None else float(value)
            for row, value in enumerate(answer["values"])
        ]

    def _start(self) -> None:
        theirs, self._requests = os.pipe()
        self._answers, mine = os.pipe()
        self._child = os.fork()
        if not self._child:
            os.setpgid(0, 0)
            os.close(self._requests)
            os.close(self._answers)
            try:
                _serve(self._request, theirs, mine)
            finally:
                os._exit(1)
        with suppress(OSError):
            os.setpgid(self._child, self._child)  # whoever comes first: it must be a group before it can be killed
        os.close(theirs)
        os.close(mine)
        try:
            loaded = self._ask(None, _STARTUP_S)
        except _Failed as failure:
            raise _Unloadable("failed to import", str(failure)) from failure
        if "problem" in loaded:
            raise _Unloadable(*(str(part)[:300] for part in loaded["problem"]))

    def _ask(self, call: dict[str, Any] | None, limit: float) -> dict[str, Any]:
        deadline = time.monotonic() + limit
        try:
            if call is not None:
                _send(self._requests, json.dumps(call).encode())
            answer = json.loads(self._receive(deadline))
            if not isinstance(answer, dict):
                raise ValueError("no answer")
        except (OSError, ValueError, KeyError, RecursionError) as error:
            self.stop()
            raise _Failed("took too long" if isinstance(error, TimeoutError) else "its process died") from error
        return answer

    def _receive(self, deadline: float) -> bytes:
        length = int.from_bytes(self._exactly(8, deadline), "little")
        if length > _LONGEST_ANSWER:
            raise ValueError("too long")
        return self._exactly(length, deadline)

    def _exactly(self, length: int, deadline: float) -> bytes:
        data = b""
        while len(data) < length:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError
            part = os.read(self._answers, length - len(data))
            if not part:
                raise ValueError("closed")
            data += part
        return data


def _send(pipe: int, data: bytes) -> None:
    data = len(data).to_bytes(8, "little") + data
    while data:
        data = data[os.write(pipe, data) :]


def _serve(request: dict[str, Any], requests: int, answers: int) -> None:
    """The child: load the function, then answer calls. From here on foreign code runs."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path += [request["own"], *request["packages"]]
    from grpo_audit.rewards import worker
    from grpo_audit.rewards.signature import LoadError

    try:
        _overlay(request["package"])
        function = worker.load(request["source"], Path("src").resolve(), request["options"], {})
    except LoadError as error:
        _send(answers, json.dumps({"problem": error.args}, default=str).encode())
        return
    _send(answers, b"{}")
    with os.fdopen(requests, "rb") as pipe:
        while header := pipe.read(8):
            call = json.loads(pipe.read(int.from_bytes(header, "little")))
            _send(answers, json.dumps(worker.score(function, call), default=str).encode())


def _overlay(package: list[str]) -> None:
    """The recorded files come first in each package that they belong to; its other modules are those installed here."""
    if not package:
        return
    sys.path.insert(0, str(Path("src").resolve()))
    for depth in range(1, len(package) + 1):
        module = importlib.import_module(".".join(package[:depth]))
        place = str(Path("src", *package[:depth]).resolve())
        if place not in list(module.__path__):
            module.__path__ = [place, *module.__path__]


if __name__ == "__main__":
    main()
