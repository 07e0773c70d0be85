"""Short documents, and those in a script without spaces: by their character 5-grams.

A text that contains four fifths of a document's 5-grams lacks at most a fifth of them, so of any set that is that fifth
and k more it has at least k (the prefix filter of set-similarity joins; Chaudhuri et al. 2006). The set here is the
document's rarest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from grpo_audit.contamination.documents import CHARACTERS, COMMON, CONTAINED
from grpo_audit.contamination.grams import GramTable, rolling
from grpo_audit.contamination.tokens import Codes, Hashes, Points, Tokens

_SCATTER: Final = np.uint64(0xD6E8FEB86659FD93)


class CharacterIndex:
    """Documents by their 5-grams.

    Args:
        letters: by position of the document, its letters without spaces.
        tasks: number of the task of every document, by position.
    """

    def __init__(self, letters: Mapping[int, str], tasks: Codes) -> None:
        self._grams = {number: frozenset(_grams(text)) for number, text in letters.items()}
        within = Counter((int(tasks[number]), gram) for number, grams in self._grams.items() for gram in grams)
        self._distinct = {
            number: frozenset(gram for gram in grams if within[int(tasks[number]), gram] <= COMMON)
            for number, grams in self._grams.items()
        }
        self.indistinct = [number for number, grams in self._distinct.items() if not grams]
        """Documents without one distinctive 5-gram."""
        for number in self.indistinct:
            del self._grams[number]
        self._needed = np.zeros(len(tasks), dtype=np.int64)
        """By document: how many of its rarest 5-grams a text must have to be looked at."""
        self._rare = self._rarest()

    def _rarest(self) -> GramTable:
        frequency = Counter(gram for grams in self._grams.values() for gram in grams)
        hashes: list[Hashes] = []
        owners: list[int] = []
        for number, grams in self._grams.items():
            least = math.ceil(CONTAINED * len(grams))
            self._needed[number] = needed = max(1, least // 2)
            ordered = sorted(grams, key=lambda gram: (frequency[gram], gram))
            chosen = ordered[: len(ordered) - least + needed]
            hashes.append(_hashes(np.array([ord(letter) for letter in "".join(chosen)], np.uint32))[::CHARACTERS])
            owners += [number] * len(chosen)
        return GramTable(np.concatenate([np.zeros(0, dtype=np.uint64), *hashes]), np.array(owners, dtype=np.int64))

    def pairs(self, texts: Tokens) -> Iterator[tuple[int, int]]:
        """Text and document that may overlap; none that does is missing."""
        if not self._grams:
            return
        places, rows = self._rare.find(_hashes(texts.letters))  # those across a border have it, and no document does
        found, documents = self._rare.pairs(np.searchsorted(texts.letter_borders, places, side="right") - 1, rows)
        pairs, counts = np.unique(found * len(self._needed) + documents, return_counts=True)
        enough = pairs[counts >= self._needed[pairs % len(self._needed)]]
        yield from zip((enough // len(self._needed)).tolist(), (enough % len(self._needed)).tolist(), strict=True)

    def contained(self, number: int, text: str) -> float | None:
        """Share of a document's 5-grams that the letters of a text have; None where they are not enough, or the
        distinctive ones are not."""
        have = set(_grams(text))
        grams, distinct = self._grams[number], self._distinct[number]
        share, distinctive = len(grams & have) / len(grams), len(distinct & have) / len(distinct)
        return share if min(share, distinctive) >= CONTAINED else None


def _grams(text: str) -> Iterator[str]:
    return (text[at : at + CHARACTERS] for at in range(len(text) - CHARACTERS + 1))


def _hashes(points: Points) -> Hashes:
    return rolling((points.astype(np.uint64) + np.uint64(1)) * _SCATTER, CHARACTERS)
