"""The events of one run with their content, merged by number: one pass, one event in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, Event, parse
from grpo_audit.ledger.packing import unpack
from grpo_audit.record.events import EventKind
from grpo_audit.verify.source import Source, StoredContent

_REPORT_EVERY = 1000


class UnreadableRecordError(Exception):
    """The record cannot be read as far as level L1 needs it; level L0 says where it is broken."""


@dataclass(frozen=True, slots=True)
class Item:
    """One event and what is left of its content."""

    event: Event
    content: Mapping[str, bytes]
    """Plain bytes by name."""

    @property
    def erased(self) -> list[str]:
        """Content that the event names and that is gone."""
        return sorted(self.event.content.keys() - self.content.keys())


def run_items(
    source: Source,
    run_id: str,
    *,
    kinds: Collection[EventKind] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Item]:
    """The events of a run in order, of all kinds unless told which.

    Events of other runs, and those a bundle withholds, are passed over. Digests are not compared: that is level L0,
    which comes first. Raises UnreadableRecordError.
    """
    wanted = None if kinds is None else {kind.value for kind in kinds}
    contents = _Contents(source)
    total = source.count() if progress is not None else 0
    for done, stored in enumerate(source.events(), start=1):
        if progress is not None and (done % _REPORT_EVERY == 0 or done == total):
            progress(done, total)
        if stored.run_id != run_id or (wanted is not None and stored.kind not in wanted):
            continue
        if not isinstance(stored.body, bytes) or not isinstance(stored.seq, int):
            raise UnreadableRecordError(f"event {stored.seq!r} of the run is withheld or has no body")
        try:
            event = parse(stored.body).event
        except (CanonicalError, BodyError) as error:
            raise UnreadableRecordError(f"event {stored.seq}: {error}") from error
        yield Item(event, contents.of(stored.seq) if event.content else {})


class _Contents:
    """Content by event number, asked for in ascending order."""

    def __init__(self, source: Source) -> None:
        self._groups = groupby(source.contents(), key=lambda row: row.seq)
        self._seq, self._rows = self._next()

    def _next(self) -> tuple[int | None, list[StoredContent]]:
        for seq, rows in self._groups:
            if not isinstance(seq, int):
                raise UnreadableRecordError(f"content of event {seq!r}")
            return seq, list(rows)
        return None, []

    def of(self, seq: int) -> dict[str, bytes]:
        """Plain bytes of the content of this event; empty when all of it is gone."""
        while self._seq is not None and self._seq < seq:
            self._seq, self._rows = self._next()
        if self._seq != seq:
            return {}
        try:
            return {str(row.name): unpack(row.encoding, row.data) for row in self._rows}
        except ValueError as error:
            raise UnreadableRecordError(f"content of event {seq}: {error}") from error
