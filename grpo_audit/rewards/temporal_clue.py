"""Deduction puzzles in the format of Temporal Clue (OpenPipe): several lettered questions, one line an answer.

The reward is the share of questions answered rightly. As in the original grader the last line of a letter counts;
unlike there the whole line must be the answer, so that naming two suspects earns nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from grpo_audit.rewards.answers import fold, squeeze

KIND = "verifier"
VERSION = "1"
DOMAIN = "deduction puzzles with lettered questions (Temporal Clue)"

MAX_LINE: Final = 200
_LINE: Final = re.compile(r"[ \t*_>#-]*\(?([A-Z])[.):][*_ \t]*(\S.*)")
_TIME: Final = re.compile(r"\b0?([1-9]|1[0-2]):([0-5][0-9]) ?([ap])\.?m\.?(?![a-z])")


def score(completions: list[str], solution: list[Any]) -> list[float | Exception | None]:
    """Share of the questions of each row that are answered rightly, 0.0 to 1.0.

    Args:
        completions: one text a row, with lines such as ``A. Miss Scarlet``.
        solution: a column with a mapping of letters to answers (or JSON text of one). None: does not apply.
    """

    def judge(completion: str, given: Any) -> float | Exception | None:
        if given is None:
            return None
        try:
            wanted = _solution(given)
        except ValueError as error:
            return error
        found = answers(completion)
        return sum(found.get(letter) == _same(answer) for letter, answer in wanted.items()) / len(wanted)

    return [judge(text, given) for text, given in zip(completions, solution, strict=True)]


def answers(completion: str) -> dict[str, str]:
    """The last answer to each letter, made comparable. A reasoning block that ends with ``</think>`` is left out."""
    found: dict[str, str] = {}
    for line in completion.rpartition("</think>")[2].splitlines():
        match = _LINE.fullmatch(line[: MAX_LINE + 1]) if len(line) <= MAX_LINE else None
        if match:
            found[match.group(1)] = _same(match.group(2))
    return found


def _same(text: str) -> str:
    text = squeeze(fold(text)).strip("*_ ").removesuffix(".").casefold()
    return _TIME.sub(lambda time: f"{int(time[1]):02d}:{time[2]} {time[3]}m", text)


def _examples(solution: list[Any]) -> list[object]:
    """For the probes: all answers right, and all wrong."""
    from grpo_audit.rewards.examples import lettered

    return [None if given is None else lettered(_solution(given)) for given in solution]


EXAMPLES = {"score": _examples}


def _solution(given: Any) -> dict[str, str]:
    """Raises ValueError."""
    if isinstance(given, str):
        given = json.loads(given)
    if not isinstance(given, Mapping):
        raise ValueError("the solution is no mapping of letters to answers")
    # A table with one column a letter fills what a row lacks with null.
    wanted = {str(letter): str(answer) for letter, answer in given.items() if answer is not None}
    if not wanted or not all(re.fullmatch("[A-Z]", letter) and _same(text) for letter, text in wanted.items()):
        raise ValueError("the solution has no questions, or a letter that is none of A to Z, or an empty answer")
    return wanted
