"""Evaluation documents, indexed so that any text can be looked up in all of them at once.

Words: n-grams of n = 8 words, with numbers as they are and with numbers masked. An n-gram that stands in more than
``COMMON`` documents is the wording of a task and no evidence. A document of which one text covers more than half is
contaminated; one n-gram is enough for a flag.

Characters: documents that are too short for that, or in a script without spaces, by containment of their 5-grams.

Numbers: translations share no words with their original, but its numbers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from grpo_audit.contamination import text as t

WORDS: Final = 8
"""Words of an n-gram."""
CHARACTERS: Final = 5
COMMON: Final = 5
"""Documents in which an n-gram may stand and still tell which document it is."""
COVERED: Final = 0.5
"""Share of a document that one text must cover to contaminate it."""
CONTAINED: Final = 0.8
"""Share of a short document's character 5-grams that a text must have. At 0.5 any ``What is the best ...?`` matches."""
WORDED: Final = 5
"""Words that are no numbers which an n-gram needs: masked, one list of numbers is like every other."""
SHORTEST: Final = 15
"""Letters that character 5-grams need to mean anything. Shorter documents are looked up whole, and untestable else."""
FEWEST_NUMBERS: Final = 3
"""Numbers that a multiset needs to tell anything."""
SURPRISE: Final = 12.0
"""Bits that a multiset of numbers must carry to say which document it belongs to (sum of log2(1 + number))."""


class Test(StrEnum):
    """How a document can be tested. ``EXACT_ONLY`` counts as untestable: any rewording hides it."""

    __test__ = False  # no test case, whatever pytest thinks

    WORDS = "words"
    CHARACTERS = "characters"
    EXACT_ONLY = "exact only"


class Kind(StrEnum):
    """What was found."""

    EXACT = "exact"
    WORDS = "words"
    NUMBERS_CHANGED = "words, numbers changed"
    CHARACTERS = "characters"
    TRANSLATION = "numbers only: a translation, or a coincidence"


@dataclass(frozen=True)
class Document:
    """One evaluation document."""

    task: str
    id: str
    text: str


@dataclass(frozen=True)
class Hit:
    """A text overlaps with a document."""

    document: int
    """Position in the index."""
    kind: Kind
    coverage: float
    """Share of the document that the text covers, in 0 to 1."""
    contaminates: bool


Gram = tuple[str, ...]


class Index:
    """All documents of an evaluation. ``look_up`` is a pure function of the text.

    Args:
        documents: any number; the index holds their n-grams in memory.
        n: words of an n-gram.
    """

    def __init__(self, documents: Iterable[Document], n: int = WORDS) -> None:
        self.n = n
        self.documents: list[Document] = []
        self.tests: list[Test] = []
        self._plain: list[list[str]] = []
        self._masked: list[list[str]] = []
        self._grams: dict[Gram, list[int]] = defaultdict(list)
        self._whole: dict[str, list[int]] = defaultdict(list)
        self._characters: dict[int, frozenset[Gram]] = {}
        self._numbers: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for document in documents:
            self._add(document)
        self._grams = {gram: found for gram, found in self._grams.items() if len(found) <= COMMON}
        self._only_common_wording()
        self._rare = self._rare_characters()

    def _add(self, document: Document) -> None:
        number = len(self.documents)
        normalised = t.normalise(document.text)
        plain = t.words(normalised)
        masked, letters, numbers = t.masked(plain), "".join(plain), t.multiset(t.numbers(plain))
        if len(plain) >= self.n and not t.is_unspaced(normalised):
            test = Test.WORDS
            for gram in {*_grams(plain, self.n), *_grams(masked, self.n)}:
                if sum(not word[0].isdigit() for word in gram) >= WORDED:
                    self._grams[gram].append(number)
        elif len(letters) >= SHORTEST:
            test = Test.CHARACTERS
            self._characters[number] = frozenset(_grams(letters, CHARACTERS))
        else:
            test = Test.EXACT_ONLY
        self._whole[letters].append(number)
        if len(numbers) >= FEWEST_NUMBERS and surprise(numbers) >= SURPRISE:
            self._numbers[numbers].append(number)
        self.documents.append(document)
        self.tests.append(test)
        self._plain.append(plain)
        self._masked.append(masked)

    def _only_common_wording(self) -> None:
        """A document without one distinctive n-gram, the hundredth of a template, say, can only be looked up whole."""
        distinctive = {number for found in self._grams.values() for number in found}
        for number, test in enumerate(self.tests):
            if test is Test.WORDS and number not in distinctive:
                self.tests[number] = Test.EXACT_ONLY

    def _rare_characters(self) -> dict[Gram, list[int]]:
        """For each document the fifth of its 5-grams that fewest others have, and one more: a text with four fifths of
        its 5-grams has at least one of these (the prefix filter of set-similarity joins)."""
        frequency = Counter(gram for grams in self._characters.values() for gram in grams)
        rare: dict[Gram, list[int]] = defaultdict(list)
        for number, grams in self._characters.items():
            ordered = sorted(grams, key=lambda gram: (frequency[gram], gram))
            for gram in ordered[: len(ordered) - math.ceil(CONTAINED * len(ordered)) + 1]:
                rare[gram].append(number)
        return dict(rare)

    def look_up(self, text: str) -> list[Hit]:
        """Every document that the text overlaps with, one hit each, of the strongest kind; in the documents' order."""
        plain = t.words(t.normalise(text))
        numbers, letters = t.numbers(plain), "".join(plain)
        hits: dict[int, Hit] = {}
        for number in self._whole.get(letters, ()):
            hits[number] = Hit(number, Kind.EXACT, 1.0, contaminates=True)
        # nearly every text shares nothing, and that is decided without a loop of our own
        masked = t.masked(plain) if numbers else plain
        if not self._shares_no_words(plain, masked):
            for hit in self._by_words(plain, masked):
                hits.setdefault(hit.document, hit)
        if self._rare and not self._rare.keys().isdisjoint(_grams(letters, CHARACTERS)):
            for hit in self._by_characters(letters):
                hits.setdefault(hit.document, hit)
        if self._numbers and len(numbers) >= FEWEST_NUMBERS:
            for number in self._numbers.get(t.multiset(numbers), ()):
                hits.setdefault(number, Hit(number, Kind.TRANSLATION, 0.0, contaminates=False))
        return sorted(hits.values(), key=lambda hit: hit.document)

    def _shares_no_words(self, plain: list[str], masked: list[str]) -> bool:
        keys = self._grams.keys()
        return keys.isdisjoint(_grams(plain, self.n)) and (masked is plain or keys.isdisjoint(_grams(masked, self.n)))

    def _by_words(self, plain: list[str], masked: list[str]) -> Iterator[Hit]:
        have_plain, have_masked = set(_grams(plain, self.n)), set(_grams(masked, self.n))
        candidates = {
            number for gram in self._grams.keys() & (have_plain | have_masked) for number in self._grams[gram]
        }
        for number in sorted(candidates):
            as_is = self._covered(self._plain[number], have_plain)
            with_masks = self._covered(self._masked[number], have_masked)
            changed = with_masks > as_is
            coverage = with_masks if changed else as_is
            kind = Kind.NUMBERS_CHANGED if changed else Kind.WORDS
            yield Hit(number, kind, coverage, contaminates=coverage > COVERED)

    def _covered(self, document: list[str], have: set[Gram]) -> float:
        """Share of a document's words that stand in a distinctive n-gram which the text has too."""
        covered: set[int] = set()
        for at, gram in enumerate(_grams(document, self.n)):
            if gram in have and gram in self._grams:
                covered.update(range(at, at + self.n))
        return len(covered) / len(document)

    def _by_characters(self, letters: str) -> Iterator[Hit]:
        have = set(_grams(letters, CHARACTERS))
        candidates = {number for gram in self._rare.keys() & have for number in self._rare[gram]}
        for number in sorted(candidates):
            grams = self._characters[number]
            share = len(grams & have) / len(grams)
            if share >= CONTAINED:
                yield Hit(number, Kind.CHARACTERS, share, contaminates=True)


def surprise(numbers: tuple[str, ...]) -> float:
    """How much a multiset of numbers tells, in bits: the sum of log2(1 + number), so that 3, 4 and 7 tell little."""
    return sum(math.log2(1 + min(float(number), 1e12)) for number in numbers)


def _grams(items: str | list[str], n: int) -> Iterator[Gram]:
    return zip(*(items[at:] for at in range(n)), strict=False)
