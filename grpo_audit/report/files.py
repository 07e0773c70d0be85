"""The report as data: ``report.json``, every value that the page and the card show, with the events it rests on."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

import matplotlib

import grpo_audit
from grpo_audit.report.model import ReportData

DATA_NAME: Final = "report.json"
HTML_NAME: Final = "report.html"
CARD_NAME: Final = "MODEL_CARD.md"
FORMAT: Final = 1


def render_data(data: ReportData) -> str:
    """``format``, ``tool``, ``figures_by`` and ``report``: the sections of ``ReportData`` by name. A value stands
    beside its ``source``: how it is known, the events (``seqs``, ``spans``) and the method. Same data, same bytes."""
    document = {
        "format": FORMAT,
        "tool": f"grpo-audit {grpo_audit.__version__}",
        "figures_by": f"matplotlib {matplotlib.__version__}",
        "report": plain(data),
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=1) + "\n"


def plain(data: ReportData) -> dict[str, Any]:
    """The report's data as JSON has it."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(data), ensure_ascii=False, allow_nan=False))
    return values
