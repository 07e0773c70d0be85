"""Which items of which standard a record documents, by what evidence, and what is missing.

The mapping is data: ``standards/*.json``, one entry an item, each with its source. An item names the catalogue fields
that answer it; ``extent`` says whether these fields, once known, answer all it asks for (``full``) or a part
(``partial``, with what is ``lacks``-ing). ``checked`` says whether the item was read in a text of the standard.

A row documents what an item asks for. It says nothing about conformity.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from grpo_audit.catalogue.collect import FIELDS, Catalogue, facts_of
from grpo_audit.catalogue.field import Field
from grpo_audit.catalogue.run import nearest
from grpo_audit.errors import ConfigError

SEED_LIST = "seed-list"
"""Our own list, which the report shows in full."""


class Status(StrEnum):
    """How far an item is documented."""

    DOCUMENTED = "documented"
    PARTLY = "partly"
    MISSING = "missing"
    NOT_APPLICABLE = "not applicable"
    OUTSIDE = "outside"


MEANING = {
    Status.DOCUMENTED: "every field that answers it is there",
    Status.PARTLY: "some fields are missing, or it asks for more than the fields hold",
    Status.MISSING: "no field that answers it is there",
    Status.NOT_APPLICABLE: "no field that answers it applies to this run",
    Status.OUTSIDE: "a training record does not hold what it asks for",
}
"""One sentence each, for the legend."""


class Item(BaseModel):
    """One item of a standard."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    item: str
    """Its number or name in the standard."""
    section: str = ""
    """Its part of the standard."""
    title: str
    """In our own words."""
    asks: str
    """What it asks for, in our own words; in our own list, who asks."""
    fields: list[str]
    """Catalogue fields that answer it; none when it lies outside of a training record."""
    extent: Literal["full", "partial"]
    """Whether those fields answer all of it."""
    lacks: str = ""
    """What of it they do not answer."""
    checked: bool
    """Whether it was read in a text of the standard."""
    found: str = ""
    """Where, when it is not the standard's own source."""


class Standard(BaseModel):
    """One standard with its items."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    standard: str
    """Short name, for ``--standard``."""
    order: int
    """Where it stands among the others."""
    title: str
    """For people."""
    document: str
    """The document."""
    date: str
    """Of the document."""
    found: str
    """Where the document is."""
    note: str
    """What the reader should know about the rows."""
    items: list[Item]
    """In the document's order."""


@lru_cache(maxsize=1)
def standards() -> tuple[Standard, ...]:
    """Every standard of the mapping."""
    folder = resources.files("grpo_audit.catalogue").joinpath("standards")
    found = [
        Standard.model_validate(json.loads(file.read_text(encoding="utf-8")))
        for file in folder.iterdir()
        if file.name.endswith(".json")
    ]
    return tuple(sorted(found, key=lambda standard: standard.order))


def find_standard(name: str) -> Standard:
    """A standard by its short name. Raises ConfigError naming the nearest one."""
    names = {standard.standard: standard for standard in standards()}
    if name not in names:
        near = nearest(name, names)
        raise ConfigError(
            f"Unknown standard {name!r}",
            expected=f"one of {', '.join(names)}",
            next_step=f"Did you mean {near}?" if near else "",
        )
    return names[name]


@dataclass(frozen=True)
class Line:
    """One item against one record."""

    item: Item
    status: Status
    known: tuple[tuple[str, Field[Any]], ...]
    """Fields that have a value."""
    not_applicable: tuple[tuple[str, Field[Any]], ...]
    """Fields that do not apply, with the reason."""
    missing: tuple[tuple[str, Field[Any]], ...]
    """Fields that nobody knows, with what would make them known."""


def cover(catalogue: Catalogue, standard: Standard) -> tuple[Line, ...]:
    """Each item of a standard, in its order."""
    return tuple(_line(catalogue, item) for item in standard.items)


def counts(lines: tuple[Line, ...]) -> dict[Status, int]:
    """How many items have each status, every status named."""
    found = Counter(line.status for line in lines)
    return {status: found[status] for status in Status}


def _line(catalogue: Catalogue, item: Item) -> Line:
    fields = [(name, catalogue[name]) for name in item.fields]
    known = tuple((name, field) for name, field in fields if field.value is not None)
    excused = tuple((name, field) for name, field in fields if field.not_applicable is not None)
    missing = tuple((name, field) for name, field in fields if field.is_unknown)
    return Line(item, _status(item, bool(known), bool(excused), bool(missing)), known, excused, missing)


def _status(item: Item, known: bool, excused: bool, missing: bool) -> Status:
    if not item.fields:
        return Status.OUTSIDE
    if missing:
        return Status.PARTLY if known else Status.MISSING
    if not known:
        return Status.NOT_APPLICABLE if excused else Status.MISSING
    return Status.DOCUMENTED if item.extent == "full" else Status.PARTLY


def how_to_supply(name: str) -> str:
    """Where a person states a field, in a few words; empty when the record itself says what would make it known."""
    about = facts_of(name)
    return f"recipe {about.recipe}, or annotate {name}" if about.recipe is not None else ""


def as_json(standard: Standard, lines: tuple[Line, ...]) -> dict[str, Any]:
    """One standard's coverage for programs."""
    head = standard.model_dump(include={"standard", "title", "document", "date", "found", "note"})
    return {
        **head,
        "counts": {status.value: number for status, number in counts(lines).items()},
        "items": [_line_json(line) for line in lines],
    }


def _line_json(line: Line) -> dict[str, Any]:
    return {
        **line.item.model_dump(),
        "status": line.status.value,
        "evidence": {
            name: {
                "value": field.text(),
                "evidence": field.evidence.value,
                "pointer": field.pointer.model_dump(mode="json"),
                "note": field.note,
            }
            for name, field in line.known
        },
        "does_not_apply": {name: field.reason for name, field in line.not_applicable},
        "missing": {name: field.reason for name, field in line.missing},
    }


def asked_by(name: str) -> list[str]:
    """The items that a field answers, as ``standard item``. Raises KeyError."""
    if name not in FIELDS:
        raise KeyError(name)
    return [f"{found.standard} {item.item}" for found in standards() for item in found.items if name in item.fields]
