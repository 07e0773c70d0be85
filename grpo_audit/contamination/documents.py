"""Evaluation documents, and what can be said about one of them."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import Final

from grpo_audit.contamination import text as t

WORDS: Final = 8
"""Words of an n-gram."""
CHARACTERS: Final = 5
COMMON: Final = 5
"""Documents of a task in which an n-gram may stand and still tell which document it is."""
COVERED: Final = 0.5
"""Share of a document's distinctive words that one text must cover to contaminate it."""
CONTAINED: Final = 0.8
"""Share of a short document's character 5-grams that a text must have. At 0.5 any ``What is the best ...?`` matches."""
WORDED: Final = 5
"""Words that are no numbers which an n-gram needs: masked, one list of numbers is like every other."""
SHORTEST: Final = 15
"""Letters that character 5-grams need to mean anything. Shorter documents are looked up whole, and untestable else."""
FEWEST_NUMBERS: Final = 3
"""Numbers that a multiset needs to tell anything."""
SURPRISE: Final = 12.0
"""Bits that numbers must carry to say which document they belong to (sum of log2(1 + number))."""
PIECE: Final = 4
"""Words that an untestable document needs to be found as one piece inside of a longer text."""


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
    REORDERED = "numbers only: the same words and numbers in another order"
    TRANSLATION = "numbers only: a translation, or a coincidence"

    @property
    def numbers_only(self) -> bool:
        """Whether words and characters say nothing."""
        return self in (Kind.REORDERED, Kind.TRANSLATION)


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
    """Share of the document's distinctive words, or of its characters, that the text covers, in 0 to 1."""
    contaminates: bool


def information(values: Iterable[str]) -> float:
    """How much numbers tell, in bits: the sum of log2(1 + number), so that 3, 4 and 7 tell little.

    Rounded to 1/1024 each: sums are exact, in whatever order.
    """
    return sum(round(math.log2(1 + min(float(value), 1e12)) * 1024) / 1024 for value in values)


def cores(documents: Sequence[Document]) -> list[list[str]]:
    """The words of each document without those with which every document of its task begins and ends.

    ``Question: ... Answer:`` belongs to the task, and so does the wrapping of a chat template: a training set that has
    the same question in other dress has the document. Nothing is taken from tasks of ``COMMON`` documents or fewer,
    and no document is taken away whole.
    """
    found = [t.words(t.normalise(document.text)) for document in documents]
    tasks: dict[str, list[int]] = defaultdict(list)
    for number, document in enumerate(documents):
        tasks[document.task].append(number)
    for numbers in tasks.values():
        if len(numbers) > COMMON:
            members = [found[number] for number in numbers]
            room = max(0, min(map(len, members)) - 1)
            before = min(room, _shared(members))
            after = min(room - before, _shared([words[::-1] for words in members]))
            for number in numbers:
                found[number] = found[number][before : len(found[number]) - after]
    return found


def _shared(members: list[list[str]]) -> int:
    """Words with which all begin."""
    columns = zip(*members, strict=False)
    return sum(1 for _ in takewhile(lambda column: all(word == column[0] for word in column), columns))


def cores_digest(found: Iterable[Sequence[str]]) -> str:
    """SHA-256 over cores, in order: which texts were looked for, whatever stood around them."""
    digest = hashlib.sha256()
    for words in found:
        digest.update(" ".join(words).encode("utf-8", "surrogatepass") + b"\n")
    return "sha256:" + digest.hexdigest()
