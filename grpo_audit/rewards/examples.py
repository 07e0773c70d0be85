"""Right and wrong answers for the sources whose reference is no answer: numbers and a target, tests, a schema.

The modules of those sources hand them to the probes under ``EXAMPLES`` (see docs/probes.md). Imported when that is
asked for and not before, so it is no part of a source.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from grpo_audit.rewards.code_tests import CallTest, Test

_MOST_NUMBERS: Final = 5
"""Numbers of a Countdown problem that are tried in every way; six take too long."""
_NOBODY: Final = "nobody at all"


# --- Countdown --------------------------------------------------------------------------------------------------------


def countdown(numbers: Sequence[int], target: int) -> dict[str, Any] | None:
    """An expression that reaches the target, and others that do not. None where there is none, or too many numbers."""
    if len(numbers) > _MOST_NUMBERS:
        return None
    right = next(
        (text for value, text in _reachable([(number, str(number)) for number in numbers]) if value == target), None
    )
    if right is None:
        return None
    plain = [sign.join(map(str, numbers)) for sign in "+*-"]
    plain = [text for text in plain if _value(text) != target]
    wrong = [*plain[:1], f"{right}+{numbers[0]}-{numbers[0]}", str(target), f"{right}*1", f"({right}", *plain[1:]]
    if str(target) == right:
        wrong.remove(right)
    return {"kind": "countdown", "right": [right], "wrong": wrong}


def _value(text: str) -> int:
    """Of a chain of one sign."""
    for sign in "+*":
        if sign in text:
            parts = [int(part) for part in text.split(sign)]
            value = parts[0]
            for part in parts[1:]:
                value = value + part if sign == "+" else value * part
            return value
    first, *rest = [int(part) for part in text.split("-")]
    return first - sum(rest)


def _reachable(parts: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Every value of all parts together, with how it is made."""
    if len(parts) == 1:
        yield parts[0]
        return
    for (i, a), (j, b) in itertools.permutations(enumerate(parts), 2):
        rest = [part for number, part in enumerate(parts) if number not in (i, j)]
        made = [(a[0] - b[0], f"({a[1]}-{b[1]})")]
        if i < j:
            made += [(a[0] + b[0], f"({a[1]}+{b[1]})"), (a[0] * b[0], f"{a[1]}*{b[1]}")]
        for item in made:
            yield from _reachable([item, *rest])


# --- code -------------------------------------------------------------------------------------------------------------


def program(tests: Sequence[Test]) -> dict[str, Any] | None:
    """A program that passes by a table of the tests' answers, and programs that try to pass without an answer."""
    calls = [test for test in tests if isinstance(test, CallTest)]
    if len(calls) == len(tests):
        right, names = _functions(calls), sorted({test.name for test in calls})
        broken = [f"def {name}(*_):\n    return None" for name in names]
        equal = "class Same:\n    def __eq__(self, other):\n        return True\n"
        wrong = [
            "\n".join(broken),
            equal + "\n".join(f"def {name}(*_):\n    return Same()" for name in names),
            "import os\nprint('passed')\nos._exit(0)",
            "\n".join(f"def {name}(*_):\n    raise SystemExit(0)" for name in names),
        ]
    elif not calls:
        table = {test.stdin: test.output for test in tests if not isinstance(test, CallTest)}
        right = f"import sys\nprint({table!r}[sys.stdin.read()])"
        wrong = ["print('surely not this')", "import os\nos._exit(0)", "print('passed')"]
    else:
        return None
    return {"kind": "code", "right": [right], "wrong": wrong}


def _functions(calls: Sequence[CallTest]) -> str:
    lines = []
    for name in dict.fromkeys(test.name for test in calls):
        table = {repr(test.arguments): test.expected for test in calls if test.name == name}
        lines.append(f"def {name}(*arguments):\n    return {table!r}[repr(arguments)]")
    return "\n".join(lines)


# --- JSON -------------------------------------------------------------------------------------------------------------


def json_texts(schema: Any, validator: Any) -> dict[str, Any] | None:
    """An instance of a schema, made from its simple keywords, and values it refuses; None where none could be made."""
    instance = _instance(schema, 0)
    if not validator.is_valid(instance):
        return None
    tried: list[Any] = [None, [], {}, "surely not this", 0, -1, True, [instance], {"surely not this": instance}]
    if isinstance(instance, dict):
        tried = [{key: item for key, item in instance.items() if key != left_out} for left_out in instance] + tried
        tried += [{**instance, key: {"surely": ["not this"]}} for key in instance]
    wrong = [json.dumps(value) for value in tried if value != instance and not validator.is_valid(value)]
    return {"kind": "json", "right": [json.dumps(instance)], "wrong": wrong[:6]} if wrong else None


def _instance(schema: Any, depth: int) -> Any:
    """A value that simple schemas accept; of others the validator will say no."""
    if not isinstance(schema, Mapping) or depth > 8:
        return None
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    for keyword in ("enum", "examples"):
        if schema.get(keyword):
            return schema[keyword][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            return _instance(
                {**{key: item for key, item in schema.items() if key != keyword}, **schema[keyword][0]}, depth
            )
    kind = schema.get("type", "object" if "properties" in schema or "required" in schema else "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _instance(properties.get(name, {}), depth + 1) for name in schema.get("required", properties)}
    if kind == "array":
        item = _instance(schema.get("items", {"type": "integer"}), depth + 1)
        return [item] * max(1, int(schema.get("minItems", 1)))
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
        return min(max(low, 1), schema.get("maximum", max(low, 1)))
    if kind == "string":
        return "texttexttexttext"[: int(schema.get("maxLength", 4))].ljust(int(schema.get("minLength", 0)), "t")
    return {"boolean": True, "null": None}.get(kind)


# --- lettered answers -------------------------------------------------------------------------------------------------


def lettered(solution: Mapping[str, str]) -> dict[str, Any]:
    """All answers as they are asked for; and all wrong, all named twice, all on one line, the letters moved on."""
    items = sorted(solution.items())
    right = "\n".join(f"{letter}. {answer}" for letter, answer in items)
    wrong = [
        "\n".join(f"{letter}. {_NOBODY}" for letter, _ in items),
        "\n".join(f"{letter}. {answer} or {_NOBODY}" for letter, answer in items),
        "\n".join(f"{letter}. not {answer}" for letter, answer in items),
        ", ".join(answer for _, answer in items),
    ]
    if len(items) > 1 and len({answer for _, answer in items}) == len(items):
        answers = [answer for _, answer in items]
        moved = zip([letter for letter, _ in items], answers[1:] + answers[:1], strict=True)
        wrong.append("\n".join(f"{letter}. {answer}" for letter, answer in moved))
    return {"kind": "lettered", "right": [right], "wrong": wrong}
