"""The catalogue as CycloneDX properties: a field's value, and how it is known, on which events."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from grpo_audit.catalogue.field import Field, Group

PREFIX = "grpo-audit"


def properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Names under our prefix, in the order given; a colon in a name makes a group."""
    return [
        {"name": f"{PREFIX}:{':'.join(slug(part) for part in name.split(':'))}", "value": value}
        for name, value in values.items()
    ]


def group_properties(name: str, group: Group) -> list[dict[str, str]]:
    """Every field of a group of the catalogue: two properties for one that is known, one for one that is not."""
    found: dict[str, str] = {}
    for key, field in group.fields():
        text = field.text()
        if text is not None:
            found[f"{name}:{key}"] = text
        found[f"{name}:{key}:evidence"] = evidence_text(field)
    return properties(found)


def evidence_text(field: Field[Any]) -> str:
    """``measured, events 12, 14``; ``absent: unknown``; ``absent: not applicable (reason)``."""
    if field.value is None:
        return "absent: unknown" if field.is_unknown else f"absent: not applicable ({field.reason})"
    places = [f"{span.first} to {span.last} ({span.count})" for span in field.pointer.spans]
    places += [str(seq) for seq in field.pointer.seqs]
    several = len(places) > 1 or bool(field.pointer.spans)
    events = f", event{'s' if several else ''} {', '.join(places)}" if places else ""
    artifacts = f", artifact {', '.join(field.pointer.artifacts)}" if field.pointer.artifacts else ""
    basis = f", {field.basis.kind.value}: {field.basis.citation}" if field.basis else ""
    return f"{field.evidence.value}{events}{artifacts}{basis}" + (f" ({field.note})" if field.note else "")


def slug(label: str) -> str:
    """A label as a part of a property's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "value"
