"""Reading where a log begins and ends: its first event, its newest tree head."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, select

from grpo_audit.ledger.batch import Tip
from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, Event, parse
from grpo_audit.ledger.folders import is_project_id
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.notes import NoteError, VerifierKey
from grpo_audit.ledger.storage_errors import damaged
from grpo_audit.ledger.tables import CheckpointRow, EventRow
from grpo_audit.record.events import EventKind, KeyRotated, ProjectCreated


def origin_of(project_id: str) -> str:
    """Origin line of the checkpoints, and the name of the key."""
    return f"grpo-audit/{project_id}"


def parse_stored(seq: int, body: bytes, record: str) -> Event:
    """The event in a stored body. Raises DamagedRecordError."""
    try:
        return parse(body).event
    except (CanonicalError, BodyError) as error:
        raise damaged(record, f"event {seq}: {error}") from error


def read_created(connection: Connection, record: str) -> ProjectCreated:
    """The first event. Raises DamagedRecordError when it does not create a project."""
    row = connection.execute(select(EventRow.seq, EventRow.body).order_by(EventRow.seq).limit(1)).first()
    if row is None:
        raise damaged(record, "no events")
    payload = parse_stored(row.seq, row.body, record).payload
    if not isinstance(payload, ProjectCreated) or not is_project_id(payload.project_id):
        raise damaged(record, f"{payload.kind} as the first event")
    try:
        key = VerifierKey.parse(payload.public_key)
    except NoteError as error:
        raise damaged(record, str(error)) from error
    if key.name != origin_of(payload.project_id):
        raise damaged(record, f"the key is that of {key.name}")
    return payload


def read_tip(connection: Connection, record: str) -> tuple[Tip, bytes]:
    """The newest checkpoint with its note, and the event under it, not verified."""
    checkpoint = connection.execute(
        select(CheckpointRow.size, CheckpointRow.root, CheckpointRow.note, CheckpointRow.frontier)
        .order_by(CheckpointRow.size.desc())
        .limit(1)
    ).first()
    last = connection.execute(select(EventRow.seq, EventRow.leaf_hash).order_by(EventRow.seq.desc()).limit(1)).first()
    if checkpoint is None or last is None or last.seq + 1 != checkpoint.size:
        raise damaged(record, "the newest checkpoint does not cover the newest event")
    try:
        frontier = Frontier.from_bytes(checkpoint.size, checkpoint.frontier)
    except ValueError as error:
        raise damaged(record, str(error)) from error
    if frontier.root() != checkpoint.root:
        raise damaged(record, "the newest checkpoint contradicts itself")
    return Tip(frontier, last.leaf_hash), checkpoint.note


class KeyPeriod(NamedTuple):
    """A key of a project, and where its time begins."""

    from_seq: int
    """The event that puts it in force: the project's creation or a rotation."""
    key: VerifierKey


def keys_in_force(connection: Connection, record: str) -> list[KeyPeriod]:
    """Every key of the project in the order of their times; the last is in force now. No signature is verified.

    The head over the event at ``from_seq`` is signed by this key and by the one before. Raises DamagedRecordError for a
    rotation that does not begin with the key in force.
    """
    created = read_created(connection, record)
    periods = [KeyPeriod(0, VerifierKey.parse(created.public_key))]
    rotations = connection.execute(
        select(EventRow.seq, EventRow.body)
        .where(EventRow.run_id.is_(None), EventRow.kind == EventKind.KEY_ROTATED.value)
        .order_by(EventRow.seq)
    ).all()
    for seq, body in rotations:
        payload = parse_stored(seq, body, record).payload
        newest = periods[-1].key
        if not isinstance(payload, KeyRotated) or payload.old_key != str(newest):
            raise damaged(record, f"event {seq} does not rotate the key in force")
        try:
            key = VerifierKey.parse(payload.new_key)
        except NoteError as error:
            raise damaged(record, f"event {seq}: {error}") from error
        if key.name != newest.name or any(key == period.key for period in periods):
            raise damaged(record, f"event {seq} rotates to a key that cannot follow")
        periods.append(KeyPeriod(seq, key))
    return periods
