"""The mapping from standards to fields, and what a record covers of it."""

from __future__ import annotations

from typing import Any

import pytest

from grpo_audit.catalogue.collect import FIELDS, Catalogue, collect
from grpo_audit.catalogue.coverage import (
    Item,
    Standard,
    Status,
    as_json,
    counts,
    cover,
    find_standard,
    standards,
)
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import NewEvent
from grpo_audit.record.events import Annotation

ROWS = [(standard, item) for standard in standards() for item in standard.items]
NAMES = [f"{standard.standard}-{item.item}" for standard, item in ROWS]


@pytest.mark.parametrize(("standard", "item"), ROWS, ids=NAMES)
def test_every_row_has_a_source_and_names_fields_that_exist(standard: Standard, item: Item) -> None:
    """Document, date and place; fields of the catalogue; a partial row says what it lacks; the words are ours."""
    assert standard.document and standard.date and (item.found or standard.found)
    assert item.title and item.asks
    assert set(item.fields) <= set(FIELDS)
    assert len(set(item.fields)) == len(item.fields)
    assert (item.extent == "partial") == bool(item.lacks)
    assert item.fields or item.lacks
    assert "complian" not in f"{item.title} {item.asks} {item.lacks}".lower()


def test_the_mapping_has_what_the_record_is_asked_for() -> None:
    """Each document of the list is there, no item twice in one, and each NIST action that names post-training."""
    names = [standard.standard for standard in standards()]
    assert names[0] == "seed-list"
    assert {"annex-xi", "annex-xii", "mdf", "nist-ai-600-1", "iso-42001", "cyclonedx", "hub-card", "modifier"} < set(
        names
    )
    for standard in standards():
        items = [(item.section, item.item) for item in standard.items]
        assert len(items) == len(set(items))
    nist = {item.item for item in find_standard("nist-ai-600-1").items}
    assert {"MS-2.3-001", "MS-2.5-002", "MS-2.7-005", "MS-2.7-008", "MS-2.12-003", "MG-3.2-002", "GV-1.6-003"} <= nist
    assert {"7.5", "A.6.2.4", "A.6.2.7", "A.6.2.8", "A.7.5"} <= {item.item for item in find_standard("iso-42001").items}


def test_an_unknown_standard_is_an_error_that_names_the_nearest() -> None:
    """A typo is found."""
    with pytest.raises(ConfigError, match="Did you mean annex-xi"):
        find_standard("anex-xi")


def test_missing_stays_visibly_missing(bare: Catalogue) -> None:
    """Every item that names an unknown field is partly documented or missing, and the line names the field."""
    for standard in standards():
        for line in cover(bare, standard):
            unknown = {name for name in line.item.fields if bare[name].is_unknown}
            assert {name for name, _ in line.missing} == unknown
            if unknown:
                assert line.status in (Status.PARTLY, Status.MISSING)
            if line.status is Status.DOCUMENTED:
                assert line.known and line.item.extent == "full"
            if not line.item.fields:
                assert line.status is Status.OUTSIDE


def test_an_annotation_makes_an_item_covered_with_its_event_number(registered: Any) -> None:
    """Missing before; documented after, by the event of the annotation."""
    item = "Post-market monitoring plan"
    with registered.project() as project:
        before = {line.item.item: line for line in cover(collect(project, "r-1"), find_standard("seed-list"))}
        note = Annotation(author="Ada", field="accountability.monitoring_plan", value="plan 7", reason="r")
        seq = project.append([NewEvent(note, "r-1")]).size - 1
        after = {line.item.item: line for line in cover(collect(project, "r-1"), find_standard("seed-list"))}
    assert before[item].status is Status.MISSING and after[item].status is Status.DOCUMENTED
    ((name, field),) = after[item].known
    assert (name, field.pointer.seqs) == ("accountability.monitoring_plan", (seq,))
    changed = [name for name in before if before[name].status is not after[name].status]
    assert changed == [item]


def test_what_is_declared_raises_coverage_and_nothing_falls(
    bare: Catalogue, registered: Any, declared_fields: dict[str, Any]
) -> None:
    """With the governance section filled more items are documented in every document that asks people something, and
    none is documented less."""
    with registered.project({"governance": declared_fields}) as project:
        full = collect(project, "r-1")
    rank = [Status.MISSING, Status.PARTLY, Status.DOCUMENTED]
    for standard in standards():
        before, after = cover(bare, standard), cover(full, standard)
        for one, two in zip(before, after, strict=True):
            if one.status in rank and two.status in rank and "integrity.seal" not in one.item.fields:
                assert rank.index(two.status) >= rank.index(one.status), one.item.item
        if standard.standard not in ("modifier", "iso-42001"):
            assert counts(after)[Status.DOCUMENTED] > counts(before)[Status.DOCUMENTED], standard.standard


def test_the_json_says_what_the_table_says(bare: Catalogue) -> None:
    """Counts, statuses, pointers and reasons, with every field of an item in exactly one place."""
    for standard in standards():
        found = as_json(standard, cover(bare, standard))
        assert sum(found["counts"].values()) == len(found["items"]) == len(standard.items)
        for row in found["items"]:
            places = [*row["evidence"], *row["does_not_apply"], *row["missing"]]
            assert sorted(places) == sorted(row["fields"])
            for entry in row["evidence"].values():
                assert any(entry["pointer"].values())
