"""Second verifiers: the same question as ``countdown`` and ``maths`` ask, answered on another basis.

They share no code with the first ones, so that a fault of one is not a fault of both: Countdown by Python's own parser
and fractions instead of a grammar of our own, numbers by decimal and fraction instead of computer algebra. Where a
second verifier cannot judge, it says None, and the row is in no comparison.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Final

KIND = "verifier"
VERSION = "1"
DOMAIN = {
    "countdown": "Countdown with integers: an expression over + - * that uses each number once",
    "number": "plain numbers and simple fractions; does not apply to other references",
}

_MAX_EXPRESSION: Final = 200
_MAX_DEPTH: Final = 20
_MAX_DIGITS: Final = 60
_DECIMAL: Final = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:e[+-]?\d{1,3})?", re.IGNORECASE)
_FRACTION: Final = re.compile(r"([+-]?)\s*(?:\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}|(\d+)\s*/\s*(\d+))")
_DRESS: Final = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}")
_IN_WORDS: Final = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{[^{}]*[0-9]")
_SCALES: Final = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "dozen": 12}
_UNIT: Final = re.compile(r"(?<=[\d.%])\s*(?:\\?%|[A-Za-z\u00b0]+\.?|\\(?:degree|circ)|\^\\circ)\Z")


# --- Countdown --------------------------------------------------------------------------------------------------------


def countdown(completions: list[str], numbers: list[list[int]], target: list[int], **_: object) -> list[float]:
    """1.0 where the only, last ``<answer>`` block is an expression over + - * with each number once and the target as
    its value, else 0.0; the same question as ``countdown:accuracy`` answers."""
    return [
        float(_is_solution(text, sorted(given), goal))
        for text, given, goal in zip(completions, numbers, target, strict=True)
    ]


def _is_solution(completion: str, numbers: list[int], target: int) -> bool:
    marks = [part for part in re.findall(r"</?(?:think|answer)>", completion)]
    if marks not in (["<answer>", "</answer>"], ["<think>", "</think>", "<answer>", "</answer>"]):
        return False
    if len(marks) == 4 and re.search(r"</think>\s*<answer>", completion) is None:
        return False
    inside = completion[completion.index("<answer>") + 8 : completion.index("</answer>")]
    if completion[completion.index("</answer>") + 9 :].strip() or len(inside) > _MAX_EXPRESSION:
        return False
    used: list[int] = []
    value = _python_value(inside, used)
    return value is not None and sorted(used) == numbers and value == target


def _python_value(text: str, used: list[int]) -> Fraction | None:
    """The value of a Python expression of + - * over plain numbers, which are put into ``used``; None for any other."""
    if re.search(r"[^0-9+*()\s-]|\*\*", text.replace("\n", " ")) or re.search(r"[^\x20-\x7e\t\n]", text):
        return None
    # Python reads a line break as an end, and no leading zeros
    source = re.sub(r"\b0+(?=[0-9])", "", re.sub(r"\s", " ", text)).strip()
    if max(map(len, re.findall(r"[0-9]+", text)), default=0) > 9 or _depth(text) > _MAX_DEPTH:
        return None
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return _value(tree.body, used)


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    return deepest


def _value(node: ast.expr, used: list[int]) -> Fraction | None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if not isinstance(node, ast.BinOp):
        return None
    left, right = _value(node.left, used), _value(node.right, used)
    if left is None or right is None:
        return None
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
    return None


# --- numbers ----------------------------------------------------------------------------------------------------------


def number(completions: list[str], answer: list[object], *, answer_in: str = "auto") -> list[float | None]:
    """1.0 where the last answer is the number of the reference, else 0.0; None where one of them is no plain number.

    Args:
        completions: one text a row.
        answer: the reference: a number, or a text with one; also in a box or behind ``####``.
        answer_in: where the answer stands, as for ``maths:score``.
    """
    if answer_in not in ("auto", "tag", "boxed", "whole"):
        raise ValueError(f"option 'answer_in' is {answer_in!r}; expected auto, tag, boxed or whole")
    return [_same_number(text, gold, answer_in) for text, gold in zip(completions, answer, strict=True)]


def _same_number(completion: str, gold: object, answer_in: str) -> float | None:
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        return None
    reference = str(gold).split("####")[-1]
    expected = _number(_boxed(reference) or reference)
    if expected is None:
        return None
    given = _answer(completion.split("</think>")[-1], answer_in)
    if given is None:
        return 0.0
    found = _number(given)
    return None if found is None else float(found == expected)


def _answer(text: str, answer_in: str) -> str | None:
    """The last block, the last box, or all of it; None where there is none, or it is empty."""
    if answer_in == "tag" or (answer_in == "auto" and "<answer>" in text):
        _, mark, tail = text.rpartition("<answer>")
        end = tail.find("</answer>")
        found = tail[:end] if mark and end >= 0 else None
    elif answer_in == "whole":
        found = text
    else:
        found = _boxed(text)
    return found if found and found.strip() else None


def _boxed(text: str) -> str | None:
    """What stands in the last box, braces inside it included."""
    start = text.rfind(r"\boxed{")
    open_braces = 1
    for end in range(start + 7, len(text) if start >= 0 else 0):
        if text[end - 1] != "\\":
            open_braces += {"{": 1, "}": -1}.get(text[end], 0)
        if open_braces == 0:
            return text[start + 7 : end]
    return None


def _number(text: str) -> Fraction | None:
    """The exact value of a plain number or a simple fraction, signs of money and one unit aside."""
    text = "".join(_ascii(char) for char in text.strip())
    if _IN_WORDS.search(text):  # a number that is written as words
        return None
    text = _DRESS.sub(r"\1", text.strip("$ ").removeprefix("\\(").removesuffix("\\)")).strip()
    text = text.replace("\\$", "").replace("\\,", ",").replace("\\!", "").replace("{,}", ",").replace(",,", ",")
    if "%" in text:  # half or fifty: what it means depends on the question
        return None
    amount, _, word = text.removesuffix(".").rpartition(" ")
    if word.lower().removesuffix("s") in _SCALES:
        value = _number(amount) if len(amount) < len(text) else None
        return None if value is None else value * _SCALES[word.lower().removesuffix("s")]
    text = _UNIT.sub("", text.removesuffix(".")).strip()
    if len(text) > _MAX_DIGITS:
        return None
    ratio = _FRACTION.fullmatch(text)
    if ratio:
        above, below = ratio[2] or ratio[4], ratio[3] or ratio[5]
        return None if int(below) == 0 else Fraction(int(f"{ratio[1]}{above}"), int(below))
    if not _DECIMAL.fullmatch(text) or not re.match(r"[+-]?\.?\d", text):
        return None
    try:
        return Fraction(Decimal(text.replace(",", "")))
    except (InvalidOperation, ValueError):
        return None


def _ascii(char: str) -> str:
    """Digits of any script, and the usual minus signs."""
    if char in "\u2212\u2010\u2011":
        return "-"
    digit = unicodedata.decimal(char, None)
    return char if digit is None else str(digit)
