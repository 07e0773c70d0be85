"""The section that sets a run beside others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from true_record import RUN, build_true_record, events_of, seal

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.report.data import collect
from grpo_audit.report.files import CARD_NAME, DATA_NAME, HTML_NAME, render_data
from grpo_audit.report.render import render_card, render_html
from grpo_audit.report.trace import trace
from grpo_audit.verify.verdict import Outcome

OTHER = "other-run"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with the same answers, one of which is unlike in nothing but its name; and one never evaluated."""
    folder = tmp_path_factory.mktemp("others")
    honest = events_of(build_true_record(folder / "one.db"))
    path = folder / "record.db"
    with Project.open(path, mode="create") as project:
        project.append(honest)
        project.append([NewEvent(seal(project), RUN)])
        project.append([replace(event, run_id=OTHER) for event in honest])
        project.append([replace(honest[0], run_id="bare-run")])
    return path


def files(path: Path, *names: str) -> dict[str, bytes]:
    """The report's files, as rendered."""
    with Project.open(path, mode="read") as project:
        data = collect(project, RUN, None, against=names)
    texts = {HTML_NAME: render_html(data), CARD_NAME: render_card(data), DATA_NAME: render_data(data)}
    return {name: text.encode() for name, text in texts.items()}


def test_other_runs_are_compared_on_every_task(record: Path) -> None:
    """Each task has both values and a verdict; a run that cannot be compared says why; no run, no section."""
    made = files(record, OTHER, "bare-run")
    first, second = json.loads(made[DATA_NAME])["report"]["others"]
    assert [row["task"] for row in first["rows"]] == ["words", "lengths"]
    assert {row["verdict"] for row in first["rows"]} == {"no discordant pairs"}
    assert second["rows"] == [] and "not complete" in second["missing"]
    assert '<section id="others">' in made[HTML_NAME].decode()
    assert 'id="others"' not in files(record)[HTML_NAME].decode()


def test_a_run_that_is_not_there_is_an_error(record: Path) -> None:
    """Not a section that says nothing."""
    with pytest.raises(ConfigError, match="There is no run"):
        files(record, "nobody")


def test_the_section_is_traced_and_a_lie_in_it_is_found(record: Path) -> None:
    """Step (31) collects the same comparison again; another value fails, and so does a run that is not there."""
    made = files(record, OTHER)
    with Project.open(record, mode="read") as project:
        assert trace(project, RUN, made).outcome is Outcome.PASSED
        data = json.loads(made[DATA_NAME])
        data["report"]["others"][0]["rows"][0]["this"] = 0.99
        assert trace(project, RUN, made | {DATA_NAME: json.dumps(data).encode()}).outcome is Outcome.FAILED
        data["report"]["others"][0]["run_id"] = "nobody"
        assert trace(project, RUN, made | {DATA_NAME: json.dumps(data).encode()}).outcome is Outcome.FAILED
