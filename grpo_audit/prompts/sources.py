"""Where rows come from: JSONL, CSV, Parquet, a hub data set. Each reader yields raw rows and where each one stands."""

from __future__ import annotations

import codecs
import csv
import importlib
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

from grpo_audit.errors import PromptError


@dataclass(frozen=True)
class RawRow:
    """One row as the source has it."""

    where: str
    """``line 12`` or ``row 12``, from 1."""
    values: dict[str, Any]


SUFFIXES: Final = (".jsonl", ".csv", ".parquet")


def read_file(data: bytes, path: Path, limit: int | None) -> list[RawRow]:
    """Rows of a file, by its suffix. ``data`` is its content; ``path`` is for the errors.

    Raises PromptError naming file and line: unknown suffix, not UTF-8, malformed row.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PromptError(
            f"Prompt file {path} has an unknown format",
            found=f"the suffix {path.suffix or '(none)'}",
            expected=f"one of {', '.join(SUFFIXES)}",
        )
    return list(itertools.islice(reader(data, path), limit))


def _jsonl(data: bytes, path: Path) -> Iterator[RawRow]:
    # Split at newlines only: str.splitlines would cut at U+2028, which JSON allows inside strings.
    for number, line in enumerate(_text(data, path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            values = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise PromptError(
                f"{path}, {where}, is not JSON", found=_json_problem(error, line), expected="one JSON object a line"
            ) from error
        if not isinstance(values, dict):
            raise PromptError(f"{path}, {where}, is no JSON object", found=_json_kind(values), expected="{...}")
        yield RawRow(where, values)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} twice")
    return values


def _json_problem(error: ValueError | RecursionError, line: str) -> str:
    if isinstance(error, json.JSONDecodeError):
        cut = line[max(error.pos - 15, 0) : error.pos + 15]
        return f"{error.msg.lower()} at column {error.pos + 1}, near {cut!r}"
    return "nesting without end" if isinstance(error, RecursionError) else str(error)


def _json_kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _csv(data: bytes, path: Path) -> Iterator[RawRow]:
    reader = csv.reader(io.StringIO(_text(data, path), newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"line {reader.line_num}"
            if not cells:
                continue
            if header is None:
                header = _csv_header(cells, path, where)
                continue
            if len(cells) != len(header):
                raise PromptError(
                    f"{path}, {where}, is ragged",
                    found=f"{len(cells)} cells",
                    expected=f"{len(header)} as in the header",
                    next_step="Put cells that contain a comma or a line break in double quotes",
                )
            yield RawRow(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise PromptError(f"{path}, line {reader.line_num}, is not CSV", found=str(error)) from error


def _csv_header(cells: list[str], path: Path, where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names:
        raise PromptError(f"{path}, {where}: column {names.index('') + 1} of the header has no name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PromptError(f"{path}, {where}: the header has {twice[0]!r} twice", expected="a name for each column")
    return names


def _parquet(data: bytes, path: Path) -> Iterator[RawRow]:
    pyarrow = _needs("pyarrow", f"Prompt file {path}")
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        table = parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise PromptError(f"{path} is no Parquet file", found=_first_line(error)) from error
    batches = table.to_batches(max_chunksize=1024)
    rows = (values for batch in batches for values in batch.to_pylist())
    for number, values in enumerate(rows, start=1):
        yield RawRow(f"row {number}", values)


def read_hub(name: str, *, split: str, revision: str | None, limit: int | None) -> list[RawRow]:
    """Rows of a hub data set, ``owner/name`` or ``owner/name/configuration``. Raises PromptError."""
    parts = name.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise PromptError(f"Prompt source hub:{name} cannot be read", expected="hub:owner/name")
    datasets = _needs("datasets", f"Prompt source hub:{name}")
    exceptions = importlib.import_module("datasets.exceptions")
    try:
        data = datasets.load_dataset("/".join(parts[:2]), *parts[2:], split=split, revision=revision)
    except (exceptions.DatasetsError, OSError, ValueError) as error:
        raise PromptError(
            f"Prompt source hub:{name} cannot be loaded (split {split}, revision {revision or 'newest'})",
            found=_first_line(error),
            next_step="Check name, split, revision and connection, or use a local file",
        ) from error
    rows = data if limit is None else data.select(range(min(limit, len(data))))
    return [RawRow(f"row {number}", dict(values)) for number, values in enumerate(rows, start=1)]


def _needs(module: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PromptError(
            f"{what} needs the package {module}", next_step="Install it with: pip install 'grpo-audit[train]'"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _text(data: bytes, path: Path) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise PromptError(f"{path} is not UTF-8", found="UTF-16", next_step="Save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PromptError(
            f"{path}, line {line}, is not UTF-8", found=f"byte 0x{data[error.start]:02x}", next_step="Save it as UTF-8"
        ) from error
