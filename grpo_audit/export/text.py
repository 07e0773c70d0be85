"""The bytes of JSON and YAML files that leave the project."""

from __future__ import annotations

import json
from typing import Any


def json_bytes(value: Any) -> bytes:
    """Readable JSON in ASCII: a text in it can neither reorder nor hide what a person sees in a viewer or a terminal.

    Keys stay in the order given; a float is written as Python's shortest form. Raises ValueError for NaN.
    """
    return (json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def compact_json(value: Any) -> bytes:
    """The same without white space, for what is signed."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def parse_json(data: bytes, *, limit: int = 64 << 20) -> Any:
    """JSON from outside. Raises ValueError: too long, nested without end, a key twice, NaN, not UTF-8."""
    if len(data) > limit:
        raise ValueError(f"longer than {limit:,} bytes")
    try:
        return json.loads(data, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested without end") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
