"""What people declared, in the recipe or afterwards by annotation; what nobody declared stays visibly missing."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_audit.catalogue.collect import Catalogue
from grpo_audit.catalogue.reader import Entry
from grpo_audit.ledger.annotations import check_annotation
from grpo_audit.ledger.notes import NoteError
from grpo_audit.record.events import Annotation
from grpo_audit.report.evidence import Evidence, Fact, Source
from grpo_audit.report.fields import fact
from grpo_audit.report.model import Governance, Note

FIELDS: tuple[tuple[str, str], ...] = (
    ("accountability.owner", "Owner"),
    ("accountability.approver", "Approver"),
    ("accountability.organisation", "Organisation"),
    ("accountability.contact", "Contact"),
    ("accountability.purpose", "Purpose"),
    ("method.rationale", "Rationale of the method"),
    ("accountability.intended_use", "Intended use"),
    ("accountability.out_of_scope_use", "Out-of-scope use"),
    ("accountability.acceptable_use", "Acceptable use policy"),
    ("accountability.licence", "Licence of the trained weights"),
    ("accountability.release_date", "Release date"),
    ("accountability.distribution", "Distribution"),
    ("accountability.integration", "Needed to use it"),
    ("evaluation.limitations", "Known limitations"),
    ("accountability.reasoning_trace_policy", "Reasoning traces shown to users"),
    ("accountability.traces_rewarded", "Reasoning traces rewarded"),
    ("rewards.human_knowledge", "Human knowledge in rewards and prompts"),
    ("rewards.known_exploits", "Known exploits of the rewards"),
    ("data.curation", "Curation of the prompts"),
    ("data.personal_data", "Personal data in the prompts"),
    ("data.synthetic_share", "Synthetic share of the prompts"),
    ("data.bias_assessment", "Bias assessment"),
    ("accountability.document_version", "Document version"),
    ("accountability.retention", "Retention"),
    ("accountability.inventory_id", "AI system inventory"),
    ("accountability.change_ticket", "Change management"),
    ("accountability.monitoring_plan", "Post-market monitoring plan"),
    ("accountability.system_card", "Model or system card"),
    ("data.data_record", "Data provenance record"),
    ("evaluation.published", "Published evaluation results"),
    ("oversight.erasures", "Texts erased from the record"),
)
"""Field of the catalogue, and its name in the report."""


def governance(
    catalogue: Catalogue, notes: Sequence[Entry[Annotation]], project_id: str, run_id: str | None
) -> Governance:
    """Declared fields, the newest annotation of a field over the recipe, and all annotations as they were made."""
    facts = tuple(fact(catalogue, name, label) for name, label in FIELDS)
    return Governance(facts, tuple(_note(entry, project_id, run_id) for entry in notes))


def value_of(found: Governance, label: str) -> Fact:
    """One governance field by its name in the report. Raises KeyError."""
    for item in found.facts:
        if item.label == label:
            return item
    raise KeyError(label)


def _note(entry: Entry[Annotation], project_id: str, run_id: str | None) -> Note:
    found = entry.payload
    source = Source(Evidence.DECLARED, (entry.seq,))
    signature = _signature(found, project_id, run_id)
    return Note(entry.at, found.author, found.field, found.value, found.reason, source, signature)


def _signature(note: Annotation, project_id: str, run_id: str | None) -> str:
    """Whose signature holds, in words."""
    if not note.signed:
        return "not signed by its author"
    try:
        return f"signed by {check_annotation(note, project_id, run_id)}"
    except NoteError as error:
        return f"its signature does not hold: {error}"
