"""Rows as plain values and canonical bytes: what rewards see is what the digest covers and the record can show."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from grpo_audit.errors import PromptError


class Row(Protocol):
    """What the digest covers of a row."""

    @property
    def id(self) -> str:
        """Id of the row."""

    @property
    def text(self) -> str:
        """The prompt as text."""

    @property
    def messages(self) -> list[dict[str, str]] | None:
        """The prompt as chat messages, when it was given so."""

    @property
    def columns(self) -> dict[str, object]:
        """Everything else."""


def plain(value: object, column: str, place: str) -> object:
    """A value as JSON can hold it.

    Dates and times become ISO 8601 text, decimals, durations and UUIDs text, bytes hexadecimal text, NaN and
    infinities None. Raises PromptError for anything else; ``place`` names file and row.
    """
    try:
        return _plain(value, column, place)
    except RecursionError as error:
        raise PromptError(f"{place}: column {column!r} is nested too deeply") from error


def _plain(value: object, column: str, place: str) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return check_text(value, column, place)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID | timedelta):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [_plain(item, column, place) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, column, place) for key, item in value.items()}
    raise PromptError(
        f"{place}: column {column!r} holds a value of type {type(value).__name__}",
        expected="text, numbers, lists or mappings",
        next_step="Remove the column or convert it",
    )


def check_text(value: str, column: str, place: str) -> str:
    """The text itself. Raises PromptError when it holds half a surrogate pair, which no UTF-8 text can."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{place}: column {column!r} is no valid Unicode text",
            found=f"the lone surrogate U+{ord(value[error.start]):04X}",
        ) from error
    return value


def canonical_row(row: Row) -> bytes:
    """The bytes of a row that the digest covers.

    One line of JSON with the keys ``columns``, ``id`` and ``prompt`` (the string, or the list of messages); keys
    sorted, no blanks, UTF-8 with no escapes beyond those JSON demands, ended by a newline.
    """
    return row_fields(row) + b"\n"


def row_fields(row: Row) -> bytes:
    """The same without the newline: content ``fields`` of a group in the record, which lets rewards be run again."""
    entry: dict[str, Any] = {"id": row.id, "prompt": row.messages or row.text, "columns": row.columns}
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def index_lines(rows: Iterable[Row]) -> bytes:
    """The prompt index: one line of JSON a row in order, ``{"digest":...,"id":...}``, the digest being the SHA-256 of
    the canonical row. With it an auditor recomputes which prompts a step drew, without the prompts themselves."""
    lines = []
    for row in rows:
        entry = {"digest": "sha256:" + hashlib.sha256(canonical_row(row)).hexdigest(), "id": row.id}
        lines.append(json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
    return b"".join(lines)


def rows_digest(rows: Iterable[Row]) -> str:
    """SHA-256 over the canonical rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_row(row))
    return "sha256:" + digest.hexdigest()
