"""The Countdown verifier: exact on what is valid, unimpressed by everything else."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from grpo_audit.rewards.countdown import (
    MAX_DEPTH,
    MAX_EXPRESSION,
    ExpressionError,
    Verdict,
    accuracy,
    evaluate,
    format,
    verify,
    well_formed,
)

NUMBERS, TARGET = [3, 7, 25], 46
RIGHT = "25+3*7"


def wrapped(expression: str, thoughts: str = "3*7=21,25+21=46") -> str:
    """A well-formed completion with this answer."""
    return f"<think>{thoughts}</think><answer>{expression}</answer>"


@pytest.mark.parametrize("expression", [RIGHT, "3*7+25", "(25+(7*3))", " 25 + 3 * 7 ", "((25))+3*7", "25+\n3*7"])
def test_right_expressions_are_correct(expression: str) -> None:
    """Order, blanks and superfluous parentheses do not matter."""
    assert verify(wrapped(expression), NUMBERS, TARGET) is Verdict.CORRECT


@pytest.mark.parametrize(
    ("expression", "verdict"),
    [
        ("25+3+7", Verdict.WRONG_VALUE),
        ("25*3-7", Verdict.WRONG_VALUE),
        ("46", Verdict.WRONG_NUMBERS),
        ("25+21", Verdict.WRONG_NUMBERS),
        ("25+3*7+3-3", Verdict.WRONG_NUMBERS),
        ("25+7*3*1", Verdict.WRONG_NUMBERS),
        ("", Verdict.MALFORMED),
        ("25+3*7=46", Verdict.MALFORMED),
        ("25+3**7", Verdict.MALFORMED),
        ("25//3*7", Verdict.MALFORMED),
        ("25/3*7", Verdict.MALFORMED),
        ("-3*-7+25", Verdict.MALFORMED),
        ("+25+3*7", Verdict.MALFORMED),
        ("25--3*7", Verdict.MALFORMED),
        ("25+3*7)", Verdict.MALFORMED),
        ("(25+3*7", Verdict.MALFORMED),
        ("25+()3*7", Verdict.MALFORMED),
        ("25+3 7", Verdict.MALFORMED),
        ("25(3+7)", Verdict.MALFORMED),
        ("25+3*7.0", Verdict.MALFORMED),
        ("25+3*7e0", Verdict.MALFORMED),
        ("0x19+3*7", Verdict.MALFORMED),
        ("2_5+3*7", Verdict.MALFORMED),
        ("25+3×7", Verdict.MALFORMED),
        ("\uff12\uff15+3*7", Verdict.MALFORMED),
        ("٢٥+3*7", Verdict.MALFORMED),
        ("25+3*7²", Verdict.MALFORMED),
        ("25\u00a0+3*7", Verdict.MALFORMED),
        ("25\u22123*7", Verdict.MALFORMED),
        ("25+3*7 or 25+3+7", Verdict.MALFORMED),
        ("__import__('os')", Verdict.MALFORMED),
        ("99**99**99", Verdict.MALFORMED),
    ],
)
def test_wrong_answers_get_the_verdict_that_names_the_mistake(expression: str, verdict: Verdict) -> None:
    """Every kind of wrong answer has its own verdict, and none of them is correct."""
    assert verify(wrapped(expression), NUMBERS, TARGET) is verdict


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("", Verdict.NO_ANSWER),
        ("   \n", Verdict.NO_ANSWER),
        (RIGHT, Verdict.NO_ANSWER),
        (f"<think>{RIGHT}</think>", Verdict.NO_ANSWER),
        (f"<think>{RIGHT}</think><answer>25+3+7</answer>", Verdict.WRONG_VALUE),
        (f"<think><answer>{RIGHT}</answer></think>", Verdict.BAD_TAGS),
        (f"<think>x<answer>{RIGHT}</answer>", Verdict.BAD_TAGS),
        (f"x</think><answer>{RIGHT}</answer>", Verdict.BAD_TAGS),
        (f"<answer>{RIGHT}</answer><think>x</think>", Verdict.BAD_TAGS),
        (f"<think>x</think><answer>{RIGHT}", Verdict.BAD_TAGS),
        (f"<think>x</think>{RIGHT}</answer>", Verdict.BAD_TAGS),
        (f"<think>x</think></answer>{RIGHT}<answer>", Verdict.BAD_TAGS),
        (f"<think>x</think><answer><answer>{RIGHT}</answer></answer>", Verdict.BAD_TAGS),
        (f"<think>x</think><answer>1</answer><answer>{RIGHT}</answer>", Verdict.BAD_TAGS),
        (f"<think>x</think><think>y</think><answer>{RIGHT}</answer>", Verdict.BAD_TAGS),
        (f"<think>x</think><answer>{RIGHT}</answer> so it is 46", Verdict.BAD_TAGS),
        (f"<think>x</think>Therefore<answer>{RIGHT}</answer>", Verdict.BAD_TAGS),
        (f"<think>x</think><ANSWER>{RIGHT}</ANSWER>", Verdict.NO_ANSWER),
        (f"<think>x</think>\n<answer>{RIGHT}</answer>\n", Verdict.CORRECT),
        (f"<answer>{RIGHT}</answer>", Verdict.CORRECT),
    ],
)
def test_only_one_final_answer_block_counts(completion: str, verdict: Verdict) -> None:
    """The answer is the one block at the end; nothing in the trace, doubled or unclosed earns anything."""
    assert verify(completion, NUMBERS, TARGET) is verdict


def test_repeated_numbers_are_counted() -> None:
    """A number that is given twice is to be used twice."""
    assert verify(wrapped("5+5*2"), [5, 2, 5], 15) is Verdict.CORRECT
    assert verify(wrapped("5*2+5"), [5, 2], 15) is Verdict.WRONG_NUMBERS
    assert verify(wrapped("5*2"), [5, 5, 2], 10) is Verdict.WRONG_NUMBERS


def test_the_answer_of_another_problem_fails() -> None:
    """The gold answer of one problem earns nothing for another one."""
    assert verify(wrapped(RIGHT), [3, 7, 25], 47) is Verdict.WRONG_VALUE
    assert verify(wrapped(RIGHT), [3, 8, 25], TARGET) is Verdict.WRONG_NUMBERS


def test_well_formed_is_think_then_answer_and_nothing_else() -> None:
    """The format reward asks for both blocks and says nothing about the value."""
    assert well_formed(wrapped("nonsense"))
    assert not well_formed(f"<answer>{RIGHT}</answer>")
    assert not well_formed(f"Well <think>x</think><answer>{RIGHT}</answer>")
    assert not well_formed("")


def test_reward_functions_return_one_float_a_completion() -> None:
    """Columns come as keyword lists; those that are not needed are ignored."""
    texts = [wrapped(RIGHT), wrapped("25+3+7"), "no"]
    columns: dict[str, Any] = {"numbers": [NUMBERS] * 3, "target": [TARGET] * 3, "prompts": ["p"] * 3}
    assert accuracy(texts, **columns) == [1.0, 0.0, 0.0]
    assert format(texts, **columns) == [1.0, 1.0, 0.0]


def test_columns_of_different_length_are_refused() -> None:
    """A missing row is an error, not a reward for the wrong problem."""
    with pytest.raises(ValueError, match=r"shorter|longer"):
        accuracy([wrapped(RIGHT)] * 2, [NUMBERS], [TARGET])


@pytest.mark.parametrize(
    ("completion", "numbers", "target"),
    [
        (None, NUMBERS, TARGET),
        (b"x", NUMBERS, TARGET),
        ("x", "37", TARGET),
        ("x", [3.0, 7, 25], TARGET),
        ("x", [True, 7, 25], TARGET),
        ("x", ["3", 7, 25], TARGET),
        ("x", NUMBERS, 46.0),
        ("x", NUMBERS, "46"),
        ("x", NUMBERS, True),
        ("x", 3, TARGET),
    ],
)
def test_wrong_types_are_refused(completion: Any, numbers: Any, target: Any) -> None:
    """What only looks like a number, a bool or a float among them, raises instead of being compared."""
    with pytest.raises(TypeError):
        verify(completion, numbers, target)


def test_depth_and_length_are_limited() -> None:
    """Up to the limits an expression is read, beyond them it is malformed."""
    assert evaluate("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH) == (1, [1])
    with pytest.raises(ExpressionError):
        evaluate("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1))
    assert evaluate("1" + " " * (MAX_EXPRESSION - 1)) == (1, [1])
    with pytest.raises(ExpressionError):
        evaluate("1" + " " * MAX_EXPRESSION)


def hostile_texts() -> Iterator[str]:
    """Megabytes that would hang or crash a careless verifier."""
    size = 1_000_000
    for body in ("(" * size, "9" * size, "1+" * (size // 2), "-" * size, "٣" * size, " " * size, "99**99**99"):
        yield wrapped(body)
    yield "<answer>" * (size // 8)
    yield "<think>" * (size // 7) + wrapped(RIGHT)
    yield "</answer>" * (size // 9) + "<answer>"
    yield "<" * size
    yield wrapped(RIGHT) + "\n" * size + "x"


@pytest.mark.parametrize("index", range(12))
def test_a_megabyte_of_anything_is_judged_in_bounded_time(index: int) -> None:
    """Hostile megabytes are refused within two seconds each, without raising."""
    text = list(hostile_texts())[index]
    start = time.perf_counter()
    assert verify(text, NUMBERS, TARGET) is not Verdict.CORRECT
    assert well_formed(text) in (True, False)
    assert time.perf_counter() - start < 2


Tree = int | tuple[str, Any, Any]
trees = st.recursive(st.integers(0, 99), lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner), max_leaves=6)


def written(tree: Tree) -> str:
    """The tree with parentheses around every operation."""
    if isinstance(tree, int):
        return str(tree)
    return f"({written(tree[1])}{tree[0]}{written(tree[2])})"


def leaves(tree: Tree) -> list[int]:
    """The numbers of the tree from left to right."""
    return [tree] if isinstance(tree, int) else [*leaves(tree[1]), *leaves(tree[2])]


def value(tree: Tree) -> Fraction:
    """The value of the tree, computed without the parser."""
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = value(tree[1]), value(tree[2])
    return {"+": left + right, "-": left - right, "*": left * right}[tree[0]]


@given(trees)
def test_valid_expressions_have_the_value_of_their_tree(tree: Tree) -> None:
    """The parser agrees with an evaluation that never sees the text."""
    assert evaluate(written(tree)) == (value(tree), leaves(tree))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=8), st.data())
def test_precedence_is_that_of_python(numbers: list[int], data: st.DataObject) -> None:
    """Without parentheses products bind first and everything else goes from the left."""
    operators = data.draw(st.lists(st.sampled_from("+-*"), min_size=len(numbers) - 1, max_size=len(numbers) - 1))
    text = str(numbers[0]) + "".join(o + str(n) for o, n in zip(operators, numbers[1:], strict=True))
    terms, sign, product = 0, 1, numbers[0]
    for operator, number in zip(operators, numbers[1:], strict=True):
        if operator == "*":
            product *= number
        else:
            terms, sign, product = terms + sign * product, 1 if operator == "+" else -1, number
    assert evaluate(text) == (terms + sign * product, numbers)


@given(trees, st.randoms(use_true_random=False))
def test_the_order_of_the_given_numbers_does_not_matter(tree: Tree, rng: random.Random) -> None:
    """The verdict is invariant under permutation of the given numbers, and flips when the target moves."""
    numbers, target = leaves(tree), int(value(tree))
    shuffled = rng.sample(numbers, len(numbers))
    assert verify(wrapped(written(tree)), shuffled, target) is Verdict.CORRECT
    assert verify(wrapped(written(tree)), shuffled, target + 1) is Verdict.WRONG_VALUE


pieces = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "25", "3", "7", "+", "*", "-", "(", ")", " "])


@settings(max_examples=300)
@given(st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=3))).map("".join)))
def test_any_text_gets_a_verdict(text: str) -> None:
    """The verifier never raises, whatever the text, and repeats itself; correct implies one answer block."""
    verdict = verify(text, NUMBERS, TARGET)
    assert verify(text, NUMBERS, TARGET) is verdict
    assert verdict is not Verdict.CORRECT or text.count("<answer>") == 1
    assert well_formed(text) in (True, False)
