"""Text of strangers: what cannot be seen is named, what is long is cut and counted."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, strategies as st

from grpo_audit.report.visible import excerpt, is_invisible, pieces, plain, shortened

ANY_TEXT = st.text(st.characters(codec=None))


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\x00", "⟨U+0000⟩"),
        ("\x1b", "⟨U+001B⟩"),
        ("\r", "⟨U+000D⟩"),
        ("\u202e", "⟨U+202E⟩"),
        ("\u2066", "⟨U+2066⟩"),
        ("\u200b", "⟨U+200B⟩"),
        ("\ufeff", "⟨U+FEFF⟩"),
        ("\u00a0", "⟨U+00A0⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("\u2028", "⟨U+2028⟩"),
    ],
)
def test_what_cannot_be_seen_is_named(character: str, shown: str) -> None:
    """Control, bidirectional, zero-width, odd space, surrogate, tag and line separator characters get a mark."""
    assert plain(f"a{character}b") == f"a{shown}b"


def test_ordinary_text_is_left_alone() -> None:
    """Letters of any script, digits, symbols, spaces, tabs and line ends are shown as they are."""
    text = "Zürich 東京 العربية ไทย 🎲 a+b=c\n\tx"
    assert plain(text) == text


@given(ANY_TEXT)
def test_nothing_invisible_is_left(text: str) -> None:
    """After marking, no character of a kind that hides or reorders others remains."""
    assert not any(is_invisible(character) for character in plain(text))


@given(ANY_TEXT)
def test_pieces_lose_nothing(text: str) -> None:
    """Putting the marked characters back gives the text."""
    back = "".join(chr(int(piece.text[2:], 16)) if piece.name else piece.text for piece in pieces(text))
    assert back == text


@given(ANY_TEXT)
def test_every_mark_has_a_name(text: str) -> None:
    """A marked character says which one it is, by Unicode's name where it has one."""
    for piece in pieces(text):
        if piece.name and len(piece.text) > 2:
            official = unicodedata.name(chr(int(piece.text[2:], 16)), None)
            assert official is None or piece.name == official


@given(ANY_TEXT, st.integers(0, 20), st.integers(0, 20))
def test_a_cut_text_is_counted(text: str, head: int, tail: int) -> None:
    """Head, hidden characters and tail add up to the text; a text that fits is whole."""
    cut = excerpt(text, head, tail)
    assert len(cut.head) + cut.hidden + len(cut.tail) == len(text) == cut.characters
    assert text.startswith(cut.head) and text.endswith(cut.tail)
    if len(text) <= head + tail:
        assert cut.head == text and cut.hidden == 0


def test_a_line_is_cut_and_counted() -> None:
    """What stands in a line is cut at its limit, and says how long it was."""
    assert shortened("short") == "short"
    assert shortened("x" * 5000, 10) == "x" * 10 + "… (5,000 characters)"
