"""The prompt set in Croissant 1.1 with its responsible-AI fields (http://mlcommons.org/croissant/1.1, RAI 1.0).

What the record does not know has no field here. Only columns that the record names are described.
"""

from __future__ import annotations

import importlib
from pathlib import PurePath
from typing import Any

from grpo_audit.catalogue.field import Field
from grpo_audit.export.facts import ExportFacts, prompt_source, sha256
from grpo_audit.record.identities import PromptSetIdentity

VERSION = "http://mlcommons.org/croissant/1.1"
RAI = "http://mlcommons.org/croissant/RAI/1.0"
_FORMATS = {".jsonl": "application/jsonlines", ".csv": "text/csv", ".parquet": "application/x-parquet"}
_RECORDS = "prompts"

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the Croissant specification asks for."""


def croissant(facts: ExportFacts) -> dict[str, Any]:
    """The prompt set of a run as JSON-LD."""
    prompts = facts.registered.payload.prompts
    files = _files(prompts)
    found: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [VERSION, RAI],
        "name": f"Prompts of {facts.name}",
        "description": _description(facts, prompts),
        **_origin(prompts),
        "distribution": files,
        "recordSet": [_record_set(prompts, files[0]["@id"])] if files else [],
        **_responsible(facts, prompts),
    }
    if prompts.licence is not None:
        found["license"] = prompts.licence
    return {key: value for key, value in found.items() if value != []}


def file_name(prompts: PromptSetIdentity) -> str | None:
    """Name of the prompt file, without its folder; None for a data set of the Hub."""
    if prompts.source.startswith("hub:"):
        return None
    if prompts.source == "builtin":
        return str(importlib.import_module("grpo_audit_builtin").PROMPTS.name)
    return prompt_source(prompts.source)


def _description(facts: ExportFacts, prompts: PromptSetIdentity) -> str:
    described = (prompts.description or "The recipe describes this prompt set no further").rstrip(".")
    parts = [
        f"{facts.mark}." if facts.is_draft else "",
        f"{described}.",
        f"{prompts.rows} rows, {prompts.duplicates} of them with a prompt that occurs earlier; SHA-256 over the rows "
        f"{prompts.digest}. As registered by run {facts.run_id} before its first step (event {facts.registered.seq} of "
        f"record {facts.project_id}).",
    ]
    return " ".join(part for part in parts if part)


def _origin(prompts: PromptSetIdentity) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if prompts.source.startswith("hub:"):
        owner_name = "/".join(prompts.source.removeprefix("hub:").split("/")[:2])
        found["url"] = f"https://huggingface.co/datasets/{owner_name}"
    if prompts.revision is not None:
        found["version"] = prompts.revision
    return found


def _files(prompts: PromptSetIdentity) -> list[dict[str, Any]]:
    name = file_name(prompts)
    if name is None or prompts.file_digest is None:
        return []
    return [
        {
            "@type": "cr:FileObject",
            "@id": "prompt-file",
            "name": name,
            "description": "The file that the run read. It is not part of this export.",
            "contentUrl": name,
            "encodingFormat": _FORMATS.get(PurePath(name).suffix.lower(), "application/octet-stream"),
            "sha256": sha256(prompts.file_digest),
        }
    ]


def _record_set(prompts: PromptSetIdentity, file: str) -> dict[str, Any]:
    columns = {"prompt": "prompt", **prompts.fields}
    return {
        "@type": "cr:RecordSet",
        "@id": _RECORDS,
        "name": _RECORDS,
        "description": "One row a prompt; columns that the record does not name are not listed.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{_RECORDS}/{ours}",
                "name": ours,
                "description": "The prompt." if ours == "prompt" else "A column that the reward sources see.",
                "dataType": "sc:Text",
                "source": {"fileObject": {"@id": file}, "extract": {"column": theirs}},
            }
            for ours, theirs in sorted(columns.items())
        ],
    }


def _responsible(facts: ExportFacts, prompts: PromptSetIdentity) -> dict[str, Any]:
    data = facts.catalogue.data
    found: dict[str, Any] = {
        "rai:dataUseCases": ["Prompts for reinforcement learning with group-relative policy optimisation (GRPO)."],
        "rai:dataPreprocessingProtocol": [f"Order: {prompts.order}"],
        "rai:dataLimitations": [
            f"{prompts.duplicates} of {prompts.rows} rows repeat the prompt of an earlier row.",
            f"Decontamination against the evaluation documents: {_said(data.decontamination)}",
        ],
        "rai:personalSensitiveInformation": [f"Personal data: {_said(data.personal_data)}"],
    }
    collected = [f"Category of origin: {_said(data.provenance)}"] if data.provenance.value is not None else []
    if data.synthetic_share.value is not None:
        collected.append(f"Share of prompts that a model wrote: {_said(data.synthetic_share)}")
    if collected:
        found["rai:dataCollection"] = "; ".join(collected)
    if data.curation.value is not None:
        found["rai:dataPreprocessingProtocol"].append(f"Curation: {_said(data.curation)}")
    if data.bias_assessment.value is not None:
        found["rai:dataBiases"] = [_said(data.bias_assessment)]
    return found


def _said(field: Field[Any]) -> str:
    """The value with its evidence; what is not known is said to be unknown."""
    if field.value is None:
        return "unknown" if field.is_unknown else f"not applicable ({field.reason})"
    return f"{field.text()} ({field.evidence.value})"
