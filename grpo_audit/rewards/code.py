"""Code against unit tests, in a sandbox of its own for each completion.

The tests' expected values never enter the sandbox (see ``code_tests``), and what the sandbox enforces on this machine
is tried out when the source is loaded and goes into the record (see ``sandbox``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

from grpo_audit.rewards.code_tests import (
    CallTest,
    OutputTest,
    Test,
    UnusableTests,
    passed_calls,
    passed_output,
    read_tests,
    request,
)
from grpo_audit.rewards.sandbox import Isolation, Limits, SandboxError, describe, run

KIND = "verifier"
VERSION = "1"
DOMAIN = "Python functions and programs that use the standard library only"

MAX_SOURCE: Final = 100_000
"""Characters of code; more is 0."""
_HARNESS: Final = Path(__file__).with_name("code_harness.py").read_text(encoding="utf-8")
_INFO: Final = re.compile(r"\A[ \t]*(?:python3?|py)?[ \t]*\r?\n", re.IGNORECASE)

CodeIn = Literal["fence", "tag", "whole"]


def score(
    completions: list[str],
    tests: list[object],
    *,
    code_in: CodeIn = "fence",
    partial: bool = False,
    seconds: float = 2.0,
    memory_mb: int = 512,
    files_mb: int = 16,
    processes: int = 8,
    parallel: int = 2,
    isolation: Isolation = "strict",
) -> list[float | Exception | None]:
    """1.0 where the code passes all its tests, else 0.0.

    Args:
        completions: one text a row.
        tests: the tests of the row (``code_tests.read_tests``). None: does not apply.
        code_in: the last fenced code block, the last ``<answer>`` block, or the whole completion.
        partial: give the share of tests passed instead.
        seconds: wall clock for all calls of a completion together, or for each run with an input.
        memory_mb: address space of each process.
        files_mb: what may be written.
        processes: processes and threads of one completion.
        parallel: completions that are tried at the same time.
        isolation: ``strict`` or ``limits``, see ``sandbox``.
    """
    limits = Limits(seconds, memory_mb, files_mb, processes, isolation)

    def judge(row: tuple[str, object]) -> float | Exception | None:
        completion, given = row
        if given is None:
            return None
        try:
            wanted = read_tests(given)
            source = extract(completion, code_in)
            if source is None or len(source) > MAX_SOURCE or not source.strip():
                return 0.0
            results = _try(source, wanted, limits, stop_early=not partial)
        except (UnusableTests, SandboxError) as error:
            return error
        return sum(results) / len(wanted) if partial else float(len(results) == len(wanted) and all(results))

    with ThreadPoolExecutor(max_workers=parallel) as threads:
        return list(threads.map(judge, zip(completions, tests, strict=True)))


def extract(completion: str, code_in: CodeIn = "fence") -> str | None:
    """The code of a completion: the last block, and only when it is closed."""
    text = completion.rpartition("</think>")[2]
    if code_in == "whole":
        return text
    if code_in == "tag":
        inside = text.rpartition("<answer>")
        body, closed, _ = inside[2].partition("</answer>")
        return body if inside[1] and closed else None
    parts = text.split("```")
    if len(parts) < 3 or len(parts) % 2 == 0:
        return None
    return _INFO.sub("", parts[-2])


def _try(source: str, tests: Sequence[Test], limits: Limits, *, stop_early: bool) -> list[bool]:
    """Whether each test passed; calls first. With ``stop_early`` the list ends at a run that failed."""
    calls = [test for test in tests if isinstance(test, CallTest)]
    results: list[bool] = []
    if calls:
        results += passed_calls(run(_HARNESS, request(source, calls), limits).output, calls)
    for test in tests:
        if stop_early and not all(results):
            return results
        if isinstance(test, OutputTest):
            ended = run(_HARNESS, request(source, None) + test.stdin.encode("utf-8", "replace"), limits)
            results.append(ended.code == 0 and passed_output(ended.output, test.output))
    return results


def _on_load(
    seconds: float, memory_mb: int, files_mb: int, processes: int, parallel: int, isolation: Isolation
) -> dict[str, str]:
    for name, value, least in (
        ("seconds", seconds, 0.1),
        ("memory_mb", memory_mb, 64),
        ("files_mb", files_mb, 1),
        ("processes", processes, 1),
        ("parallel", parallel, 1),
    ):
        if value < least:
            raise ValueError(f"option {name!r} is {value:g}; expected {least:g} or more")
    try:
        enforced = describe(Limits(seconds, memory_mb, files_mb, processes, isolation))
    except SandboxError as error:
        hint = "allow user namespaces, or accept the weaker isolation: limits (no protection of network and files)"
        raise ValueError(f"no sandbox on this machine: {error}; {hint}") from error
    init = Path(__file__).with_name("sandbox_init.py").read_bytes()  # a program of its own: no module shows it
    return {"sandbox": enforced, "sandbox_init.py": f"sha256:{hashlib.sha256(init).hexdigest()}"}


def _examples(tests: list[object]) -> list[object]:
    """For the probes: programs that pass by a table of the answers, and programs that must not pass."""
    from grpo_audit.rewards.examples import program

    return [None if given is None else program(read_tests(given)) for given in tests]


ON_LOAD = {"score": _on_load}
EXAMPLES = {"score": _examples}
