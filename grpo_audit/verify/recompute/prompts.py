"""(21) Which prompts each step drew: the order is a pure function of the seed, written here a second time.

Within an epoch the rows stand in the order of SHA-256 of ``SEED:EPOCH:ROW`` (decimal numbers from 0). Rounds of
``prompts_per_step`` draws follow each other without gaps. A round that begins in one epoch and ends in the next is
completed by the first rows of that order that it does not have yet; those it passed over stay where they were.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from dataclasses import dataclass

from grpo_audit.config.run import RunConfig
from grpo_audit.verify.recompute.step import RecordedGroup, RecordedStep
from grpo_audit.verify.verdict import Tally

ROLE = "prompt index"
NAME = "prompts.jsonl"


class Draws:
    """Rounds of prompts, drawn one after the other."""

    def __init__(self, seed: int, rows: int, count: int) -> None:
        self._seed, self._rows, self._count = seed, rows, count
        self._rounds: list[list[tuple[int, int]]] = []
        self._left: deque[int] = deque()
        self._epoch = -1
        self._times: Counter[int] = Counter()

    def round(self, number: int) -> list[tuple[int, int]]:
        """Row and earlier draws of that row, for each prompt of a round (from 0)."""
        while len(self._rounds) <= number:
            self._rounds.append(self._next())
        return self._rounds[number]

    def _next(self) -> list[tuple[int, int]]:
        drawn: list[tuple[int, int]] = []
        held = set[int]()
        passed: list[int] = []
        while len(drawn) < self._count:
            if not self._left:
                held = {row for row, _ in drawn} if self._rows >= self._count else set()
                self._left = self._shuffled()
            row = self._left.popleft()
            if row in held:
                passed.append(row)
                continue
            drawn.append((row, self._times[row]))
            self._times[row] += 1
        self._left.extendleft(reversed(passed))
        return drawn

    def _shuffled(self) -> deque[int]:
        self._epoch += 1
        keys = [hashlib.sha256(f"{self._seed}:{self._epoch}:{row}".encode()).digest() for row in range(self._rows)]
        return deque(sorted(range(self._rows), key=keys.__getitem__))


@dataclass(frozen=True)
class IndexedRow:
    """One row of the prompt set."""

    id: str
    digest: str


def read_index(text: bytes, rows: int, tally: Tally) -> list[IndexedRow] | None:
    """The prompt index; None, and a problem, when it is not what the registration says."""
    tally.saw()
    try:
        entries = [json.loads(line) for line in text.decode().split("\n") if line]
        index = [IndexedRow(str(entry["id"]), str(entry["digest"])) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        tally.wrong(f"the prompt index cannot be read: {type(error).__name__}")
        return None
    if len(index) != rows or len({row.id for row in index}) != len(index):
        tally.wrong(f"the prompt index has {len(index)} rows, the registered prompt set {rows}, each id once")
        return None
    return index


class PromptCheck:
    """Follows the steps of a run."""

    def __init__(self, config: RunConfig, index: list[IndexedRow] | None, tally: Tally) -> None:
        self._tally = tally
        self._index = index
        self._count = config.sampling.prompts_per_step
        self._before = {0: 0}
        self._erased = 0
        self._without = 0
        rows = len(index) if index else 0
        self._draws = Draws(config.seed, rows, self._count) if rows else None

    def follow(self, step: RecordedStep) -> None:
        """Compare the prompts of one step."""
        number, rounds = step.figures.step, step.figures.rounds
        first = self._before.get(number)
        self._before[number + 1] = (first or 0) + rounds
        if self._draws is None or self._index is None:
            return
        if first is None:
            self._tally.wrong(f"{step.name}: the steps before it are missing, so its prompts cannot be known")
            return
        if len(step.groups) != rounds * self._count:
            self._tally.wrong(f"{step.name}: {len(step.groups)} groups in {rounds} rounds of {self._count} prompts")
            return
        for place, group in enumerate(step.groups):
            row, exposure = self._draws.round(first + place // self._count)[place % self._count]
            self._compare(step.name, group, self._index[row], exposure)

    def _compare(self, where: str, group: RecordedGroup, row: IndexedRow, exposure: int) -> None:
        self._tally.saw()
        data = group.data
        if data.prompt_id != row.id:
            self._tally.wrong(
                f"{where}: group {data.group} has prompt {data.prompt_id!r:.60}, the seed draws {row.id!r:.60}"
            )
        elif data.exposure != exposure:
            self._tally.wrong(
                f"{where}: prompt {row.id!r:.60} was drawn {exposure} times before, recorded {data.exposure}"
            )
        fields = group.content.get("fields")
        if fields is None:
            self._erased += 1
        elif "sha256:" + hashlib.sha256(fields + b"\n").hexdigest() != row.digest:
            self._tally.wrong(f"{where}: the row of prompt {row.id!r:.60} is not the registered one")

    def finish(self) -> None:
        """Say what could not be looked at."""
        if self._erased:
            self._tally.remark(f"{self._erased} rows erased: their digest was not compared")
