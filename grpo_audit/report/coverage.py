"""The coverage section: our own list in full, and how far each standard's items are documented.

Both come from the rows of ``grpo_audit/catalogue/standards``, the same that ``grpo-audit coverage`` prints. A row
documents what an item asks for; it says nothing about conformity.
"""

from __future__ import annotations

from grpo_audit.catalogue.collect import Catalogue
from grpo_audit.catalogue.coverage import SEED_LIST, Line, Status, counts, cover, find_standard, standards
from grpo_audit.catalogue.evidence import Evidence
from grpo_audit.report.evidence import Absence, Fact, Source, nothing
from grpo_audit.report.fields import LIMIT, of_field
from grpo_audit.report.model import CoverageRow, StandardRow
from grpo_audit.report.visible import shortened

ANCHORS = {
    "accountability": "governance",
    "lineage": "lineage",
    "data": "prompts",
    "method": "method",
    "rewards": "rewards",
    "rollouts": "training",
    "oversight": "findings",
    "environment": "environment",
    "budget": "budget",
    "evaluation": "release",
    "integrity": "record",
}
"""Section of the report that holds the whole of a catalogue group."""

_STRENGTH = [Evidence.MEASURED, Evidence.DERIVED, Evidence.CITED, Evidence.DEFAULTED, Evidence.DECLARED]
"""Strongest first; a row is as strong as its weakest field."""
_NAMED = 6
"""Events that a row names one by one."""


def coverage(catalogue: Catalogue) -> tuple[CoverageRow, ...]:
    """Our own list, in its order."""
    return tuple(_row(line) for line in cover(catalogue, find_standard(SEED_LIST)))


def standard_rows(catalogue: Catalogue) -> tuple[StandardRow, ...]:
    """Each other standard: how many of its items are documented, partly documented, missing ..."""
    rows = []
    for standard in standards():
        if standard.standard == SEED_LIST:
            continue
        lines = cover(catalogue, standard)
        numbers = counts(lines)
        rows.append(
            StandardRow(
                name=standard.standard,
                title=standard.title,
                document=f"{standard.document} ({standard.date})",
                documented=numbers[Status.DOCUMENTED],
                partly=numbers[Status.PARTLY],
                missing=numbers[Status.MISSING],
                other=numbers[Status.NOT_APPLICABLE] + numbers[Status.OUTSIDE],
                open=tuple(_open(line) for line in lines if line.status is Status.MISSING),
            )
        )
    return tuple(rows)


def _open(line: Line) -> str:
    item = line.item
    return item.title if item.title == item.item else f"{item.item} {item.title}"


def _row(line: Line) -> CoverageRow:
    group, _, field = line.item.fields[0].partition(".")
    anchor = "rejected" if field == "rejected" else ANCHORS[group]
    return CoverageRow(line.item.section, _fact(line), line.item.asks, anchor)


def _fact(line: Line) -> Fact:
    label = line.item.title
    if not line.known:
        name, field = (line.missing or line.not_applicable)[0]
        found = of_field(field, name, label)
        return found if line.missing else Fact(label, None, nothing(field.reason, Absence.NOT_APPLICABLE))
    weakest = max((field.evidence for _, field in line.known), key=_STRENGTH.index)
    seqs = tuple(dict.fromkeys(seq for _, field in line.known for seq in field.pointer.seqs))
    spans = tuple(dict.fromkeys(span for _, field in line.known for span in field.pointer.spans))
    gaps = ", ".join(name for name, _ in line.missing)
    note = f"missing: {gaps}" if gaps else ""
    text = "; ".join(_named(name, field.text() or "", len(line.known) > 1) for name, field in line.known)
    return Fact(label, shortened(text, LIMIT), Source(weakest, seqs[:_NAMED], spans, note))


def _named(name: str, text: str, several: bool) -> str:
    short = shortened(text, LIMIT // 2)
    return f"{name.partition('.')[2].replace('_', ' ')}: {short}" if several else short
