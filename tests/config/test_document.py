"""YAML from strangers: bounded, without surprises, with line numbers."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st

from grpo_audit.config.document import MAX_BYTES, parse, short_float, write, write_inline
from grpo_audit.errors import ConfigError


def line_of(text: str) -> str:
    """The line a user reads."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "r.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 'r.yaml is not valid YAML at line 4; found duplicate key "c"'),
        ("a: b: c\n", "r.yaml is not valid YAML at line 1; found mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "at line 2; found a tab; YAML indents with blanks"),
        ("a: {b: 1\n", "r.yaml is not valid YAML at line 2"),
        ("a: 1\nb: \x01\n", "at line 2; found the unprintable character U+0001"),
        ("a: 1\n---\nb: 2\n", "r.yaml is not valid YAML at line 2"),
        (
            "x: !!python/object/apply:os.system ['true']\n",
            "line 1; found a tag that is no plain value: 'tag:yaml.org,2002:python",
        ),
        ("x: !thing 3\n", "found a tag that is no plain value: '!thing'"),
        ("1: a\n", "A key in r.yaml, line 1, is no text; found 1. Put it in quotes if it is meant as a name."),
        ("a:\n  ? [1]\n  : 2\n", "A key in r.yaml, line 2, is no text; found a list or mapping"),
        ("%YAML 1.1\n---\na: yes\n", "r.yaml, line 1, is a YAML directive; found '%YAML 1.1'. Remove the line."),
    ],
)
def test_malformed_yaml_names_its_line(text, expected):
    """Each mistake of syntax is one line with its place."""
    assert expected in line_of(text)


def test_an_alias_bomb_is_refused_before_it_grows():
    """Nine lines that stand for a billion values are refused in no time."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for name, below in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]")
    start = time.monotonic()
    assert line_of("\n".join(lines)) == "r.yaml has too many values; expected at most 10,000, with aliases written out."
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "[" * 500, "{a: " * 5000, "- " * 3000])
def test_endless_nesting_is_refused(text):
    """Aliases inside themselves and thousands of brackets alike."""
    assert line_of(text) == "r.yaml is nested too deeply; expected at most 20 levels and no alias inside itself."


def test_a_file_that_is_too_large_is_refused():
    """Before it is parsed."""
    assert line_of("a: " + "x" * MAX_BYTES) == "r.yaml is too large; expected at most 128 KiB of YAML."


def test_plain_aliases_work():
    """An alias used as intended is no bomb."""
    assert parse("a: &x {b: 1}\nc: *x\n", "").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_every_value_knows_its_line():
    """Keys and list items, nested."""
    lines = parse("a: 1\nb:\n  c:\n    - 5\n    - d: 6\n", "").lines
    assert lines["a",] == 1
    assert lines["b", "c"] == 3
    assert lines["b", "c", 0] == 4
    assert lines["b", "c", 1, "d"] == 5


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_short_float_is_the_same_float(value):
    """float(short_float(x)) == x, and YAML reads it as that number."""
    assert float(short_float(value)) == value
    assert parse(f"a: {short_float(value)}", "").data == {"a": value}


@pytest.mark.parametrize(
    ("value", "text"), [(6e-5, "6e-5"), (1e-6, "1e-6"), (0.2, "0.2"), (1.0, "1.0"), (1e22, "1e+22"), (1.5e-7, "1.5e-7")]
)
def test_floats_are_written_as_people_write_them(value, text):
    """No 6e-05, no 6.0e-05."""
    assert short_float(value) == text


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
_KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(_KEYS, _SCALARS | st.lists(_SCALARS, max_size=3) | st.dictionaries(_KEYS, _SCALARS, max_size=2)))
def test_what_is_written_reads_back_equal(data):
    """parse(write(x)).data == x."""
    assert parse(write(data), "").data == (data or {})


@given(_SCALARS)
def test_an_inline_value_reads_back_equal(value):
    """A value in an error or a comment can be pasted into a recipe."""
    text = write_inline(value)
    assert "\n" not in text or isinstance(value, str)
    assert parse("a: " + text, "").data == {"a": value}
