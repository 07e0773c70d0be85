"""Documents by their distinctive n-grams of words, as they are and with numbers masked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from grpo_audit.contamination.documents import COMMON, WORDED
from grpo_audit.contamination.grams import GramTable, is_common, rolling
from grpo_audit.contamination.tokens import Codes, Hashes, Tokens


class WordIndex:
    """Documents by their n-grams.

    Two n-grams count as the same when their 64-bit hashes are: with a billion pairs of different ones, one in 10^10
    checks sees a word too many.

    Args:
        numbers: positions of the documents.
        cores: their words, ``n`` or more each.
        tasks: number of the task of every document, by position.
    """

    def __init__(self, numbers: Sequence[int], cores: Tokens, tasks: Codes, n: int) -> None:
        self._n = n
        lengths = np.maximum(0, np.diff(cores.borders) - n + 1)
        self._owners = np.repeat(np.array(numbers, dtype=np.int64), lengths)
        """By place of an n-gram: its document."""
        places = np.arange(len(cores.values) - n + 1) if len(cores.values) >= n else np.zeros(0, dtype=np.int64)
        texts = np.searchsorted(cores.borders, places, side="right") - 1
        whole = places + n <= cores.borders[texts + 1]
        plain, masked = rolling(cores.values, n)[whole], rolling(cores.masked, n)[whole]
        before = np.concatenate([[0], np.cumsum(~cores.numbers)])
        worded = (before[n:] - before[:-n])[whole] >= WORDED
        # a template with other numbers in it is the same template: masked n-grams decide what is distinctive
        distinct = np.flatnonzero(worded & ~is_common(masked, self._owners, tasks[self._owners], COMMON))
        self._tables = (GramTable(plain[distinct], distinct), GramTable(masked[distinct], distinct))
        self._distinct = np.zeros(len(tasks), dtype=np.int64)
        """By document: words that stand in one of its distinctive n-grams."""
        owners = self._owners[distinct]
        np.add.at(self._distinct, owners, self._new_words(owners, distinct))

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

    def coverage(self, texts: Tokens) -> Iterator[tuple[int, int, float, float]]:
        """Text, document, and the share of its distinctive words that the text covers, as they are and masked."""
        plain = rolling(texts.values, self._n)
        masked = plain if texts.masked is texts.values else rolling(texts.masked, self._n)
        found: dict[tuple[int, int], list[float]] = {}
        for side, hashes in enumerate((plain, masked)):
            for text, document, words in self._covered(self._tables[side], hashes, texts.borders):
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
