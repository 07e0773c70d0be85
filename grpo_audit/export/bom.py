"""CycloneDX ML-BOM (https://cyclonedx.org/docs/1.7/json/, also 1.6): the trained model with its model card, what it was
made from, and the packages it was made with. Only fields that both versions have, and no time but the record's.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import grpo_audit
from grpo_audit.catalogue.lineage import Stage
from grpo_audit.export.croissant import file_name
from grpo_audit.export.facts import ExportFacts, prompt_source, sha256
from grpo_audit.export.licences import licences
from grpo_audit.export.model_card import model_card
from grpo_audit.export.properties import group_properties, properties
from grpo_audit.record.identities import FileDigest, ModelIdentity
from grpo_audit.report.card import base_model

VERSIONS = ("1.7", "1.6")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:grpo-audit:bom")
MODEL, BASE, PROMPTS, TOOL = "model", "model:base", "data:prompts", "tool:grpo-audit"


def bom(facts: ExportFacts, version: str = "1.7") -> dict[str, Any]:
    """The bill of materials. Same facts, same document; its serial number is a name-based UUID of run and tree root."""
    packages = [_package(name, found) for name, found in sorted(facts.registered.payload.environment.packages.items())]
    rewards = list(_rewards(facts))
    parts = [BASE, PROMPTS, *(item["bom-ref"] for item in rewards)]
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{version}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": version,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{facts.project_id}/{facts.run_id}/{facts.root}')}",
        "version": 1,
        "metadata": _metadata(facts),
        "components": [_base(facts), _prompts(facts), *rewards, *packages],
        "externalReferences": _references(facts),
        "dependencies": [
            {"ref": MODEL, "dependsOn": parts},
            *({"ref": part, "dependsOn": []} for part in parts),
        ],
        "formulation": [_formula(facts)],
    }


def _metadata(facts: ExportFacts) -> dict[str, Any]:
    found: dict[str, Any] = {
        "timestamp": facts.changed_at,
        "lifecycles": [{"phase": "post-build"}],
        "tools": {
            "components": [
                {"type": "application", "bom-ref": TOOL, "name": "grpo-audit", "version": grpo_audit.__version__}
            ]
        },
        "component": _model(facts),
    }
    organisation, owner = facts.said("accountability.organisation"), facts.said("accountability.owner")
    if organisation is not None:
        found["manufacturer"] = {"name": organisation}
    if owner is not None:
        found["authors"] = [{"name": owner}]
    if facts.is_draft:
        found["properties"] = properties({"draft": facts.mark})
    return found


def _model(facts: ExportFacts) -> dict[str, Any]:
    trained, licence = facts.trained, facts.data.card.licence
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": facts.name,
        "version": _version(facts.run_id),
        "description": (f"{facts.mark}. " if facts.is_draft else "")
        + f"Trained from {base_model(facts.data.card)} with GRPO.",
        **licences(licence),
        "pedigree": {
            "ancestors": [_ancestor(facts), *(_stage(stage) for stage in reversed(facts.stages))],
            "notes": f"GRPO by preset {facts.registered.payload.preset}; every figure rests on events of the record.",
        },
        "modelCard": model_card(facts, PROMPTS),
        "properties": group_properties("integrity", facts.catalogue.integrity),
    }
    if trained is not None:
        found["components"] = [_file(MODEL, file) for file in trained.files]
        found["properties"] += properties(_digests(trained))
    return found


def _ancestor(facts: ExportFacts) -> dict[str, Any]:
    """The base model inside the pedigree: without a reference of its own, for that is the component's."""
    return {key: value for key, value in _base(facts).items() if key not in {"bom-ref", "components"}}


def _stage(stage: Stage) -> dict[str, Any]:
    """A stage before this run: as the operator declares it, and what the record shows of it."""
    said = {
        "stage": stage.kind,
        "data": stage.data,
        "weights-digest": stage.digest,
        "run": stage.run,
        "project": stage.project,
        "flop": None if stage.flop is None else repr(stage.flop),
        "flop-source": stage.flop_source,
        "basis": f"{stage.basis.kind.value}: {stage.basis.citation}",
        "evidence": f"{stage.evidence.value}, event {', '.join(str(seq) for seq in stage.pointer.seqs)}",
        "check": stage.check,
    }
    return {
        "type": "machine-learning-model",
        "name": stage.model or stage.name,
        "description": f"{stage.kind}: {stage.name}",
        **licences(stage.licence),
        "properties": properties({name: value for name, value in said.items() if value is not None}),
    }


def _base(facts: ExportFacts) -> dict[str, Any]:
    base, name = facts.base, base_model(facts.data.card)
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": BASE,
        "name": name,
        **({"version": _version(base.revision)} if base.revision else {}),
        **licences(base.licence),
        "components": [_file(BASE, file) for file in base.files],
        "properties": properties({**_digests(base), "role": "base model"}),
    }
    if "/" in name and base.revision:
        found["purl"] = f"pkg:huggingface/{quote(name, safe='/')}@{quote(base.revision.lower(), safe='')}"
    return found


def _digests(model: ModelIdentity) -> dict[str, str]:
    return {
        "weights-digest": model.weights_digest,
        "tokenizer-digest": model.tokenizer_digest,
        "configuration-digest": model.config_digest,
        **({"chat-template-digest": model.chat_template_digest} if model.chat_template_digest else {}),
        "parameters": str(model.parameters),
    }


def _file(owner: str, file: FileDigest) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"{owner}:{file.name}",
        "name": file.name,
        "hashes": _hashes(file.digest),
        "properties": properties({"bytes": str(file.size)}),
    }


def _prompts(facts: ExportFacts) -> dict[str, Any]:
    prompts = facts.registered.payload.prompts
    name = prompt_source(prompts.source)
    contents: dict[str, Any] = {"properties": group_properties("data", facts.catalogue.data)}
    if prompts.source.startswith("hub:"):
        dataset = "/".join(prompts.source.removeprefix("hub:").split("/")[:2])
        contents["url"] = f"https://huggingface.co/datasets/{quote(dataset, safe='/')}"
    organisation = facts.said("accountability.organisation")
    data: dict[str, Any] = {"type": "dataset", "name": name, "contents": contents}
    if organisation is not None:
        data["governance"] = {"stewards": [{"organization": {"name": organisation}}]}
    found: dict[str, Any] = {
        "type": "data",
        "bom-ref": PROMPTS,
        "name": file_name(prompts) or name,
        **({"version": _version(prompts.revision)} if prompts.revision else {}),
        **({"description": prompts.description} if prompts.description else {}),
        **licences(prompts.licence),
        "data": [data],
        "properties": properties({"rows-digest": prompts.digest, "rows": str(prompts.rows)}),
    }
    if prompts.file_digest is not None:
        found["hashes"] = _hashes(prompts.file_digest)
    return found


def _rewards(facts: ExportFacts) -> Iterable[dict[str, Any]]:
    for number, reward in enumerate(facts.registered.payload.rewards, start=1):
        yield {
            "type": "file",
            "bom-ref": f"reward:{number}:{reward.name}",
            "name": reward.source_file,
            "version": _version(reward.version),
            "description": f"Source of the reward {reward.name}",
            "hashes": _hashes(reward.source_digest),
            "properties": properties(
                {
                    "reward": reward.name,
                    "role": reward.role,
                    "kind": reward.kind,
                    "weight": repr(reward.weight),
                    **({"domain": reward.domain} if reward.domain else {}),
                }
            ),
        }


def _package(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{quote(name.lower().replace('_', '-'), safe='.-')}@{quote(version, safe='.-')}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": _version(version),
        "purl": purl,
        "scope": "required",
    }


def _version(text: str) -> str:
    """The schema takes no longer one."""
    return text[:1024]


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256(digest)}]


def _references(facts: ExportFacts) -> list[dict[str, Any]]:
    return [
        {
            "type": "log",
            "url": f"urn:grpo-audit:project:{facts.project_id}",
            "comment": f"run {facts.run_id}; RFC 6962 tree of {facts.size} events with root {facts.root}",
        },
        {"type": "model-card", "url": "README.md"},
    ]


def _formula(facts: ExportFacts) -> dict[str, Any]:
    """How it was made: three tasks, what each took in and gave out, and the objective's formula."""
    trained: list[Mapping[str, Any]] = [{"resource": {"ref": MODEL}}] if facts.trained else []
    tasks = [
        _task("evaluation-before", "pre", "test", facts, [BASE], []),
        _task("training", "train", "build", facts, [BASE, PROMPTS], trained),
        _task("evaluation-after", "post", "test", facts, [MODEL] if facts.trained else [], []),
    ]
    return {
        "bom-ref": "formulation",
        "workflows": [
            {
                "bom-ref": f"workflow:{facts.run_id}",
                "uid": facts.run_id,
                "name": "evaluate, train with GRPO, evaluate again, compare",
                "taskTypes": ["build", "test"],
                "timeStart": facts.registered.at,
                "timeEnd": facts.changed_at,
                "tasks": [task for task in tasks if task is not None],
                "properties": properties({f"formula:{name}": text for name, text in facts.data.method.formula}),
            }
        ],
        "properties": group_properties("environment", facts.catalogue.environment),
    }


def _task(
    name: str, phase: str, kind: str, facts: ExportFacts, inputs: list[str], outputs: list[Mapping[str, Any]]
) -> dict[str, Any] | None:
    ended = facts.phases.get(phase)
    if ended is None:
        return None
    return {
        "bom-ref": f"task:{name}",
        "uid": f"{facts.run_id}/{name}",
        "name": name,
        "taskTypes": [kind],
        "timeEnd": ended.at,
        "inputs": [{"resource": {"ref": ref}} for ref in inputs],
        **({"outputs": outputs} if outputs else {}),
        "properties": properties({"seconds": repr(ended.payload.seconds), "event": str(ended.seq)}),
    }
