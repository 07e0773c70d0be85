"""The reasoning trace of an answer, told apart from what is said to the user.

lm-eval cuts at one configured token: what stands before it is thrown away, and where it never comes the whole trace is
scored as the answer. Here both parts are kept, and a trace that was never closed leaves no answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = re.compile(
    r"<(?P<slash>/?)(?:think|thinking|thought|reasoning|reflection|analysis)>"  # Qwen, DeepSeek and most others
    r"|\[(?P<mistral>/?)THINK\]"  # Magistral
    r"|<\|(?P<edge>begin|end)_of_thought\|>",  # Sky-T1 and its like
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Parts:
    """A completion in its two parts."""

    trace: str
    """All traces, without their tags."""
    answer: str
    """Everything else."""
    present: bool
    """Whether there is a trace with something in it."""
    closed: bool
    """Whether there is a trace, and none is open at the end."""


def split(text: str) -> Parts:
    """Tell trace and answer apart, in time linear in the text.

    A closing tag that comes first closes a trace that the chat template opened in the prompt. A trace inside a trace
    belongs to the outer one. A closing tag without an open trace is text.
    """
    trace: list[str] = []
    answer: list[str] = []
    position, depth, first = 0, 0, True
    for tag in _TAG.finditer(text):
        piece, position = text[position : tag.start()], tag.end()
        closes = bool(tag["slash"] or tag["mistral"] or tag["edge"] == "end")
        if closes and first:
            trace.append(piece)
        elif closes and depth == 0:
            answer.append(piece + tag.group())
        else:
            (trace if depth else answer).append(piece)
            depth += -1 if closes else 1
        first = False
    (trace if depth else answer).append(text[position:])
    thought = "".join(trace)
    present = bool(thought.strip())
    return Parts(thought, "".join(answer), present, present and depth == 0)


def figures(text: str) -> dict[str, float]:
    """Metrics that say how an answer is built, as 0 or 1, and lengths in characters.

    Token counts and whether an answer hit its limit are no matter of the text: the record has them for each sample.
    """
    parts = split(text)
    return {
        "trace_present": float(parts.present),
        "trace_closed": float(parts.closed),
        "trace_characters": float(len(parts.trace)),
        "answer_present": float(bool(parts.answer.strip())),
        "answer_characters": float(len(parts.answer)),
    }
