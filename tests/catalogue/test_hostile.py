"""Whatever people write into declared fields is text: in the report, in the card, and in the catalogue's JSON."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from grpo_audit.catalogue.collect import Catalogue, collect
from grpo_audit.config.declared import GovernanceConfig
from grpo_audit.ledger.project import NewEvent
from grpo_audit.record.events import Annotation
from grpo_audit.report.data import collect as collect_report
from grpo_audit.report.render import render_card, render_html

HOSTILE = (
    "<script>alert(1)</script>\n---\nlicense: evil\n# Heading | a | b |\n\x1b[31m\x00\u202e {{ 7*7 }} [x](javascript:y)"
)


def hostile_config() -> dict[str, Any]:
    """Every free text of the declared sections."""
    texts = {name: HOSTILE for name, info in GovernanceConfig.model_fields.items() if str in get_args(info.annotation)}
    stage = {"kind": "SFT", "basis": "paper"}
    free = ("name", "model", "data", "licence", "flop_source", "run", "citation")
    return {
        "governance": texts,
        "lineage": [{**stage, **dict.fromkeys(free, HOSTILE), "flop": 1e20, "project": "f" * 32}],
        "model": {"training_flop": 1e20, "training_flop_source": HOSTILE},
        "budget": {"watts_per_device": 1.0, "watts_source": HOSTILE},
    }


@pytest.fixture
def hostile(registered: Any) -> tuple[Catalogue, str, str]:
    """Catalogue, page and card of a run in which everything declared is hostile."""
    with registered.project(hostile_config()) as project:
        note = Annotation(author=HOSTILE, field="lineage.stages_after", value=HOSTILE, reason=HOSTILE, signed=HOSTILE)
        project.append([NewEvent(note, "r-1")])
        data = collect_report(project, "r-1", None)
        return collect(project, "r-1"), render_html(data), render_card(data)


def test_hostile_declarations_stay_text(hostile: tuple[Catalogue, str, str]) -> None:
    """No markup, control character or front matter of a declaration takes effect in page or card."""
    _, page, card = hostile
    assert "alert(1)" in page and "alert(1)" in card
    _, front, body = card.split("---\n", 2)
    assert YAML(typ="safe").load(front)["license_name"] == HOSTILE  # quoted by the YAML library, on one line
    for text in (page, body):
        assert "<script>" not in text and "\x1b" not in text and "\x00" not in text and "\u202e" not in text
    assert "\nlicense: evil" not in card and "\n# Heading" not in card


def test_the_json_keeps_every_byte(hostile: tuple[Catalogue, str, str]) -> None:
    """The catalogue itself changes nothing of what was declared, and comes back from its JSON."""
    catalogue, _, _ = hostile
    assert catalogue.accountability.owner.value == HOSTILE
    stages = Catalogue.model_validate_json(catalogue.model_dump_json()).lineage.stages_before.value
    assert stages is not None and stages[0].name == HOSTILE
    assert catalogue.lineage.stages_after.is_unknown  # its signature is none
