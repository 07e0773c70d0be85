"""The forms in which models are taught to give an answer. Which of them a source reads is found by trying."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

THOUGHT: Final = "Let us look at this step by step."
"""Reasoning without a number, a name or a letter of its own."""


@dataclass(frozen=True, slots=True)
class Format:
    """What stands before and after the answer."""

    name: str
    before: str = ""
    after: str = ""
    with_trace: bool = False
    """Whether a reasoning block comes first."""

    @property
    def is_container(self) -> bool:
        """Whether the answer is fenced in on both sides by marks of its own."""
        return bool(self.before) and bool(self.after) and self.name not in ("sentence",)

    def of(self, answer: str) -> str:
        """A completion that gives this answer."""
        return (trace(THOUGHT) if self.with_trace else "") + self.bare(answer)

    def bare(self, answer: str) -> str:
        """The same without the reasoning block."""
        return f"{self.before}{answer}{self.after}"

    def without_trace(self) -> Format:
        """The same form without the reasoning block."""
        return replace(self, with_trace=False)


def trace(thoughts: str) -> str:
    """A reasoning block, to stand before an answer."""
    return f"<think>\n{thoughts}\n</think>\n"


PLAIN: Final = (
    Format("tag", "<answer>", "</answer>"),
    Format("boxed", "\\boxed{", "}"),
    Format("fence", "```\n", "\n```"),
    Format("fence-python", "```python\n", "\n```"),
    Format("fence-json", "```json\n", "\n```"),
    Format("sentence-boxed", "The final answer is $\\boxed{", "}$."),
    Format("hash", "#### "),
    Format("colon", "Answer: "),
    Format("sentence", "The answer is ", "."),
    Format("whole"),
)
"""In order of preference: what marks the answer most clearly first."""
WITH_TRACE: Final = tuple(Format(f"think-{plain.name}", plain.before, plain.after, with_trace=True) for plain in PLAIN)
"""The same behind a reasoning block, for sources that want one."""
WHOLE: Final = PLAIN[-1]
