"""Canonical bytes: one value, one spelling."""

from __future__ import annotations

import json
from enum import IntEnum, StrEnum

import pytest
from hypothesis import given, strategies as st

from grpo_audit.ledger.canonical import MAX_BYTES, MAX_DEPTH, MAX_INTEGER, CanonicalError, dumps, loads, plain

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_INTEGERS = st.integers(-MAX_INTEGER + 1, MAX_INTEGER - 1)
_VALUES = st.recursive(
    st.none() | st.booleans() | _INTEGERS | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(_VALUES)
def test_loads_undoes_dumps(value: object) -> None:
    """loads(dumps(value)) == value for everything without floats."""
    assert loads(dumps(value)) == value


@given(_VALUES)
def test_bytes_read_are_the_bytes_written_again(value: object) -> None:
    """dumps(loads(data)) == data."""
    data = dumps(value)
    assert dumps(loads(data)) == data


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != 0 or str(x) == "0.0"))
def test_floats_are_strings_that_give_the_same_float(value: float) -> None:
    """float(loads(dumps(x))) == x, bit for bit."""
    text = loads(dumps(value))
    assert isinstance(text, str)
    assert float(text).hex() == value.hex()


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(1e-5, 1e-3) | st.floats(1e15, 1e17))
def test_a_float_is_spelled_as_python_does(value: float) -> None:
    """plain(x) is repr(x), and 0.0 for either zero."""
    assert plain(value) == (repr(value) if value else "0.0")


@given(_VALUES)
def test_the_bytes_are_those_of_the_standard_library(value: object) -> None:
    """dumps gives what json.dumps gives with sorted keys, no spaces and nothing escaped that need not be."""
    expected = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert dumps(value) == expected.encode()


def test_every_character_is_spelled_as_the_standard_library_does() -> None:
    """Each code point but the surrogates, alone in a text and as a key."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert dumps(characters) == json.dumps(characters, separators=(",", ":"), ensure_ascii=False).encode()
    keys = dict.fromkeys(characters[:0x3000] + characters[::97], 1)
    expected = json.dumps(keys, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert dumps(keys) == expected.encode()


@given(st.dictionaries(_TEXT, _INTEGERS, max_size=6))
def test_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    """Two dictionaries that are equal have the same bytes."""
    assert dumps(dict(reversed(value.items()))) == dumps(value)


@given(_VALUES)
def test_canonical_bytes_are_json(value: object) -> None:
    """Any JSON reader reads them."""
    assert json.loads(dumps(value)) == value


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_in_one_way(data: bytes) -> None:
    """Whatever the bytes, loads gives a value with these very bytes, or raises CanonicalError."""
    try:
        value = loads(data)
    except CanonicalError:
        return
    assert dumps(value) == data


class _Word(StrEnum):
    A = "a"


class _Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"b": 1, "a": [True, None]}, b'{"a":[true,null],"b":1}'),
        ({"\u00e9": "\u00e9", "e\u0301": "e\u0301"}, '{"e\u0301":"e\u0301","\u00e9":"\u00e9"}'.encode()),
        ((1, 2), b"[1,2]"),
        (0.1, b'"0.1"'),
        (6e-05, b'"6e-05"'),
        ("\x00\n\u202e", '"\\u0000\\n\u202e"'.encode()),
        ({_Word.A: _Word.A, "n": _Number.ONE}, b'{"a":"a","n":1}'),
    ],
)
def test_examples(value: object, data: bytes) -> None:
    """The spelling is this one; NFC and NFD stay apart."""
    assert dumps(value) == data


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        float("-inf"),
        -0.0,
        MAX_INTEGER,
        -MAX_INTEGER,
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        b"bytes",
        {1, 2},
        object(),
    ],
)
def test_values_without_a_canonical_form_are_refused(value: object) -> None:
    """NaN, infinities, -0.0, large integers, lone surrogates, other keys and types raise CanonicalError."""
    with pytest.raises(CanonicalError):
        dumps(value)
    with pytest.raises(CanonicalError):
        dumps({"x": [value]})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a":1,"a":1}', "twice"),
        (b'{"a":{"b":1,"b":2}}', "'b' occurs twice"),
        (b"NaN", "no integer"),
        (b"Infinity", "no integer"),
        (b"1e2", "no integer"),
        (b"1.0", "no integer"),
        (b"-0.0", "no integer"),
        (b"-0", "spelling"),
        (b'{"b":1,"a":2}', "spelling"),
        (b'{"a": 1}', "spelling"),
        (b" 1", "spelling"),
        (b"1\n", "spelling"),
        (b'"\\u0041"', "spelling"),
        (b'"\\/"', "spelling"),
        (b'"\\ud800"', "surrogate"),
        (b"9007199254740992", "2\\*\\*53"),
        (b"9" * 5000, "not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b"\xef\xbb\xbf1", "not JSON"),
        (b"", "not JSON"),
        (b"{}x", "not JSON"),
        (b"[" * 100_000, "nested deeper"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper"),
        (b" " * (MAX_BYTES + 1), "at most"),
    ],
)
def test_every_other_spelling_is_refused(data: bytes, why: str) -> None:
    """Duplicate keys, other numbers, spaces, escapes, order, depth and size raise CanonicalError that says why."""
    with pytest.raises(CanonicalError, match=why):
        loads(data)


def test_the_deepest_and_largest_values_are_read() -> None:
    """The limits are inclusive: MAX_DEPTH levels and integers up to 2**53 - 1 are fine."""
    nested: object = MAX_INTEGER - 1
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert loads(dumps(nested)) == nested


def test_a_computed_negative_zero_becomes_zero() -> None:
    """plain() writes -0.0 as 0.0 and otherwise gives what loads(dumps()) gives."""
    assert plain({"loss": -0.0, "rate": 6e-5, "t": (1, _Word.A)}) == {"loss": "0.0", "rate": "6e-05", "t": [1, "a"]}
