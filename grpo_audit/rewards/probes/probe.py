"""What a probe is: one completion for one row, and how a verifier must judge it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class Expect(StrEnum):
    """How a probe must be judged."""

    REJECT = "must not be rewarded"
    ACCEPT = "must be rewarded"
    EITHER = "may be judged either way"
    """Conventions differ; it must be judged, though, and always alike."""


class Kind(StrEnum):
    """What an answer is; it decides which families make sense."""

    NUMBER = "number"
    QUANTITY = "number with a unit"
    LETTER = "letter"
    TEXT = "text"
    EXPRESSION = "expression"
    """Mathematics that is no plain number, in LaTeX or plain notation."""
    JSON = "JSON"
    CODE = "code"
    COUNTDOWN = "Countdown expression"
    LETTERED = "lettered answers"
    """Several questions, a line an answer."""
    FORM = "form"
    """Nothing but the form of the completion is judged."""
    UNKNOWN = "unknown"
    """No right answer is known for the row."""


class Row(Protocol):
    """A row of a prompt set; ``grpo_audit.prompts.loading.Prompt`` is one."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def text(self) -> str:
        """The prompt, as rewards are given it."""

    @property
    def columns(self) -> dict[str, Any]:
        """All other columns; the same names in every row."""


@dataclass(frozen=True, slots=True)
class PlainRow:
    """A row that comes from no prompt set."""

    id: str
    text: str
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Probe:
    """One completion for one row."""

    family: str
    row: int
    """Position of its row among those that are probed."""
    completion: str
    expect: Expect
    note: str
    """What is special about it, in a few words."""
    alone: bool = False
    """Asked in a call of its own: it may take the process down."""
