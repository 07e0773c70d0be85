"""What people declared, in the recipe or afterwards by annotation; what nobody declared stays visibly missing."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_audit.catalogue.reader import Entry
from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import Annotation, RunRegistered
from grpo_audit.report.evidence import Evidence, Fact, Source, declared
from grpo_audit.report.model import Governance, Note

FIELDS: tuple[tuple[str, str], ...] = (
    ("owner", "Owner"),
    ("approver", "Approver"),
    ("organisation", "Organisation"),
    ("purpose", "Purpose"),
    ("intended_use", "Intended use"),
    ("out_of_scope_use", "Out-of-scope use"),
    ("licence", "Licence of the trained weights"),
    ("reasoning_trace_policy", "Reasoning traces shown to users"),
    ("inventory_id", "AI system inventory"),
    ("change_ticket", "Change management"),
    ("monitoring_plan", "Post-market monitoring plan"),
)
"""Key of the recipe's ``governance`` section, and its name in the report."""


def governance(registered: Entry[RunRegistered], config: RunConfig, notes: Sequence[Entry[Annotation]]) -> Governance:
    """Declared fields, the newest annotation of a field over the recipe, and all annotations as they were made."""
    facts = tuple(_fact(key, label, registered, config, notes) for key, label in FIELDS)
    return Governance(facts, tuple(_note(entry) for entry in notes))


def value_of(found: Governance, label: str) -> Fact:
    """One governance field by its name in the report. Raises KeyError."""
    for fact in found.facts:
        if fact.label == label:
            return fact
    raise KeyError(label)


def _fact(
    key: str, label: str, registered: Entry[RunRegistered], config: RunConfig, notes: Sequence[Entry[Annotation]]
) -> Fact:
    for entry in reversed(notes):
        if entry.payload.field in {key, f"governance.{key}"}:
            source = Source(Evidence.DECLARED, (entry.seq,), note=f"annotated by {entry.payload.author}")
            return Fact(label, entry.payload.value, source)
    return declared(label, getattr(config.governance, key), registered.seq)


def _note(entry: Entry[Annotation]) -> Note:
    found = entry.payload
    return Note(entry.at, found.author, found.field, found.value, found.reason, Source(Evidence.DECLARED, (entry.seq,)))
