"""The words of many texts as 64-bit hashes, all at once: no string is made of any of them.

A word's hash is a polynomial of its letters, modulo 2^64, stirred; it is taken from one running sum over all letters of
all texts (Karp and Rabin 1987), so that the work is a dozen numpy operations whatever the number of words.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from grpo_audit.contamination import text as t

Hashes = NDArray[np.uint64]
Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]
Points = NDArray[np.unsignedinteger[Any]]
"""Code points: a byte each where all are ASCII, else four."""

NUMBER: Final = np.uint64(0x8A5CD789635D2DFF)
"""Hash of every number where numbers are masked."""
_BASE: Final = 0x9E3779B97F4A7C15
_KEPT: Final = 2**20
"""Powers of the base that are kept; texts beyond that make their own."""
_BORDER: Final = 10
"""Before each text, and after the last: a line feed, which no word and no letter is."""


@dataclass(frozen=True)
class Tokens:
    """Some texts, one after the other."""

    spaced: list[str]
    """Of each text its words, with spaces between them."""
    points: Points
    """Code points of ``spaced``, a border before each text and after the last."""
    values: Hashes
    """Of each word. Shape: (words,)"""
    numbers: Flags
    """Whether it is a number."""
    starts: Codes
    """Where it begins in ``points``."""
    ends: Codes
    borders: Codes
    """Words before each text, and all. Shape: (texts + 1,)"""

    @cached_property
    def masked(self) -> Hashes:
        """The words with each number as ``NUMBER``."""
        return np.where(self.numbers, NUMBER, self.values) if self.numbers.any() else self.values

    @cached_property
    def letters(self) -> Points:
        """Code points without the spaces; the borders stay."""
        kept: Points = self.points[(self.points > 32) | (self.points == _BORDER)]
        return kept

    @cached_property
    def letter_borders(self) -> Codes:
        """Where the borders stand in ``letters``. Shape: (texts + 1,)"""
        return np.flatnonzero(self.letters == _BORDER)

    @cached_property
    def whole(self) -> Hashes:
        """Hash of all letters of each text. Shape: (texts,)"""
        return _hashes(self.letters, self.letter_borders[:-1] + 1, self.letter_borders[1:])

    def sums(self) -> tuple[Codes, Hashes]:
        """Of each text how many numbers it has, and the sum of their values' hashes. Shapes: (texts,)"""
        places = np.flatnonzero(self.numbers)
        hashes = self.values[places]
        first, length = self.points[self.starts[places]], self.ends[places] - self.starts[places]
        # separators, and digits of other scripts, which may stand behind one of ours
        marks = np.concatenate([[0], np.cumsum((self.points == 44) | (self.points == 46) | (self.points > 127))])
        spelled = marks[self.ends[places]] > marks[self.starts[places]]
        odd = np.flatnonzero(spelled | ((first == 48) & (length > 1)))
        if len(odd):
            hashes = hashes.copy()
            hashes[odd] = tokenise([" ".join(map(self._value, places[odd].tolist()))], are_words=True).values
        before = np.zeros(len(places) + 1, dtype=np.uint64)
        np.cumsum(_stir(hashes), out=before[1:])
        limits = np.searchsorted(places, self.borders)
        return np.diff(limits), np.diff(before[limits])

    def _value(self, word: int) -> str:
        return t.value("".join(map(chr, self.points[self.starts[word] : self.ends[word]].tolist())))


def tokenise(texts: Sequence[str], *, are_words: bool = False) -> Tokens:
    """Words of texts. With ``are_words`` the texts are words with spaces between them already."""
    spaced = list(texts) if are_words else [t.spaced(text) for text in texts]
    joined = "\n".join(["", *spaced, ""])
    if joined.isascii():
        points: Points = np.frombuffer(joined.encode("ascii"), dtype=np.uint8)
    else:
        points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    in_word = (points > 32).view(np.int8)
    edges = np.flatnonzero(in_word[1:] != in_word[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    first = points[starts]
    numbers = (first >= 48) & (first <= 57)
    if points.dtype != np.uint8:
        numbers |= np.isin(first, _decimals())
    borders = np.searchsorted(starts, np.flatnonzero(points == _BORDER))
    return Tokens(spaced, points, _hashes(points, starts, ends), numbers, starts, ends, borders)


def sum_of(values: Sequence[str]) -> int:
    """Hash of a multiset of numbers, as ``Tokens.sums`` makes it."""
    hashes: list[int] = _stir(tokenise([" ".join(values)], are_words=True).values).tolist()
    return sum(hashes) % 2**64


def _hashes(points: Points, starts: Codes, ends: Codes) -> Hashes:
    """Hash of each stretch of code points; it does not depend on where the stretch stands."""
    powers, inverses = _powers(len(points)) if len(points) > _KEPT else _kept_powers()
    before = np.zeros(len(points) + 1, dtype=np.uint64)
    np.cumsum((points.astype(np.uint64) + np.uint64(1)) * powers[: len(points)], out=before[1:])
    return _stir((before[ends] - before[starts]) * inverses[starts])


def _stir(hashes: Hashes) -> Hashes:
    """Mixes high and low bits, so that sums and polynomials of hashes do not see through them (Stafford's mix 13)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


@cache
def _kept_powers() -> tuple[Hashes, Hashes]:
    return _powers(_KEPT)


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """B^0 to B^count modulo 2^64, and their inverses."""

    def powers_of(base: int) -> Hashes:
        factors = np.full(count + 1, base, dtype=np.uint64)
        factors[0] = 1
        return np.cumprod(factors, dtype=np.uint64)

    return powers_of(_BASE), powers_of(pow(_BASE, -1, 2**64))


@cache
def _decimals() -> NDArray[np.uint32]:
    """Digits of every script."""
    return np.array([point for point in range(sys.maxunicode + 1) if chr(point).isdecimal()], dtype=np.uint32)
