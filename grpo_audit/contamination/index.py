"""Evaluation documents, indexed so that any text can be looked up in all of them at once.

Words: n-grams of n = 8 words, with numbers as they are and with numbers masked. An n-gram that stands in more than
``COMMON`` documents of its task is the task's wording and no evidence; the others are distinctive. A document of whose
distinctive words one text covers more than half is contaminated; one n-gram is enough for a flag.

Characters: documents that are too short for that, or in a script without spaces, by containment of their 5-grams.

Pieces: documents without a distinctive n-gram, as one piece inside of a text, when they say enough to be recognised.

Numbers: translations share no words with their original, but its numbers.

Texts are compared in two passes. The first looks at hashes of all n-grams of many texts at once (numpy) and finds the
pairs of text and document that may overlap; it misses none. The second decides on words, and only on those pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
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
    WORDED,
    WORDS,
    Document as Document,
    Hit as Hit,
    Kind as Kind,
    Test as Test,
    cores,
    cores_digest,
)
from grpo_audit.contamination.grams import GramTable, is_common, once, rolling
from grpo_audit.contamination.vocabulary import NUMBER, Codes, Hashes, Vocabulary, sum_of

BATCH: Final = 512
"""Texts whose n-grams are hashed together: their arrays stay in the processor's cache."""

Flags = NDArray[np.bool_]


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
        self._plain, self._masked, self._distinct = self._word_tables()
        self._characters = CharacterIndex(
            {number: "".join(self._cores[number]) for number in self._tested_by(Test.CHARACTERS)}, self._tasks
        )
        for number in (*self._indistinct(), *self._characters.indistinct):
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
        return (
            self.tests[number] is Test.WORDS
            and bool(self._distinct[number][1].any())
            and any(map(t.is_number, self._cores[number]))
        )

    def core_digests(self) -> dict[str, str]:
        """By task, in the documents' order: digest of what is looked for."""
        tasks: dict[str, list[list[str]]] = defaultdict(list)
        for document, words in zip(self.documents, self._cores, strict=True):
            tasks[document.task].append(words)
        return {task: cores_digest(found) for task, found in tasks.items()}

    def _code(self, words: list[str]) -> Codes:
        return np.fromiter(map(self._words.__getitem__, words), dtype=np.int64, count=len(words))

    def _word_tables(self) -> tuple[GramTable, GramTable, dict[int, tuple[Flags, Flags]]]:
        """Distinctive n-grams of all documents tested by words, as they are and masked; and by document where they
        stand (two marks for each of its n-grams)."""
        numbers = self._tested_by(Test.WORDS)
        lengths = np.array([len(self._cores[number]) - self.n + 1 for number in numbers], dtype=np.int64)
        owners = np.repeat(np.array(numbers, dtype=np.int64), lengths)
        tasks = self._tasks[owners]
        parts = [self._grams(self._code(self._cores[number])) for number in numbers]
        empty = np.zeros(0, dtype=np.uint64)
        plain, masked = (np.concatenate([empty, *(part[side] for part in parts)]) for side in (0, 1))
        worded, telling = (
            np.concatenate([np.zeros(0, dtype=np.bool_), *(part[side] for part in parts)]) for side in (2, 3)
        )
        common_masked = is_common(masked, owners, tasks, COMMON)
        # a template with a number in it tells no more than the number
        distinct_plain = worded & ~is_common(plain, owners, tasks, COMMON) & (~common_masked | telling)
        distinct_masked = worded & ~common_masked
        ends = np.cumsum(lengths)[:-1]
        marks = zip(np.split(distinct_plain, ends), np.split(distinct_masked, ends), strict=True)
        tables = []
        for hashes, distinct in ((plain, distinct_plain), (masked, distinct_masked)):
            keep = np.flatnonzero(distinct)
            keep = keep[once(hashes[keep], owners[keep])]
            tables.append(GramTable(hashes[keep], owners[keep]))
        return tables[0], tables[1], dict(zip(numbers, marks, strict=False))

    def _grams(self, codes: Codes) -> tuple[Hashes, Hashes, Flags, Flags]:
        """Of every n-gram: hash, hash when masked, whether it has enough words, whether its numbers tell enough."""
        masked, random = self._tables.masks[codes], self._tables.random
        worded = _windows((masked != NUMBER).astype(np.float64), self.n) > WORDED - 0.5
        telling = _windows(self._tables.bits[codes], self.n) >= SURPRISE
        return rolling(random[codes], self.n), rolling(random[masked], self.n), worded, telling

    def _indistinct(self) -> list[int]:
        """Documents without one distinctive n-gram: the hundredth of a template, say."""
        return [number for number, (plain, masked) in self._distinct.items() if not (plain.any() or masked.any())]

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
        return self.look_up_all([text])[0]

    def look_up_all(self, texts: Sequence[str]) -> list[list[Hit]]:
        """The same for many texts: much faster than one by one."""
        return [hits for start in range(0, len(texts), BATCH) for hits in self._batch(texts[start : start + BATCH])]

    def _batch(self, texts: Sequence[str]) -> list[list[Hit]]:
        words = [t.words(t.normalise(text)) for text in texts]
        letters = ["".join(found) for found in words]
        codes = self._code(list(chain.from_iterable(words)))
        borders = np.cumsum([0, *map(len, words)])
        candidates: dict[int, set[int]] = defaultdict(set)
        for text, document in self._pairs(codes, borders):
            candidates[text].add(document)
        for text, document in self._characters.pairs(letters):
            candidates[text].add(document)
        for text in self._same_numbers(codes, borders):
            candidates.setdefault(text, set())  # the numbers themselves are compared below
        return [
            self._decide(words[text], letters[text], codes[borders[text] : borders[text + 1]], candidates[text])
            if text in candidates or letters[text] in self._whole
            else []
            for text in range(len(texts))
        ]

    def _pairs(self, codes: Codes, borders: Codes) -> set[tuple[int, int]]:
        """Text and document that share a distinctive n-gram of words, or the one piece an untestable document has."""
        masks, random = self._tables.masks, self._tables.random
        plain = random[codes]
        found: set[tuple[int, int]] = set()
        looked = [(self._plain, plain, self.n), (self._pieces, plain, PIECE)]
        masked = masks[codes]
        if len(self._masked):
            looked.append((self._masked, random[masked] if (masked != codes).any() else plain, self.n))
        for table, values, n in looked:
            if not len(table):
                continue
            places, rows = table.find(rolling(values, n))
            texts = np.searchsorted(borders, places, side="right") - 1
            inside = places + n <= borders[texts + 1]
            found.update(zip(*(side.tolist() for side in table.pairs(texts[inside], rows[inside])), strict=True))
        return found

    def _same_numbers(self, codes: Codes, borders: Codes) -> list[int]:
        """Texts whose numbers may be those of a document."""
        if not len(self._sums):
            return []
        masks, sums = self._tables.masks, self._tables.sums
        counts = np.diff(_before(masks[codes] == NUMBER, np.int64)[borders])
        totals = np.diff(_before(sums[codes], np.uint64)[borders])
        rows = np.minimum(np.searchsorted(self._sums, totals), len(self._sums) - 1)
        return np.flatnonzero((counts >= FEWEST_NUMBERS) & (self._sums[rows] == totals)).tolist()

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _decide(self, words: list[str], letters: str, codes: Codes, candidates: set[int]) -> list[Hit]:
        """What one text has of the documents it may overlap with."""
        hits = {number: Hit(number, Kind.EXACT, 1.0, contaminates=True) for number in self._whole.get(letters, ())}
        plain, masked = tuple(codes.tolist()), tuple(self._tables.masks[codes].tolist())
        have: tuple[set[tuple[int, ...]], set[tuple[int, ...]]] | None = None
        for number in sorted(candidates - hits.keys()):
            match self.tests[number]:
                case Test.WORDS:
                    have = have or (set(_grams(plain, self.n)), set(_grams(masked, self.n)))
                    hit = self._by_words(number, *have)
                case Test.CHARACTERS:
                    share = self._characters.contained(number, letters)
                    hit = Hit(number, Kind.CHARACTERS, share, contaminates=True) if share is not None else None
                case Test.EXACT_ONLY:
                    hit = Hit(number, Kind.EXACT, 1.0, contaminates=True) if self._is_piece(number, plain) else None
            if hit is not None:
                hits[number] = hit
        numbers = t.numbers(words)
        if len(numbers) >= FEWEST_NUMBERS:
            for number in self._numbers.get(t.multiset(numbers), ()):
                hits.setdefault(number, Hit(number, self._numbers_kind(number, words), 0.0, contaminates=False))
        return sorted(hits.values(), key=lambda hit: hit.document)

    def _by_words(self, number: int, plain: set[tuple[int, ...]], masked: set[tuple[int, ...]]) -> Hit | None:
        codes = self._code(self._cores[number])
        distinct_plain, distinct_masked = self._distinct[number]
        as_is = self._covered(codes, distinct_plain, plain)
        with_masks = self._covered(self._tables.masks[codes], distinct_masked, masked)
        coverage = max(as_is, with_masks)
        if not coverage:
            return None
        kind = Kind.NUMBERS_CHANGED if with_masks > as_is else Kind.WORDS
        return Hit(number, kind, coverage, contaminates=coverage > COVERED)

    def _covered(self, codes: Codes, distinct: Flags, have: set[tuple[int, ...]]) -> float:
        """Share of a document's distinctive words that stand in an n-gram which the text has too."""
        grams = list(_grams(tuple(codes.tolist()), self.n))
        words, covered = set[int](), set[int]()
        for at in np.flatnonzero(distinct).tolist():
            here = range(at, at + self.n)
            words.update(here)
            if grams[at] in have:
                covered.update(here)
        return len(covered) / len(words) if words else 0.0

    def _is_piece(self, number: int, text: tuple[int, ...]) -> bool:
        """Whether a whole document stands in the text, word by word."""
        core = tuple(self._code(self._cores[number]).tolist())
        begin = self._piece_places[number]
        anchor = core[begin : begin + PIECE]
        return any(
            at >= begin and text[at - begin : at - begin + len(core)] == core
            for at, gram in enumerate(_grams(text, PIECE))
            if gram == anchor
        )

    def _numbers_kind(self, number: int, words: list[str]) -> Kind:
        document = t.words(t.normalise(self.documents[number].text))
        same = sorted(t.masked(words)) in (sorted(t.masked(document)), sorted(t.masked(self._cores[number])))
        return Kind.REORDERED if same else Kind.TRANSLATION


def _grams(items: tuple[int, ...], n: int) -> Iterable[tuple[int, ...]]:
    return zip(*(items[at:] for at in range(n)), strict=False)


def _windows(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Sum over each n values in a row."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(sums[n:] - sums[:-n])


def _before(values: NDArray[np.generic], dtype: type[np.generic]) -> NDArray[np.generic]:
    """Sum of all values before each place, and of all."""
    return np.concatenate([np.zeros(1, dtype=dtype), np.cumsum(values, dtype=dtype)])


def _bits(values: NDArray[np.float64]) -> float:
    return float(values.sum())
