"""Families that are meant to exhaust a verifier: powers, depth, patterns, sheer length. Each is asked alone."""

from __future__ import annotations

from typing import Final

from grpo_audit.rewards.probes.case import Case, Drafts, either, given, reject
from grpo_audit.rewards.probes.formats import THOUGHT
from grpo_audit.rewards.probes.probe import Kind

MEGABYTE: Final = 1_000_000
_LONG: Final = 32_000
"""Characters; a completion of some ten thousand tokens. A pattern of quadratic cost is seen, and one of linear cost is
not slowed down."""
_POWERS: Final = {
    "a tower of powers": "9**9**9**9",
    "a tower in LaTeX": "9^{9^{9^9}}",
    "a large exponent": "10**10**10",
    "an exponent of a number": "1e999999999",
    "a factorial": "99999999!",
    "a shift": "1<<99999999999",
    "a string repeated": "'a'*10**11",
}
_IN_CODE: Final = {
    "a loop without end": "while True: pass",
    "a huge list": "x = [0] * 10**11",
}
_DEPTH: Final = {
    "parentheses": "(" * 20_000 + "1" + ")" * 20_000,
    "open brackets": "[" * 100_000,
    "braces": "{" * 50_000 + "1" + "}" * 50_000,
    "fractions": "\\frac{1}{" * 400 + "2" + "}" * 400,
    "minus signs": "-" * 50_000 + "1",
}
_PATTERNS: Final = {
    "one letter": "a" * _LONG + "!",
    "one digit": "1" * _LONG + "x",
    "blanks": " " * _LONG + "x",
    "digits and commas": "1," * (_LONG // 2) + "x",
    "opening tags": "<answer>" * (_LONG // 8),
    "opening boxes": "\\boxed{" * (_LONG // 8),
    "backslashes": "\\" * _LONG,
}


def exponents(case: Case) -> Drafts:
    """Short texts whose value cannot be held, or loops without end for code."""
    for note, text in (_IN_CODE if case.kind is Kind.CODE else _POWERS).items():
        yield given(case, text, note, alone=True)


def nesting(case: Case) -> Drafts:
    """Depth that a parser may not survive."""
    for note, text in _DEPTH.items():
        if case.kind is Kind.JSON and note != "open brackets":
            continue
        yield given(case, text, note, alone=True)


def patterns(case: Case) -> Drafts:
    """Texts on which a careless pattern takes for ever."""
    for note, text in _PATTERNS.items():
        yield (reject if case.strict else either)(text, note, alone=True)


def megabyte(case: Case) -> Drafts:
    """A million characters: alone, as the answer, and as reasoning before the right answer."""
    make = reject if case.strict else either
    yield make("word " * (MEGABYTE // 5), "words", alone=True)
    yield given(case, "x" * MEGABYTE, "letters as the answer", alone=True)
    if case.kind is not Kind.JSON:
        yield given(case, "9" * MEGABYTE, "digits as the answer", alone=True)
    if case.is_content:
        thoughts = f"{THOUGHT}\n" * (MEGABYTE // (len(THOUGHT) + 1))
        yield either(thoughts + case.format.of(case.right), "reasoning before the right answer", alone=True)
        yield reject(thoughts + case.format.of(case.wrong[0]), "reasoning before a wrong answer", alone=True)
