"""Lineage as W3C PROV in PROV-JSON (https://www.w3.org/submissions/prov-json/): what was made from what, by which
activity, on whose behalf."""

from __future__ import annotations

from typing import Any

from grpo_audit.export.facts import ExportFacts, prompt_source, sha256
from grpo_audit.record.events import Phase
from grpo_audit.report.card import base_model
from grpo_audit.report.model import ReleaseRow

NAMESPACE = "urn:grpo-audit:prov:"
_ACTIVITIES: tuple[tuple[Phase, str, str], ...] = (
    ("pre", "evaluation-before", "Evaluation of the base model"),
    ("train", "training", "GRPO training"),
    ("post", "evaluation-after", "Evaluation of the trained weights"),
)


def prov(facts: ExportFacts) -> dict[str, Any]:
    """The whole document. Same facts, same document: relations are numbered in the order they are made."""
    graph = _Graph()
    _agents(graph, facts)
    base, prompts, rewards = _inputs(graph, facts)
    _activities(graph, facts)
    graph.relation("used", {"prov:activity": "training", "prov:entity": base}, role="base model")
    graph.relation("used", {"prov:activity": "training", "prov:entity": prompts}, role="prompt set")
    for reward in rewards:
        graph.relation("used", {"prov:activity": "training", "prov:entity": reward}, role="reward source")
    _evaluations(graph, facts, base)
    _trained(graph, facts, base)
    return graph.document()


class _Graph:
    """Records by kind and identifier."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, dict[str, Any]]] = {}
        self._relations = 0

    def add(self, kind: str, name: str, attributes: dict[str, Any]) -> str:
        """An entity, an activity or an agent. Attributes without a value are left out."""
        known = {key: value for key, value in attributes.items() if value is not None}
        self._records.setdefault(kind, {})[f"grpo:{name}"] = known
        return name

    def relation(self, kind: str, ends: dict[str, str], role: str = "") -> None:
        """A relation between things that were added."""
        self._relations += 1
        record: dict[str, Any] = {key: f"grpo:{name}" for key, name in ends.items()}
        if role:
            record["prov:role"] = role
        self._records.setdefault(kind, {})[f"_:r{self._relations}"] = record

    def has(self, kind: str, name: str) -> bool:
        """Whether there is such a record."""
        return f"grpo:{name}" in self._records.get(kind, {})

    def document(self) -> dict[str, Any]:
        """As PROV-JSON."""
        return {"prefix": {"grpo": NAMESPACE}, **self._records}


def _agents(graph: _Graph, facts: ExportFacts) -> None:
    tool = facts.registered.payload.tool
    graph.add("agent", "tool", {"prov:type": _type("prov:SoftwareAgent"), "prov:label": tool})
    for name, kind in (("owner", "prov:Person"), ("organisation", "prov:Organization")):
        field = facts.catalogue[f"accountability.{name}"]
        if field.value is None:
            continue
        graph.add(
            "agent",
            name,
            {"prov:type": _type(kind), "prov:label": field.value, "grpo:evidence": field.evidence.value},
        )
    for name in ("owner", "organisation"):
        if graph.has("agent", name):
            graph.relation("actedOnBehalfOf", {"prov:delegate": "tool", "prov:responsible": name})
            break


def _inputs(graph: _Graph, facts: ExportFacts) -> tuple[str, str, list[str]]:
    registered = facts.registered.payload
    event = str(facts.registered.seq)
    base = graph.add(
        "entity",
        f"weights-{sha256(facts.base.weights_digest)}",
        {
            "prov:label": f"base model {base_model(facts.data.card)}",
            "prov:type": "base model weights",
            "grpo:digest": facts.base.weights_digest,
            "grpo:revision": facts.base.revision,
            "grpo:licence": facts.base.licence,
            "grpo:event": event,
        },
    )
    prompts = graph.add(
        "entity",
        f"prompts-{sha256(registered.prompts.digest)}",
        {
            "prov:label": f"prompt set {prompt_source(registered.prompts.source)}",
            "prov:type": "prompt set",
            "grpo:digest": registered.prompts.digest,
            "grpo:rows": str(registered.prompts.rows),
            "grpo:licence": registered.prompts.licence,
            "grpo:provenance": registered.prompts.provenance,
            "grpo:event": event,
        },
    )
    later = base
    for number, stage in reversed(list(enumerate(facts.stages, start=1))):
        earlier = graph.add(
            "entity",
            f"stage-{number}",
            {
                "prov:label": f"{stage.kind}: {stage.name}",
                "prov:type": stage.kind,
                "grpo:model": stage.model,
                "grpo:digest": stage.digest,
                "grpo:run": stage.run,
                "grpo:licence": stage.licence,
                "grpo:evidence": stage.evidence.value,
                "grpo:check": stage.check,
                "grpo:event": event,
            },
        )
        graph.relation("wasDerivedFrom", {"prov:generatedEntity": later, "prov:usedEntity": earlier})
        later = earlier
    rewards = [
        graph.add(
            "entity",
            f"reward-{number}-{sha256(reward.source_digest)}",
            {
                "prov:label": f"reward source {reward.name}",
                "prov:type": "reward source",
                "grpo:digest": reward.source_digest,
                "grpo:role": reward.role,
                "grpo:weight": repr(reward.weight),
                "grpo:event": event,
            },
        )
        for number, reward in enumerate(registered.rewards, start=1)
    ]
    return base, prompts, rewards


def _activities(graph: _Graph, facts: ExportFacts) -> None:
    for phase, name, label in _ACTIVITIES:
        ended = facts.phases.get(phase)
        if ended is None and phase != "train":
            continue
        graph.add(
            "activity",
            name,
            {
                "prov:label": label,
                "prov:endTime": ended.at if ended else None,
                "grpo:seconds": repr(ended.payload.seconds) if ended else None,
                "grpo:run": facts.run_id,
                "grpo:draft": facts.mark or None,
                "grpo:event": str(ended.seq) if ended else None,
            },
        )
        graph.relation("wasAssociatedWith", {"prov:activity": name, "prov:agent": "tool"})


def _evaluations(graph: _Graph, facts: ExportFacts, base: str) -> None:
    trained = f"weights-{sha256(facts.trained.weights_digest)}" if facts.trained else None
    for phase, weights in (("before", base), ("after", trained)):
        activity = f"evaluation-{phase}"
        if weights is None or not graph.has("activity", activity):
            continue
        rows = [row for row in facts.data.release.rows if (row.pre if phase == "before" else row.post) is not None]
        results = graph.add(
            "entity",
            f"results-{phase}",
            {
                "prov:label": f"evaluation results {phase} training",
                "prov:type": "evaluation results",
                **{f"grpo:task-{number}": _figure(row, phase) for number, row in enumerate(rows, start=1)},
            },
        )
        graph.relation("used", {"prov:activity": activity, "prov:entity": weights}, role="weights under test")
        graph.relation("wasGeneratedBy", {"prov:entity": results, "prov:activity": activity})
        graph.relation("wasDerivedFrom", {"prov:generatedEntity": results, "prov:usedEntity": weights})


def _figure(row: ReleaseRow, phase: str) -> str:
    value = row.pre if phase == "before" else row.post
    return f"{row.task}: {row.metric} = {value!r}"


def _trained(graph: _Graph, facts: ExportFacts, base: str) -> None:
    if facts.trained is None or facts.saved is None:
        return
    name = f"weights-{sha256(facts.trained.weights_digest)}"
    if name == base:
        return  # training changed nothing: the same bits are the same entity
    graph.add(
        "entity",
        name,
        {
            "prov:label": f"trained weights of {facts.name}",
            "prov:type": "trained weights",
            "grpo:digest": facts.trained.weights_digest,
            "grpo:event": str(facts.saved.seq),
            "grpo:draft": facts.mark or None,
        },
    )
    graph.relation("wasGeneratedBy", {"prov:entity": name, "prov:activity": "training"})
    graph.relation(
        "wasDerivedFrom", {"prov:generatedEntity": name, "prov:usedEntity": base, "prov:activity": "training"}
    )
    attributed = "owner" if graph.has("agent", "owner") else "tool"
    graph.relation("wasAttributedTo", {"prov:entity": name, "prov:agent": attributed})


def _type(name: str) -> dict[str, str]:
    return {"$": name, "type": "prov:QUALIFIED_NAME"}
