"""One derived row, and how values are spelled in its columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from grpo_audit.ledger import tables


class ProjectionError(ValueError):
    """The payload contradicts itself, so no row can be derived."""


class Row(NamedTuple):
    """One row: its table and its values by *column* name."""

    table: type[tables.Base]
    values: dict[str, Any]


def text(value: str) -> str:
    """Text as a column can hold it: PostgreSQL refuses NUL, and sqlite3's shell stops at it."""
    return value.replace("\x00", "\N{SYMBOL FOR NULL}") if "\x00" in value else value


def json_text(value: Mapping[str, object]) -> str:
    """One spelling of a JSON object."""
    return text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
