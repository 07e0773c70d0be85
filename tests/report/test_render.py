"""Files: deterministic, whole or not there, and complete."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.errors import StorageError
from grpo_audit.report.model import ReportData
from grpo_audit.report.render import SECTIONS, render, render_card, render_html

GOLDEN = Path(__file__).with_name("golden") / "outline.txt"
UPDATE = "UPDATE_GOLDENS"


class Outline(HTMLParser):
    """Headings and the heads of tables, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._inside = ""
        self.feed(text.split("<main")[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "section":
            self.lines.append(f"\n[{attributes['id']}]")
        if tag in {"h1", "h2", "h3"} or (tag == "th" and attributes.get("scope") in {"col", "row"}):
            self._inside = tag
            self.lines.append("  " if tag == "th" else f"{tag} ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.lines[-1] += " ".join(data.split()) + " "


def scrubbed(text: str) -> str:
    """What differs from record to record: digests, numbers of events, times, names of runs."""
    for pattern, stand_in in (
        (r"sha256:[0-9a-f]{64}|[0-9a-f]{32,}", "DIGEST"),
        (r"demo-\d{4}-[0-9a-f]{6}", "RUN"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "TIME"),
        (r"\d+\.\d+ %", "SHARE"),
        (r"#\d+", "#N"),
    ):
        text = re.sub(pattern, stand_in, text)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip() + "\n"


def test_the_outline_is_the_golden_one(made: Any) -> None:
    """Sections, tables and fields of the report are those of the golden file; UPDATE_GOLDENS=1 writes it anew."""
    found = scrubbed("\n".join(Outline(made.html).lines))
    if os.environ.get(UPDATE):
        GOLDEN.write_text(found, encoding="utf-8")
    assert found == GOLDEN.read_text(encoding="utf-8")


def test_rendering_twice_gives_the_same_bytes(made: Any) -> None:
    """Same data, same page, same card."""
    assert render_html(made.data) == made.html
    assert render_card(made.data) == made.card


def test_every_section_is_there(made: Any) -> None:
    """Each entry of the contents has its section, in this order."""
    assert re.findall(r'<section id="([a-z]+)">', made.html) == [anchor for anchor, _ in SECTIONS if anchor != "others"]


def test_the_notice_of_the_base_model_comes_first(made: Any) -> None:
    """What every reader must know about the base model stands above the verdict, in both files."""
    notice = "A miniature for demonstration; not for any use."
    assert made.html.index(notice) < made.html.index('class="verdict"')
    assert made.card.index(f"> **Notice of the base model:** {notice}") < made.card.index("## Verdict")


def test_all_files_are_written(data: ReportData, tmp_path: Path) -> None:
    """The folder is made, and holds exactly the three files, readable for everybody the umask allows."""
    paths = render(data, tmp_path / "new" / "folder")
    assert paths.html.read_text(encoding="utf-8") == render_html(data)
    assert paths.card.read_text(encoding="utf-8") == render_card(data)
    assert {path.name for path in paths.html.parent.iterdir()} == {"report.html", "MODEL_CARD.md", "report.json"}
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(paths.html.stat().st_mode) == 0o666 & ~mask


def test_a_failed_write_leaves_the_old_file(data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full the old report stays whole, nothing half-written lies about, and one line says so."""
    paths = render(data, tmp_path)
    before = paths.html.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        render(data, tmp_path)
    assert paths.html.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "MODEL_CARD.md", "report.json"}


def test_a_folder_that_is_a_file_is_one_line(data: ReportData, tmp_path: Path) -> None:
    """A target that cannot be a folder is a storage error with a next step."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="Cannot write the report"):
        render(data, blocked)


def test_no_forgotten_value_can_hide(data: ReportData, poison: Callable[..., ReportData]) -> None:
    """Every text of the data reaches the page or decides about it: a marked text is found again."""
    page = render_html(poison(data, "MARKED"))
    assert page.count("MARKED") > 500
    assert not re.search(r">\s*None\s*<|=\"None\"", page)
