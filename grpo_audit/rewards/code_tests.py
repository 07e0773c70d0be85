"""Unit tests as data: arguments go into the sandbox, expected values stay outside, comparison is made outside.

So a program cannot read the answers, cannot end before the tests, cannot print that it passed, and cannot bend ``==``:
the only thing that counts is the value that came back.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grpo_audit.rewards.code_harness import decode, encode

_FORMS: Final = (
    'expected {"input": TEXT, "output": TEXT}, {"call": NAME, "args": [...], "expected": VALUE} or '
    '"assert f(...) == VALUE" with plain values'
)


class UnusableTests(ValueError):
    """A test is not of a form that we run."""


@dataclass(frozen=True, slots=True)
class CallTest:
    """Call a function and compare what it returns."""

    name: str
    arguments: tuple[Any, ...]
    expected: Any
    exact_types: bool
    """Whether a list must be a list; tests from JSON cannot tell it from a tuple."""


@dataclass(frozen=True, slots=True)
class OutputTest:
    """Run the program with an input and compare what it prints."""

    stdin: str
    output: str


Test = CallTest | OutputTest


def read_tests(given: object) -> list[Test]:
    """Tests of one row: a list, or JSON text of one, or asserts in one text. Raises UnusableTests."""
    if isinstance(given, str):
        stripped = given.strip()
        try:
            given = json.loads(stripped) if stripped.startswith("[") else stripped.splitlines()
        except (ValueError, RecursionError) as error:
            raise UnusableTests(f"the tests are no JSON: {error}") from error
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, Sequence):
        raise UnusableTests(f"the tests are of type {type(given).__name__}; {_FORMS}")
    tests = [_read(item) for item in given if not (isinstance(item, str) and not item.strip())]
    if not tests:
        raise UnusableTests("there are no tests")
    return tests


def _read(item: object) -> Test:
    if isinstance(item, str):
        return _from_assert(item.strip())
    if isinstance(item, Mapping):
        keys = {key for key, value in item.items() if value is not None}  # tables fill what a row lacks with null
        if keys == {"input", "output"}:
            return OutputTest(str(item["input"]), str(item["output"]))
        if {"call", "args"} <= keys <= {"call", "args", "expected"} and isinstance(item["args"], list):
            return CallTest(str(item["call"]), tuple(item["args"]), item.get("expected"), exact_types=False)
    raise UnusableTests(f"a test cannot be used: {str(item)[:80]!r}; {_FORMS}")


def _from_assert(line: str) -> CallTest:
    try:
        body = ast.parse(line).body
        assert len(body) == 1
        statement = body[0]
        assert isinstance(statement, ast.Assert)
        call: ast.expr = statement.test
        expected: ast.expr = ast.Constant(True)
        if isinstance(call, ast.Compare):
            assert len(call.ops) == 1
            assert isinstance(call.ops[0], ast.Eq | ast.Is)
            expected = call.comparators[0]
            call = call.left
        elif isinstance(call, ast.UnaryOp):
            assert isinstance(call.op, ast.Not)
            expected = ast.Constant(False)
            call = call.operand
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        assert not call.keywords
        arguments = tuple(ast.literal_eval(argument) for argument in call.args)
        return CallTest(call.func.id, arguments, ast.literal_eval(expected), exact_types=True)
    except (SyntaxError, ValueError, AssertionError, RecursionError, MemoryError, TypeError) as error:
        raise UnusableTests(f"a test cannot be used: {line[:80]!r}; {_FORMS}") from error


def request(source: str, calls: Sequence[CallTest] | None) -> bytes:
    """What the harness reads first. ``calls`` None: run the program as a script."""
    asked = None if calls is None else [[test.name, [encode(item) for item in test.arguments]] for test in calls]
    body = json.dumps({"source": source, "calls": asked}).encode()
    return f"{len(body):08d}".encode() + body


def passed_calls(output: bytes, tests: Sequence[CallTest]) -> list[bool]:
    """Which calls came back with the expected value. A call that came back twice has failed."""
    answers: dict[int, list[Any]] = {}
    for line in output.split(b"\n")[: 4 * len(tests)]:
        try:
            index, value = json.loads(line)
            answers.setdefault(index, []).append(decode(value))
        except Exception:  # noqa: BLE001 - whatever a program writes that is no answer is no answer
            continue
    return [
        len(answers.get(number, [])) == 1 and _same(answers[number][0], test.expected, test.exact_types)
        for number, test in enumerate(tests)
    ]


def passed_output(output: bytes, expected: str) -> bool:
    """Whether the printed text is the expected one, blanks at the ends of lines and of the text aside."""
    found = output.decode("utf-8", "replace")
    return _lines(found) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _same(found: Any, expected: Any, exact_types: bool) -> bool:
    if isinstance(expected, bool) or isinstance(found, bool) or expected is None:
        return type(found) is type(expected) and found == expected
    if isinstance(expected, float) or isinstance(found, float):
        numbers = isinstance(found, int | float) and isinstance(expected, int | float)
        return numbers and _close(float(found), float(expected))
    if isinstance(expected, list | tuple):
        alike = type(found) is type(expected) if exact_types else isinstance(found, list | tuple)
        return (
            alike
            and len(found) == len(expected)
            and all(_same(a, b, exact_types) for a, b in zip(found, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            type(found) is dict
            and found.keys() == expected.keys()
            and all(_same(found[key], expected[key], exact_types) for key in expected)
        )
    return type(found) is type(expected) and bool(found == expected)


def _close(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)
