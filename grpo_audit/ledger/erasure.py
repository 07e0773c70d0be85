"""Removing content on purpose: the event that says so, and the rows that go, in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, delete, select

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.event import NewEvent
from grpo_audit.ledger.tables import ContentRow, EventRow
from grpo_audit.ledger.tip import parse_stored
from grpo_audit.record.events import ErasedContent, Erasure

Items = Sequence[tuple[int, Collection[str]]]
"""Sequence numbers of events, each with the names of the contents to erase."""


class ErasureRefusedError(ConfigError):
    """Something that cannot be erased was named; nothing was."""


def wanted(items: Items) -> dict[int, list[str]]:
    """Names by event, in order, each once. Raises ErasureRefusedError when nothing is named."""
    merged: dict[int, set[str]] = {}
    for seq, names in items:
        merged.setdefault(seq, set()).update([names] if isinstance(names, str) else names)
    if not merged or not all(merged.values()):
        raise ErasureRefusedError("Nothing was named to be erased", expected="events with names of their contents")
    return {seq: sorted(merged[seq]) for seq in sorted(merged)}


def compose(
    connection: Connection, run_id: str, names: Mapping[int, list[str]], *, author: str, reason: str, record: str
) -> list[NewEvent]:
    """The erasure's event, once everything named is found to be there and of this run. Raises ErasureRefusedError."""
    for seq, gone in names.items():
        row = connection.execute(select(EventRow.run_id, EventRow.body).where(EventRow.seq == seq)).first()
        if row is None or row.run_id != run_id:
            of = "there is no such event" if row is None else f"it belongs to {row.run_id or 'the project'}"
            raise ErasureRefusedError(f"Event {seq} is none of run {run_id}", found=of, next_step="Nothing was erased")
        named = parse_stored(seq, row.body, record).content
        there = set(connection.execute(select(ContentRow.name).where(ContentRow.seq == seq)).scalars())
        for name in gone:
            if name not in named:
                raise ErasureRefusedError(
                    f"Event {seq} has no content {name}",
                    expected=f"one of {', '.join(sorted(named))}" if named else "an event with content",
                    next_step="Nothing was erased",
                )
            if name not in there:
                raise ErasureRefusedError(
                    f"Content {name} of event {seq} is gone already", next_step="Nothing was erased"
                )
    contents = [ErasedContent(seq=seq, names=gone) for seq, gone in names.items()]
    return [NewEvent(Erasure(author=author, reason=reason, contents=contents), run_id)]


def remove(connection: Connection, names: Mapping[int, list[str]]) -> None:
    """Delete text and salt."""
    for seq, gone in names.items():
        connection.execute(delete(ContentRow).where(ContentRow.seq == seq, ContentRow.name.in_(gone)))
