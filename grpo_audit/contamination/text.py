"""Text as contamination is looked for in it: words, characters and numbers, whatever the spelling.

Normalisation: NFKC, case folding, punctuation away.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache
from itertools import groupby
from typing import Final

NUMBER: Final = "0"
"""Stands for every number where numbers are masked."""


_ASCII_WORD: Final = re.compile(r"[a-z]+|[0-9]+(?:[.,][0-9]+)*")
_SPACED: Final = bytes(point if chr(point).isalnum() and point < 128 else 32 for point in range(256))
"""What is no letter and no digit becomes a space."""
_SHAPE: Final = bytes(
    ord("0" if 48 <= point < 58 else "a" if 97 <= point < 123 else "." if point in b".," else " ")
    for point in range(256)
)
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese: scripts that do not put spaces between words."""


def normalise(text: str) -> str:
    """NFKC and case folding."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def words(normalised: str) -> list[str]:
    """Words and numbers of a normalised text, in order. A number keeps its separators: ``1,000.50`` is one."""
    return _ASCII_WORD.findall(normalised) if normalised.isascii() else _any_word().findall(normalised)


def spaced(text: str) -> str:
    """The words of a text with spaces between them: ``spaced(text).split() == words(normalise(text))``."""
    normalised = normalise(text)
    if normalised.isascii():
        raw = normalised.encode("ascii")
        shape = raw.translate(_SHAPE)
        if b"0" not in shape or not (b"0.0" in shape or b"0a" in shape or b"a0" in shape):
            return raw.translate(_SPACED).decode("ascii")  # the same for all others, in a tenth of the time
    return " ".join(words(normalised))


@cache
def _any_word() -> re.Pattern[str]:
    """Letters with their combining marks: to ``re`` the vowel signs of Indic scripts are no letters, and would cut
    words."""
    points = [point for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)).startswith("M")]
    runs = [[point for _, point in run] for _, run in groupby(enumerate(points), lambda item: item[1] - item[0])]
    marks = "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)
    return re.compile(rf"(?:[^\W\d_]|[{marks}])+|\d+(?:[.,]\d+)*")


def is_number(word: str) -> bool:
    """Whether one of the words is a number. (``isdigit`` is also true of digits that can stand in a word.)"""
    return word[0].isdecimal()


def numbers(found: list[str]) -> list[str]:
    """Those of the words that are numbers."""
    return [word for word in found if word[0].isdecimal()]


def masked(found: list[str]) -> list[str]:
    """The words with each number as ``NUMBER``: what stays when numbers are swapped."""
    return [NUMBER if word[0].isdecimal() else word for word in found]


def is_unspaced(normalised: str) -> bool:
    """Whether a third of the text or more is written in a script without spaces between words."""
    letters = sum(map(len, words(normalised)))
    return letters > 0 and 3 * len(_UNSPACED.findall(normalised)) >= letters


def multiset(spelled: list[str]) -> tuple[str, ...]:
    """Numbers in one spelling, sorted: in any script's digits, with either thousands separator."""
    return tuple(sorted(map(value, spelled)))


def value(number: str) -> str:
    """One spelling: ``1,000.50``, ``1.000,50`` and ``1000.5`` are one number; so are the digits of every script."""
    if number.isascii() and number.isdecimal():
        return number.lstrip("0") or "0"
    whole, *groups = re.split("[.,]", number)
    fraction = ""
    if groups and not (len(whole) <= 3 and all(len(group) == 3 for group in groups)):
        fraction = groups.pop()  # what stands behind the last separator, unless all separate thousands
    digits = _ascii(whole + "".join(groups)).lstrip("0") or "0"
    tail = _ascii(fraction).rstrip("0")
    return f"{digits}.{tail}" if tail else digits


def _ascii(digits: str) -> str:
    return "".join(str(unicodedata.decimal(digit)) for digit in digits)
