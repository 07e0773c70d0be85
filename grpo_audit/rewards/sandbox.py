"""Run a Python program that nobody trusts, with limits on time, memory, files, processes and output.

Two strengths. ``strict`` (Linux namespaces: mount, process, network, IPC; no container software needed) is tried out
when a source is loaded, and is an error where the kernel refuses it. ``limits`` is resource limits only: on a machine
without namespaces it stops loops and memory bombs, and *nothing else*: the program can reach the network, read files of
the user and leave processes behind.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final, Literal

Isolation = Literal["strict", "limits"]

MAX_OUTPUT: Final = 1 << 20
"""Bytes of output that are read; a program that writes more is stopped."""
_INIT: Final = str(Path(__file__).with_name("sandbox_init.py"))
_NOT_ISOLATED: Final = 120
_numbers = itertools.count(os.getpid() * 64)
_PROBE: Final = """
import os, socket, sys
from pathlib import Path
seen = []
try:
    socket.create_connection(("192.0.2.1", 80), timeout=0.2)
    seen.append("network")
except TimeoutError:
    seen.append("network")
except OSError as error:
    if error.errno not in (101, 100):
        seen.append(f"network ({error})")
try:
    Path("/usr/probe").write_text("x")
    seen.append("writes outside of its folder")
except OSError:
    pass
if Path("/proc/1").exists():
    seen.append("other processes")
if sorted(os.environ) not in (["LC_ALL", "PATH"], ["LC_ALL", "LC_CTYPE", "PATH"]):
    seen.append("environment")
print("leaks: " + ", ".join(seen))
"""


class SandboxError(Exception):
    """The sandbox itself does not work on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0
    """Wall clock; the processor time is limited to the same, rounded up."""
    memory_mb: int = 512
    """Address space of each process."""
    files_mb: int = 16
    """All files together (``strict``), or each file (``limits``)."""
    processes: int = 8
    """Processes and threads together (``strict`` only)."""
    isolation: Isolation = "strict"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. ``code`` is None when it was stopped: out of time, or too much output."""

    code: int | None
    output: bytes
    stopped: str = ""


def run(program: str, stdin: bytes, limits: Limits, *, folders: Mapping[str, str] | None = None) -> Ended:
    """Run Python source (the interpreter's standard library only) in a fresh sandbox with these bytes on its input.

    ``folders`` are shown read-only: place inside to folder outside (``strict`` only; there every other path is hidden).
    ``output`` is its standard output; its standard error is thrown away. Raises SandboxError when the sandbox could not
    be made. Never raises, hangs or prints because of the program.
    """
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    settings = asdict(limits) | {
        "cpu_s": max(1, int(limits.seconds + 0.999)),
        "number": next(_numbers),
        "folders": dict(folders or {}),
        "show": [] if sys.base_prefix.startswith("/usr") else [sys.base_prefix],
    }
    settings["show"] += [] if python.startswith(("/usr/", f"{sys.base_prefix}/")) else [python]
    flags = ["-I", "-S", "-B", "-X", "utf8"]
    command = [python, *flags, _INIT, json.dumps(settings), python, *flags, "-c", program]
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=folder, env={}
        )
        try:
            ended = _talk(process, stdin, time.monotonic() + limits.seconds + 1.0 * (limits.isolation == "strict"))
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)  # number 1 of its namespace dies with it, and everything with that
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        if ended.code == _NOT_ISOLATED and not ended.output:
            errors.seek(0)
            raise SandboxError(errors.read(300).decode(errors="replace").strip() or "it could not be started")
    return ended


def _talk(process: subprocess.Popen[bytes], stdin: bytes, deadline: float) -> Ended:
    """Write the input and read the output, both as far as they go, until the deadline."""
    assert process.stdin is not None
    assert process.stdout is not None
    left, output = memoryview(stdin), bytearray()
    with selectors.DefaultSelector() as ready:
        for pipe, event in ((process.stdin, selectors.EVENT_WRITE), (process.stdout, selectors.EVENT_READ)):
            os.set_blocking(pipe.fileno(), False)
            ready.register(pipe, event)
        while process.stdout in {key.fileobj for key in ready.get_map().values()}:
            if time.monotonic() >= deadline:
                return Ended(None, bytes(output), "out of time")
            for key, _ in ready.select(max(0.0, min(0.1, deadline - time.monotonic()))):
                if key.fileobj is process.stdin:
                    left = _write(process.stdin, left, ready)
                    continue
                part = os.read(process.stdout.fileno(), 1 << 16)
                output += part
                if not part:
                    ready.unregister(process.stdout)
                if len(output) > MAX_OUTPUT:
                    return Ended(None, b"", "too much output")
    try:
        return Ended(process.wait(timeout=max(0.0, deadline - time.monotonic())), bytes(output))
    except subprocess.TimeoutExpired:
        return Ended(None, bytes(output), "out of time")


def _write(pipe: IO[bytes], left: memoryview, ready: selectors.BaseSelector) -> memoryview:
    try:
        left = left[os.write(pipe.fileno(), left[: 1 << 16]) :] if left else left
    except OSError:  # it does not read its input
        left = left[:0]
    if not left:
        ready.unregister(pipe)
        with suppress(OSError):
            pipe.close()
    return left


def describe(limits: Limits) -> str:
    """What is enforced on this machine, found by trying; for the record. Raises SandboxError."""
    ended = run(_PROBE, b"", limits)
    report = ended.output.decode(errors="replace").strip()
    if ended.code != 0 or not report.startswith("leaks:"):
        raise SandboxError(f"a trial program did not run ({ended.stopped or f'exit code {ended.code}'})")
    leaks = report.removeprefix("leaks:").strip()
    figures = f"{limits.seconds:g} s, {limits.memory_mb} MiB a process, {limits.files_mb} MiB of files"
    if limits.isolation == "limits":
        return f"resource limits only ({figures}); network, files and processes are not isolated"
    if leaks:
        raise SandboxError(f"a trial program could reach: {leaks}")
    return (
        f"Linux namespaces (mount, process, network, IPC), no privileges; {figures}, {limits.processes} processes; "
        "tried out when loaded"
    )
