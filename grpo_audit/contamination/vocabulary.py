"""Words as numbers: what a large prompt set is turned into before it is compared."""

from __future__ import annotations

import hashlib
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grpo_audit.contamination import text as t

UNKNOWN: Final = 0
"""A word that no document has."""
NUMBER: Final = 1
"""A number whose value no document has; also what every number becomes where numbers are masked."""

Codes = NDArray[np.int64]
Hashes = NDArray[np.uint64]


class Vocabulary(dict[str, int]):
    """Words of the documents -> a code. Asking for any other word gives ``UNKNOWN``, or, when it is a number, the code
    of its value: ``1,250`` is found although the documents spell it ``1250``.

    Nothing is added by asking, so memory does not grow with the texts that are looked up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, int] = {}
        self._next = NUMBER + 1

    def learn(self, words: list[str]) -> None:
        """Add the words of a document. A number gets a code for its spelling and one for its value."""
        for word in words:
            if word not in self:
                self[word] = self._code()
                if t.is_number(word) and (value := t.value(word)) not in self._values:
                    self._values[value] = self._code()

    def _code(self) -> int:
        self._next += 1
        return self._next - 1

    def __missing__(self, word: str) -> int:
        return self._values.get(t.value(word), NUMBER) if word[0].isdecimal() else UNKNOWN

    def tables(self) -> Tables:
        """What is known of every code, as arrays. To be called when everything is learnt."""
        masks = np.arange(self._next, dtype=np.int64)
        sums = np.zeros(self._next, dtype=np.uint64)
        bits = np.zeros(self._next)
        masks[NUMBER], sums[NUMBER] = NUMBER, _hash("no value")
        spelled = [(code, t.value(word)) for word, code in self.items() if t.is_number(word)]
        for code, value in [*spelled, *((code, value) for value, code in self._values.items())]:
            masks[code], sums[code], bits[code] = NUMBER, _hash(value), information(value)
        return Tables(masks, sums, bits, np.random.default_rng(0).integers(0, 2**64, self._next, dtype=np.uint64))


class Tables:
    """By code: what it is when numbers are masked, a hash of its value and the bits that value carries (numbers only),
    and a random number that stands for the word in hashes."""

    def __init__(self, masks: Codes, sums: Hashes, bits: NDArray[np.float64], random: Hashes) -> None:
        self.masks, self.sums, self.bits, self.random = masks, sums, bits, random


def information(value: str) -> float:
    """How much a number tells, in bits: log2(1 + number), so that 3, 4 and 7 tell little.

    Rounded to 1/1024: sums are then exact, in whatever order.
    """
    return round(math.log2(1 + min(float(value), 1e12)) * 1024) / 1024


def sum_of(values: tuple[str, ...]) -> int:
    """Hash of a multiset of numbers: the sum of their hashes, whatever their order."""
    return sum(map(_hash, values)) % 2**64


def _hash(value: str) -> int:
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big")
