"""``grpo-audit lint``, and the same rules in ``run`` and ``train``: before anything is written, then in the record."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import pytest

from grpo_audit.cli.app import main
from grpo_audit.errors import ExitCode
from grpo_audit.ledger.project import Project
from grpo_audit.preflight import PREFIX, RULES
from grpo_audit.record.events import EventKind, Severity

LOUD = ("--set", "sampling.engine=vllm", "--set", "sampling.group_size=2")


@dataclass(frozen=True)
class Done:
    """What the program said and ended with."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def program(workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``program(*arguments)`` in the furnished folder, inside this process: lint needs nothing that is slow to load."""
    monkeypatch.chdir(workplace.folder)

    def program(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["grpo-audit", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return program


def preflight_events(folder, run_id: str) -> list:
    """The run's preflight findings, and the number of its registration."""
    with Project.open(folder / "runs" / "record.db", mode="read") as project:
        events = list(project.events(run_id))
    (registered,) = [event.seq for event in events if event.payload.kind is EventKind.RUN_REGISTERED]
    found = [e for e in events if e.payload.kind is EventKind.FINDING and e.payload.rule.startswith(PREFIX)]
    return [registered, *found]


def test_lint_names_what_is_wrong_and_ends_as_bad_input(workplace) -> None:
    """The table has rule, severity, key, value and remedy; an error gives the exit code of a wrong recipe."""
    done = workplace.run("lint", "recipe.yaml", *LOUD)
    assert done.returncode == ExitCode.BAD_INPUT and done.stderr == ""
    text = " ".join(done.stdout.split())
    for part in ("error", "sampler-not-corrected", "objective.correction.level: none", "warning", "tiny-group"):
        assert part in text
    assert "1 error, 1 warning" in text
    assert sorted(path.name for path in workplace.folder.iterdir()) == [
        "model", "prompts.jsonl", "recipe.yaml", "rewards.py", "second.py", "suite",
    ]  # fmt: skip


def test_lint_as_json_can_be_read_by_a_program(program) -> None:
    """The document has a stable shape, and a waived error is there with its reason and stops nothing."""
    waive = ("--set", "waive.sampler-not-corrected='[bold]\\x1b and [/x]'")
    done = program("lint", "recipe.yaml", *LOUD, *waive, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert list(document) == ["recipe", "ok", "counts", "findings", "not_checked"]
    assert document["ok"] and document["counts"] == {"error": 0, "warning": 1, "info": 2}
    first = document["findings"][0]
    keys = ["rule", "severity", "title", "explanation", "remedy", "source", "where", "value", "message", "waived"]
    assert list(first) == keys
    assert (first["rule"], first["severity"]) == ("sampler-not-corrected", "error") and "[/x]" in first["waived"]
    assert program("lint", "recipe.yaml", *LOUD, *waive).returncode == 0  # and markup in a reason is text


def test_lint_without_a_recipe_looks_at_the_demonstration(program) -> None:
    """The recipe that ships with the project ends with exit code 0 and no warning."""
    done = program("lint")
    assert done.returncode == 0 and "0 error, 0 warning" in done.stdout


def test_rules_are_listed_and_explained(program) -> None:
    """--rules lists every rule, --explain tells one in full; an unknown one gets the nearest name, in one line."""
    listed = json.loads(program("lint", "--rules", "--json").stdout)
    assert [item["rule"] for item in listed] == list(RULES)
    told = program("lint", "--explain", "kl-k1-in-loss").stdout
    assert RULES["kl-k1-in-loss"].explanation in told and "Remedy:" in told
    wrong = program("lint", "--explain", "kl-k1-in-los")
    assert wrong.returncode == ExitCode.BAD_INPUT and "kl-k1-in-loss" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_an_error_stops_a_run_before_anything_is_written(program, workplace) -> None:
    """run, train and --dry-run end with one line and the exit code of a wrong recipe; no record and no folder."""
    for command in (("run",), ("train",), ("run", "--dry-run")):
        done = program(*command, "recipe.yaml", *LOUD)
        assert done.returncode == ExitCode.BAD_INPUT
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("grpo-audit: ")]
        assert "sampler-not-corrected" in line and "waive" in line
        assert not (workplace.folder / "runs").exists()
    assert "group_size: 2" in done.stdout and "preflight warning: tiny-group" in done.stderr


def test_a_waiver_that_names_no_rule_stops_a_run(program, workplace) -> None:
    """A typo in waive is an error of the recipe."""
    done = program("run", "recipe.yaml", "--set", "waive.tiny-groop=x")
    assert done.returncode == ExitCode.BAD_INPUT and "tiny-group" in done.stderr
    assert not (workplace.folder / "runs").exists()


def test_what_was_found_is_in_the_record_with_the_reason(workplace) -> None:
    """Findings stand directly behind the registration and rest on it: warnings, the waived one with its reason, and
    what is worth knowing; the terminal got a line for each warning."""
    waive = ("--set", "waive.tiny-group=a smoke test")
    done = workplace.run(
        "train", "recipe.yaml", "--set", "training.steps=1", "--set", "sampling.group_size=2", *waive, "--json"
    )
    assert done.returncode == 0, done.stderr
    run_id = json.loads(done.stdout)["run"]
    registered, *events = preflight_events(workplace.folder, run_id)
    assert [event.seq for event in events] == list(range(registered + 1, registered + 1 + len(events)))
    assert all(event.payload.evidence == [registered] for event in events)
    said = {event.payload.rule.removeprefix(PREFIX): event.payload for event in events}
    assert said["evaluation-off"].severity is Severity.WARNING
    assert said["tiny-group"].severity is Severity.INFO
    assert said["tiny-group"].message.endswith("Waived (warning): a smoke test")
    assert said["owner-missing"].severity is Severity.INFO
    assert "preflight warning: evaluation-off" in done.stderr
    assert "preflight warning, waived (a smoke test): tiny-group" in done.stderr
    assert "owner-missing" not in done.stderr


def test_findings_of_the_preflight_are_not_taken_for_the_comparison(finished) -> None:
    """A run with preflight findings is still compared at its end."""
    assert len(preflight_events(finished.place.folder, finished.run_id)) > 1
    with Project.open(finished.place.folder / "runs" / "record.db", mode="read") as project:
        assert project.last(finished.run_id, EventKind.COMPARISON) is not None
