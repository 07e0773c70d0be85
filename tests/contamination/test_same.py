"""The numpy index says what a plain second implementation says."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import example, given, settings, strategies as st

from grpo_audit.contamination import text as t
from grpo_audit.contamination.documents import Document
from grpo_audit.contamination.grams import rolling
from grpo_audit.contamination.index import Index
from grpo_audit.contamination.tokens import sum_of, tokenise
from grpo_audit.verify.recompute.overlaps import Overlaps

WORDS = ["make", "from", "the", "shop", "sold", "pens", "to", "Mia", "q", "a", "für", "नमस्ते", "7", "1,250", "1250",
         "3.5", "４２", "٣", "16ti", "珍妮特的鸭子每天下", "who", "invented", "electric", "guitar", "२", "x_y",
         "ﬁ"]  # fmt: skip
_WORDY = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)
_TEXTS = _WORDY | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_DOCUMENTS = st.lists(st.builds(Document, st.sampled_from(["one", "two"]), st.just("d"), _TEXTS), max_size=14)


@settings(max_examples=200, deadline=None)
@given(_DOCUMENTS, st.lists(_TEXTS, max_size=8), st.integers(5, 8), st.randoms(use_true_random=False))
def test_both_implementations_agree(documents: list[Document], texts: list[str], n: int, rng: random.Random) -> None:
    """Same tests, same hits, same coverage, for any documents, texts and n; texts looked up together or alone."""
    texts = [*texts, *(f"{rng.choice(texts or [''])} {document.text} and so on" for document in documents)]
    index, plain = Index(documents, n), Overlaps(documents, n)
    assert index.tests == plain.tests
    alone = [plain.look_up(text) for text in texts]
    assert alone == [index.look_up(text) for text in texts]
    assert index.look_up_all(texts) == {place: hits for place, hits in enumerate(alone) if hits}


@settings(max_examples=300)
@given(st.text(st.characters(codec="ascii"), max_size=80) | _WORDY)
def test_the_short_way_finds_the_same_words(text: str) -> None:
    """Words of ASCII text are those of the regular expression for any text, whichever way they are cut out."""
    normalised = t.normalise(text)
    assert t.words(normalised) == t.spaced(text).split() == re.findall(t._any_word(), normalised)


@settings(max_examples=300)
@given(st.lists(_TEXTS, max_size=6))
@example(["1\u1090"])  # digits of two scripts in one number
def test_a_words_hash_is_that_of_its_letters_alone(texts: list[str]) -> None:
    """Words, numbers, letters and borders of texts taken together are those of each text, and equal words have equal
    hashes wherever they stand."""
    tokens = tokenise(texts)
    words = [t.words(t.normalise(text)) for text in texts]
    flat = [word for found in words for word in found]
    assert [text.split() for text in tokens.spaced] == words
    assert tokens.borders.tolist() == [sum(map(len, words[:place])) for place in range(len(words) + 1)]
    assert tokens.numbers.tolist() == list(map(t.is_number, flat))
    assert (
        len(set(zip(flat, tokens.values.tolist(), strict=True))) == len(set(flat)) == len(set(tokens.values.tolist()))
    )
    letters = ["".join(found) for found in words]
    assert len(set(zip(letters, tokens.whole.tolist(), strict=True))) == len(set(letters))
    for found, count, total in zip(words, *(side.tolist() for side in tokens.sums()), strict=True):
        assert (count, total) == (len(t.numbers(found)), sum_of(t.multiset(t.numbers(found))))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.integers(1, 13))
def test_a_rolling_hash_depends_on_the_gram_alone(values: list[int], n: int) -> None:
    """The hash at each place is that of the n-gram alone, and there is one for each n-gram."""
    import numpy as np

    array = np.array(values, dtype=np.uint64)
    hashes = rolling(array, n)
    assert len(hashes) == max(0, len(values) - n + 1)
    assert all(hashes[at] == rolling(array[at : at + n], n)[0] for at in range(len(hashes)))


NAMES, THINGS = ("Gina", "Mia", "Tom", "Ann", "Ben"), ("pens", "cubes", "cars", "rolls")


def _exercise(kind: int, rng: random.Random) -> str:
    """Of one of five kinds: words, a template, too short, characters, no spaces."""
    name, thing, (a, b, c) = rng.choice(NAMES), rng.choice(THINGS), (rng.randint(2, 5000) for _ in range(3))
    return (
        f"Question: {name} has {a} {thing} and gets {b} more of them today, how many are there now?",
        f"Use the numbers {a}, {b} and {c} once each to make {rng.randint(1, 99)} with plain arithmetic only.",
        f"Q: {a}*{b}?",
        f"What is the {thing} of {name}{rng.choice(NAMES)}?",
        f"珍妮特的鸭子每天下十六个蛋她每天早上吃{a}个并用{name}给朋友烤松饼",
    )[kind]


def _edited(text: str, rng: random.Random) -> str:
    """Shuffled, cut, with other numbers, with other text around it, or as it is."""
    words = text.split()
    edits = (
        lambda: rng.sample(words, len(words)),
        lambda: words[rng.randrange(len(words)) :],
        lambda: [str(rng.randint(1, 99)) if word.strip(".,?").isdigit() else word for word in words],
        lambda: [*rng.sample(NAMES, 2), *words, "Answer now"],
        lambda: words,
    )
    return " ".join(rng.choice(edits)())


@pytest.mark.parametrize("seed", range(25))
def test_both_implementations_agree_on_edited_exercises(seed: int) -> None:
    """The same on exercises that are nearly alike, and on copies of them that were cut, shuffled and renumbered."""
    rng = random.Random(seed)
    documents = [
        Document(f"task {kind}", str(number), _exercise(kind, rng))
        for kind in range(5)
        for number in range(rng.randint(1, 30))
    ]
    texts = [_edited(document.text, rng) for document in documents for _ in range(2)]
    index, plain = Index(documents), Overlaps(documents)
    assert index.tests == plain.tests
    alone = [plain.look_up(text) for text in texts]
    assert index.look_up_all(texts) == {place: hits for place, hits in enumerate(alone) if hits}
    assert len({hit.kind for hits in alone for hit in hits}) >= 3
