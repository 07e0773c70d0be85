"""Asking a source: in batches while it behaves, row by row when a call fails, and no more once it keeps hanging."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from grpo_audit.rewards.probes.probe import Row
from grpo_audit.rewards.process import CallFailed
from grpo_audit.rewards.sources import Batch, Outcome, RewardSource

PATIENCE: Final = 6
"""Calls that may hang or end the process; then nothing more is asked. Each may cost the source's time limit."""
PATIENCE_AT_ONCE: Final = 2
"""Of these, those of one ``ask``: then the point is made, and the rest of it is not asked."""
_BATCH: Final = 64
_SHARE: Final = 0.2
"""Share of the time limit that a batch should take."""
_SMALL: Final = 1 << 21
"""Characters of a batch."""


class Asker:
    """Calls one source and keeps count of time and hangs."""

    def __init__(self, source: RewardSource, rows: Sequence[Row]) -> None:
        self._source = source
        self._rows = rows
        self._names = list(dict.fromkeys(name for row in rows for name in row.columns))
        self.asked = 0
        """Completions."""
        self.seconds = 0.0
        self.worst = 0.0
        """Seconds of the slowest completion; of a batch, its mean."""
        self.hangs = 0

    @property
    def gave_up(self) -> bool:
        """Whether it hung too often."""
        return self.hangs >= PATIENCE

    def batch(self, items: Sequence[tuple[int, str]]) -> Batch:
        """Rows (by position) and completions as a source is given them."""
        rows = [self._rows[index] for index, _ in items]
        columns = {name: [row.columns.get(name) for row in rows] for name in self._names}
        return Batch([row.text for row in rows], [text for _, text in items], columns)

    def ask(self, items: Sequence[tuple[int, str]], *, alone: bool = False) -> list[Outcome | None]:
        """One outcome for each completion; None for those that were not asked any more."""
        found: list[Outcome | None] = []
        size = 1 if alone else self._size()
        start, before = 0, self.hangs
        while start < len(items):
            if self.hangs - before >= PATIENCE_AT_ONCE:
                return found + [None] * (len(items) - start)
            chunk = items[start : start + size]
            while len(chunk) > 1 and sum(len(text) for _, text in chunk) > _SMALL:
                chunk = chunk[: len(chunk) // 2]
            found += self._chunk(chunk)
            start += len(chunk)
        return found

    def _size(self) -> int:
        if not self.asked:
            return _BATCH
        each = self.seconds / self.asked
        return max(1, min(_BATCH, int(_SHARE * self._source.config.time_limit_s / max(each, 1e-6))))

    def _chunk(self, items: Sequence[tuple[int, str]]) -> list[Outcome | None]:
        if self.gave_up:
            return [None] * len(items)
        try:
            return list(self._call(items))
        except CallFailed as error:
            if is_hang(str(error)):
                self.hangs += 1
            if len(items) == 1:
                return [Outcome(None, str(error))]
        return [outcome for item in items for outcome in self._chunk([item])]

    def _call(self, items: Sequence[tuple[int, str]]) -> list[Outcome]:
        batch = self.batch(items)
        self._source.wake()
        begin = time.monotonic()
        try:
            return self._source.ask(batch)
        finally:
            passed = time.monotonic() - begin
            self.asked += len(items)
            self.seconds += passed
            self.worst = max(self.worst, passed / len(items))


def is_hang(error: str | None) -> bool:
    """Whether an error means that the call did not come back: it took too long, or its process ended."""
    return error is not None and error.startswith(("took longer than", "the process", "disturbed the connection"))
