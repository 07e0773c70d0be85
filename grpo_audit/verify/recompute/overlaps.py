"""Overlaps of texts with evaluation documents, looked for a second time: one text after the other, with tuples and sets
where ``grpo_audit.contamination.index`` has arrays of hashes. Normalisation and what a document's core is are shared.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from grpo_audit.contamination import text as t
from grpo_audit.contamination.documents import (
    CHARACTERS,
    COMMON,
    CONTAINED,
    COVERED,
    FEWEST_NUMBERS,
    PIECE,
    SHORTEST,
    SURPRISE,
    WORDED,
    WORDS,
    Document,
    Hit,
    Kind,
    Test,
    cores,
    information,
)

Gram = tuple[str, ...]


class Overlaps:
    """All documents of an evaluation."""

    def __init__(self, documents: Sequence[Document], n: int = WORDS) -> None:
        self.documents = documents
        self.tests: list[Test] = []
        self._n = n
        self._cores = cores(documents)
        self._tasks = [document.task for document in documents]
        self._whole: dict[str, list[int]] = defaultdict(list)
        self._numbers: dict[Gram, list[int]] = defaultdict(list)
        for number, (document, core) in enumerate(zip(documents, self._cores, strict=True)):
            self.tests.append(self._test(document, core))
            for letters in {"".join(t.words(t.normalise(document.text))), "".join(core)}:
                self._whole[letters].append(number)
            numbers = t.multiset(t.numbers(core))
            if len(numbers) >= FEWEST_NUMBERS and _tell_enough(numbers):
                self._numbers[numbers].append(number)
        self._prepare_words()
        self._prepare_characters()
        self._pieces: dict[Gram, list[int]] = defaultdict(list)
        for number in self._tested_by(Test.EXACT_ONLY):
            core = self._cores[number]
            says = len("".join(core)) >= SHORTEST or _tell_enough(t.multiset(t.numbers(core)))
            if says and len(core) >= PIECE:
                self._pieces[tuple(core[:PIECE])].append(number)

    def _test(self, document: Document, core: list[str]) -> Test:
        if len(core) >= self._n and not t.is_unspaced(t.normalise(document.text)):
            return Test.WORDS
        return Test.CHARACTERS if len("".join(core)) >= SHORTEST else Test.EXACT_ONLY

    def _tested_by(self, test: Test) -> list[int]:
        return [number for number, found in enumerate(self.tests) if found is test]

    def _prepare_words(self) -> None:
        numbers = self._tested_by(Test.WORDS)
        masked = {number: list(_grams(t.masked(self._cores[number]), self._n)) for number in numbers}
        frequency = _frequencies(masked, self._tasks)
        self._distinct: dict[int, tuple[list[Gram | None], list[Gram | None]]] = {}
        self._by_gram: dict[Gram, set[int]] = defaultdict(set)
        for number in numbers:
            sides = (list[Gram | None](), list[Gram | None]())
            for gram, mask in zip(_grams(self._cores[number], self._n), masked[number], strict=True):
                worded = sum(not t.is_number(word) for word in gram) >= WORDED
                distinct = worded and frequency[self._tasks[number], mask] <= COMMON
                sides[0].append(gram if distinct else None)
                sides[1].append(mask if distinct else None)
            if any(sides[0]):
                self._distinct[number] = sides
                for gram_or_none in (*sides[0], *sides[1]):
                    if gram_or_none is not None:
                        self._by_gram[gram_or_none].add(number)
            else:
                self.tests[number] = Test.EXACT_ONLY

    def _prepare_characters(self) -> None:
        numbers = self._tested_by(Test.CHARACTERS)
        self._letters = {number: frozenset(_grams("".join(self._cores[number]), CHARACTERS)) for number in numbers}
        within = _frequencies(self._letters, self._tasks)
        frequency = Counter(gram for grams in self._letters.values() for gram in grams)
        self._telling: dict[int, frozenset[Gram]] = {}
        self._rare: dict[Gram, set[int]] = defaultdict(set)
        for number, grams in self._letters.items():
            self._telling[number] = frozenset(gram for gram in grams if within[self._tasks[number], gram] <= COMMON)
            if not self._telling[number]:
                self.tests[number] = Test.EXACT_ONLY
                continue
            ordered = sorted(grams, key=lambda gram: (frequency[gram], gram))
            for gram in ordered[: len(ordered) - math.ceil(CONTAINED * len(ordered)) + 1]:
                self._rare[gram].add(number)

    def look_up(self, text: str) -> list[Hit]:
        """What ``Index.look_up`` must give, too."""
        words = t.words(t.normalise(text))
        letters = "".join(words)
        hits = {number: Hit(number, Kind.EXACT, 1.0, contaminates=True) for number in self._whole.get(letters, ())}
        for hit in (*self._by_words(words), *self._by_characters(letters), *self._by_piece(words)):
            hits.setdefault(hit.document, hit)
        for number in self._numbers.get(t.multiset(t.numbers(words)), ()):
            hits.setdefault(number, Hit(number, self._numbers_kind(number, words), 0.0, contaminates=False))
        return sorted(hits.values(), key=lambda hit: hit.document)

    def _by_words(self, words: list[str]) -> Iterator[Hit]:
        plain, masked = set(_grams(words, self._n)), set(_grams(t.masked(words), self._n))
        candidates = {number for gram in self._by_gram.keys() & (plain | masked) for number in self._by_gram[gram]}
        for number in candidates:
            as_is, with_masks = (
                _covered(side, have, self._n)
                for side, have in zip(self._distinct[number], (plain, masked), strict=True)
            )
            if coverage := max(as_is, with_masks):
                kind = Kind.NUMBERS_CHANGED if with_masks > as_is else Kind.WORDS
                yield Hit(number, kind, coverage, contaminates=coverage > COVERED)

    def _by_characters(self, letters: str) -> Iterator[Hit]:
        have = set(_grams(letters, CHARACTERS)) if self._rare else set[Gram]()
        for number in {number for gram in self._rare.keys() & have for number in self._rare[gram]}:
            grams, telling = self._letters[number], self._telling[number]
            share = len(grams & have) / len(grams)
            if min(share, len(telling & have) / len(telling)) >= CONTAINED:
                yield Hit(number, Kind.CHARACTERS, share, contaminates=True)

    def _by_piece(self, words: list[str]) -> Iterator[Hit]:
        for at, gram in enumerate(_grams(words, PIECE)):
            for number in self._pieces.get(gram, ()):
                if words[at : at + len(self._cores[number])] == self._cores[number]:
                    yield Hit(number, Kind.EXACT, 1.0, contaminates=True)

    def _numbers_kind(self, number: int, words: list[str]) -> Kind:
        whole = t.words(t.normalise(self.documents[number].text))
        same = Counter(t.masked(words)) in (Counter(t.masked(whole)), Counter(t.masked(self._cores[number])))
        return Kind.REORDERED if same else Kind.TRANSLATION


def _covered(distinct: list[Gram | None], have: set[Gram], n: int) -> float:
    """Share of the words in distinctive n-grams that stand in one of ``have``."""
    words = {at + step for at, gram in enumerate(distinct) if gram is not None for step in range(n)}
    found = {at + step for at, gram in enumerate(distinct) if gram is not None and gram in have for step in range(n)}
    return len(found) / len(words) if words else 0.0


def _frequencies(grams: dict[int, Any], tasks: Sequence[str]) -> Counter[tuple[str, Hashable]]:
    """In how many documents of each task an n-gram stands."""
    return Counter((tasks[number], gram) for number, found in grams.items() for gram in set(found))


def _tell_enough(numbers: Gram) -> bool:
    return information(numbers) >= SURPRISE


def _grams(items: str | Sequence[str], n: int) -> Iterator[Gram]:
    return zip(*(items[at:] for at in range(n)), strict=False)
