"""Word problems in the format of GSM8K (Cobbe et al. 2021), and what is left when a needed number is not told.

The number goes, and "some" stands in its place. To delete the whole sentence is no way to be sure: where it told of an
event, the rest is another problem, and it can be solved.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_STEP = re.compile(r"<<([^=<>]+)=([^<>]*)>>")
_COUNT = re.compile(
    r"(?<![\w$€£.,/%-])(\d+(?:,\d{3})*)(?= (?:[a-z]+ ){0,2}?([a-z]{2,}s)\b(?! in (?:a|an|one|each|every)\b))"
)
"""A number that counts something, in words: 16 eggs, 18 new potted plants. No price, share, clock time or fraction,
and not the days in a week."""
_WORDS = {
    word: number
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}
_NOT_COUNTED = frozenset({"times", "less", "is", "was", "has", "as", "this", "his", "its"})


@dataclass(frozen=True)
class Problem:
    """A problem with its worked solution."""

    question: str
    solution: str

    @property
    def result(self) -> str:
        """What stands after ``####``."""
        return self.solution.rpartition("####")[2].strip().replace(",", "")


def without_a_number(problem: Problem) -> str | None:
    """The problem with "some" for the first count that it cannot be solved without; None where there is no such one.

    The number stands in the problem once, in digits or in words, and with another one in its place the steps of the
    solution give another result.
    """
    text = " ".join(problem.question.split())
    told = [*_numbers(text), *(str(_WORDS[word]) for word in re.findall(r"[a-z]+", text.lower()) if word in _WORDS)]
    for count in _COUNT.finditer(text):
        number = count[1].replace(",", "")
        if told.count(number) == 1 and count[2] not in _NOT_COUNTED and _decides(number, problem.solution):
            some = "Some" if count.start() == 0 or text[: count.start()].rstrip()[-1] in ".!?" else "some"
            return text[: count.start(1)] + some + text[count.end(1) :]
    return None


def _decides(number: str, solution: str) -> bool:
    """Whether the result changes with this number: it may cancel out, or not be used. False where a step is unreadable.

    A step that uses the result of an earlier one is given the changed result.
    """
    changed = {number: Fraction(number) + 1}
    value, result = Fraction(0), ""
    for expression, result in _STEP.findall(solution):
        if (found := _value(expression, changed)) is None:
            return False
        value = found
        changed[result.replace(",", "")] = value
    try:
        return bool(result) and value != Fraction(result.replace(",", ""))
    except ValueError:
        return False


_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(expression: str, changed: Mapping[str, Fraction]) -> Fraction | None:
    """An expression of numbers with + - * /, some of the numbers changed; None when it is anything else."""
    try:
        return _of(ast.parse(expression.replace(",", "").strip(), mode="eval").body, expression, changed)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _of(node: ast.expr, source: str, changed: Mapping[str, Fraction]) -> Fraction:
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_of(left, source, changed), _of(right, source, changed))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_of(operand, source, changed)
        case ast.Constant(value=int() | float() as value):
            return changed.get(str(value), Fraction(str(value)))
    raise ValueError(source)


def _numbers(text: str) -> list[str]:
    return [number.replace(",", "") for number in _NUMBER.findall(text)]
