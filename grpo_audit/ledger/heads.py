"""Signed tree heads and leaf hashes: what a witness or a proof needs, and the statements of witnesses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select

from grpo_audit.errors import StorageError
from grpo_audit.ledger.storage_errors import damaged
from grpo_audit.ledger.store import Store
from grpo_audit.ledger.tables import CheckpointRow, EventRow, WitnessRow

_PAGE = 10_000


class SignedHead(NamedTuple):
    """A tree head with its signed note, as stored: nothing about it is verified."""

    size: int
    root: bytes
    note: bytes


def signed_head(connection: Connection, size: int | None, record: str) -> SignedHead:
    """The head over ``size`` events, or the newest. Raises StorageError when there is none of that size."""
    query = select(CheckpointRow.size, CheckpointRow.root, CheckpointRow.note)
    query = (
        query.order_by(CheckpointRow.size.desc()).limit(1) if size is None else query.where(CheckpointRow.size == size)
    )
    row = connection.execute(query).first()
    if row is not None:
        return SignedHead(*row)
    if size is None:
        raise damaged(record, "no checkpoint")
    raise StorageError(
        f"{record} has no tree head over {size} events", next_step="Heads stand at the end of each transaction"
    )


def leaf_hashes(store: Store, start: int, stop: int) -> Iterator[bytes]:
    """Leaf hashes of the events with start <= seq < stop, as stored, page by page.

    Raises DamagedRecordError when one is missing: a proof over what is left would be about another tree.
    """
    while start < stop:
        with store.connect() as connection:
            page = connection.execute(
                select(EventRow.seq, EventRow.leaf_hash)
                .where(EventRow.seq >= start, EventRow.seq < min(stop, start + _PAGE))
                .order_by(EventRow.seq)
            ).all()
        for seq, leaf_hash in page:
            if seq != start:
                break
            yield leaf_hash
            start += 1
        if not page or start != page[-1].seq + 1:
            raise damaged(store.name, f"event {start} is missing")


def keep_statement(store: Store, *, size: int, name: str, kind: str, statement: bytes, at: str) -> None:
    """Keep what a witness said of the head over ``size`` events, in place of what it said of that head before.

    A transaction of its own. Raises StorageError, also when there is no such head.
    """
    with store.transaction() as connection:
        signed_head(connection, size, store.name)
        connection.execute(delete(WitnessRow).where(WitnessRow.size == size, WitnessRow.name == name))
        connection.execute(insert(WitnessRow).values(size=size, name=name, kind=kind, statement=statement, at=at))
