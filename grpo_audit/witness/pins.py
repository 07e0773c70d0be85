"""Which witnesses a project asks, and what each is trusted by: pinned in the user's configuration folder.

One JSON file a project, ``witnesses/<project id>.json``: specification, name, kind and anchor of each.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from grpo_audit.errors import StorageError
from grpo_audit.ledger.folders import config_folder, is_project_id, replace_file


@dataclass(frozen=True)
class Pin:
    """One witness of a project."""

    spec: str
    """As it was added: ``dir:...``, ``tsa:...``, ``git:...``."""
    name: str
    kind: str
    anchor: str
    """What its statements are checked with: a witness key, a CA certificate, a repository."""


_PINS = TypeAdapter(list[Pin])


def read(project_id: str) -> list[Pin]:
    """The witnesses of a project, in the order they were added. Raises StorageError when the file is broken."""
    path = _file(project_id)
    try:
        return _PINS.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"Cannot read the witnesses of the project in {path}",
            found=" ".join(str(error).split())[:200],
            next_step="Restore the file, or remove it and add the witnesses again",
        ) from error


def keep(project_id: str, pin: Pin) -> None:
    """Add a witness, or replace the one of that name. Raises StorageError."""
    _write(project_id, [*(item for item in read(project_id) if item.name != pin.name), pin])


def remove(project_id: str, name: str) -> bool:
    """Forget a witness by name or specification; whether there was one. Raises StorageError."""
    before = read(project_id)
    after = [item for item in before if name not in (item.name, item.spec)]
    if len(after) != len(before):
        _write(project_id, after)
    return len(after) != len(before)


def _write(project_id: str, items: list[Pin]) -> None:
    path = _file(project_id)
    try:
        replace_file(path, json.dumps([asdict(item) for item in items], indent=1, ensure_ascii=False).encode())
    except OSError as error:
        raise StorageError(f"Cannot write {path}", found=error.strerror or str(error)) from error


def _file(project_id: str) -> Path:
    if not is_project_id(project_id):
        raise StorageError("Malformed project id in the record", found=repr(project_id)[:80])
    return config_folder() / "witnesses" / f"{project_id}.json"
