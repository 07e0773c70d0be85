"""Text as contamination is looked for in it: words, characters and numbers, whatever the spelling.

Normalisation: NFKC, case folding, punctuation away.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

NUMBER: Final = "0"
"""Stands for every number where numbers are masked."""

_WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese: scripts that do not put spaces between words."""


def normalise(text: str) -> str:
    """NFKC and case folding."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def words(normalised: str) -> list[str]:
    """Words and numbers of a normalised text, in order. A number keeps its separators: ``1,000.50`` is one."""
    return _WORD.findall(normalised)


def numbers(found: list[str]) -> list[str]:
    """Those of the words that are numbers."""
    return [word for word in found if word[0].isdigit()]


def masked(found: list[str]) -> list[str]:
    """The words with each number as ``NUMBER``: what stays when numbers are swapped."""
    return [NUMBER if word[0].isdigit() else word for word in found]


def is_unspaced(normalised: str) -> bool:
    """Whether a third of the text or more is written in a script without spaces between words."""
    letters = sum(map(len, _WORD.findall(normalised)))
    return letters > 0 and 3 * len(_UNSPACED.findall(normalised)) >= letters


def multiset(spelled: list[str]) -> tuple[str, ...]:
    """Numbers in one spelling, sorted: in any script's digits, with either thousands separator."""
    return tuple(sorted(map(_value, spelled)))


def _value(number: str) -> str:
    """One spelling: ``1,000.50``, ``1.000,50`` and ``1000.5`` are one number; so are the digits of every script."""
    whole, *groups = re.split("[.,]", number)
    fraction = ""
    if groups and not (len(whole) <= 3 and all(len(group) == 3 for group in groups)):
        fraction = groups.pop()  # what stands behind the last separator, unless all separate thousands
    digits = _ascii(whole + "".join(groups)).lstrip("0") or "0"
    tail = _ascii(fraction).rstrip("0")
    return f"{digits}.{tail}" if tail else digits


def _ascii(digits: str) -> str:
    return "".join(str(unicodedata.digit(digit)) for digit in digits)
