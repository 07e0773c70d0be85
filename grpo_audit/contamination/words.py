"""Documents by their distinctive n-grams of words, as they are and with numbers masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from grpo_audit.contamination.documents import COMMON, WORDED
from grpo_audit.contamination.grams import GramTable, is_common, rolling
from grpo_audit.contamination.vocabulary import NUMBER, Codes, Hashes, Tables

Flags = NDArray[np.bool_]


class WordIndex:
    """Documents by their n-grams.

    Two n-grams count as the same when their 64-bit hashes are: with a billion pairs of different ones, one in 10^10
    checks sees a word too many.

    Args:
        cores: by position of the document, the codes of its words; at least ``n`` each.
        tasks: number of the task of every document, by position.
    """

    def __init__(self, cores: Mapping[int, Codes], tasks: Codes, tables: Tables, n: int) -> None:
        self._tables, self._n = tables, n
        numbers = np.array(list(cores), dtype=np.int64)
        lengths = np.array([len(core) - n + 1 for core in cores.values()], dtype=np.int64)
        self._owners = np.repeat(numbers, lengths)
        """By place of an n-gram: its document."""
        plain, masked, worded = self._grams(list(cores.values()))
        # a template with other numbers in it is the same template: masked n-grams decide what is distinctive
        distinct = np.flatnonzero(worded & ~is_common(masked, self._owners, tasks[self._owners], COMMON))
        self._tables_of_grams = (GramTable(plain[distinct], distinct), GramTable(masked[distinct], distinct))
        self._distinct = np.zeros(len(tasks), dtype=np.int64)
        """By document: words that stand in one of its distinctive n-grams."""
        owners = self._owners[distinct]
        np.add.at(self._distinct, owners, self._new_words(owners, distinct))

    def _grams(self, cores: Sequence[Codes]) -> tuple[Hashes, Hashes, Flags]:
        """Of every n-gram of every document: hash, hash when masked, and whether it has enough words."""
        plain, masked, worded = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)], [np.zeros(0, np.bool_)]
        for codes in cores:
            masks = self._tables.masks[codes]
            plain.append(rolling(self._tables.random[codes], self._n))
            masked.append(rolling(self._tables.random[masks], self._n))
            before = np.concatenate([[0], np.cumsum(masks != NUMBER)])
            worded.append(before[self._n :] - before[: -self._n] >= WORDED)
        return np.concatenate(plain), np.concatenate(masked), np.concatenate(worded)

    def _new_words(self, groups: Codes, places: Codes) -> Codes:
        """Of n-grams in ascending order within their group: words of each that do not stand in the next one, too."""
        gaps = np.full(len(places), self._n, dtype=np.int64)
        if len(places):
            same = groups[1:] == groups[:-1]
            gaps[:-1][same] = np.minimum(self._n, np.diff(places)[same])
        return gaps

    @property
    def indistinct(self) -> list[int]:
        """Documents without one distinctive n-gram: the hundredth of a template, say."""
        return [number for number in np.unique(self._owners).tolist() if not self._distinct[number]]

    def coverage(self, codes: Codes, borders: Codes) -> Iterator[tuple[int, int, float, float]]:
        """Text, document, and the share of its distinctive words that the text covers, as they are and masked.

        Args:
            codes: words of all texts, one after the other.
            borders: where each text begins, and the end. Shape: (texts + 1,)
        """
        masked = self._tables.masks[codes]
        plain_hashes = rolling(self._tables.random[codes], self._n)
        masked_hashes = rolling(self._tables.random[masked], self._n) if (masked != codes).any() else plain_hashes
        found: dict[tuple[int, int], list[float]] = {}
        for side, hashes in enumerate((plain_hashes, masked_hashes)):
            for text, document, words in self._covered(self._tables_of_grams[side], hashes, borders):
                found.setdefault((text, document), [0.0, 0.0])[side] = words / int(self._distinct[document])
        for (text, document), (as_is, with_masks) in found.items():
            yield text, document, as_is, with_masks

    def _covered(self, table: GramTable, hashes: Hashes, borders: Codes) -> Iterator[tuple[int, int, int]]:
        """Text, document, and how many of the document's words the text covers."""
        places, rows = table.find(hashes)
        if not len(places):
            return
        texts = np.searchsorted(borders, places, side="right") - 1
        inside = places + self._n <= borders[texts + 1]
        texts, grams = table.pairs(texts[inside], rows[inside])
        keys = np.unique(texts * len(self._owners) + grams)
        texts, grams = keys // len(self._owners), keys % len(self._owners)
        documents = self._owners[grams]
        groups, first = np.unique(texts * (int(documents.max(initial=0)) + 1) + documents, return_index=True)
        if len(groups):
            belongs = np.repeat(np.arange(len(groups)), np.diff(np.append(first, len(grams))))
            words = np.add.reduceat(self._new_words(belongs, grams), first)
            yield from zip(texts[first].tolist(), documents[first].tolist(), words.tolist(), strict=True)
