"""Patterns: a regular expression, or a fixed sequence of tags.

Regular expressions run in the ``regex`` package, which stops a match at a time limit (``re`` cannot be stopped). A
completion on which the pattern does not come to an end is an error of its row, never a 0 that depends on the machine.
The process limit of the source stands behind it.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

import regex

KIND = "rule"
VERSION = "1"
DOMAIN = {"match": "texts that follow a regular expression", "tags": "texts that are a fixed sequence of tags"}

MAX_COMPLETION: Final = 200_000
"""Characters that a pattern is tried on; a longer completion is 0."""


def match(
    completions: list[str],
    *,
    pattern: str,
    where: Literal["whole", "anywhere"] = "whole",
    ignore_case: bool = False,
    dot_matches_newline: bool = True,
    row_limit_s: float = 0.2,
) -> list[float | Exception]:
    """1.0 where the pattern matches, else 0.0.

    Args:
        completions: one text a row.
        pattern: a regular expression of the ``regex`` package.
        where: match the whole completion, or any part of it.
        ignore_case: match without letter case.
        dot_matches_newline: whether ``.`` takes line breaks.
        row_limit_s: seconds one completion may take.
    """
    expression = _compiled(pattern, ignore_case, dot_matches_newline)
    find = expression.fullmatch if where == "whole" else expression.search

    def judge(text: str) -> float | Exception:
        if len(text) > MAX_COMPLETION:
            return 0.0
        try:
            return float(find(text, timeout=row_limit_s, concurrent=False) is not None)
        except TimeoutError:
            return ValueError(f"the pattern took longer than {row_limit_s:g} s on this completion")

    return [judge(text) for text in completions]


def tags(completions: list[str], *, names: list[str] | None = None, allow_empty: bool = False) -> list[float]:
    """1.0 where the completion is one block of each tag in this order and nothing else but blanks, else 0.0.

    Args:
        completions: one text a row.
        names: names of the tags; left out: ``think``, ``answer``.
        allow_empty: whether a block may be blank.
    """
    wanted = ["think", "answer"] if names is None else names
    return [float(_is_sequence(text, wanted, allow_empty)) for text in completions]


def _is_sequence(text: str, names: list[str], allow_empty: bool) -> bool:
    if any(text.count(mark) != 1 for name in names for mark in (f"<{name}>", f"</{name}>")):
        return False
    for name in names:
        before, _, text = text.partition(f"<{name}>")
        inside, closed, text = text.partition(f"</{name}>")
        if before.strip() or not closed or not (allow_empty or inside.strip()):
            return False
    return not text.strip()


@cache
def _compiled(pattern: str, ignore_case: bool, dot_matches_newline: bool) -> regex.Pattern[str]:
    flags = (regex.IGNORECASE if ignore_case else 0) | (regex.DOTALL if dot_matches_newline else 0)
    return regex.compile(pattern, flags)


def _check_match(pattern: str, row_limit_s: float, ignore_case: bool, dot_matches_newline: bool) -> dict[str, str]:
    if not 0 < row_limit_s <= 60:
        raise ValueError(f"option 'row_limit_s' is {row_limit_s:g}; expected more than 0 and at most 60")
    try:
        compiled = _compiled(pattern, ignore_case, dot_matches_newline)
    except regex.error as error:
        raise ValueError(f"option 'pattern' is no regular expression: {error}") from error
    if compiled.fullmatch("", timeout=row_limit_s) is not None:
        raise ValueError("option 'pattern' matches the empty completion, so saying nothing would earn the reward")
    return {"regex": regex.__version__}


def _check_tags(names: list[str] | None) -> None:
    for name in names or ["think"]:
        if not name.isidentifier():
            raise ValueError(f"option 'names' has {name!r}; expected names of tags such as think")
    if (names is not None and len(set(names)) != len(names)) or names == []:
        raise ValueError("option 'names' is empty or names a tag twice")


def _examples(prompts: list[str], *, names: list[str] | None = None) -> list[object]:
    """For the probes: the form as it should be."""
    text = "\n".join(f"<{name}>\ntext\n</{name}>" for name in names or ("think", "answer"))
    return [{"kind": "form", "right": [text]} for _ in prompts]


EXAMPLES = {"tags": _examples}
ON_LOAD = {"match": _check_match, "tags": _check_tags}
