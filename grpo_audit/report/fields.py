"""Fields of the catalogue as facts of the report."""

from __future__ import annotations

from typing import Any

from grpo_audit.catalogue.collect import Catalogue, facts_of
from grpo_audit.catalogue.field import Field
from grpo_audit.report.evidence import Absence, Fact, Source, nothing
from grpo_audit.report.visible import shortened

LIMIT = 600
"""Characters of a value that a table shows; the catalogue's JSON has all of it."""

_NOT_MEASURED = ("budget.energy", "data.decontamination", "rewards.probes", "integrity.detection")


def fact(catalogue: Catalogue, name: str, label: str, note: bool = True) -> Fact:
    """One field under a label. Raises KeyError."""
    return of_field(catalogue[name], name, label, note=note)


def of_field(field: Field[Any], name: str, label: str, note: bool = True) -> Fact:
    """A field as a fact; without a value it says in what way it is missing."""
    text = field.text()
    if text is None:
        return Fact(label, None, _missing(field, name))
    return Fact(label, shortened(text, LIMIT), source(field, field.note if note else ""), _is_mono(text))


PROMPT_CHECKS = (
    ("data.curation", "Curation"),
    ("data.personal_data", "Personal data"),
    ("data.synthetic_share", "Synthetic share"),
    ("data.prompts_drawn", "Different prompts drawn"),
    ("data.most_drawn", "Draws of the most drawn prompt"),
    ("data.decontamination", "Decontamination"),
)
"""Fields of the catalogue that the section on prompts shows beside the registration's own."""


def stages_before(catalogue: Catalogue) -> tuple[Fact, ...]:
    """Each stage before the run as a fact of its own, as strong as what this record shows of it."""
    stages = catalogue.lineage.stages_before.value
    if not stages:
        return (of_field(catalogue.lineage.stages_before, "lineage.stages_before", "Lineage"),)
    facts = []
    for number, stage in enumerate(stages, 1):
        said = {"model": stage.model, "weights": stage.digest, "data": stage.data, "licence": stage.licence}
        parts = [stage.name, *(f"{name} {value}" for name, value in said.items() if value)]
        parts += [f"run {stage.run}"] if stage.run else []
        parts += [f"{stage.flop:.3g} FLOP ({stage.flop_source})"] if stage.flop else []
        rests = Source(
            stage.evidence, stage.pointer.seqs, note=f"{stage.check}; {stage.basis.kind}: {stage.basis.citation}"
        )
        facts.append(Fact(f"{number}. {stage.kind}", shortened("; ".join(parts), LIMIT), rests))
    return tuple(facts)


def source(field: Field[Any], note: str = "") -> Source:
    """What a field's value rests on."""
    return Source(field.evidence, field.pointer.seqs, field.pointer.spans, shortened(note, LIMIT) if note else "")


def _missing(field: Field[Any], name: str) -> Source:
    if field.not_applicable is not None:
        return nothing(field.not_applicable, Absence.NOT_APPLICABLE)
    if name in _NOT_MEASURED:
        return nothing(field.reason, Absence.NOT_MEASURED)
    if facts_of(name).may_be_declared:
        return nothing(_how(name), Absence.NOT_DECLARED)
    if name.startswith("evaluation."):
        return nothing(field.reason, Absence.NOT_MEASURED)
    return nothing(field.reason, Absence.NOT_RECORDED)


def _how(name: str) -> str:
    recipe = facts_of(name).recipe
    return f"annotate {name}" if recipe is None else f"recipe {recipe}, or annotate {name}"


def _is_mono(text: str) -> bool:
    return text.startswith("sha256:") and " " not in text
