"""Countdown rewards: an exact, safe verifier, used by training and by the evaluation suite alike.

A completion is right if its only `<answer>` block, the last thing in it, is an expression over + - * and
parentheses that uses each given number exactly once and has the target as its value.

Safety: the expression is never handed to an interpreter. Characters outside a small ASCII alphabet are
refused, and so is everything beyond a fixed length and nesting depth, so the work is linear in the length of
the completion. There are no powers and no unary signs, so values stay small.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

KIND = {"accuracy": "verifier", "format": "rule"}
VERSION = "1"
DOMAIN = {
    "accuracy": "Countdown with integers: an expression over + - * that uses each number once",
    "format": "one <think> block, one <answer> block, nothing else",
}

MAX_EXPRESSION = 200
"""Characters of the expression, blanks included. Ten three-digit numbers with parentheses need fewer than 70."""
MAX_DEPTH = 20
"""Parentheses open at the same time."""
MAX_DIGITS = 9
"""Digits of one number."""

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_TOKEN = re.compile(r"[0-9]+|[-+*()]")
_LOWER, _HIGHER = ("+", "-"), ("*",)


class Verdict(StrEnum):
    """What the verifier found. Only `CORRECT` earns the accuracy reward."""

    CORRECT = "correct"
    WRONG_VALUE = "wrong_value"
    """A valid expression over the right numbers, with another value."""
    WRONG_NUMBERS = "wrong_numbers"
    """A valid expression that leaves out, repeats or invents a number."""
    MALFORMED = "malformed"
    """One answer block, but no valid expression in it."""
    BAD_TAGS = "bad_tags"
    """Tags that are repeated, nested, unclosed or out of order, or text after the answer."""
    NO_ANSWER = "no_answer"
    """No answer tag at all."""


class ExpressionError(ValueError):
    """The text is no expression of the Countdown grammar."""


def verify(completion: str, numbers: Sequence[int], target: int) -> Verdict:
    """Judge one completion.

    Args:
        completion: the model's text after the prompt, of any length.
        numbers: the given numbers; their order does not matter.
        target: the value to reach.

    Raises:
        TypeError: if an argument has another type. Bad text never raises.
    """
    _check_types(completion, numbers, target)
    answer = extract(completion)
    if isinstance(answer, Verdict):
        return answer
    try:
        value, used = evaluate(answer)
    except ExpressionError:
        return Verdict.MALFORMED
    if Counter(used) != Counter(numbers):
        return Verdict.WRONG_NUMBERS
    return Verdict.CORRECT if value == target else Verdict.WRONG_VALUE


def extract(completion: str) -> str | Verdict:
    """The text of the only, final answer block, or the verdict that says why there is none.

    A `<think>` block may come first or not; if any of its tags is there, it must be one block that ends before
    the answer begins. Only blanks may follow the answer.
    """
    counts = [completion.count(tag) for tag in _TAGS]
    if counts[2] == counts[3] == 0:
        return Verdict.NO_ANSWER
    if counts[2:] != [1, 1] or counts[:2] not in ([0, 0], [1, 1]):
        return Verdict.BAD_TAGS
    places = [completion.index(tag) for tag, count in zip(_TAGS, counts, strict=True) if count]
    if places != sorted(places):
        return Verdict.BAD_TAGS
    head, _, tail = completion.partition("<answer>")
    answer, _, rest = tail.partition("</answer>")
    between = head.partition("</think>")[2]
    if rest.strip() or (counts[1] and between.strip()):
        return Verdict.BAD_TAGS
    return answer


def evaluate(text: str) -> tuple[int, list[int]]:
    """Value of an expression, and the numbers in it from left to right.

    Grammar: `sum = product (("+" | "-") product)*`, `product = atom ("*" atom)*`, `atom = NUMBER | "(" sum ")"`.

    Raises:
        ExpressionError: if the text is not of this grammar, or too long, or too deep.
    """
    tokens = _tokens(text)
    parser = _Parser(tokens)
    value = parser.sum(0)
    if parser.position != len(tokens):
        raise ExpressionError(f"Unexpected {tokens[parser.position]!r} after the expression")
    return value, parser.used


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_EXPRESSION:
        raise ExpressionError(f"Expression of {len(text)} characters, at most {MAX_EXPRESSION} are read")
    tokens: list[str] = []
    position = 0
    while position < len(text):
        if text[position] in " \t\n":
            position += 1
            continue
        found = _TOKEN.match(text, position)
        if found is None or len(found.group()) > MAX_DIGITS:
            raise ExpressionError(f"Unexpected {text[position]!r} at character {position}")
        tokens.append(found.group())
        position = found.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens; recursion is bounded by MAX_DEPTH."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.used: list[int] = []

    def next_in(self, wanted: tuple[str, ...]) -> str | None:
        """Consume and return the next token if it is one of these."""
        if self.position < len(self.tokens) and self.tokens[self.position] in wanted:
            self.position += 1
            return self.tokens[self.position - 1]
        return None

    def sum(self, depth: int) -> int:
        """Products with + and - between them, from the left."""
        value = self.product(depth)
        while operator := self.next_in(_LOWER):
            right = self.product(depth)
            value = value + right if operator == "+" else value - right
        return value

    def product(self, depth: int) -> int:
        """Atoms with * between them."""
        value = self.atom(depth)
        while self.next_in(_HIGHER):
            value *= self.atom(depth)
        return value

    def atom(self, depth: int) -> int:
        """A number, or a sum in parentheses."""
        if depth > MAX_DEPTH:
            raise ExpressionError(f"More than {MAX_DEPTH} parentheses open at once")
        if self.next_in(("(",)):
            value = self.sum(depth + 1)
            if self.next_in((")",)) is None:
                raise ExpressionError("A parenthesis is not closed")
            return value
        if self.position >= len(self.tokens) or not self.tokens[self.position].isdigit():
            raise ExpressionError("A number is missing")
        number = int(self.tokens[self.position])
        self.position += 1
        self.used.append(number)
        return number


def well_formed(completion: str) -> bool:
    """Whether the completion is one `<think>` block, one `<answer>` block, and nothing else but blanks."""
    if not isinstance(completion, str):
        raise TypeError(f"completion must be str, found {type(completion).__name__}")
    if completion.count("<think>") != 1 or isinstance(extract(completion), Verdict):
        return False
    return completion.lstrip().startswith("<think>")


def accuracy(completions: list[str], numbers: list[list[int]], target: list[int], **_: object) -> list[float]:
    """Reward 1.0 for each correct completion, else 0.0; all lists have one entry a completion.

    Raises:
        ValueError: if the lists differ in length.
        TypeError: if an entry has the wrong type.
    """
    rows = zip(completions, numbers, target, strict=True)
    return [float(verify(text, given, goal) is Verdict.CORRECT) for text, given, goal in rows]


def _examples(numbers: list[list[int]], target: list[int]) -> list[object]:
    """For the probes: a right answer and wrong ones a row."""
    from grpo_audit.rewards.examples import countdown

    return [countdown(given, goal) for given, goal in zip(numbers, target, strict=True)]


EXAMPLES = {"accuracy": _examples}


def format(completions: list[str], **_: object) -> list[float]:
    """Reward 1.0 for each well-formed completion, else 0.0. Says nothing about the value of the answer."""
    return [float(well_formed(text)) for text in completions]


def _check_types(completion: object, numbers: object, target: object) -> None:
    """Refuse what only looks like an integer: a bool or a float must never pass for a number."""
    if not isinstance(completion, str):
        raise TypeError(f"completion must be str, found {type(completion).__name__}")
    if isinstance(numbers, str | bytes) or not isinstance(numbers, Sequence):
        raise TypeError(f"numbers must be a sequence of int, found {type(numbers).__name__}")
    for number in (*numbers, target):
        if type(number) is not int:
            raise TypeError(f"numbers and target must be int, found {type(number).__name__}")
