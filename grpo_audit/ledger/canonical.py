"""Canonical bytes: one value, one spelling.

Compact JSON in UTF-8 with keys sorted by code point. Integers below 2**53 are numbers; a float is a string (``repr``),
so that any language reads the same bytes. Refused: NaN, infinities, -0.0, larger integers, lone surrogates, duplicate
keys, keys that are no text, anything JSON does not know. Strings are not normalised: NFC and NFD stay different.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

import orjson

MAX_INTEGER = 2**53
"""Exclusive. Beyond it a reader that knows only doubles (JavaScript, jq) sees another number (RFC 7493, 2.2)."""
MAX_DEPTH = 64
MAX_BYTES = 16 << 20
"""Large texts and arrays are content; a body of this size is an attack or a mistake."""


class CanonicalError(ValueError):
    """The value has no canonical form, or the bytes are not it."""


def dumps(value: object) -> bytes:
    """The canonical bytes of a value made of dict, list, tuple, str, int, float, bool and None.

    Raises CanonicalError. A float comes back from ``loads`` as the string it was written as.
    """
    return dumps_plain(_plain(value, 0, float_text))


def loads(data: bytes) -> Any:
    """Read canonical bytes; ``dumps(loads(data)) == data``. Raises CanonicalError for every other spelling."""
    if len(data) > MAX_BYTES:
        raise CanonicalError(f"{len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise CanonicalError(_why_no_json(data)) from error
    if _may_break_a_limit(data):
        _refuse_floats_and_limits(value, 0)
    if dumps_plain(value) != data:
        raise CanonicalError(_why_not_canonical(data))
    return value


_NUMBER_TO_LOOK_AT = re.compile(rb"[:,\[]-?[0-9]+(?:[.eE]|(?<=[0-9]{16}))")
"""What may be a float or a large integer: also inside of a text, where it is neither."""


def _may_break_a_limit(data: bytes) -> bool:
    """False when there can be no float, large integer or deep nesting; spares nearly every body the walk."""
    return (
        data[:1] not in (b"{", b"[")
        or data.count(b"[") + data.count(b"{") > MAX_DEPTH
        or _NUMBER_TO_LOOK_AT.search(data) is not None
    )


def _refuse_floats_and_limits(value: object, depth: int) -> None:
    if isinstance(value, dict | list):
        _check_depth(depth)
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_floats_and_limits(item, depth + 1)
    elif isinstance(value, float):
        raise CanonicalError(f"{value} is no integer below 2**53; a float and a larger integer must be a string")
    elif isinstance(value, int) and not -MAX_INTEGER < value < MAX_INTEGER:
        raise CanonicalError("an integer of 2**53 or more must be a string")


def plain(value: object) -> Any:
    """What ``loads(dumps(value))`` gives, except that -0.0 becomes 0.0: a computed figure may well be -0.0.

    Raises CanonicalError.
    """
    return _plain(value, 0, _unsigned_float_text)


def dumps_plain(value: object) -> bytes:
    """The canonical bytes of what ``plain`` made, which need not be walked again. Raises CanonicalError."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:  # nothing else of what ``plain`` makes is refused
        raise CanonicalError("a lone surrogate has no canonical form") from error
    if len(data) > MAX_BYTES:
        raise CanonicalError(f"{len(data)} bytes; at most {MAX_BYTES} are written")
    return data


def float_text(value: float) -> str:
    """A float as the string that stands for it. Raises CanonicalError for NaN, infinities and -0.0."""
    if not math.isfinite(value):
        raise CanonicalError(f"{value} has no canonical form")
    if value == 0.0 and math.copysign(1.0, value) < 0:
        raise CanonicalError("-0.0 has no canonical form")
    return repr(value)


def _unsigned_float_text(value: float) -> str:
    if 1e-4 <= value < 1e16 or -1e16 < value <= -1e-4:
        return orjson.dumps(value).decode()  # the same digits as repr where neither writes an exponent, in a third
    return float_text(value if value else 0.0)


def _plain(value: Any, depth: int, text_of: Callable[[float], str]) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if kind is float:
        return text_of(value)
    if kind is int:
        return _checked(value)
    if kind is dict:
        return _plain_dict(value, depth, text_of)
    if kind is list or kind is tuple:
        _check_depth(depth)
        return [_plain(item, depth + 1, text_of) for item in value]
    return _plain(_base_value(value), depth, text_of)


def _plain_dict(value: dict[Any, Any], depth: int, text_of: Callable[[float], str]) -> dict[str, Any]:
    _check_depth(depth)
    result = {}
    for key, item in value.items():
        kind = type(item)
        if kind is float:  # the most frequent kinds are spared a call
            item = text_of(item)
        elif kind is int:
            if not -MAX_INTEGER < item < MAX_INTEGER:
                _checked(item)
        elif kind not in _AS_IT_IS:
            item = _plain(item, depth + 1, text_of)
        result[key if type(key) is str else _key(key)] = item
    return result


def _checked(value: int) -> int:
    if -MAX_INTEGER < value < MAX_INTEGER:
        return value
    raise CanonicalError("an integer of 2**53 or more must be a string")


_AS_IT_IS = frozenset({str, bool, type(None)})


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise CanonicalError(f"nested deeper than {MAX_DEPTH}")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise CanonicalError(f"a key must be text, found {type(key).__name__}")
    return str.__str__(key)


def _base_value(value: object) -> object:
    """The plain value of an enumeration member or a number of another library."""
    for base in (str, int, float):
        if isinstance(value, base):
            return base.__str__(value) if base is str else base(value)
    raise CanonicalError(f"{type(value).__name__} has no canonical form")


def _why_no_json(data: bytes) -> str:
    """The reason for the reader of a verdict, from the library with the better words."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no integer; a float must be a string")

    try:
        json.loads(data.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    except RecursionError:
        return f"nested deeper than {MAX_DEPTH}"
    except ValueError as error:
        return f"not JSON: {error}"
    return "a lone surrogate or a number out of range"


def _why_not_canonical(data: bytes) -> str:
    """The reason for the reader of a verdict; only called when the bytes have already been refused."""

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise CanonicalError(f"key {key!r} occurs twice")
        return dict(pairs)

    try:
        json.loads(data, object_pairs_hook=refuse_duplicates)
    except ValueError as error:
        return str(error)
    return "not the canonical spelling (order of keys, spaces, escapes or numbers)"
