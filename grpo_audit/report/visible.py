"""Text written by strangers, made safe to look at: what cannot be seen is named, what is too long is cut and counted.

A completion can hold terminal escapes, bidirectional overrides (CVE-2021-42574, "Trojan Source"), zero-width
characters, NUL or a megabyte of anything. Escaping for HTML or Markdown is a second, separate step.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

HEAD_CHARACTERS = 2400
TAIL_CHARACTERS = 600
"""How much of a long text is shown from its beginning and from its end."""

LINE_CHARACTERS = 300
"""How much of a text is shown where it stands in a line or a table cell."""

LABEL_CHARACTERS = 26
"""How much of a text fits beside a mark of a figure."""

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_PLAIN = frozenset("\n\t ")
_CONTROL_NAMES = {
    "\x00": "NULL",
    "\x07": "BELL",
    "\x08": "BACKSPACE",
    "\x0b": "LINE TABULATION",
    "\x0c": "FORM FEED",
    "\r": "CARRIAGE RETURN",
    "\x1b": "ESCAPE",
    "\x7f": "DELETE",
}


@dataclass(frozen=True)
class Piece:
    """A stretch of ordinary text, or one character that cannot be seen."""

    text: str
    """The text itself, or the mark that stands for the character, e.g. ``U+202E``."""

    name: str = ""
    """Unicode name of the marked character; empty for ordinary text."""


@dataclass(frozen=True)
class Excerpt:
    """A text as shown: whole, or its beginning and its end."""

    head: str
    tail: str
    characters: int
    """Length of the whole text."""

    @property
    def hidden(self) -> int:
        """Characters left out between head and tail."""
        return self.characters - len(self.head) - len(self.tail)


def excerpt(text: str, head: int = HEAD_CHARACTERS, tail: int = TAIL_CHARACTERS) -> Excerpt:
    """Cut a text for display. A text that fits in ``head + tail`` is kept whole."""
    if len(text) <= head + tail:
        return Excerpt(text, "", len(text))
    return Excerpt(text[:head], text[len(text) - tail :], len(text))


def shortened(text: str, limit: int = LINE_CHARACTERS) -> str:
    """The same for what stands in a line: its beginning, and how long the whole is."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def label(text: str, limit: int = LABEL_CHARACTERS) -> str:
    """A text beside a mark of a figure: one line, marked, cut with an ellipsis."""
    shown = " ".join(plain(text).split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


@lru_cache(maxsize=4096)
def is_invisible(character: str) -> bool:
    """Whether a character must be named because it cannot be seen or changes how others are shown."""
    return character not in _PLAIN and unicodedata.category(character) in _INVISIBLE


def mark(character: str) -> str:
    """``U+202E`` for a right-to-left override."""
    return f"U+{ord(character):04X}"


def pieces(text: str) -> list[Piece]:
    """Split a text into ordinary stretches and marks. Joining the ordinary ones loses nothing but the marked."""
    found: list[Piece] = []
    start = 0
    for position, character in enumerate(text):
        if is_invisible(character):
            if position > start:
                found.append(Piece(text[start:position]))
            found.append(Piece(mark(character), _name(character)))
            start = position + 1
    if start < len(text):
        found.append(Piece(text[start:]))
    return found


def _name(character: str) -> str:
    return _CONTROL_NAMES.get(character) or unicodedata.name(character, "") or "unnamed"


def plain(text: str) -> str:
    """The same as one string, marks in angle brackets: for attributes, figures, headings and Markdown."""
    return "".join(f"⟨{piece.text}⟩" if piece.name else piece.text for piece in pieces(text))
