"""n-grams as 64-bit hashes, all of a text at once, and a table of those that matter."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from grpo_audit.contamination.tokens import Codes, Hashes

_BASE: Final = 0x9E3779B97F4A7C15
"""Any odd number; the words it is multiplied with are random themselves (Karp and Rabin 1987)."""
_LOAD: Final = 4
"""log2 of the slots for each hash: what a text shares with no document is stopped here 15 times of 16."""


def rolling(values: Hashes, n: int) -> Hashes:
    """Hash of each n-gram of a sequence, by doubling. Shape: (len - n + 1,), empty when the sequence is shorter."""
    if len(values) < n:
        return values[:0]
    hashes, length = values, 1
    for bit in bin(n)[3:]:
        hashes = hashes[:-length] * _power(length) + hashes[length:]
        length *= 2
        if bit == "1":
            hashes = hashes[:-1] * _power(1) + values[length:]
            length += 1
    return hashes


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_BASE, exponent, 2**64))


class GramTable:
    """Hashes, each with the documents it stands in.

    Args:
        hashes: one for each pair of n-gram and document, in any order. Shape: (pairs,)
        documents: position of the document of each pair. Shape: (pairs,)
    """

    def __init__(self, hashes: Hashes, documents: Codes) -> None:
        order = np.lexsort((documents, hashes))
        self._hashes, first = np.unique(hashes[order], return_index=True)
        self._documents = documents[order]
        self._starts = np.append(first, len(order))
        bits = max(10, len(self._hashes).bit_length() + _LOAD)
        self._shift = np.uint64(64 - bits)
        self._slots = np.zeros(2**bits, dtype=np.bool_)
        self._slots[self._hashes >> self._shift] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, hashes: Hashes) -> tuple[Codes, Codes]:
        """Places in ``hashes`` that stand in the table, ascending, and the row of each."""
        places = np.flatnonzero(self._slots[(hashes >> self._shift).view(np.int64)])
        rows = np.searchsorted(self._hashes, hashes[places])
        rows[rows == len(self._hashes)] = 0
        found = self._hashes[rows] == hashes[places] if len(self._hashes) else np.zeros(0, dtype=np.bool_)
        return places[found], rows[found]

    def pairs(self, places: Codes, rows: Codes) -> tuple[Codes, Codes]:
        """For rows found: each place once for every document its n-gram stands in, and those documents."""
        counts = self._starts[rows + 1] - self._starts[rows]
        before = np.repeat(np.cumsum(counts) - counts, counts)
        within = np.arange(len(before)) - before
        return np.repeat(places, counts), self._documents[np.repeat(self._starts[rows], counts) + within]


def once(hashes: Hashes, documents: Codes) -> NDArray[np.bool_]:
    """Marks each pair of hash and document where it occurs first. Shape: that of both."""
    order = np.lexsort((documents, hashes))
    repeated = (np.diff(hashes[order], prepend=0) == 0) & (np.diff(documents[order], prepend=-1) == 0)
    if len(order):
        repeated[0] = False
    marks = np.empty(len(hashes), dtype=np.bool_)
    marks[order] = ~repeated
    return marks


def is_common(hashes: Hashes, documents: Codes, tasks: Codes, most: int) -> NDArray[np.bool_]:
    """Whether each n-gram stands in more than ``most`` documents of its own task. All shapes: (n-grams,)"""
    if not len(hashes):
        return np.zeros(0, dtype=np.bool_)
    salts = np.random.default_rng(0).integers(0, 2**64, int(tasks.max()) + 1, dtype=np.uint64)
    _, inverse = np.unique(hashes + salts[tasks], return_inverse=True)
    counts = np.bincount(inverse, weights=once(hashes, documents))
    return np.asarray(counts[inverse] > most, dtype=np.bool_)
