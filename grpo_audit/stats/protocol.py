"""The full text of an evaluation protocol: where two differ, a part of one, and what it says about metrics."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from grpo_audit.errors import ComparisonError

_SHOWN = 60
"""Characters of a value that are shown."""
_NAMED = {
    "documents": "documents",
    "harness": "the harness",
    "version": "the task's version",
}
"""Fields by what they are."""
_DIGESTS = {"documents_digest": "other documents", "examples_digest": "another pool of few-shot examples"}
"""Fields whose values tell a reader nothing, by what it means that they differ."""
_ABSENT = object()


def protocol_difference(first: bytes, second: bytes) -> list[str]:
    """Where two protocols differ, a sentence each: what holds for all tasks, missing tasks, then task by task.

    Equal bytes give an empty list. The sentences are one line of ASCII, whatever the protocols contain.
    """
    if first == second:
        return []
    one, other = _parsed(first), _parsed(second)
    if one is None or other is None:
        which = "first" if one is None else "second"
        return [f"the {which} protocol is not one that this version can read"]
    return list(_whole(one, other)) or ["the texts of the protocols differ in form only"]


def restricted(protocol: bytes, tasks: Collection[str]) -> bytes:
    """The protocol of some of its tasks: the bytes that a suite of these tasks alone would have.

    Raises:
        ComparisonError: It has not all of these tasks.
    """
    found = _parsed(protocol)
    known = found["tasks"] if found is not None else {}
    if missing := sorted(set(tasks) - known.keys()):
        raise ComparisonError(
            f"the recorded protocol has no task {_text(missing[0])}",
            found=", ".join(_text(name) for name in known) or "no task that this version can read",
        )
    part = {**(found or {}), "tasks": {name: task for name, task in known.items() if name in tasks}}
    return json.dumps(part, sort_keys=True, ensure_ascii=False, indent=1).encode("utf-8")


def directions(protocol: bytes | None) -> dict[str, dict[str, bool]]:
    """By task and metric, whether larger is better, where the task's ``metric_list`` says so."""
    parsed = None if protocol is None else _parsed(protocol)
    found: dict[str, dict[str, bool]] = {}
    for name, task in (parsed or {"tasks": {}})["tasks"].items():
        metrics = task.get("config", {}).get("metric_list") if isinstance(task.get("config", {}), dict) else None
        found[name] = {
            str(_name(entry["metric"])): entry["higher_is_better"]
            for entry in (metrics if isinstance(metrics, list) else ())
            if isinstance(entry, dict) and "metric" in entry and isinstance(entry.get("higher_is_better"), bool)
        }
    return found


def _name(metric: Any) -> Any:
    return metric.get("function") if isinstance(metric, dict) else metric


def _parsed(protocol: bytes) -> dict[str, Any] | None:
    """The protocol when it has the form that is written here, else None."""
    try:
        found = json.loads(protocol)
    except (ValueError, RecursionError):
        return None
    tasks = found.get("tasks") if isinstance(found, dict) else None
    whole = isinstance(tasks, dict) and all(isinstance(task, dict) for task in tasks.values())
    return found if whole else None


def _whole(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key in sorted((one.keys() | other.keys()) - {"tasks"}):
        yield from _values(_NAMED.get(key, _text(key)), one.get(key, _ABSENT), other.get(key, _ABSENT))
    for name in sorted(one["tasks"].keys() ^ other["tasks"].keys()):
        yield f"task {_text(name)} is only in the {'first' if name in one['tasks'] else 'second'}"
    for name in sorted(one["tasks"].keys() & other["tasks"].keys()):
        yield from _task(f"task {_text(name)}", one["tasks"][name], other["tasks"][name])


def _task(where: str, one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key in sorted(one.keys() | other.keys()):
        left, right = one.get(key, _ABSENT), other.get(key, _ABSENT)
        if key == "sources" and isinstance(left, dict) and isinstance(right, dict):
            yield from _sources(where, left, right)
        elif key == "config" and isinstance(left, dict) and isinstance(right, dict):
            for name in sorted(left.keys() | right.keys()):
                yield from _values(f"{where}: {_text(name)}", left.get(name, _ABSENT), right.get(name, _ABSENT))
        elif key in _DIGESTS:
            yield from () if left == right else (f"{where}: {_DIGESTS[key]}",)
        else:
            yield from _values(f"{where}: {_NAMED.get(key, _text(key))}", left, right)


def _sources(where: str, one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            yield f"{where}: the source file {_text(name)} is only in the {'first' if name in one else 'second'}"
        elif one[name] != other[name]:
            yield f"{where}: the source file {_text(name)} differs"


def _values(where: str, one: Any, other: Any) -> Iterator[str]:
    """Down to the values that differ, so that the sentence is about those."""
    if _same(one, other):
        return
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _values(f"{where}.{_text(key)}", one.get(key, _ABSENT), other.get(key, _ABSENT))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _values(f"{where}[{place}]", left, right)
    elif one is _ABSENT or other is _ABSENT:
        side, value = ("second", other) if one is _ABSENT else ("first", one)
        yield f"{where} {_value(value)} is only in the {side}"
    else:
        yield f"{where} {_value(one)} against {_value(other)}"


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, sort_keys=True)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _text(name: Any) -> str:
    return json.dumps(str(name), ensure_ascii=True)[1:-1][:100]
