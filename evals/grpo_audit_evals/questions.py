"""What a generation task asks of the engine, and in which batches.

The batches depend on the task, the batch size and nothing else. They are answered whole: what a resumed evaluation
still has to generate, it generates in the very batches of one that was never interrupted, and gets the same bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grpo_audit_evals.checks import LENGTH_KEYS
from grpo_audit_trainer.rollout.answers import shared_tokens

DEFAULT_NEW_TOKENS: Final = 256
"""lm-eval's own limit for tasks that set none."""
SHARE_FROM: Final = 64
"""Common tokens from which on the prompts that share them are kept apart from those that do not."""

MANY: Final = 8
"""So many prompts have to share them."""

Place = tuple[str, int]
"""A document: its task and its position in it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a request is to be answered."""

    stop: tuple[str, ...]
    new_tokens: int

    @classmethod
    def of(cls, request: Any) -> Settings:
        """Of a ``generate_until`` request."""
        options = request.args[1]
        until = options.get("until") or []
        limit = next((options[key] for key in LENGTH_KEYS if options.get(key) is not None), DEFAULT_NEW_TOKENS)
        return cls(tuple([until] if isinstance(until, str) else until), int(limit))


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as the model sees it."""

    place: Place
    ids: list[int]
    settings: Settings


@dataclass(frozen=True, slots=True)
class Batch:
    """Questions with the same length limit that are answered together, ``count`` answers each. Their stop strings may
    differ."""

    questions: tuple[Question, ...]
    first: int
    """Number of the first of these answers, from 0."""
    count: int

    def answers(self) -> Iterator[tuple[Question, int]]:
        """Question and number of each answer, in the engine's order."""
        return ((question, self.first + index) for question in self.questions for index in range(self.count))


def batches(questions: Sequence[Question], samples: int, rows: int) -> Iterator[Batch]:
    """All answers to all questions, at most ``rows`` at a time, prompts of like length together."""
    groups: dict[int, list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.settings.new_tokens].append(question)
    together = min(samples, rows)
    for group in groups.values():
        for alike in _by_beginning(group):
            ordered = sorted(alike, key=lambda question: len(question.ids))
            for start in range(0, len(ordered), rows // together):
                chosen = tuple(ordered[start : start + rows // together])
                for first in range(0, samples, together):
                    yield Batch(chosen, first, min(together, samples - first))


def _by_beginning(questions: list[Question]) -> list[list[Question]]:
    """Apart those that begin alike (the same examples), if they are many: the engine reads once what all prompts of a
    batch begin with."""
    beginnings: dict[tuple[int, ...], list[Question]] = defaultdict(list)
    for question in questions:
        beginnings[tuple(question.ids[:SHARE_FROM])].append(question)
    many = {begin for begin, members in beginnings.items() if len(begin) == SHARE_FROM and len(members) >= MANY}
    others = [question for question in questions if tuple(question.ids[:SHARE_FROM]) not in many]
    parts = [part for begin in beginnings if begin in many for part in _by_most(beginnings[begin])]
    return [*parts, others] if others else parts


def _by_most(questions: list[Question]) -> list[list[Question]]:
    """Apart those that go on as at least half of all do."""
    ordered = sorted(question.ids for question in questions)
    quarter = len(ordered) // 4
    shared = shared_tokens(ordered[quarter], ordered[-1 - quarter])
    prefix = ordered[quarter][:shared]
    parts: tuple[list[Question], list[Question]] = ([], [])
    for question in questions:
        parts[question.ids[:shared] != prefix].append(question)
    return [part for part in parts if part]
