"""``grpo-audit compare`` on runs and model folders, in any mixture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from grpo_audit.cli.app import app
from grpo_audit.errors import ComparisonError, ConfigError, ExitCode, GrpoAuditError

Compare = Callable[..., Result]


@pytest.fixture
def compare(finished: Any, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """The command, in the folder of the shared run. Errors of ours are raised as they are."""
    for name, value in finished.place.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(finished.place.folder)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["compare", *arguments])
        if isinstance(result.exception, GrpoAuditError):
            raise result.exception
        return result

    return run


def test_runs_and_models_stand_side_by_side(finished: Any, compare: Compare, tmp_path: Path) -> None:
    """A run before and after training and the folder it started from: the folder's answers are those the run recorded,
    so nothing differs from the baseline; all of it as JSON and as a page."""
    page = tmp_path / "deep" / "page.html"
    result = compare("tiny:pre", "tiny", "model", "--json", "--html", str(page))
    found = json.loads(result.stdout)
    assert (found["baseline"]["name"], found["baseline"]["phase"]) == (finished.run_id, "pre")
    assert [(item["kind"], item["name"]) for item in found["comparisons"]] == [
        ("run", finished.run_id),
        ("model", "model"),
    ]
    trained, folder = found["comparisons"]
    assert trained["comparison"] == finished.outcome["comparison"]
    assert folder["weights_digest"] == found["baseline"]["weights_digest"] != trained["weights_digest"]
    (row,) = folder["comparison"]["tasks"]
    assert (row["verdict"], row["gained"], row["lost"]) == ("no discordant pairs", 0, 0)
    assert folder["flips"] == folder["findings"] == []
    assert "model model" in page.read_text()


def test_answers_are_kept_between_calls(finished: Any, compare: Compare) -> None:
    """Keyed by weights and protocol: a second call generates nothing, and gives the same; without a cache none is
    written."""
    folder = finished.place.home / "cache" / "evaluations"
    trained = f"runs/{finished.run_id}/model"
    before = set(folder.glob("*")) if folder.exists() else set()
    once = compare("model", trained, "--limit", "5", "--suite", "suite", "--json", "--no-cache").stdout
    assert (set(folder.glob("*")) if folder.exists() else set()) == before
    assert compare("model", trained, "--limit", "5", "--suite", "suite", "--json").stdout == once
    kept = {path: path.read_bytes() for path in set(folder.glob("*.sqlite")) - before}
    assert len(kept) == 2
    assert compare("model", trained, "--limit", "5", "--suite", "suite", "--json").stdout == once
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_model_under_another_protocol_is_refused_before_it_answers(compare: Compare) -> None:
    """The refusal says in what the protocols differ."""
    with pytest.raises(
        ComparisonError, match="different protocols: task echo: documents 12 against 3; task echo: other"
    ):
        compare("tiny", "model", "--limit", "3")
    with pytest.raises(ComparisonError, match="task builtin_answerable is only in the second"):
        compare("tiny", "model", "--suite", "builtin", "--limit", "3")


def test_one_task_of_a_run_is_compared_with_a_model(compare: Compare) -> None:
    """The recorded protocol is cut down to the task, and must then be that of the suite with this task alone."""
    found = json.loads(compare("tiny", "model", "--task", "echo", "--json").stdout)
    assert [row["task"] for row in found["comparisons"][0]["comparison"]["tasks"]] == ["echo"]
    with pytest.raises(ComparisonError, match="no task nope"):
        compare("tiny", "tiny:pre", "--task", "nope")


REFUSED = [
    (["model"], "alone is nothing to compare"),
    (["tiny:pre"], "alone is nothing to compare"),
    (["tiny", "nowhere"], "no run 'nowhere'"),
    (["tiny", "suite/"], "no config.json in it"),
    (["tiny", "./nowhere"], "no such folder"),
    (["tiny", "tiny:pre", "--limit", "3"], "runs only"),
    (["tiny"] * 27, "too many"),
]


@pytest.mark.parametrize(("arguments", "why"), REFUSED)
def test_what_cannot_be_compared_is_said_in_one_line(compare: Compare, arguments: list[str], why: str) -> None:
    """Bad input, exit code 2, and what to do instead."""
    with pytest.raises(GrpoAuditError, match=why) as caught:
        compare(*arguments)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ConfigError) or caught.value.next_step


def test_a_run_folder_leads_to_its_model(finished: Any, compare: Compare) -> None:
    """Who names the folder of a run is told where its weights are."""
    with pytest.raises(ConfigError, match=f"its trained weights are in runs/{finished.run_id}/model"):
        compare("tiny", f"runs/{finished.run_id}")


def test_the_terminal_shows_flips_with_both_answers(finished: Any, tmp_path: Path) -> None:
    """``--examples``: the prompt, what was wanted and both answers, hostile text made visible."""
    from grpo_audit.ledger.project import NewEvent, Project
    from grpo_audit.record.events import EvalSample, EventKind

    kinds = {EventKind.RUN_REGISTERED, EventKind.EVAL_SAMPLE, EventKind.EVAL_TASK, EventKind.ARTIFACT}
    events = []
    with Project.open(finished.place.folder / "runs/record.db", mode="read") as source:
        for event in source.events(finished.run_id, kinds=kinds):
            payload, content = event.payload, {name: source.content(event.seq, name) for name in event.content}
            if isinstance(payload, EvalSample):
                wrong = payload.phase == "post" and payload.doc_id == "d3"
                payload = payload.model_copy(update={"metrics": {"match": float(not wrong)}, "prediction": "\x1b[31m"})
                content["response"] = f"\x1b]0;{payload.phase}\x07 [bold]answer".encode()
            events.append(NewEvent(payload, finished.run_id, content))
    with Project.open(tmp_path / "flipped.db", mode="create") as target:
        target.append(events)
    done = finished.place.run("compare", "--db", str(tmp_path / "flipped.db"), "--examples", "2")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "echo d3: lost (1 to 0)" in done.stdout and "inconclusive" in done.stdout
    assert r"before     \x1b]0;pre\x07 [bold]answer" in done.stdout
    assert r"after      \x1b]0;post\x07 [bold]answer" in done.stdout
    assert "\x1b" not in done.stdout
