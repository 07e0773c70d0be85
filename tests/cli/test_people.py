"""What people do to a record on purpose: give a run up, erase text, look into the project's log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from grpo_audit.cli.app import app
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import EventKind
from grpo_audit.verify.l0 import verify

RUN, OTHER = "demo-0000-5feceb", "demo-0005-ef2d12"
SAID = ["--author", "A. Person", "--reason", "asked for"]


@pytest.fixture
def record(tmp_path: Path, build_record: Callable[..., str]) -> Path:
    """A sealed run and one without an end."""
    path = tmp_path / "record.db"
    build_record(path, steps=2, prompts=2, group_size=2)
    build_record(path, steps=1, prompts=1, group_size=2, sealed=False, seed=5)
    return path


def _call(record: Path, *arguments: str, ok: bool = True) -> Result:
    result = CliRunner().invoke(app, [*arguments, "--db", str(record)])
    assert not ok or result.exit_code == 0, result.output
    return result


def _log(record: Path) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(_call(record, "log", "--json").stdout)
    return found


def test_the_log_shows_every_attempt_and_what_has_no_end(record: Path) -> None:
    """Registered, aborted, resumed, sealed, each with its event; a run without an end is named."""
    log = _log(record)
    kinds = [line["kind"] for line in log["entries"] if line["run"] == RUN]
    assert kinds[:4] == ["run.registered", "run.aborted", "run.resumed", "run.sealed"]
    assert log["unfinished"] == [OTHER]
    assert log["entries"][0]["kind"] == "project.created"


def test_a_run_given_up_says_by_whom_and_why(record: Path) -> None:
    """abandon changes the state, shows in runs and log, and leaves a record that verifies; a second one is refused."""
    _call(record, "abandon", OTHER, *SAID)
    with Project.open(record, mode="read") as project:
        assert project.find_run(OTHER).state == "abandoned"
    assert "A. Person: asked for" in [line["detail"] for line in _log(record)["entries"]]
    assert _log(record)["unfinished"] == []
    assert verify(record, run=RUN).ok
    for run in (OTHER, RUN):
        assert isinstance(_call(record, "abandon", run, *SAID, ok=False).exception, ConfigError)


def test_nobody_acts_without_a_name_and_a_reason(record: Path) -> None:
    """An empty author or reason is refused, and nothing is written."""
    before = record.read_bytes()
    for author, reason in ((" ", "why"), ("who", "")):
        result = _call(record, "abandon", OTHER, "--author", author, "--reason", reason, ok=False)
        assert isinstance(result.exception, ConfigError)
    assert record.read_bytes() == before


def _texts(record: Path) -> dict[tuple[int, str], bytes]:
    with Project.open(record, mode="read") as project:
        found = {
            (event.seq, name): project.content(event.seq, name) for event in project.events() for name in event.content
        }
    return {key: value for key, value in found.items() if value is not None}


def _erase(record: Path, *what: str) -> dict[str, object]:
    result: dict[str, object] = json.loads(_call(record, "erase", RUN, *what, *SAID, "--yes", "--json").stdout)
    return result


def test_a_completion_is_erased_from_a_sealed_run(record: Path) -> None:
    """Its text and tokens are gone, everything else is there, and verify says who erased what."""
    before = _texts(record)
    said = _erase(record, "--rollout", "0:1:0")
    gone = before.keys() - _texts(record).keys()
    assert sorted(name for _, name in gone) == ["completion", "trace"] and len({seq for seq, _ in gone}) == 1
    assert said["contents"] == 2
    report = verify(record, run=RUN)
    assert report.ok
    (check,) = [check for check in report.checks if check.number == 10]
    assert "2 contents erased by A. Person: asked for" in check.detail
    for name in (item for key, item in before.items() if key in gone and key[1] == "trace"):
        assert name not in record.read_bytes()


def test_a_prompt_is_erased_wherever_it_was_drawn(record: Path) -> None:
    """--prompt takes every draw of the prompt, in every attempt; --completions its answers too."""
    with Project.open(record, mode="read") as project:
        groups = [event for event in project.events(RUN, kinds={EventKind.GROUP})]
    prompt_id = groups[0].payload.prompt_id  # type: ignore[union-attr]
    drawn = [event.seq for event in groups if event.payload.prompt_id == prompt_id]  # type: ignore[union-attr]
    before = _texts(record)
    _erase(record, "--prompt", prompt_id, "--completions")
    gone = before.keys() - _texts(record).keys()
    assert {seq for seq, name in gone if name == "prompt"} == set(drawn)
    assert sum(name == "completion" for _, name in gone) == 2 * len(drawn)
    assert verify(record, run=RUN).ok


def test_an_evaluation_document_is_erased(record: Path) -> None:
    """--document takes prompt and response, before and after."""
    before = _texts(record)
    _erase(record, "--document", "countdown:countdown-003")
    gone = before.keys() - _texts(record).keys()
    assert sorted(name for _, name in gone) == ["prompt", "prompt", "response", "response"]
    assert verify(record, run=RUN).ok


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (["--rollout", "0:0"], "names no rollout"),
        (["--rollout", "9:9:9"], "no rollout"),
        (["--prompt", "nobody"], "never drew"),
        (["--document", "countdown:x"], "no evaluation document"),
        ([], "nothing to erase"),
    ],
)
def test_what_is_not_there_is_not_erased(record: Path, what: list[str], why: str) -> None:
    """Each mistake is named, and nothing is written."""
    before = record.read_bytes()
    result = _call(record, "erase", RUN, *what, *SAID, "--yes", ok=False)
    assert isinstance(result.exception, ConfigError) and why in str(result.exception)
    assert record.read_bytes() == before


def test_erasing_asks_first(record: Path) -> None:
    """Without --yes a question comes; no, and nothing happens."""
    before = _texts(record)
    result = CliRunner().invoke(app, ["erase", RUN, "--rollout", "0:0:0", *SAID, "--db", str(record)], input="n\n")
    assert result.exit_code != 0
    assert _texts(record) == before


def test_an_erased_text_shows_as_such(record: Path) -> None:
    """show says (erased), and what was erased once cannot be again."""
    _erase(record, "--rollout", "0:0:0")
    shown = json.loads(_call(record, "show", RUN, "--step", "0", "--json").stdout)
    assert [row["completion"] for row in shown["rows"]].count("(erased)") == 1
    again = _call(record, "erase", RUN, "--rollout", "0:0:0", *SAID, "--yes", ok=False)
    assert isinstance(again.exception, ConfigError)
