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
from typing import Final

import numpy as np

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
    information,
)
from grpo_audit.contamination.grams import GramTable, rolling
from grpo_audit.contamination.tokens import Hashes, Tokens, sum_of, tokenise
from grpo_audit.contamination.words import WordIndex

BATCH: Final = 512
"""Texts whose n-grams are hashed together: their arrays stay in the processor's cache."""
LETTERS: Final = 2**18
"""Letters at which they are enough, however few."""


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
        tasks = {task: number for number, task in enumerate(dict.fromkeys(item.task for item in self.documents))}
        self._tasks = np.array([tasks[item.task] for item in self.documents], dtype=np.int64)
        self.tests = [self._test(number) for number in range(len(self.documents))]
        by_words = self._tested_by(Test.WORDS)
        self._by_words = WordIndex(by_words, self._tokens_of(by_words), self._tasks, n)
        self._characters = CharacterIndex(
            {number: "".join(self._cores[number]) for number in self._tested_by(Test.CHARACTERS)}, self._tasks
        )
        for number in (*self._by_words.indistinct, *self._characters.indistinct):
            self.tests[number] = Test.EXACT_ONLY
        self._whole = self._by_letters()
        self._whole_hashes = np.unique(tokenise(list(self._whole), are_words=True).whole)
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

    def _tokens_of(self, numbers: Sequence[int]) -> Tokens:
        return tokenise([" ".join(self._cores[number]) for number in numbers], are_words=True)

    def _by_letters(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for number, (document, core) in enumerate(zip(self.documents, self._cores, strict=True)):
            for letters in {"".join(t.words(t.normalise(document.text))), "".join(core)}:
                found[letters].append(number)
        return dict(found)

    def _piece_table(self) -> tuple[GramTable, dict[int, tuple[int, Hashes]]]:
        """One n-gram of four words for each untestable document that says enough to be recognised: its rarest. And by
        document: which of its n-grams that is, and its words."""
        numbers = [number for number in self._tested_by(Test.EXACT_ONLY) if self._says_enough(self._cores[number])]
        tokens = self._tokens_of(numbers)
        parts = np.split(tokens.values, tokens.borders[1:-1])
        grams = [rolling(part, PIECE) for part in parts] if numbers else []
        known, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *grams]), return_counts=True)
        rarest = [int(np.argmin(counts[np.searchsorted(known, found)])) for found in grams]
        chosen = np.array([found[at] for found, at in zip(grams, rarest, strict=True)], dtype=np.uint64)
        places = dict(zip(numbers, zip(rarest, parts, strict=False), strict=True))
        return GramTable(chosen, np.array(numbers, dtype=np.int64)), places

    def _says_enough(self, core: list[str]) -> bool:
        numbers = t.multiset(t.numbers(core))
        return len(core) >= PIECE and (len("".join(core)) >= SHORTEST or information(numbers) >= SURPRISE)

    def _by_numbers(self) -> dict[tuple[str, ...], list[int]]:
        found: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, core in enumerate(self._cores):
            values = t.multiset(t.numbers(core))
            if len(values) >= FEWEST_NUMBERS and information(values) >= SURPRISE:
                found[values].append(number)
        return dict(found)

    # --- looking up ---------------------------------------------------------------------------------------------------

    def look_up(self, text: str) -> list[Hit]:
        """Every document that the text overlaps with, one hit each, of the strongest kind; in the documents' order."""
        return self.look_up_all([text]).get(0, [])

    def look_up_all(self, texts: Sequence[str]) -> dict[int, list[Hit]]:
        """The same for many texts, much faster than one by one: by position, those that have something."""
        found: dict[int, list[Hit]] = {}
        start = size = 0
        for place, text in enumerate(texts):
            size += len(text)
            if place + 1 == len(texts) or place + 1 - start == BATCH or size >= LETTERS:
                found.update((start + at, hits) for at, hits in self._batch(texts[start : place + 1]).items())
                start, size = place + 1, 0
        return found

    def _batch(self, texts: Sequence[str]) -> dict[int, list[Hit]]:
        tokens = tokenise(texts)
        hits: dict[int, list[Hit]] = defaultdict(list)
        for text, document, as_is, with_masks in self._by_words.coverage(tokens):
            hits[text].append(_by_words(document, as_is, with_masks))
        for text, document in self._characters.pairs(tokens):
            share = self._characters.contained(document, _letters(tokens.spaced[text]))
            if share is not None:
                hits[text].append(Hit(document, Kind.CHARACTERS, share, contaminates=True))
        for text, document in self._pieces_in(tokens):
            hits[text].append(Hit(document, Kind.EXACT, 1.0, contaminates=True))
        for text in self._same_numbers(tokens):
            hits[text] += self._by_numbers_alone(tokens.spaced[text].split())
        copies = np.flatnonzero(np.isin(tokens.whole, self._whole_hashes)).tolist()
        found = (
            (text, self._strongest(_letters(tokens.spaced[text]), hits[text])) for text in sorted({*hits, *copies})
        )
        return {text: strongest for text, strongest in found if strongest}

    def _strongest(self, letters: str, hits: list[Hit]) -> list[Hit]:
        """One hit for each document: a copy before words, words before numbers."""
        found = {number: Hit(number, Kind.EXACT, 1.0, contaminates=True) for number in self._whole.get(letters, ())}
        for hit in hits:
            found.setdefault(hit.document, hit)
        return sorted(found.values(), key=lambda hit: hit.document)

    def _pieces_in(self, texts: Tokens) -> Iterator[tuple[int, int]]:
        """Text and untestable document that stands in it, word by word."""
        if not len(self._pieces):
            return
        places, rows = self._pieces.find(rolling(texts.values, PIECE))
        places, documents = self._pieces.pairs(places, rows)
        inside = np.searchsorted(texts.borders, places, side="right") - 1
        for at, number, text in zip(places.tolist(), documents.tolist(), inside.tolist(), strict=True):
            before, core = self._piece_places[number]
            begin, end = at - before, at - before + len(core)
            whole = texts.borders[text] <= begin and end <= texts.borders[text + 1]
            if whole and np.array_equal(texts.values[begin:end], core):
                yield text, number

    def _same_numbers(self, texts: Tokens) -> list[int]:
        """Texts whose numbers may be those of a document."""
        if not len(self._sums) or not texts.numbers.any():
            return []
        counts, totals = texts.sums()
        return np.flatnonzero((counts >= FEWEST_NUMBERS) & np.isin(totals, self._sums)).tolist()

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


def _letters(spaced: str) -> str:
    return "".join(spaced.split())
