"""The final answer of a completion, and text made comparable: shared by the sources that compare answers.

All functions are linear in the length of the completion and raise nothing on bad text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal

AnswerIn = Literal["auto", "tag", "boxed", "whole"]
"""Where the answer stands: the last ``<answer>`` block, the last LaTeX ``boxed``, either (block first), or the whole
completion."""

MAX_ANSWER: Final = 1000
"""Characters of a final answer; a longer one is none."""

_INVISIBLE: Final = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"))
_SAME: Final = str.maketrans({"\u2212": "-", "\u066b": ".", "\u066c": "", "\u2044": "/", "\u2018": "'", "\u2019": "'"})
_BLANKS: Final = re.compile(r"\s+")


def final_answer(completion: str, answer_in: AnswerIn = "auto") -> str | None:
    """The one answer that counts: the last, and none of those before it. None when there is none.

    A reasoning block that ends with ``</think>`` is left out of sight.
    """
    text = completion.rpartition("</think>")[2]
    if answer_in == "whole":
        answer: str | None = text
    elif answer_in == "tag":
        answer = _last_tag(text)
    elif answer_in == "boxed":
        answer = _last_boxed(text)
    else:
        answer = _last_tag(text) if "<answer>" in text else _last_boxed(text)
    if answer is None or len(answer) > MAX_ANSWER or not answer.strip():
        return None
    return answer.strip()


def _last_tag(text: str) -> str | None:
    tail = text.rpartition("<answer>")
    inside, closed, _ = tail[2].partition("</answer>")
    return inside if tail[1] and closed else None


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    return None if start < 0 else _braced(text, start + len("\\boxed{"))


def _braced(text: str, start: int) -> str | None:
    """What stands between an open brace, already read, and the one that closes it."""
    depth, position = 1, start
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] in "{}":
            depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return text[start:position]
        position += 1
    return None


def fold(text: str) -> str:
    """Digits of every script as 0 to 9, full-width characters as ASCII, minus signs as ``-``, nothing invisible.

    Not Unicode's NFKC, which makes 52 of 5 squared.
    """
    characters = []
    for character in unicodedata.normalize("NFC", text).translate(_INVISIBLE).translate(_SAME):
        if "\uff01" <= character <= "\uff5e":
            character = chr(ord(character) - 0xFEE0)
        digit = unicodedata.decimal(character, None)
        characters.append(character if digit is None else str(digit))
    return "".join(characters)


def squeeze(text: str) -> str:
    """Every run of blanks as one blank, none at the ends."""
    return _BLANKS.sub(" ", text).strip()


def readable(text: str) -> str:
    """Lone surrogates replaced, so that the text can be sent and shown."""
    return text.encode("utf-8", "replace").decode("utf-8")
