"""Statements that a record keeps, for those who hand its heads on."""

from __future__ import annotations

from sqlalchemy import select

from grpo_audit.ledger.notes import NoteError
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.tables import WitnessRow
from grpo_audit.witness import directory
from grpo_audit.witness.cosignature import Cosignature


def cosigned_note(project: Project, size: int, note: bytes) -> bytes:
    """The note with the cosignatures that are kept of this head under it; none of them is verified here."""
    with project.session() as session:
        lines = session.scalars(
            select(WitnessRow.statement)
            .where(WitnessRow.size == size, WitnessRow.kind == directory.KIND)
            .order_by(WitnessRow.name)
        ).all()
    return note + b"".join(line for line in lines if _is_cosignature(line))


def newest_cosigned(project: Project, *, at_least: int) -> int | None:
    """Size of the newest head that has a cosignature and covers this many events."""
    with project.session() as session:
        return session.scalar(
            select(WitnessRow.size)
            .where(WitnessRow.size >= at_least, WitnessRow.kind == directory.KIND)
            .order_by(WitnessRow.size.desc())
            .limit(1)
        )


def _is_cosignature(line: bytes) -> bool:
    try:
        Cosignature.parse(line)
    except NoteError:
        return False
    return True
