"""Front matter of the model card: the Hub's metadata, written by a YAML library so that no value can break out.

https://huggingface.co/docs/hub/model-cards, and the ``model-index`` of https://github.com/paperswithcode/model-index.
"""

from __future__ import annotations

import io
import re
from pathlib import PurePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from grpo_audit.report.model import CardFacts, ReleaseRow, ReportData

TAGS = ("grpo", "reinforcement-learning", "grpo-audit")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,40}")
_PLAIN = re.compile(r"[a-z]{2,}(-[a-z0-9.]+)*")
_WORDS_OF_YAML_1_1 = {"yes", "no", "on", "off", "true", "false", "null"}  # the Hub does not read YAML 1.2


def front_matter(data: ReportData, mark: str = "") -> str:
    """The YAML between the two ``---`` lines. It parses back to ``metadata(data, mark)``."""
    return as_yaml(metadata(data, mark))


def as_yaml(value: Any) -> str:
    """Block YAML that a reader of YAML 1.1 and one of 1.2 take for the same, with every text on one line."""
    out = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.allow_unicode = True
    writer.width = 1 << 20  # a folded line could begin with anything
    writer.dump(_quoted(value), out)
    return out.getvalue()


def metadata(data: ReportData, mark: str = "") -> dict[str, Any]:
    """What the Hub reads, as plain values. Keys without a value are left out: the Hub knows no "missing".

    ``mark`` says why the card is of no release.
    """
    card = data.card
    found: dict[str, Any] = {
        **_licence(card.licence),
        "base_model": base_model(card),
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(TAGS),
    }
    if card.dataset:
        found["datasets"] = [card.dataset]
    if card.notice:
        found["notice"] = card.notice
    found["grpo_audit"] = {**({"draft": mark} if mark else {}), **_evidence(data)}
    results = [_result(row) for row in data.release.rows if row.post is not None]
    if results:
        found["model-index"] = [{"name": data.header.name, "results": results}]
    return found


def base_model(card: CardFacts) -> str:
    """The hub id, or the name of the built-in model; of a folder only its last part, never a path of a machine."""
    if _HUB_ID.fullmatch(card.base_model) and ".." not in card.base_model:
        return card.base_model
    return PurePath(card.base_model.replace("\\", "/")).name or "unknown"


def _licence(licence: str | None) -> dict[str, str]:
    if licence is None:
        return {"license": "unknown"}
    if _HUB_LICENCE.fullmatch(licence.lower()):
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}


def _evidence(data: ReportData) -> dict[str, Any]:
    """By which digests this card's statements can be checked. Not part of the Hub's vocabulary."""
    card = data.card
    return {
        "run": data.header.run_id,
        "state": data.header.state.value,
        "record_root": card.record_root,
        "base_weights": card.base_weights,
        **({"trained_weights": card.trained_weights} if card.trained_weights else {}),
    }


def _result(row: ReleaseRow) -> dict[str, Any]:
    compared = {
        "before": row.pre,
        "difference": row.difference,
        "ci_low": row.ci_low,
        "ci_high": row.ci_high,
        "documents": row.documents,
        "verdict": row.verdict,
    }
    metric: dict[str, Any] = {"type": row.metric, "name": f"{row.metric}, after training", "value": row.post}
    arguments = {key: value for key, value in compared.items() if value is not None}
    if arguments:
        metric["args"] = arguments
    return {
        "task": {"type": "text-generation", "name": row.behaviour},
        "dataset": {"type": row.task, "name": row.task},
        "metrics": [metric],
    }


def _quoted(value: Any) -> Any:
    """Strings that are more than a plain word are double-quoted: one line each, control characters escaped."""
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    if isinstance(value, str) and (value in _WORDS_OF_YAML_1_1 or not _PLAIN.fullmatch(value)):
        return DoubleQuotedScalarString(value)
    return value
