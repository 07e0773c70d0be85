"""Rows that stand outside of every segment: before the first event, after the last, or at no number at all."""

from __future__ import annotations

from grpo_audit.verify.derived import SEGMENTED, report_extra
from grpo_audit.verify.reader import DatabaseReader
from grpo_audit.verify.steps import CONTENT, HEADS, NUMBERING, PROJECTIONS
from grpo_audit.verify.verdict import Tally

_NAMED = 3


def rows_outside(reader: DatabaseReader, stop: int, tallies: list[Tally], *, is_new: bool) -> list[int]:
    """Report such rows; the sizes of the checkpoints that speak of more than ``stop`` events.

    An incremental verification looks behind the last event only; before the first there is nothing new.
    """
    for table, tally in (
        ("event", tallies[NUMBERING]),
        ("content", tallies[CONTENT]),
        *((table.__tablename__, tallies[PROJECTIONS]) for table in SEGMENTED),
    ):
        # SQLite orders numbers before texts and blobs, so whatever is no number lies behind
        conditions = [f"seq >= {stop}"] if is_new else [f"seq >= {stop}", "seq < 0"]
        for condition in conditions:
            (count,) = reader.fetch(f"SELECT count(*) FROM {table} WHERE {condition}")[0]
            for (seq,) in reader.fetch(f"SELECT seq FROM {table} WHERE {condition} ORDER BY seq LIMIT {_NAMED}"):
                count -= 1
                if table == "event":
                    tally.wrong(f"event {seq!r:.40} stands where no event belongs")
                else:
                    report_extra(table, seq, 1, tally)
            if count:
                tally.wrong(f"{table}: rows that no event gives", count)
    for (size,) in reader.fetch(f"SELECT size FROM checkpoint WHERE size <= 0 LIMIT {_NAMED}"):
        tallies[HEADS].wrong(f"checkpoint {size} stands at no event")
    return [size for (size,) in reader.fetch(f"SELECT size FROM checkpoint WHERE size > {stop} ORDER BY size")]
