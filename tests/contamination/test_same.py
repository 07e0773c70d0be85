"""The numpy index says what a plain second implementation says."""

from __future__ import annotations

import random
import re

from hypothesis import given, settings, strategies as st

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


@settings(max_examples=400, deadline=None)
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
