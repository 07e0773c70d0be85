"""(31) The report against the record: every value is collected again and compared with what was written.

``report.json`` value by value; ``report.html`` and ``MODEL_CARD.md`` by the words of each section, which covers every
number that a reader sees outside of figures; figures byte by byte where the same matplotlib drew them.

What the page says of the verification at the time it was made cannot be compared with anything; its numbers must stand
in ``report.json``. Once the record has grown since, the sections that speak of the whole record are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import grpo_audit
from grpo_audit.errors import GrpoAuditError
from grpo_audit.ledger.project import Project
from grpo_audit.report.data import collect
from grpo_audit.report.files import CARD_NAME, DATA_NAME, FORMAT, HTML_NAME, plain, render_data
from grpo_audit.report.model import ReportData
from grpo_audit.report.render import render_card, render_html
from grpo_audit.verify.verdict import Check, Tally, VerifyReport

NUMBER: Final = 31
NAME: Final = "report"
MAX_BYTES: Final = 256 << 20
"""A larger file is not read."""
_FIGURE: Final = re.compile(r"[0-9]+(?:[.,:][0-9]+)*")

_OF_VERIFICATION: Final = frozenset({"verdict"})
_OF_WHOLE_RECORD: Final = frozenset(
    {"header", "governance", "attempts", "runs", "record", "coverage", "card", "index"}
    | {"rollouts", "flipped", "rewards"}
)
"""Sections of the data that an annotation, an erasure or another run changes."""
_PAGE_OF_VERIFICATION: Final = frozenset({"", "record"})
_PAGE_OF_WHOLE_RECORD: Final = frozenset(
    {"governance", "runs", "record", "coverage", "evidence", "examples", "rewards"}
)
_CARD_OF_VERIFICATION: Final = frozenset({"Verdict"})
_CARD_OF_WHOLE_RECORD: Final = frozenset(
    {"", "Governance", "Runs of the project", "Coverage", "The record", "Files beside this card", "Reward sources"}
)


def read_files(folder: Path) -> dict[str, bytes]:
    """The report's files in a folder, those that are there. Raises OSError."""
    found: dict[str, bytes] = {}
    for name in (DATA_NAME, HTML_NAME, CARD_NAME):
        path = folder / name
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_BYTES:
            found[name] = path.read_bytes()
    return found


def trace(
    project: Project,
    run_id: str,
    files: Mapping[str, bytes],
    verification: VerifyReport | None = None,
    *,
    withheld: bool = False,
) -> Check:
    """Step (31) for the report files of a run (by name, as ``read_files`` or a bundle gives them).

    ``verification`` is of no consequence for the result. ``withheld`` says that the record lacks events of other runs:
    then the index of events is not compared. Never raises because of what the files say.
    """
    tally = Tally(NUMBER, NAME, "values and words")
    if not files:
        tally.nothing("no report is beside the record")
        return tally.check()
    try:
        data = collect(project, run_id, verification, against=() if withheld else _others(files))
    except GrpoAuditError as error:
        tally.wrong(f"the report cannot be collected again: {error}")
        return tally.check()
    _Trace(data, files, tally, withheld=withheld).run()
    return tally.check()


def _others(files: Mapping[str, bytes]) -> list[str]:
    """The other runs that the report says it stands beside; whatever else the file says is looked at later."""
    try:
        found = json.loads(files.get(DATA_NAME, b"{}"))["report"]["others"]
        return [str(item["run_id"]) for item in found]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


class _Trace:
    """One comparison."""

    def __init__(self, data: ReportData, files: Mapping[str, bytes], tally: Tally, *, withheld: bool) -> None:
        self._data, self._files, self._tally = data, files, tally
        self._index = frozenset({"index", "evidence", "others"} if withheld else ())
        self._grown = False
        self._same_figures = False

    def run(self) -> None:
        """All files that are there."""
        if DATA_NAME not in self._files:
            self._tally.nothing(f"an old report: it has no {DATA_NAME}")
            return
        stated = self._stated()
        if stated is None:
            return
        self._compare_data(stated)
        if HTML_NAME in self._files:
            self._compare_page(self._files[HTML_NAME].decode("utf-8", "replace"))
        if CARD_NAME in self._files:
            self._compare_card(self._files[CARD_NAME].decode("utf-8", "replace"))
        if self._index:
            self._tally.remark("index of events and other runs not compared: the bundle withholds them")
        if self._grown:
            self._tally.remark("the record has grown since: sections about the whole record were not compared")

    def _stated(self) -> dict[str, Any] | None:
        """The sections of ``report.json``; None when it says nothing that can be compared here."""
        try:
            document = json.loads(self._files[DATA_NAME])
            stated: dict[str, Any] = document["report"]
            tool, figures = document["tool"], document["figures_by"]
            known = document["format"] == FORMAT and isinstance(stated, dict)
            root = stated["card"]["record_root"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._tally.wrong(f"{DATA_NAME} cannot be read: {type(error).__name__}")
            return None
        here = json.loads(render_data(self._data))
        if not known or tool != here["tool"]:
            self._tally.nothing(
                f"the report was written by {tool!r:.60}, this is grpo-audit {grpo_audit.__version__}: its words may "
                "differ; render it again to compare"
            )
            return None
        self._grown = root != self._data.card.record_root
        self._same_figures = figures == here["figures_by"]
        return stated

    def _compare_data(self, stated: dict[str, Any]) -> None:
        skipped = _OF_VERIFICATION | self._index | (_OF_WHOLE_RECORD if self._grown else frozenset())
        found = plain(self._data)
        for section in sorted((stated.keys() | found.keys()) - skipped):
            one, other = dict(_leaves(stated.get(section))), dict(_leaves(found.get(section)))
            for path in sorted(one.keys() | other.keys()):
                self._tally.saw()
                if path not in one or path not in other or one[path] != other[path]:
                    self._tally.wrong(
                        f"{DATA_NAME}, {section}{path}: {one.get(path)!r:.60}, the record gives {other.get(path)!r:.60}"
                    )
        if not self._grown:  # the release and the run in the box at the top rest on the record alone
            for part in ("run", "release"):
                self._tally.saw()
                if _at(stated, "verdict", part) != found["verdict"][part]:
                    self._tally.wrong(f"{DATA_NAME}, verdict on the {part}: the record gives another")

    def _compare_page(self, text: str) -> None:
        written, made = _Page(text), _Page(render_html(self._data))
        skipped = _PAGE_OF_VERIFICATION | self._index | (_PAGE_OF_WHOLE_RECORD if self._grown else frozenset())
        self._compare_words(HTML_NAME, written.sections, made.sections, skipped)
        self._stands_in_data(HTML_NAME, written.sections, made.sections, _PAGE_OF_VERIFICATION)
        if not self._same_figures:
            self._tally.remark("figures not compared: another matplotlib drew them")
            return
        self._tally.saw(len(made.figures))
        if written.figures != made.figures:
            self._tally.wrong(f"{HTML_NAME}: a figure is another one than the record gives")

    def _compare_card(self, text: str) -> None:
        skipped = _CARD_OF_VERIFICATION | (_CARD_OF_WHOLE_RECORD if self._grown else frozenset())
        written, made = _card(text), _card(render_card(self._data))
        self._compare_words(CARD_NAME, written, made, skipped)
        self._stands_in_data(CARD_NAME, written, made, _CARD_OF_VERIFICATION)

    def _compare_words(
        self, name: str, written: dict[str, list[str]], made: dict[str, list[str]], skipped: frozenset[str]
    ) -> None:
        for section in sorted((written.keys() | made.keys()) - skipped):
            one, other = written.get(section, []), made.get(section, [])
            self._tally.saw(len(other))
            if one != other:
                place = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
                place = min(len(one), len(other)) if place is None else place
                self._tally.wrong(
                    f"{name}, {section or 'head'}: {' '.join(one[place : place + 4])!r:.60}, "
                    f"the record gives {' '.join(other[place : place + 4])!r:.60}"
                )

    def _stands_in_data(
        self, name: str, written: dict[str, list[str]], made: dict[str, list[str]], sections: frozenset[str]
    ) -> None:
        """Every number of these sections stands in ``report.json`` or in the section as it is made again."""
        stated = set(_FIGURE.findall(self._files[DATA_NAME].decode("utf-8", "replace")))
        for section in sorted(sections):
            known = stated | set(_FIGURE.findall(" ".join(made.get(section, []))))
            for number in _FIGURE.findall(" ".join(written.get(section, []))):
                self._tally.saw()
                if number not in known:
                    self._tally.wrong(f"{name}, {section or 'head'}: the number {number} stands nowhere in {DATA_NAME}")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path; empty lists and mappings too."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for place, item in enumerate(value):
            yield from _leaves(item, f"{path}[{place}]")
    else:
        yield path, value


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


class _Page(HTMLParser):
    """Words by section (the anchor; empty before the first), machine-readable values among them; figures apart."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: dict[str, list[str]] = {"": []}
        self.figures: list[str] = []
        self._section = ""
        self._figure: list[str] = []
        self._quiet = 0
        self._depth = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Sections begin; figures and style are set apart; values of attributes that a reader can see count."""
        given = dict(attrs)
        if tag == "section":
            self._section = given.get("id") or ""
            self.sections.setdefault(self._section, [])
        if tag == "style":
            self._quiet += 1
        if tag == "svg" or self._depth:
            self._depth += tag == "svg"
            self._figure.append(self.get_starttag_text() or "")
            return
        words = [given[name] or "" for name in ("value", "title", "href", "data-label") if name in given]
        self.sections[self._section] += [word for text in words for word in text.split()]

    def handle_endtag(self, tag: str) -> None:
        """A figure ends, or a section."""
        if tag == "style":
            self._quiet -= 1
        if tag == "section":
            self._section = ""
        if self._depth:
            self._figure.append(f"</{tag}>")
            self._depth -= tag == "svg"
            if not self._depth:
                self.figures.append("".join(self._figure))
                self._figure = []

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        if self._depth:
            self._figure.append(data)
        elif not self._quiet:
            self.sections[self._section] += data.split()


def _card(text: str) -> dict[str, list[str]]:
    """Words by heading of the second level; empty before the first. Fenced code has no headings."""
    sections: dict[str, list[str]] = {"": []}
    heading, fence = "", ""
    for line in text.split("\n"):
        mark = line.strip()[:3]
        if mark in ("```", "~~~"):
            fence = "" if fence == mark else fence or mark
        if not fence and line.startswith("## "):
            heading = line[3:].strip()
        sections.setdefault(heading, []).extend(line.split())
    return sections
