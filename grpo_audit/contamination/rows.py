"""Rows of a file, one after the other: a prompt set of a million rows is never in memory."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from grpo_audit.errors import PromptError

USUAL_FIELDS: Final = ("prompt", "question", "problem", "instruction", "input", "query", "text")


@dataclass(frozen=True)
class Row:
    """One row."""

    id: str
    """Its field ``id``, else its line or number, from 1."""
    text: str
    line: str
    """The row as one line of JSON; of a JSONL file its own."""


def rows(path: Path, field: str | None = None) -> Iterator[Row]:
    """Rows of a JSONL, CSV, TSV (one text a line, first column) or Parquet file.

    ``field`` holds the text; by default the first of the usual names that the first row has. Chat messages are joined.
    Raises PromptError naming file and line.
    """
    readers = {".jsonl": _jsonl, ".json": _jsonl, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PromptError(f"{path} has an unknown format", expected=f"one of {', '.join(readers)}")
    if not path.is_file():
        raise PromptError(f"There is no file {path}")
    try:
        for number, (values, line) in enumerate(reader(path), start=1):
            field = field or _field(path, values)
            if field not in values:
                raise PromptError(
                    f"{path}, row {number}, has no field {field!r}",
                    found=", ".join(map(str, list(values)[:8])) or "none",
                    next_step="Name the field that holds the text with --field",
                )
            yield Row(str(values.get("id", number)), _text(values[field]), line)
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8", found=f"byte 0x{error.object[error.start]:02x}") from error
    except OSError as error:
        raise PromptError(f"{path} cannot be read", found=error.strerror or str(error)) from error


def _field(path: Path, values: dict[str, Any]) -> str:
    known = {str(name).lower(): name for name in reversed(values)}
    for name in USUAL_FIELDS:
        if name in known:
            return known[name]
    raise PromptError(
        f"{path}: which field holds the text?",
        found=", ".join(map(str, list(values)[:8])),
        next_step="Name it with --field",
    )


def _text(value: object) -> str:
    """Text as it is; of chat messages, however nested, every content."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _text(value.get("content", ""))
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    return "" if value is None else str(value)


_Read = Iterator[tuple[dict[str, Any], str]]


def _jsonl(path: Path) -> _Read:
    with path.open(encoding="utf-8", newline="\n") as file:  # splitting at U+2028 would cut strings
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = _json(line)
            except (ValueError, RecursionError) as error:
                raise PromptError(f"{path}, line {number}, is not JSON", expected="one JSON object a line") from error
            if not isinstance(values, dict):
                raise PromptError(f"{path}, line {number}, is no JSON object", expected="{...}")
            yield values, line.rstrip("\n")


def _json(line: str) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:  # stricter than json: NaN, for one, and integers of more than 64 bits
        return json.loads(line)


def _csv(path: Path) -> _Read:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for values in csv.DictReader(file, strict=True):
                yield values, _as_line(values)
        except csv.Error as error:
            raise PromptError(f"{path} is not CSV", found=str(error)) from error


def _tsv(path: Path) -> _Read:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            if line.strip():
                values = {"text": line.rstrip("\n").split("\t")[0]}
                yield values, _as_line(values)


def _parquet(path: Path) -> _Read:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        pyarrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise PromptError(f"{path} needs the package pyarrow", next_step="pip install 'grpo-audit[train]'") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                yield values, _as_line(values)
    except pyarrow.ArrowException as error:
        raise PromptError(f"{path} is no Parquet file", found=str(error).splitlines()[0][:200]) from error


def _as_line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, default=str)
