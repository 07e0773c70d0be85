"""The number an answer ends with, or that it says there is none to be had."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from grpo_audit_evals import traces

TAIL = 2000
"""Characters at the end of an answer in which its result is looked for."""

_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d+(?:[.,']\d{3})*(?:[.,]\d+)?")
_SPELLINGS = str.maketrans({"\u2212": "-", "\u00a0": "'", "\u202f": "'", "\u2009": "'", "\u066c": "'", "\u066b": "."})
"""Minus, spaces that group digits, and the Arabic separators."""
_UNKNOWN = re.compile(
    r"\b(?:can ?not|can't|could not|couldn't) be "
    r"(?:answered|determined|solved|calculated|computed|found|known|worked out)\b"
    r"|\bnot (?:enough|sufficient) (?:information|data|details?)\b"
    r"|\b(?:insufficient|missing|incomplete) (?:information|data|details?)\b"
    r"|\b(?:is|are|was|were) not (?:given|provided|specified|stated|told|mentioned|known)\b"
    r"|\b(?:isn't|aren't|wasn't|weren't) (?:given|provided|specified|stated|told|mentioned|known)\b"
    r"|\b(?:unable|impossible|not possible) to (?:answer|determine|solve|calculate|compute|find|know|say|tell)\b"
    r"|\b(?:can ?not|can't) (?:answer|determine|solve|calculate|compute|find|know|say|tell)\b"
    r"|\b(?:i|we) (?:do not|don't) know\b"
    r"|\bneed(?:s)? more (?:information|data|details?)\b"
    r"|\b(?:unknown|unanswerable|undetermined|indeterminate|undeterminable)\b",
    re.IGNORECASE,
)


def final(text: str, *markers: str) -> str | None:
    """What stands after the last marker (``Answer:``) or in the last box, to the end of its line; None without one.

    Only the answer counts, not the reasoning trace.
    """
    said = _said(text)
    boxes = list(_BOXED.finditer(said))
    words = "|".join(re.escape(marker) for marker in (*markers, "Answer"))
    marked = list(re.finditer(rf"(?:{words})[ \t*_]*[:：][ \t*_]*([^\n]*)", said, re.IGNORECASE))
    found = [match for match in (*boxes, *marked) if match.group(1).strip(" *_")]
    return max(found, key=lambda match: match.start()).group(1).strip(" *_") if found else None


def is_number(text: str, gold: str, *markers: str) -> bool:
    """Whether an answer's final number is this one, in any digits, with either separator of thousands.

    Where nothing is marked as the answer, the last number counts.
    """
    marked = final(text, *markers)
    numbers = _NUMBER.findall(_digits(marked.rpartition("=")[2] if marked is not None else _said(text)))
    if not numbers:
        return False
    said = numbers[0] if marked is not None else numbers[-1]
    return not _readings(said).isdisjoint(_readings(_digits(gold)))


def says_unknown(text: str) -> bool:
    """Whether an answer says that the question cannot be answered, and gives no number as its result all the same."""
    marked = final(text)
    if marked is None:
        *_, last = [None, *_UNKNOWN.finditer(_digits(_said(text)))]
        return last is not None and not _NUMBER.search(last.string, last.end())
    return _UNKNOWN.search(marked) is not None and not _NUMBER.search(_digits(marked))


def gives_number(text: str) -> bool:
    """Whether an answer gives a number as its result."""
    marked = final(text)
    return not says_unknown(text) and _NUMBER.search(_digits(_said(text) if marked is None else marked)) is not None


def _said(text: str) -> str:
    return traces.split(text).answer[-TAIL:].replace("’", "'")


def _digits(text: str) -> str:
    """Every decimal digit as 0 to 9: NFKC does it for fullwidth ones only."""
    normal = unicodedata.normalize("NFKC", text.translate(_SPELLINGS))
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in normal)


def _readings(number: str) -> set[Fraction]:
    """The values a written number may have: 1.200 is twelve hundred or one and a fifth."""
    found = set()
    for thousands, decimal in (("[,']", r"\."), (r"[.']", ",")):
        if re.fullmatch(rf"-?(?:\d+|\d{{1,3}}(?:{thousands}\d{{3}})+)(?:{decimal}\d+)?", number):
            plain = re.sub(thousands, "", number)
            found.add(Fraction(plain.replace(",", ".")))
    return found
