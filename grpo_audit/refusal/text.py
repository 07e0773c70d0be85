"""An answer made ready to be judged: no reasoning trace, no tags, no Markdown, one spelling of each character."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

JUDGED: Final = 20_000
"""Characters of an answer that are looked at; a refusal that comes later is not seen."""
_TRACE_ENDS: Final = re.compile(r"</\s*(?:think|thinking|thought|reasoning|reflection)\s*>|<\|end_of_thought\|>", re.I)
_TRACE_BEGINS: Final = re.compile(
    r"<\s*(?:think|thinking|thought|reasoning|reflection)\s*>|<\|begin_of_thought\|>", re.I
)
_SPECIAL_TOKEN: Final = re.compile(r"<\|[^|<>]{0,40}\|>")
_TAG: Final = re.compile(r"</?[a-zA-Z][a-zA-Z_-]{0,30}\s*/?>")
_FENCE: Final = re.compile(r"```[^`]{0,20000}```")
_QUOTED: Final = re.compile(
    r'"[^"\n]{1,400}"|“[^“”\n]{1,400}”|«[^«»\n]{1,400}»|„[^„“”\n]{1,400}[“”]|「[^「」\n]{1,400}」'
)
_QUOTE_LINE: Final = re.compile(r"^\s{0,3}>.*$", re.M)
_MARKDOWN: Final = re.compile(r"[*_`#~|>]+")
_APOSTROPHES: Final = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4\u0060\uff07\u2032", "'"))
_SPACES: Final = re.compile(r"\s+")


def answer_of(text: str) -> str:
    """What the reader gets: the text after the reasoning trace, without special tokens and tags.

    A trace that never ends leaves no answer. Linear in the length of the text.
    """
    ends = [found.end() for found in _TRACE_ENDS.finditer(text)]
    rest = text[ends[-1] :] if ends else text
    begins = _TRACE_BEGINS.search(rest)
    if begins is not None:
        rest = rest[: begins.start()]
    rest = rest[:JUDGED]
    return _TAG.sub(" ", _SPECIAL_TOKEN.sub(" ", rest)).strip()


def normalised(text: str) -> str:
    """The answer in lower case, in one line, with straight apostrophes and without what it only quotes.

    Quoted sentences, quoted lines and code blocks are left out, unless nothing else is there: a model that explains a
    refusal does not refuse.
    """
    answer = answer_of(text)
    own = answer
    for quoted in (_FENCE, _QUOTE_LINE, _QUOTED):
        own = quoted.sub(" ", own)
    if not any(character.isalnum() for character in own):
        own = answer
    plain = unicodedata.normalize("NFKC", own.translate(_APOSTROPHES)).translate(_APOSTROPHES)
    plain = "".join(character for character in plain if unicodedata.category(character) != "Cf")
    plain = "".join(" " if unicodedata.category(character) == "Cc" else character for character in plain)
    return _SPACES.sub(" ", _MARKDOWN.sub(" ", plain).casefold()).strip()
