"""A comparison as one self-contained page: the look, the escaping and the content policy of the release report."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

import grpo_audit
from grpo_audit.errors import StorageError
from grpo_audit.record.events import TaskComparison, Verdict
from grpo_audit.report.model import Standing
from grpo_audit.report.render import PACKAGE, html_environment, write_file
from grpo_audit.report.visible import Excerpt, excerpt
from grpo_audit.stats.versus import Column, Example, Versus, label

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_STANDING = {
    Verdict.IMPROVED: Standing.GOOD,
    Verdict.NOT_WORSE: Standing.QUIET,
    Verdict.REGRESSED: Standing.BAD,
    Verdict.INCONCLUSIVE: Standing.OPEN,
    Verdict.NO_DISCORDANT_PAIRS: Standing.QUIET,
}


@dataclass(frozen=True)
class PageExample:
    """A flipped document with its texts cut for display."""

    example: Example
    prompt: Excerpt | None
    before: Excerpt | None
    after: Excerpt | None


@dataclass(frozen=True)
class PageColumn:
    """One comparison with its letter."""

    letter: str
    name: str
    column: Column
    flips: tuple[tuple[str, int, int], ...]
    """By task: how many got better and how many worse."""
    examples: tuple[PageExample, ...]


def render_page(found: Versus) -> str:
    """The page as one HTML document without scripts or remote parts."""
    style = resources.files(PACKAGE).joinpath("report.css").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    columns = [_column(letter, column) for letter, column in zip(LETTERS[1:], found.columns, strict=False)]
    rows = zip(*(column.result.comparison.tasks for column in found.columns), strict=True)
    return (
        html_environment()
        .get_template("compare.html.j2")
        .render(
            found=found,
            baseline=label(found.baseline),
            columns=columns,
            rows=list(rows),
            standing=_standing,
            style=Markup(style),
            style_hash=f"sha256-{digest}",
            version=grpo_audit.__version__,
        )
    )


def write_page(found: Versus, path: Path) -> None:
    """Write the page; a reader never sees half of it. Raises StorageError when the file cannot be written."""
    data = render_page(found).encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
    except OSError as error:
        raise StorageError(
            f"Cannot write the page {path}",
            found=error.strerror or str(error),
            next_step="Name a file that can be written with --html",
        ) from error


def _standing(row: TaskComparison) -> str:
    return _STANDING[row.verdict].value


def _column(letter: str, column: Column) -> PageColumn:
    counted = []
    for task, flips in groupby(sorted(column.result.flips, key=lambda flip: flip.task), key=lambda flip: flip.task):
        better = [flip.improved for flip in flips]
        counted.append((task, sum(better), len(better) - sum(better)))
    return PageColumn(
        letter=letter,
        name=label(column.evaluated),
        column=column,
        flips=tuple(counted),
        examples=tuple(
            PageExample(example, *(_cut(text) for text in (example.prompt, example.before, example.after)))
            for example in column.examples
        ),
    )


def _cut(text: str | None) -> Excerpt | None:
    return None if text is None else excerpt(text)
