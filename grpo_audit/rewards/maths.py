"""Mathematical equality, by math-verify, of the final answer and the reference.

math-verify alone takes any of several answers, reads ``4 5`` as 9, ignores units and the kind of brackets, and stops
itself by SIGALRM, which works in a main thread only and never inside one huge power. Here it sees one short answer
whose numbers were checked before (``refused``), its own timers are off, and the time limit of the source's process
stands behind it: a row that still takes too long is an error, not a reward.
"""

from __future__ import annotations

import logging
import math
import re
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final

from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig

from grpo_audit.rewards.answers import AnswerIn, final_answer, fold, squeeze

KIND = "verifier"
VERSION = "2"
DOMAIN = "numbers, expressions, intervals and sets in LaTeX or plain notation"

MAX_LENGTH: Final = 300
MAX_DEPTH: Final = 12
MAX_DIGITS: Final = 60
MAX_POWER: Final = 20_000
"""Largest product of all whole numbers in exponents."""
MAX_SYMBOLIC_POWER: Final = 12
MAX_FACTORIAL: Final = 500

_ALLOWED: Final = frozenset("\u03c0\u00d7\u00f7\u00b7\u221e\u00b0\u2264\u2265\u222a\u2229\u2205")
_AS_LATEX: Final = {
    "\u03c0": r"\pi ", "\u00d7": r"\times ", "\u00f7": "/", "\u00b7": r"\cdot ", "\u221e": r"\infty ",
    "\u00b0": r"^\circ ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u222a": r"\cup ", "\u2229": r"\cap ",
    "\u2205": r"\emptyset ",
}  # fmt: skip
_ROOT: Final = re.compile("\u221a\\s*(?:\\{([^{}]*)\\}|\\(([^()]*)\\)|([0-9]+|[a-z]))")
_GROUPED: Final = re.compile(r"(?<=[0-9])(?:\\[,!]|\{,\})(?=[0-9]{3}(?![0-9]))")
_TEXT: Final = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox|operatorname)\s*\{([^{}]*)\}")
_WORD: Final = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_CHOICE: Final = re.compile(r"\b(?:or|and|either|oder|ou)\b|\\(?:lor|vee|land|wedge)\b", re.IGNORECASE)
_LOOSE_DIGITS: Final = re.compile(r"[0-9](?:\s|~|\\(?:quad|qquad|[;: ]))+[0-9.]")
_HEAVY: Final = re.compile(r"\\(?:sum|prod|int|iint|oint|lim|binom|dbinom|tbinom|choose|zeta|Gamma)(?![A-Za-z])|\\\\|&")
_POWER: Final = re.compile(r"\^|\*\*|\\?(?:exp|sinh|cosh|tanh)(?![a-z])")
_INNER_POWER: Final = re.compile(r"[a-df-hj-z]\s*\^")
"""A power of a variable: in an exponent, no other base is looked at (not ``e`` either)."""
_FACTORIAL: Final = re.compile(r"([0-9]*)\s*!")
_FUNCTIONS: Final = "sin cos tan cot sec csc log exp sqrt arcsin arccos arctan mod gcd lcm max min inf"
_WITH_UNIT: Final = re.compile(r"([^A-Za-z]*[0-9])\s*[A-Za-z]{2,}\.?")
_MULTIPLIES: Final = re.compile(
    r"(?<![a-z])(?:hundred|thousand|million|billion|trillion|dozen|pair|half|halve|third|quarter|fourth"
    r"|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth|millionth|squared|cubed|factorial|mio|mrd|mill?iarde?n?)"
    r"e?s?(?![a-z])",
    re.IGNORECASE,
)
"""Words behind a number that make another number of it: no units."""
_SPACED_GROUPS: Final = re.compile(r"(?<![0-9.,] )(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9 ])")
_KNOWN_WORDS: Final = frozenset(_FUNCTIONS.split())
_BASE: Final = re.compile(r"[0-9]\s*_\s*\{?\s*([^\s}])")
_SETTINGS: Final = [LatexExtractionConfig(boxed_match_priority=-1)]


def score(
    completions: list[str], answer: list[object], *, answer_in: AnswerIn = "auto"
) -> list[float | Exception | None]:
    """1.0 where the final answer is mathematically equal to the reference, else 0.0.

    Args:
        completions: one text a row.
        answer: the reference: a number, or text in LaTeX or plain notation, also as ``boxed`` or after ``####``.
            None: does not apply. A reference that cannot be read is an error of its row.
        answer_in: where the answer stands in the completion.
    """
    return [_judge(text, gold, answer_in) for text, gold in zip(completions, answer, strict=True)]


def _judge(completion: str, gold: object, answer_in: AnswerIn) -> float | Exception | None:
    if gold is None:
        return None
    reference = _reference(gold)
    if reference is None or not (expected := _parsed(reference)):
        return ValueError(f"the reference answer cannot be read as mathematics: {str(gold)[:80]!r}")
    found = final_answer(completion, answer_in)
    if found is None:
        return 0.0
    return float(equal(reference, expected, _tidy(found)))


def equal(reference: str, expected: Any, answer: str) -> bool:
    """Whether one answer equals the reference (both tidied); ``expected`` is the reference as math-verify reads it."""
    if _bare(answer) == _bare(reference):
        return bool(_bare(answer))
    if refused(answer) or not _same_form(reference, answer):
        return False
    number = _WITH_UNIT.fullmatch(answer)
    answer = number.group(1) if number else answer
    try:
        found = parse(f"${answer}$", extraction_config=_SETTINGS, fallback_mode="no_fallback", parsing_timeout=None)
        return bool(found and verify(expected, found, timeout_seconds=None, strict=True, allow_set_relation_comp=False))
    except (RecursionError, MemoryError, ArithmeticError, ValueError, TypeError, AttributeError):
        return False


def refused(answer: str) -> str | None:
    """Why a tidied answer is not looked at, None when it may be: too long or too deep, numbers that explode, several
    answers, words. Linear in its length."""
    if len(answer) > MAX_LENGTH or _depth(answer) > MAX_DEPTH:
        return "too long or too deep"
    if any(ord(character) > 126 or ord(character) < 32 for character in answer) or "$" in answer:
        return "characters that are no mathematics"
    if max(map(len, re.findall(r"[0-9]+", answer)), default=0) > MAX_DIGITS:
        return "a number is too long"
    if _CHOICE.search(answer) or ";" in answer or "boxed" in answer:
        return "several answers"
    if _LOOSE_DIGITS.search(answer) or any(re.search("[0-9]", text) for text in _TEXT.findall(answer)):
        return "numbers beside each other"
    if _MULTIPLIES.search(answer):
        return "a word that multiplies"
    if _HEAVY.search(answer):
        return "an operation that is no final answer"
    words = {word.lower() for word in _WORD.findall(_TEXT.sub("", answer))}
    if words - _KNOWN_WORDS and not _WITH_UNIT.fullmatch(answer):
        return "words"
    return _explodes(answer)


def _explodes(answer: str) -> str | None:
    """Powers and factorials whose value could not be held. Every whole number behind a power sign counts as part of an
    exponent, which errs on the safe side."""
    for number in _FACTORIAL.findall(answer):
        if not number or int(number) > MAX_FACTORIAL or answer.count("!") > 3:
            return "a factorial is too large"
    powers = _POWER.split(answer)
    if len(powers) == 1:
        return None
    if len(powers) > 7:
        return "too many powers"
    if _chained(answer) or any(_is_tower(exponent) for exponent in _exponents(answer)):
        return "a tower of powers"
    numbers = [int(number) for part in powers[1:] for number in re.findall(r"[0-9]+", part)]
    limit = MAX_SYMBOLIC_POWER if re.search(r"[({][^)}]*[a-z][^)}]*[)}]\s*\^", answer) else MAX_POWER
    if math.prod(number for number in numbers if number) > limit:
        return "an exponent is too large"
    return "a factorial in an exponent" if any("!" in part for part in powers[1:]) else None


def _exponents(answer: str) -> list[str]:
    """What stands behind each outermost power sign, to the end of its group; nested ones stay inside."""
    found = []
    position = 0
    while match := _POWER.search(answer, position):
        position = _group_end(answer, match.end())
        found.append(answer[match.end() : position])
    return found


def _is_tower(exponent: str) -> bool:
    inner = len(_POWER.findall(exponent))
    return inner > 0 and (inner > 1 or len(_INNER_POWER.findall(exponent)) != inner or "e" in exponent)


def _group_end(text: str, start: int) -> int:
    """Where the group, number or letter that begins here ends."""
    while start < len(text) and text[start] == " ":
        start += 1
    if start < len(text) and text[start] in "({":
        depth = 0
        for position in range(start, len(text)):
            depth += (text[position] in "({") - (text[position] in ")}")
            if depth == 0:
                return position + 1
        return len(text)
    found = re.compile(r"-?(?:[0-9]+|\\?[A-Za-z]+|.)?").match(text, start)
    return found.end() if found else len(text)


def _chained(answer: str) -> bool:
    """``a^b^c`` without braces."""
    return re.search(r"(?:\^|\*\*)\s*-?\s*[0-9A-Za-z.]+\s*(?:\^|\*\*)", answer) is not None


def _same_form(reference: str, answer: str) -> bool:
    """Intervals and tuples need the same brackets, sets none of a tuple's; a number base must be the same; units that
    both name must agree."""
    first, second = _brackets(reference), _brackets(answer)
    if (first or second) and "," in reference and first != second:
        return False
    if _BASE.findall(reference) != _BASE.findall(answer):
        return False
    units = _units(reference), _units(answer)
    return not (all(units) and units[0] != units[1])


def _brackets(text: str) -> str:
    bare = _bare(text).rpartition("=")[2].rpartition("\\in")[2]
    return bare[0] + bare[-1] if len(bare) > 1 and bare[0] in "([" and bare[-1] in ")]" else ""


def _units(text: str) -> str:
    words = "".join(_TEXT.findall(text))
    plain = re.search(r"[0-9}]\s*([A-Za-z]{2,})\.?\Z", text)
    words += plain.group(1) if plain else ""
    return "".join(character for character in words.casefold() if character.isalpha())


def _reference(gold: object) -> str | None:
    """A reference as one tidied text."""
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        return None
    text = gold if isinstance(gold, str) else repr(gold)
    text = text.rpartition("####")[2]
    boxed = final_answer(text, "boxed")
    tidied = _tidy(boxed if boxed is not None else text)
    return tidied if 0 < len(tidied) <= MAX_LENGTH and _depth(tidied) <= MAX_DEPTH else None


@lru_cache(maxsize=4096)
def _parsed(reference: str) -> Any:
    try:
        return parse(f"${reference}$", extraction_config=_SETTINGS, fallback_mode="no_fallback", parsing_timeout=None)
    except Exception:  # noqa: BLE001 - whatever the parser says of it, it is not readable
        return []


def _tidy(text: str) -> str:
    """One notation for digits, spaces, signs and dollar marks."""
    text = squeeze(fold(text))
    for mark in ("$$", "$"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)]
    text = text.removeprefix(r"\(").removeprefix(r"\[").removesuffix(r"\)").removesuffix(r"\]")
    text = _ROOT.sub(lambda m: rf"\sqrt{{{next(part for part in m.groups() if part is not None)}}}", text)
    for mark in _ALLOWED & set(text):
        text = text.replace(mark, _AS_LATEX[mark])
    text = _GROUPED.sub("", text).replace("\\$", "")
    text = text.removeprefix("$") if text.count("$") == 1 else text  # an amount of money
    return squeeze(text).removesuffix(".").strip()


def _bare(text: str) -> str:
    """Without blanks; but two numbers beside each other stay two."""
    text = _SPACED_GROUPS.sub(lambda found: found[0].replace(" ", ""), text)
    text = re.sub(r"(?<=[0-9])\s+(?=[0-9.])", "|", re.sub(r"\\(?:left|right|[,!;: ])", " ", text))
    text = re.sub(r"\s", "", text)
    return re.sub(r"\\[dt]frac", r"\\frac", text)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, abs(depth))
    return deepest


def _on_load() -> dict[str, str]:
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own timers are off
    return {"math-verify": version("math-verify"), "sympy": version("sympy")}


ON_LOAD = {"score": _on_load}
