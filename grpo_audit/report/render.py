"""Report data into files: one self-contained ``report.html``, a ``MODEL_CARD.md`` for the Hub, and ``report.json``."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import grpo_audit
from grpo_audit.errors import StorageError
from grpo_audit.report import numbers
from grpo_audit.report.card import front_matter
from grpo_audit.report.curves import training_figures
from grpo_audit.report.escape import finalize, markdown, markdown_block, markdown_code, visible_html
from grpo_audit.report.evidence import MEANING, Source
from grpo_audit.report.figures import release_figures
from grpo_audit.report.files import CARD_NAME, DATA_NAME, HTML_NAME, render_data
from grpo_audit.report.model import CoverageRow, ReleaseRow, ReportData, Standing

PACKAGE = "grpo_audit_templates"

SECTIONS: tuple[tuple[str, str], ...] = (
    ("release", "Release results"),
    ("gates", "Gates"),
    ("beside", "Beside the headline"),
    ("others", "Against other runs"),
    ("findings", "Findings"),
    ("training", "Training"),
    ("examples", "Examples"),
    ("method", "Method"),
    ("rewards", "Rewards"),
    ("prompts", "Prompts"),
    ("rejected", "Rejected samples"),
    ("exploits", "Known exploits"),
    ("contamination", "Contamination"),
    ("budget", "Budget"),
    ("lineage", "Lineage"),
    ("environment", "Environment"),
    ("governance", "Governance"),
    ("runs", "Runs"),
    ("coverage", "Coverage"),
    ("record", "Record"),
    ("limits", "Limits"),
    ("evidence", "Evidence index"),
)
"""Anchor and name of each section, in order."""

_GLYPHS = {Standing.GOOD: "▲", Standing.BAD: "▼", Standing.OPEN: "◇", Standing.QUIET: "●"}
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(Z|\+00:00)")


@dataclass(frozen=True)
class ReportPaths:
    """Where the files are."""

    html: Path
    card: Path
    data: Path


def render(data: ReportData, folder: Path) -> ReportPaths:
    """Write the page, the card and the data behind both into ``folder``. Same data, same bytes; a reader never sees
    half a file.

    Raises StorageError when the folder cannot be written.
    """
    paths = ReportPaths(folder / HTML_NAME, folder / CARD_NAME, folder / DATA_NAME)
    texts = {paths.html: render_html(data), paths.card: render_card(data), paths.data: render_data(data)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            write_file(path, text.encode("utf-8"))
    except OSError as error:
        raise StorageError(
            f"Cannot write the report into {folder}",
            found=error.strerror or str(error),
            next_step="Name a folder that can be written, or free some space",
        ) from error
    return paths


def render_html(data: ReportData) -> str:
    """The report as one HTML document without scripts or remote parts."""
    style = resources.files(PACKAGE).joinpath("report.css").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        html_environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            style=Markup(style),
            style_hash=f"sha256-{digest}",
            sections=[item for item in SECTIONS if item[0] != "others" or data.others],
            evidence=list(MEANING.items()),
            release_figures=release_figures(data),
            training_figures=training_figures(data),
            version=grpo_audit.__version__,
        )
    )


def render_card(data: ReportData, mark: str = "", beside: tuple[tuple[str, str], ...] = ()) -> str:
    """The model card: front matter by a YAML library, body by a template with Markdown escaping.

    ``mark`` says why this is the card of no release. ``beside`` names the files of an export and what each is; without
    it the card stands beside ``report.html``.
    """
    template = _card_environment().get_template("card.md.j2")
    body = template.render(data=data, mark=mark, beside=beside, version=grpo_audit.__version__)
    return f"---\n{front_matter(data, mark)}---\n\n{body.strip()}\n"


@lru_cache(maxsize=1)
def html_environment() -> Environment:
    """Of every page: everything is escaped, and a forgotten value is an error."""
    environment = Environment(
        loader=PackageLoader(PACKAGE, ""),
        autoescape=True,  # select_autoescape() would leave .html.j2 unescaped
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters.update(
        visible=visible_html,
        svg=_svg,
        data=_data,
        delta=_delta,
        p=_probability,
        evidence_title=_evidence_title,
        glyph=_glyph,
        groups=_groups,
        moment=moment,
        setting=numbers.significant,
        whole=numbers.whole,
        share=numbers.share,
        duration=numbers.duration,
        powers=numbers.powers,
        energy=numbers.energy,
        size=numbers.size,
    )
    return environment


@lru_cache(maxsize=1)
def _card_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE, ""),
        autoescape=True,  # by ``finalize`` into Markdown first; what that made is marked and left alone
        undefined=StrictUndefined,
        finalize=_markdown_unless_marked,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        code=markdown_code,
        block=markdown_block,
        moment=moment,
        event=lambda seq: Markup(f"\\#{int(seq)}"),
        n=_in_card(numbers.whole),
        number=_in_card(numbers.figure),
        change=_in_card(numbers.signed),
        p=_in_card(numbers.probability),
        setting=_in_card(numbers.significant),
        duration=_in_card(numbers.duration),
        powers=_in_card(numbers.powers),
    )
    return environment


def _in_card(write: Callable[[Any], str]) -> Callable[[float | None], Markup]:
    """A number filter of the card: a missing number is said to be missing; digits need no escaping."""

    def written(value: float | None) -> Markup:
        if value is None:
            return Markup("*not recorded*")
        return Markup(write(value).replace("<", "&lt;"))

    return written


def _markdown_unless_marked(value: object) -> object:
    """Escape every printed value for Markdown, unless a filter of ours has made Markdown of it."""
    return value if isinstance(value, Markup) else markdown(value)


# --- filters --------------------------------------------------------------------------------------------------------


def moment(text: str) -> str:
    """A UTC time of the record without its microseconds; anything else as it is."""
    match = _MOMENT.fullmatch(text)
    return f"{match[1]} {match[2]} UTC" if match else text


def _data(value: float, digits: int) -> Markup:
    """A number as people read it, with the record's own digits for machines."""
    shown = numbers.whole(int(value)) if digits == 0 else numbers.figure(value, digits)
    return Markup('<data value="{}">{}</data>').format(repr(value), shown)


def _delta(value: float) -> Markup:
    return Markup('<data value="{}">{}</data>').format(repr(value), numbers.signed(value))


def _probability(value: float) -> Markup:
    return Markup('<data value="{}">{}</data>').format(repr(value), numbers.probability(value))


def _svg(text: str) -> Markup:
    """Our own figures, which escape their texts themselves."""
    return Markup(text)


def _evidence_title(source: Source) -> str:
    return f"{MEANING[source.evidence]}. {source.note}".rstrip(". ") + "."


def _glyph(row: ReleaseRow) -> str:
    return _GLYPHS[row.standing]


def _groups(rows: tuple[CoverageRow, ...]) -> list[list[CoverageRow]]:
    return [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.group)]


def write_file(path: Path, data: bytes) -> None:
    """A temporary file beside it, flushed to disk, then renamed over it. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)  # mkstemp makes it private; a report is to be read
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
