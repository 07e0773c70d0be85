"""The model card inside the ML-BOM: CycloneDX ``modelCard``, whose figures are strings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grpo_audit.export.facts import ExportFacts
from grpo_audit.export.properties import group_properties, properties
from grpo_audit.report.model import ReleaseRow

GROUPS = ("accountability", "lineage", "method", "rewards", "rollouts", "oversight", "budget", "evaluation")
"""Groups of the catalogue that describe the model; the others stand with the part of the bill they describe."""


def model_card(facts: ExportFacts, prompts: str) -> dict[str, Any]:
    """What the model is for, how it was trained and how it did. ``prompts`` refers to the prompt set's component."""
    base = facts.base
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "reinforcement-learning"},
            "task": "text-generation",
            "modelArchitecture": base.architecture,
            "datasets": [{"ref": prompts}],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "considerations": _considerations(facts),
        "properties": [item for name in GROUPS for item in group_properties(name, getattr(facts.catalogue, name))],
    }
    metrics = [metric for row in facts.data.release.rows for metric in _metrics(row)]
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return card


def _metrics(row: ReleaseRow) -> Iterable[dict[str, Any]]:
    """Before, after, and the paired difference: the interval in the record is the difference's."""
    for value, moment in ((row.pre, "before training"), (row.post, "after training")):
        if value is not None:
            yield {"type": row.metric, "value": repr(value), "slice": f"{row.task}, {moment}"}
    if row.difference is None:
        return
    found: dict[str, Any] = {
        "type": f"{row.metric}, paired difference",
        "value": repr(row.difference),
        "slice": f"{row.task}, after minus before: {row.verdict or row.missing}",
    }
    if row.ci_low is not None and row.ci_high is not None:
        found["confidenceInterval"] = {"lowerBound": repr(row.ci_low), "upperBound": repr(row.ci_high)}
    yield found


def _considerations(facts: ExportFacts) -> dict[str, Any]:
    found: dict[str, Any] = {"technicalLimitations": [*facts.data.limits]}
    uses = [value for name in ("purpose", "intended_use") if (value := facts.said(f"accountability.{name}"))]
    if uses:
        found["useCases"] = uses
    outside = facts.said("accountability.out_of_scope_use")
    if outside is not None:
        found["technicalLimitations"].append(f"Out of scope: {outside}")
    limitations = facts.said("evaluation.limitations")
    if limitations is not None:
        found["technicalLimitations"].append(f"Declared: {limitations}")
    if facts.data.notice.value is not None:
        found["technicalLimitations"].append(f"Notice of the base model: {facts.data.notice.value}")
    worse = [row for row in facts.data.release.rows if row.verdict == "regressed"]
    if worse:
        found["performanceTradeoffs"] = [
            f"{row.behaviour} ({row.task}) regressed: {row.metric} {row.pre!r} before, {row.post!r} after"
            for row in worse
        ]
    energy = _energy(facts)
    if energy:
        found["environmentalConsiderations"] = {"energyConsumptions": energy}
    return found


def _energy(facts: ExportFacts) -> list[dict[str, Any]]:
    """Energy by phase, where the machine counted it. Who provided it, and from what, the record does not know."""
    found = []
    for phase, activity in (("pre", "validation"), ("train", "fine-tuning"), ("post", "validation")):
        ended = facts.phases.get(phase)
        if ended is None or ended.payload.energy is None:
            continue
        energy = ended.payload.energy
        cost = {"value": energy.joules / 3.6e6, "unit": "kWh"}
        found.append(
            {
                "activity": activity,
                "energyProviders": [
                    {"organization": {"name": "unknown"}, "energySource": "unknown", "energyProvided": cost}
                ],
                "activityEnergyCost": cost,
                "properties": properties(
                    {
                        "phase": phase,
                        "method": energy.method,
                        "boundary": energy.boundary,
                        "evidence": f"measured, event {ended.seq}",
                    }
                ),
            }
        )
    return found
