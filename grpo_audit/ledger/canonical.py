"""Canonical bytes: one value, one spelling.

Compact JSON in UTF-8 with keys sorted by code point. Integers below 2**53 are numbers; a float is a string (``repr``),
so that any language reads the same bytes. Refused: NaN, infinities, -0.0, larger integers, lone surrogates, duplicate
keys, keys that are no text, anything JSON does not know. Strings are not normalised: NFC and NFD stay different.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

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
        value = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CanonicalError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise CanonicalError(f"nested deeper than {MAX_DEPTH}") from error
    except json.JSONDecodeError as error:
        raise CanonicalError(f"not JSON: {error}") from error
    except CanonicalError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise CanonicalError(f"not JSON: {error}") from error
    if _may_break_a_limit(data):
        _plain(value, 0, float_text)
    if dumps_plain(value) != data:
        raise CanonicalError(_why_not_canonical(data))
    return value


_LONG_NUMBER = re.compile(rb"(?:^|[:,\[])-?[0-9]{16}")


def _may_break_a_limit(data: bytes) -> bool:
    """False when neither an integer nor the depth can be too large; spares nearly every body the walk."""
    return data.count(b"[") + data.count(b"{") > MAX_DEPTH or _LONG_NUMBER.search(data) is not None


def plain(value: object) -> Any:
    """What ``loads(dumps(value))`` gives, except that -0.0 becomes 0.0: a computed figure may well be -0.0.

    Raises CanonicalError.
    """
    return _plain(value, 0, _unsigned_float_text)


def dumps_plain(value: object) -> bytes:
    """The canonical bytes of what ``plain`` made, which need not be walked again. Raises CanonicalError."""
    try:
        data = _ENCODER.encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
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
    return float_text(value if value else 0.0)


def _plain(value: Any, depth: int, text_of: Any) -> Any:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is float:
        return text_of(value)
    if kind is int:
        if -MAX_INTEGER < value < MAX_INTEGER:
            return value
        raise CanonicalError("an integer of 2**53 or more must be a string")
    if kind is dict:
        _check_depth(depth)
        return {
            (key if type(key) is str else _key(key)): _plain(item, depth + 1, text_of) for key, item in value.items()
        }
    if kind is list or kind is tuple:
        _check_depth(depth)
        return [_plain(item, depth + 1, text_of) for item in value]
    return _plain(_base_value(value), depth, text_of)


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


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)


def _refuse_number(text: str) -> NoReturn:
    raise CanonicalError(f"{text} is no integer; a float must be a string")


_DECODER = json.JSONDecoder(parse_float=_refuse_number, parse_constant=_refuse_number)


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
    except CanonicalError as error:
        return str(error)
    return "not the canonical spelling (order of keys, spaces, escapes or numbers)"
