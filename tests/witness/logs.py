"""Records to show to witnesses: grown, copied, and gone another way."""

from __future__ import annotations

import shutil
from pathlib import Path

from grpo_audit.ledger.notes import Checkpoint
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.tip import origin_of
from grpo_audit.record.events import Annotation


def remark(value: str) -> NewEvent:
    """An event that a project may always get."""
    return NewEvent(Annotation(author="A. Person", field="note", value=value, reason="a test"), None)


def grow(path: Path, count: int, say: str = "event") -> None:
    """Append ``count`` transactions of one event each; the record is made when there is none."""
    with Project.open(path, mode="create") as project:
        for number in range(count):
            project.append([remark(f"{say} {number}")])


def copy(path: Path, target: Path) -> Path:
    """A closed record is one file."""
    shutil.copy(path, target)
    return target


def head_of(path: Path, size: int | None = None) -> Checkpoint:
    """A head of a record, as a verifier would have it."""
    with Project.open(path, mode="read") as project:
        size, root, _ = project.checkpoint(size)
        return Checkpoint(origin_of(project.project_id), size, root)
