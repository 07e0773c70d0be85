"""How questions are put into batches."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings, strategies as st

from grpo_audit_evals.questions import SHARE_FROM, Question, Settings, batches

SETTINGS = [Settings(("a",), 8), Settings(("b",), 8), Settings(("a",), 16)]
BEGINNING = list(range(SHARE_FROM))

question = st.tuples(st.sampled_from(SETTINGS), st.booleans(), st.lists(st.integers(0, 3), min_size=1, max_size=5))


def questions(drawn: list[tuple[Settings, bool, list[int]]]) -> list[Question]:
    """With or without the common beginning."""
    return [
        Question(("t", number), BEGINNING * begins + ids, settings)
        for number, (settings, begins, ids) in enumerate(drawn)
    ]


@settings(deadline=None)
@given(st.lists(question, max_size=40), st.integers(1, 9), st.integers(1, 12))
def test_every_answer_is_asked_for_once(drawn: list[tuple[Settings, bool, list[int]]], samples: int, rows: int) -> None:
    """Each question as many times as there are samples, numbered from 0 in order, with others of its length limit and
    never more than the rows that there are."""
    asked = questions(drawn)
    seen: Counter[tuple[str, int]] = Counter()
    for batch in batches(asked, samples, rows):
        answers = list(batch.answers())
        assert 1 <= len(answers) <= rows
        assert len({item.settings.new_tokens for item in batch.questions}) == 1
        for item, number in answers:
            assert number == seen[item.place]
            seen[item.place] += 1
    assert seen == Counter({item.place: samples for item in asked})


@given(st.lists(question, max_size=30), st.integers(1, 9))
def test_batches_depend_on_the_questions_alone(drawn: list[tuple[Settings, bool, list[int]]], rows: int) -> None:
    """Twice the same; this is why a resumed evaluation gets the same bits."""
    assert list(batches(questions(drawn), 1, rows)) == list(batches(questions(drawn), 1, rows))


def test_prompts_that_begin_as_most_do_are_kept_together() -> None:
    """Eight with the same examples and two without: the eight share their beginning in a batch of their own. So do
    those of two tasks with examples each, though one call asks for both."""
    asked = questions([(SETTINGS[0], number not in (2, 5), [number]) for number in range(10)])
    found = [[item.place[1] for item in batch.questions] for batch in batches(asked, 1, 16)]
    assert sorted(found, key=len) == [[2, 5], [0, 1, 3, 4, 6, 7, 8, 9]]
    other = [Question(("u", number), [7, *BEGINNING, number], SETTINGS[1]) for number in range(9)]
    found = [[item.place for item in batch.questions] for batch in batches(asked + other, 1, 32)]
    assert [len(part) for part in found] == [8, 9, 2]


def test_one_document_among_the_examples_does_not_cost_the_others_their_beginning() -> None:
    """Where examples come from the documents themselves, a document's own prompt lacks it: those few are kept apart."""
    long = [*BEGINNING, *range(100, 200)]
    asked = [Question(("t", number), [*long, number], SETTINGS[0]) for number in range(20)]
    asked[3] = Question(("t", 3), [*BEGINNING, *range(150, 250), 3], SETTINGS[0])
    found = [[item.place[1] for item in batch.questions] for batch in batches(asked, 1, 32)]
    assert sorted(map(len, found)) == [1, 19] and [3] in found


def test_prompts_with_little_in_common_stay_together() -> None:
    """A few common tokens are not worth a batch."""
    asked = [Question(("t", number), [*BEGINNING[:-1], 99, number], SETTINGS[0]) for number in range(6)]
    assert len(list(batches(asked, 1, 16))) == 1
