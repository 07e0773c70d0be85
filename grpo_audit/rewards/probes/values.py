"""When two answers surely differ. What cannot be decided is never used as a wrong answer.

Written for the probes alone and sharing nothing with a reward source: the values of plain numbers are exact, those of
expressions are approximated at points that no one would choose.
"""

from __future__ import annotations

import cmath
import math
import re
import unicodedata
from decimal import Decimal
from fractions import Fraction
from typing import Final

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?")
_RATIO: Final = re.compile(r"([+-]?)(?:\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}|([0-9]+)/([0-9]+))")
_QUANTITY: Final = re.compile(
    r"(?P<before>[$\u00a3\u20ac\u00a5])?\s?(?P<number>[+-]?[0-9][0-9,]*(?:\.[0-9]+)?)\s?(?P<after>\\?%|[A-Za-z\u00b0]{1,12})?"
)
_LONGEST: Final = 200
_TOKEN: Final = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?|\.[0-9]+)|\\([A-Za-z]+)|([A-Za-z])|(\*\*|[-+*/^(){}]))")
_POINT: Final = {letter: 1.0 + math.sqrt(2 + index) / 7 for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}


def number(text: str) -> Fraction | None:
    """The value of a plain number: digits, a sign, commas between groups of three, a point; or a simple ratio."""
    text = text.strip().replace("\u2212", "-")
    if not text or len(text) > _LONGEST:
        return None
    ratio = _RATIO.fullmatch(text)
    if ratio:
        above, below = ratio.group(2) or ratio.group(4), ratio.group(3) or ratio.group(5)
        return None if int(below) == 0 else Fraction(int(above), int(below)) * (-1 if ratio.group(1) == "-" else 1)
    if not _NUMBER.fullmatch(text) or not re.search("[0-9]", text):
        return None
    return Fraction(Decimal(text.replace(",", "")))


def quantity(text: str) -> tuple[str, str, str] | None:
    """What stands before a number, the number, and its unit; None where there is no unit."""
    found = _QUANTITY.fullmatch(text.strip())
    if found is None or not (found["before"] or found["after"]) or number(found["number"]) is None:
        return None
    return found["before"] or "", found["number"], found["after"] or ""


def folded(text: str) -> str:
    """Letters and digits only, without case: two texts that differ in more than this differ."""
    return "".join(char for char in unicodedata.normalize("NFKC", text).casefold() if char.isalnum() or char in "+-<>=")


def mentions(text: str, answer: str) -> bool:
    """Whether an answer stands in a text as words of its own, without regard to case, or as a number of its value."""
    found = re.search(rf"(?<!\w){re.escape(answer.strip().casefold())}(?!\w)", text.casefold())
    if found:
        return True
    value = number(answer)
    return value is not None and any(number(item) == value for item in re.findall(r"[0-9][0-9.,]*[0-9]|[0-9]", text))


def differ(first: str, second: str) -> bool:
    """Whether two answers surely differ: as texts, and as values wherever either of them may be mathematics."""
    if not folded(first) or not folded(second) or folded(first) == folded(second):
        return False
    values = number(first), number(second)
    if values[0] is not None and values[1] is not None:
        return values[0] != values[1]
    if any(quantity(text) for text in (first, second)):
        pair = [_bare(text) for text in (first, second)]
        return bool(pair[0] is not None and pair[1] is not None and _far(pair[0], pair[1])) or _is_words(first, second)
    if not any(map(_looks_like_mathematics, (first, second))):
        return True
    if _is_words(first, second):
        return True
    near = approximate(first), approximate(second)
    if near[0] is None or near[1] is None:
        return False
    return abs(near[0] - near[1]) > 1e-6 * (1 + abs(near[0]) + abs(near[1]))


def _bare(text: str) -> Fraction | None:
    found = quantity(text)
    return number(found[1]) if found else number(text)


def _far(first: Fraction, second: Fraction) -> bool:
    """Different, and no percentage of each other, whatever their units are."""
    return first not in (second, 100 * second, second / 100)


def _is_words(first: str, second: str) -> bool:
    """One is a word and the other has a digit: no notation makes them equal."""
    word = re.compile(r"[^\W\d_]{4,}(?:[ '-][^\W\d_]+)*\.?")
    return any(word.fullmatch(a.strip()) and re.search("[0-9]", b) for a, b in ((first, second), (second, first)))


def _looks_like_mathematics(text: str) -> bool:
    return bool(re.search(r"[0-9\\^=+*/<>{}\[\]]|(?:^|\W)\w(?:$|\W)|\bpi\b|\binf", text))


def approximate(text: str) -> complex | None:
    """The value of an expression, its letters replaced by fixed odd numbers; None for anything it cannot read."""
    text = text.strip().strip("$").replace("\\left", "").replace("\\right", "").replace("\u2212", "-")
    text = re.sub(r"\\[dt]frac", r"\\frac", re.sub(r"\\[,!;: ]", " ", text))
    text = text.replace("\\cdot", "*").replace("\\times", "*")
    if len(text) > _LONGEST:
        return None
    tokens: list[str] = []
    position = 0
    while position < len(text.rstrip()):
        found = _TOKEN.match(text, position)
        if found is None:
            return None
        tokens.append("\\" + found.group(2) if found.group(2) else found.group().strip())
        position = found.end()
    try:
        parser = _Expression(tokens)
        value = parser.sum(0)
    except (ValueError, IndexError, ZeroDivisionError, OverflowError, RecursionError):
        return None
    return value if parser.position == len(tokens) and cmath.isfinite(value) else None


class _Expression:
    """Recursive descent; products also without a sign between them. Raises ValueError."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, ""]
        self.position = 0

    def take(self, *wanted: str) -> str:
        """The next token if it is one of these, else an empty text."""
        token = self.tokens[self.position]
        if token and token in wanted:
            self.position += 1
            return token
        return ""

    def sum(self, depth: int) -> complex:
        """Products with signs between them."""
        if depth > 20:
            raise ValueError
        value = self.product(depth) if self.tokens[self.position] not in ("+", "-") else 0
        while sign := self.take("+", "-"):
            value = value + self.product(depth) if sign == "+" else value - self.product(depth)
        return value

    def product(self, depth: int) -> complex:
        """Powers, multiplied and divided."""
        value = self.power(depth)
        while True:
            if self.take("*"):
                value *= self.power(depth)
            elif self.take("/"):
                value /= self.power(depth)
            elif re.match(r"[0-9.A-Za-z({\\]", self.tokens[self.position] or " "):
                value *= self.power(depth)
            else:
                return value

    def power(self, depth: int) -> complex:
        """An atom, raised to another one."""
        base = self.atom(depth)
        if not self.take("^", "**"):
            return base
        exponent = -self.atom(depth) if self.take("-") else self.atom(depth)
        if abs(exponent) > 64:
            raise ValueError
        return complex(base**exponent)

    def atom(self, depth: int) -> complex:
        """A number, a letter, a group, a fraction or a root."""
        token = self.tokens[self.position]
        self.position += 1
        if token in ("(", "{"):
            value = self.sum(depth + 1)
            if not self.take(")" if token == "(" else "}"):
                raise ValueError
            return value
        if token[:1].isdigit() or token[:1] == ".":
            return complex(float(token))
        if token == "\\frac":
            return self.atom(depth + 1) / self.atom(depth + 1)
        if token == "\\sqrt":
            return cmath.sqrt(self.atom(depth + 1))
        if token in ("\\pi", "\\e"):
            return complex(math.pi if token == "\\pi" else math.e)
        if token == "e":
            return complex(math.e)
        if len(token) == 1 and token.lower() in _POINT:
            return complex(_POINT[token.lower()] + (0.37 if token.isupper() else 0))
        raise ValueError
