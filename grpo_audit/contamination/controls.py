"""Checks of the check: documents planted on purpose. When they do not come out as they must, the result is void."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from grpo_audit.contamination import text as t
from grpo_audit.contamination.documents import CHARACTERS, CONTAINED, Test
from grpo_audit.contamination.index import Index

PLANTED: Final = 500
"""Documents planted for a control; all when there are fewer."""
SOIL: Final = ("Please read this first.", "Answer in one sentence, and say why.")
"""Where documents are hidden when there is no prompt yet."""
TRIES: Final = 20
"""Shuffles until a document shares nothing with itself; those that always do are no use as a control."""


@dataclass(frozen=True)
class Control:
    """The outcome of one control."""

    name: str
    planted: int
    found: int
    expected_all: bool

    @property
    def expected(self) -> int:
        """How many must be found."""
        return self.planted if self.expected_all else 0

    @property
    def ok(self) -> bool:
        """Whether it came out as it must. Nothing planted proves nothing."""
        return self.planted > 0 and self.found == self.expected


def controls(index: Index, prompts: Sequence[str] = SOIL, seed: int = 0) -> list[Control]:
    """Look up documents as they are, hidden inside of ``prompts``, with other numbers, and scrambled.

    The last must not be found, all others must, each as the document it is. A control that no document is fit for is
    left out; without one that can be hidden the second stays, with nothing planted, and so fails.
    """
    rng = random.Random(seed)
    soil = [prompt for prompt in prompts if prompt.strip()] or list(SOIL)
    everything = range(len(index.documents))
    tested = [number for number in everything if index.tests[number] is not Test.EXACT_ONLY]
    numbered = [number for number in tested if index.is_numbered(number)]
    as_is = _plant(index, rng, everything, lambda _, text: text)
    hidden = _plant(index, rng, [*tested, *index.pieces], lambda _, text: _hide(text, rng.choice(soil), rng))
    renumbered = _plant(index, rng, numbered, lambda _, text: _renumber(text, rng))
    scrambled = _plant(index, rng, tested, lambda number, text: _scramble(text, index.tests[number], index.n, rng))
    found = [
        Control("documents copied as they are must be found", *as_is, expected_all=True),
        Control("documents hidden inside of the set's own prompts must be found", *hidden, expected_all=True),
    ]
    if renumbered[0]:
        found.append(Control("documents with other numbers must be found", *renumbered, expected_all=True))
    if scrambled[0]:
        found.append(Control("documents with their words scrambled must not be found", *scrambled, expected_all=False))
    return found


def _plant(
    index: Index, rng: random.Random, numbers: Sequence[int], dress: Callable[[int, str], str | None]
) -> tuple[int, int]:
    """Planted, and found as themselves."""
    chosen = sorted(rng.sample(list(numbers), min(PLANTED, len(numbers))))
    texts = [(number, text) for number in chosen if (text := dress(number, index.documents[number].text)) is not None]
    hits = index.look_up_all([text for _, text in texts])
    found = sum(
        any(hit.document == number and hit.contaminates for hit in hits.get(place, ()))
        for place, (number, _) in enumerate(texts)
    )
    return len(texts), found


def _hide(text: str, prompt: str, rng: random.Random) -> str:
    """In the middle of a prompt, between two of its words."""
    words = prompt.split()
    at = rng.randint(0, len(words))
    return " ".join(words[:at]) + f"\n{text}\n" + " ".join(words[at:])


def _renumber(text: str, rng: random.Random) -> str:
    words = t.words(t.normalise(text))
    return " ".join(str(rng.randint(2, 99_999)) if t.is_number(word) else word for word in words)


def _scramble(text: str, test: Test, n: int, rng: random.Random) -> str | None:
    """The same words, or letters, in an order in which no n-gram is left; None when there is no such order."""
    words = t.words(t.normalise(text))
    by_words = test is Test.WORDS
    items = words if by_words else list("".join(words))
    length, most = (n, 0.0) if by_words else (CHARACTERS, CONTAINED / 2)
    before = _grams(items, length)
    for _ in range(TRIES):
        rng.shuffle(items)
        if len(before & _grams(items, length)) <= most * len(before):
            return (" " if by_words else "").join(items)
    return None


def _grams(items: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return set(zip(*(items[at:] for at in range(n)), strict=False))
