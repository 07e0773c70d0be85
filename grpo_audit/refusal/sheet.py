"""A sheet of answers for people to label, and the same sheet read back.

Answers are drawn at random within each task, kind (not changed by training, before, after) and verdict, and shuffled.
An answer that training did not change is one item. The sheet says neither which checkpoint
an answer is from nor what the detector thought: the key is the record itself, from which the ids are made again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa

from grpo_audit.errors import EvaluationError
from grpo_audit.record.events import Phase
from grpo_audit.refusal.correction import Kind, Labels, Pair, Stratum
from grpo_audit.refusal.judged import Judgements

LABELS: Final = {"refusal": True, "partial": True, "answer": False}
"""What may stand in a label column, and whether it counts as a refusal."""
_COLUMNS: Final = ("row", "id", "prompt", "response")
_MAX_CELL: Final = 30_000
"""Spreadsheets cut cells at 32,767 characters."""
_MAX_BYTES: Final = 256 << 20
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", " ", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class Item:
    """An answer that may be put on a sheet."""

    id: str
    task: str
    kind: Kind
    doc_id: str
    refusal: bool
    """The detector's verdict."""

    @property
    def phase(self) -> Phase:
        """Where its texts are recorded."""
        return "post" if self.kind == "post" else "pre"


@dataclass(frozen=True)
class Row:
    """What an annotator sees of one answer."""

    id: str
    prompt: str
    response: str


@dataclass(frozen=True)
class Sheet:
    """The labels of a sheet that came back."""

    labels: Mapping[str, bool]
    """By id: whether the answer is a refusal, at least in part."""
    agreement: float | None
    """Cohen's kappa of two annotators; None with one, or where all labels are the same."""
    annotators: int


def items(run_id: str, judgements: Judgements) -> list[Item]:
    """Every answer of the judged tasks, once where training did not change it.

    An id says nothing by itself, and is another one in another record or for another text. 13 characters.
    """
    found: list[Item] = []
    for task in judgements.tasks:
        if judgements.unusable(task.task) is not None:
            continue
        after = judgements.answers(task.task, "post")
        for doc_id, before in judgements.answers(task.task, "pre").items():
            same = before.digest == after[doc_id].digest
            for kind, answer in [("same", before)] if same else [("pre", before), ("post", after[doc_id])]:
                parts = "\0".join((run_id, kind, task.task, doc_id, answer.digest))
                # A letter in front: a spreadsheet takes 12e45678 for a number.
                name = "r" + hashlib.sha256(parts.encode("utf-8")).hexdigest()[:12]
                found.append(Item(name, task.task, cast(Kind, kind), doc_id, answer.opinion.refusal))
    return found


def choose(items: Sequence[Item], num: int, seed: int) -> list[Item]:
    """A random sample of ``num`` answers, as even as can be over task, kind and verdict; shuffled.

    Raises:
        EvaluationError: There is nothing to label, or ``num`` leaves out a kind of answer.
    """
    strata: dict[tuple[str, str, bool], list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.id):
        strata[item.task, item.kind, item.refusal].append(item)
    if not strata:
        raise EvaluationError("There are no answers to label")
    if num < len(strata):
        raise EvaluationError(
            "The sheet is too small",
            found=f"{num} answers",
            expected=f"at least {len(strata)}: one of each task, kind and verdict",
            next_step="Raise --n, or name fewer tasks with --task",
        )
    rng = random.Random(seed)
    chosen: list[Item] = []
    # The smallest first, so that what they cannot use goes to the others.
    for place, key in enumerate(sorted(strata, key=lambda key: (len(strata[key]), key))):
        share = (num - len(chosen)) // (len(strata) - place)
        chosen += rng.sample(strata[key], min(share, len(strata[key])))
    rng.shuffle(chosen)
    return chosen


def write(path: Path, rows: Sequence[Row], *, annotators: int = 1) -> None:
    """Write a sheet as CSV in UTF-8 with a byte order mark, as spreadsheets want it.

    Raises:
        EvaluationError: The file is there already, and may hold somebody's labels; or it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    empty = ["label"] if annotators == 1 else [f"label_{number}" for number in range(1, annotators + 1)]
    writer.writerow([*_COLUMNS, *empty])
    for number, row in enumerate(rows, 1):
        cells = [f"{number} of {len(rows)}", row.id, cell(row.prompt), cell(row.response)]
        writer.writerow([*cells, *([""] * len(empty))])
    try:
        with path.open("x", encoding="utf-8-sig", newline="") as file:
            file.write(text.getvalue())
    except FileExistsError:
        refuse_existing(path)
        raise
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written", found=error.strerror or str(error)) from error


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _place(row: Mapping[str, str]) -> str:
    """Which row, for a message."""
    return _printable(f"{row['row'][:40]}, {row['id'][:40]}")


def refuse_existing(path: Path) -> None:
    """Raise EvaluationError when the file is there already: it may hold somebody's labels."""
    if path.exists() or path.is_symlink():
        raise EvaluationError(f"Refusing to write over {path}: it may hold labels", next_step="Name a new file")


def cell(text: str) -> str:
    """A text as the cell of a spreadsheet: no formula, nothing a terminal or a spreadsheet would act upon."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    shown = "\n".join(map(_printable, lines))
    if len(shown) > _MAX_CELL:
        shown = f"{shown[:_MAX_CELL]}\n[{len(shown) - _MAX_CELL:,} more characters]"
    return "'" + shown if shown.startswith(_FORMULA) else shown


def read(path: Path, known: Iterable[str]) -> Sheet:
    """Read a labelled sheet back.

    One column ``label``, or ``label_1`` and ``label_2`` of two annotators; where those differ, ``label`` decides.

    Args:
        path: The file, with commas, semicolons or tabs, as the spreadsheet saved it.
        known: Ids of the answers of this record.

    Raises:
        EvaluationError: It cannot be read; a row is missing, unknown or twice; a label is missing or unknown.
    """
    rows = _rows(path)
    _complete(path, rows, frozenset(known))
    columns = [name for name in rows[0] if name.startswith("label")]
    single = [name for name in columns if name != "label"]
    if not columns or len(single) not in (0, 2):
        raise EvaluationError(
            f"{path} has no labels",
            found=_printable(", ".join(rows[0])[:200]),
            expected="a column label, or label_1 and label_2",
        )
    for name in single or columns:
        if missing := [row for row in rows if not row[name]]:
            raise EvaluationError(
                f"{path}: {len(missing)} of {len(rows)} answers have no {name}",
                found=f"the first is {_place(missing[0])}",
                expected=", ".join(LABELS),
            )
    if not single:
        return Sheet({row["id"]: _label(path, row, "label") for row in rows}, None, 1)
    pairs = [(_label(path, row, single[0]), _label(path, row, single[1])) for row in rows]
    labels: dict[str, bool] = {}
    for row, (one, other) in zip(rows, pairs, strict=True):
        if one != other and not row.get("label", ""):
            raise EvaluationError(
                f"{path}: the annotators differ on {sum(a != b for a, b in pairs)} answers",
                found=f"the first is {_place(row)}",
                next_step="Settle these in a column named label",
            )
        labels[row["id"]] = one if one == other else _label(path, row, "label")
    return Sheet(labels, _kappa(pairs), 2)


def strata(items: Iterable[Item], labels: Mapping[str, bool]) -> dict[str, Labels]:
    """Labels counted by task, apart for each kind and verdict."""
    counts: dict[tuple[str, str, bool], list[bool]] = defaultdict(list)
    for item in items:
        if item.id in labels:
            counts[item.task, item.kind, item.refusal].append(labels[item.id])

    def pair(task: str, kind: str) -> Pair:
        marked, unmarked = (counts.get((task, kind, verdict), []) for verdict in (True, False))
        return Pair(Stratum(len(marked), sum(marked)), Stratum(len(unmarked), sum(unmarked)))

    tasks = sorted({task for task, _, _ in counts})
    return {task: Labels(pair(task, "same"), pair(task, "pre"), pair(task, "post")) for task in tasks}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise EvaluationError(f"{path} is too large for a sheet", found=f"{path.stat().st_size:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="", restkey="")
        found = [{str(name).strip(): str(value or "").strip() for name, value in row.items()} for row in reader]
        rows = [row for row in found if any(row.values())]
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read", found=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8", next_step="Save it as CSV UTF-8") from error
    except csv.Error as error:
        raise EvaluationError(f"{path} is not CSV", found=str(error)) from error
    if not rows or not {"row", "id"} <= rows[0].keys():
        columns = _printable(", ".join(rows[0])[:200]) if rows else "no rows"
        raise EvaluationError(f"{path} is no labelling sheet", found=columns, expected="columns row, id and label")
    return rows


def _complete(path: Path, rows: Sequence[Mapping[str, str]], known: frozenset[str]) -> None:
    """The whole sheet, of this record, each answer once: a part of a random sample is no random sample."""
    ids = [row["id"] for row in rows]
    if unknown := [name for name in ids if name not in known]:
        raise EvaluationError(
            f"{path} has answers that are not in this record",
            found=f"{len(unknown)} of {len(ids)}, the first is {unknown[0][:40]!r}",
            next_step="Name the run, and with --task the tasks, that the sheet was made from",
        )
    if len(set(ids)) != len(ids):
        double = next(name for name in ids if ids.count(name) > 1)
        raise EvaluationError(f"{path} has an answer twice", found=_printable(double))
    totals = {row["row"].rpartition(" ")[2] for row in rows}
    if totals != {str(len(rows))}:
        raise EvaluationError(
            f"{path} is not the whole sheet",
            found=f"{len(rows)} rows, the first of which calls itself {rows[0]['row'][:40]!r}",
            next_step="Keep every row: the sample is random only as a whole",
        )


def _label(path: Path, row: Mapping[str, str], column: str) -> bool:
    value = row[column].casefold()
    if value not in LABELS:
        raise EvaluationError(
            f"{path}: the {column} of answer {_place(row)}, is none",
            found=repr(row[column][:40]),
            expected=", ".join(LABELS),
        )
    return LABELS[value]


def _kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    table = np.zeros((2, 2))
    for one, other in pairs:
        table[int(one), int(other)] += 1
    if np.count_nonzero(table) == 1 and np.trace(table) == len(pairs):
        return None  # all labels are the same: agreement beyond chance is not defined
    return float(cohens_kappa(table, return_results=False))
