"""Evaluation documents, indexed so that any text can be looked up in all of them at once.

Words: n-grams of n = 8 words, with numbers as they are and with numbers masked. An n-gram that stands, masked, in more
than ``COMMON`` documents of its task is the task's wording and no evidence; the others are distinctive. A document of
whose distinctive words one text covers more than half is contaminated; one n-gram is enough for a flag.

Characters: documents that are too short for that, or in a script without spaces, by containment of their 5-grams.

Pieces: documents without a distinctive n-gram, as one piece inside of a text, when they say enough to be recognised.

Numbers: translations share no words with their original, but its numbers.

The n-grams of many texts are hashed and compared at once, in numpy; nearly every text shares nothing with any document,
and no loop of our own ever touches it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grpo_audit.contamination import text as t
from grpo_audit.contamination.characters import CharacterIndex
from grpo_audit.contamination.documents import (
    COMMON as COMMON,
    COVERED as COVERED,
    FEWEST_NUMBERS,
    PIECE,
    SHORTEST,
    SURPRISE,
    WORDS,
    Document as Document,
    Hit as Hit,
    Kind as Kind,
    Test as Test,
    cores,
    cores_digest,
)
from grpo_audit.contamination.grams import GramTable, rolling
from grpo_audit.contamination.vocabulary import NUMBER, Codes, Vocabulary, sum_of
from grpo_audit.contamination.words import WordIndex

BATCH: Final = 512
"""Texts whose n-grams are hashed together: their arrays stay in the processor's cache."""


class Index:
    """All documents of an evaluation. ``look_up`` is a pure function of the text.

    Args:
        documents: any number; the index holds their words and a hash for each of their n-grams.
        n: words of an n-gram.
    """

    def __init__(self, documents: Iterable[Document], n: int = WORDS) -> None:
        self.n = n
        self.documents = list(documents)
        self._cores = cores(self.documents)
        self._words = Vocabulary()
        for words in self._cores:
            self._words.learn(words)
        self._tables = self._words.tables()
        tasks = {task: number for number, task in enumerate(dict.fromkeys(item.task for item in self.documents))}
        self._tasks = np.array([tasks[item.task] for item in self.documents], dtype=np.int64)
        self.tests = [self._test(number) for number in range(len(self.documents))]
        by_words = {number: self._code(self._cores[number]) for number in self._tested_by(Test.WORDS)}
        self._by_words = WordIndex(by_words, self._tasks, self._tables, n)
        self._characters = CharacterIndex(
            {number: "".join(self._cores[number]) for number in self._tested_by(Test.CHARACTERS)}, self._tasks
        )
        for number in (*self._by_words.indistinct, *self._characters.indistinct):
            self.tests[number] = Test.EXACT_ONLY
        self._whole = self._by_letters()
        self._pieces, self._piece_places = self._piece_table()
        self._numbers = self._by_numbers()
        self._sums = np.array(sorted({sum_of(values) for values in self._numbers}), dtype=np.uint64)

    # --- what the documents are ---------------------------------------------------------------------------------------

    def _test(self, number: int) -> Test:
        core = self._cores[number]
        if len(core) >= self.n and not t.is_unspaced(t.normalise(self.documents[number].text)):
            return Test.WORDS
        return Test.CHARACTERS if len("".join(core)) >= SHORTEST else Test.EXACT_ONLY

    def _tested_by(self, test: Test) -> list[int]:
        return [number for number, found in enumerate(self.tests) if found is test]

    @property
    def pieces(self) -> list[int]:
        """Untestable documents that are found as one piece inside of a text."""
        return list(self._piece_places)

    def is_numbered(self, number: int) -> bool:
        """Whether a document has numbers and is recognised without them."""
        return self.tests[number] is Test.WORDS and any(map(t.is_number, self._cores[number]))

    def core_digests(self) -> dict[str, str]:
        """By task, in the documents' order: digest of what is looked for."""
        tasks: dict[str, list[list[str]]] = defaultdict(list)
        for document, words in zip(self.documents, self._cores, strict=True):
            tasks[document.task].append(words)
        return {task: cores_digest(found) for task, found in tasks.items()}

    def _code(self, words: list[str]) -> Codes:
        return np.fromiter(map(self._words.__getitem__, words), dtype=np.int64, count=len(words))

    def _by_letters(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for number, (document, core) in enumerate(zip(self.documents, self._cores, strict=True)):
            for letters in {"".join(t.words(t.normalise(document.text))), "".join(core)}:
                found[letters].append(number)
        return dict(found)

    def _piece_table(self) -> tuple[GramTable, dict[int, int]]:
        """One n-gram of four words for each untestable document that says enough to be recognised: its rarest."""
        hashes, tells = {}, {}
        for number in self._tested_by(Test.EXACT_ONLY):
            core = self._cores[number]
            codes = self._code(core)
            if len(core) >= PIECE and (len("".join(core)) >= SHORTEST or _bits(self._tables.bits[codes]) >= SURPRISE):
                hashes[number] = rolling(self._tables.random[codes], PIECE)
                tells[number] = 0
        if not hashes:
            return GramTable(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)), {}
        known, counts = np.unique(np.concatenate(list(hashes.values())), return_counts=True)
        for number, found in hashes.items():
            tells[number] = int(np.argmin(counts[np.searchsorted(known, found)]))
        chosen = np.array([found[tells[number]] for number, found in hashes.items()], dtype=np.uint64)
        return GramTable(chosen, np.array(list(hashes), dtype=np.int64)), tells

    def _by_numbers(self) -> dict[tuple[str, ...], list[int]]:
        found: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, core in enumerate(self._cores):
            values = t.multiset(t.numbers(core))
            if len(values) >= FEWEST_NUMBERS and _bits(self._tables.bits[self._code(core)]) >= SURPRISE:
                found[values].append(number)
        return dict(found)

    # --- looking up ---------------------------------------------------------------------------------------------------

    def look_up(self, text: str) -> list[Hit]:
        """Every document that the text overlaps with, one hit each, of the strongest kind; in the documents' order."""
        return self.look_up_all([text]).get(0, [])

    def look_up_all(self, texts: Sequence[str]) -> dict[int, list[Hit]]:
        """The same for many texts, much faster than one by one: by position, those that have something."""
        return {
            start + place: hits
            for start in range(0, len(texts), BATCH)
            for place, hits in self._batch(texts[start : start + BATCH]).items()
        }

    def _batch(self, texts: Sequence[str]) -> dict[int, list[Hit]]:
        words = [t.words(t.normalise(text)) for text in texts]
        letters = ["".join(found) for found in words]
        codes = self._code(list(chain.from_iterable(words)))
        borders = np.cumsum([0, *map(len, words)])
        hits: dict[int, list[Hit]] = defaultdict(list)
        for text, document, as_is, with_masks in self._by_words.coverage(codes, borders):
            hits[text].append(_by_words(document, as_is, with_masks))
        for text, document in self._characters.pairs(letters):
            if (share := self._characters.contained(document, letters[text])) is not None:
                hits[text].append(Hit(document, Kind.CHARACTERS, share, contaminates=True))
        for text, document in self._pieces_in(codes, borders):
            hits[text].append(Hit(document, Kind.EXACT, 1.0, contaminates=True))
        for text in self._same_numbers(codes, borders):
            hits[text] += self._by_numbers_alone(words[text])
        copies = [text for text, found in enumerate(letters) if found in self._whole]
        found = ((text, self._strongest(letters[text], hits[text])) for text in sorted({*hits, *copies}))
        return {text: strongest for text, strongest in found if strongest}

    def _strongest(self, letters: str, hits: list[Hit]) -> list[Hit]:
        """One hit for each document: a copy before words, words before numbers."""
        found = {number: Hit(number, Kind.EXACT, 1.0, contaminates=True) for number in self._whole.get(letters, ())}
        for hit in hits:
            found.setdefault(hit.document, hit)
        return sorted(found.values(), key=lambda hit: hit.document)

    def _pieces_in(self, codes: Codes, borders: Codes) -> Iterator[tuple[int, int]]:
        """Text and untestable document that stands in it, word by word."""
        if not len(self._pieces):
            return
        places, rows = self._pieces.find(rolling(self._tables.random[codes], PIECE))
        places, documents = self._pieces.pairs(places, rows)
        texts = np.searchsorted(borders, places, side="right") - 1
        for at, number, text in zip(places.tolist(), documents.tolist(), texts.tolist(), strict=True):
            core = self._code(self._cores[number])
            begin = at - self._piece_places[number]
            inside = borders[text] <= begin and begin + len(core) <= borders[text + 1]
            if inside and np.array_equal(codes[begin : begin + len(core)], core):
                yield text, number

    def _same_numbers(self, codes: Codes, borders: Codes) -> list[int]:
        """Texts whose numbers may be those of a document."""
        if not len(self._sums):
            return []
        masks, sums = self._tables.masks, self._tables.sums
        counts = np.diff(_before(masks[codes] == NUMBER, np.int64)[borders])
        totals = np.diff(_before(sums[codes], np.uint64)[borders])
        rows = np.minimum(np.searchsorted(self._sums, totals), len(self._sums) - 1)
        return np.flatnonzero((counts >= FEWEST_NUMBERS) & (self._sums[rows] == totals)).tolist()

    def _by_numbers_alone(self, words: list[str]) -> Iterator[Hit]:
        for number in self._numbers.get(t.multiset(t.numbers(words)), ()):
            yield Hit(number, self._numbers_kind(number, words), 0.0, contaminates=False)

    def _numbers_kind(self, number: int, words: list[str]) -> Kind:
        document = t.words(t.normalise(self.documents[number].text))
        same = sorted(t.masked(words)) in (sorted(t.masked(document)), sorted(t.masked(self._cores[number])))
        return Kind.REORDERED if same else Kind.TRANSLATION


def _by_words(document: int, as_is: float, with_masks: float) -> Hit:
    coverage = max(as_is, with_masks)
    kind = Kind.NUMBERS_CHANGED if with_masks > as_is else Kind.WORDS
    return Hit(document, kind, coverage, contaminates=coverage > COVERED)


def _before(values: NDArray[np.generic], dtype: type[np.generic]) -> NDArray[np.generic]:
    """Sum of all values before each place, and of all."""
    return np.concatenate([np.zeros(1, dtype=dtype), np.cumsum(values, dtype=dtype)])


def _bits(values: NDArray[np.float64]) -> float:
    return float(values.sum())
