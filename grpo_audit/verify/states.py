"""Step (9) for the states of runs: their rows hold the attempt, which only the course of the run tells."""

from __future__ import annotations

from typing import Any

from grpo_audit.ledger.event import Event
from grpo_audit.ledger.projections import ProjectionError, rows
from grpo_audit.ledger.tables import RunStateRow
from grpo_audit.verify.derived import COLUMNS, compare_rows, report_extra
from grpo_audit.verify.reader import DatabaseReader
from grpo_audit.verify.verdict import Tally

_PAGE = 1000


class RunStates:
    """The stored rows of ``run_state`` from event ``begin`` on, beside those that the events give."""

    def __init__(self, reader: DatabaseReader, begin: int, tally: Tally) -> None:
        columns = ", ".join(COLUMNS[RunStateRow])
        self._query = f"SELECT {columns} FROM run_state WHERE seq {{}} ORDER BY seq LIMIT {_PAGE}"
        self._reader = reader
        self._tally = tally
        self._page = reader.fetch(self._query.format(f">= {begin}" if begin else "IS NOT NULL"))
        self._place = 0

    def follow(self, event: Event, attempt: int) -> None:
        """Compare the state that an event brings about."""
        try:
            derived = [values for table, values in rows(event, attempt) if table is RunStateRow]
        except ProjectionError:
            return  # reported where the other rows are compared
        if not derived:
            return
        wanted = [tuple(values[column] for column in COLUMNS[RunStateRow]) for values in derived]
        self._tally.saw(len(wanted))
        found = []
        while (row := self._peek()) is not None and row[0] <= event.seq:
            if row[0] == event.seq:
                found.append(row)
            else:
                report_extra("run_state", row[0], 1, self._tally)
            self._place += 1
        if found != wanted:
            compare_rows(RunStateRow, event.seq, wanted, found, self._tally)

    def finish(self) -> None:
        """Report the rows that nobody took."""
        while (row := self._peek()) is not None:
            report_extra("run_state", row[0], 1, self._tally)
            self._place += 1

    def _peek(self) -> tuple[Any, ...] | None:
        if self._place == len(self._page) == _PAGE:
            self._page = self._reader.fetch(self._query.format(f"> {self._page[-1][0]}"))
            self._place = 0
        return self._page[self._place] if self._place < len(self._page) else None
