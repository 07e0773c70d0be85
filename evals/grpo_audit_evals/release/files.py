"""Published files of other people's benchmarks, where the user put them. None of them ships with this project."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpo_audit.errors import EvaluationError

VARIABLE = "GRPO_AUDIT_EVAL_DATA"
"""Names the folder where ``evaluation.data`` does not: for lm-eval's own command."""

Row = dict[str, Any]


def folder_of(data_dir: str | None) -> Path:
    """The folder with the files. Raises EvaluationError when nobody has named one, or it does not exist."""
    named = data_dir or os.environ.get(VARIABLE)
    if not named:
        raise EvaluationError(
            "The release suite reads published files, and no folder is named",
            expected="a folder with xstest/, bfcl/, truthfulqa/, gsm8k/ and mgsm/ as published",
            next_step=f"Set evaluation.data in the recipe, or the variable {VARIABLE}",
        )
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise EvaluationError(
            f"There is no folder {folder}", next_step=f"Check evaluation.data, or the variable {VARIABLE}"
        )
    return folder


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Non-empty lines with their numbers, from 1. Raises EvaluationError when the file cannot be read as UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"Cannot read {path}", found=str(error), expected="a UTF-8 text file") from error
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def read_jsonl(path: Path, *fields: str) -> list[Row]:
    """One JSON object a line, each with these fields. Raises EvaluationError with the line that is wrong."""
    rows = []
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number} is no JSON", found=str(error)) from error
        rows.append(_checked(path, number, row, fields))
    return _some(path, rows)


def read_csv(path: Path, *fields: str) -> list[Row]:
    """A CSV file with a header, each row with these columns. Raises EvaluationError with the row that is wrong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [_checked(path, number, row, fields) for number, row in enumerate(csv.DictReader(file), 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"Cannot read {path}", found=str(error), expected="a CSV file in UTF-8") from error
    return _some(path, rows)


def read_tsv(path: Path, columns: int) -> list[list[str]]:
    """Tab-separated values without a header. Raises EvaluationError with the line that is wrong."""
    rows = []
    for number, line in read_lines(path):
        cells = line.rstrip("\r").split("\t")
        if len(cells) != columns:
            raise EvaluationError(
                f"{path}, line {number} has {len(cells)} columns", expected=f"{columns}, separated by tabs"
            )
        rows.append(cells)
    return _some(path, rows)


def _checked(path: Path, number: int, row: object, fields: tuple[str, ...]) -> Row:
    missing = [field for field in fields if not isinstance(row, dict) or row.get(field) is None]
    if not isinstance(row, dict) or missing:
        raise EvaluationError(
            f"{path}, line {number} lacks {', '.join(missing) or 'everything'}",
            expected=f"the fields {', '.join(fields)}, as published",
        )
    return row


def _some(path: Path, rows: list[Any]) -> list[Any]:
    if not rows:
        raise EvaluationError(f"{path} is empty", expected="the file as published")
    return rows
