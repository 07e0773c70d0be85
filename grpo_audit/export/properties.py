"""Facts of the report as CycloneDX properties: the value, beside it how it is known and on which events it rests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from grpo_audit.report.evidence import Fact, Source

PREFIX = "grpo-audit"


def properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Names under our prefix, in the order given; a colon in a name makes a group."""
    return [
        {"name": f"{PREFIX}:{':'.join(slug(part) for part in name.split(':'))}", "value": value}
        for name, value in values.items()
    ]


def evidence_properties(facts: Iterable[Fact], group: str) -> list[dict[str, str]]:
    """Two properties a fact: its value (none when there is none), and its evidence."""
    found: list[dict[str, str]] = []
    for fact in facts:
        name = f"{PREFIX}:{group}:{slug(fact.label)}"
        if fact.value is not None:
            found.append({"name": name, "value": fact.value})
        found.append({"name": f"{name}:evidence", "value": evidence_text(fact.source)})
    return found


def evidence_text(source: Source) -> str:
    """``measured, event 12`` or ``absent, not declared: reason``."""
    word = source.evidence.value if source.absence is None else f"{source.evidence.value}, {source.absence.value}"
    events = [f"{span.first} to {span.last} ({span.count})" for span in source.spans]
    events += [str(seq) for seq in source.seqs]
    shown = f", event{'s' if len(events) > 1 or source.spans else ''} {', '.join(events)}" if events else ""
    return f"{word}{shown}" + (f": {source.note}" if source.note else "")


def slug(label: str) -> str:
    """A label as a part of a property's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "value"
