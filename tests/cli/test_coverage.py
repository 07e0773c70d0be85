"""``grpo-audit coverage`` and ``grpo-audit annotate``, as a person uses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from grpo_audit.catalogue.collect import declarable
from grpo_audit.catalogue.coverage import standards
from grpo_audit.cli.app import app
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.annotations import check_annotation
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Annotation
from grpo_audit.verify.l0 import verify

HOSTILE = "\x1b[31mred\x1b[0m [bold]x[/bold] <script>alert(1)</script>\n\u202eevil | a |"


def run(*arguments: str | Path) -> Result:
    """The program in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.fixture
def record(tmp_path: Path, build_record: Callable[..., str]) -> tuple[Path, str]:
    """A sealed run of a record that this test may write to."""
    db = tmp_path / "record.db"
    return db, build_record(db, steps=2, prompts=1, group_size=2)


def said(value: str, db: Path, *more: str, field: str = "accountability.approver", who: str = "demo") -> Result:
    """One annotation."""
    return run("annotate", who, field, value, "--author", "Ada L.", "--reason", "read it", "--db", db, *more)


def test_the_summary_counts_every_standard(record: tuple[Path, str]) -> None:
    """Each standard with its counts, the meaning of each word, and nothing wrapped at 80 columns."""
    done = run("coverage", "--db", record[0])
    assert done.exit_code == 0
    for standard in standards():
        assert standard.standard in done.output
    assert "documented: every field that answers it is there" in done.output
    assert "…" not in done.output and "complian" not in done.output.lower()


def test_one_standard_names_evidence_and_what_is_missing(record: tuple[Path, str]) -> None:
    """Item by item: event numbers for what is there, the recipe key and the command for what is not."""
    done = run("coverage", "demo", "--standard", "annex-xi", "--db", record[0])
    assert "lineage.parameters: 16  (measured #1)" in done.output
    assert "recipe governance.acceptable_use, or annotate accountability.acceptable_use" in done.output
    missing = run("coverage", "demo", "--standard", "annex-xi", "--missing", "--db", record[0])
    assert "1(b)" in missing.output and "1(d)" not in missing.output


def test_an_annotation_covers_an_item_by_its_event_and_the_record_still_verifies(record: tuple[Path, str]) -> None:
    """Said after the seal: signed by the author's own key, found by coverage, and the record holds."""
    db, run_id = record
    done = said("C. Approver", db, "--json")
    assert done.exit_code == 0, done.output
    event = json.loads(done.output)["event"]
    found = json.loads(run("coverage", run_id, "--standard", "nist-ai-600-1", "--json", "--db", db).output)
    rows = {row["item"]: row for row in found["standards"][0]["items"]}
    evidence = rows["MS-2.3-003"]["evidence"]["accountability.approver"]
    assert (evidence["value"], evidence["pointer"]["seqs"]) == ("C. Approver", [event])
    assert "signed by grpo-audit-author/Ada%20L.+" in evidence["note"]
    assert verify(db, run=run_id, run_folder=db.parent / run_id).ok
    with Project.open(db, mode="read") as project:
        payload = next(project.events(start=event)).payload
        assert isinstance(payload, Annotation)
        assert str(check_annotation(payload, project.project_id, run_id)) == payload.public_key
        assert payload.public_key.partition("+")[2] != project.public_key.partition("+")[2]


def test_a_whole_project_is_annotated_at_once(record: tuple[Path, str]) -> None:
    """--project-wide belongs to no run and holds for each that says nothing of its own."""
    db, _ = record
    assert said("ACME", db, "--project-wide", field="governance.organisation", who="-").exit_code == 0
    done = run("coverage", "--standard", "cyclonedx", "--db", db)
    assert "accountability.organisation: ACME" in done.output


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("lineage.parameters", "5", "is measured, not said"),
        ("aprover", "x", "expected accountability.approver"),
        ("data.synthetic_share", "5", "less than or equal to 1"),
        ("data.synthetic_share", "half", "cannot be 'half'"),
        ("data.personal_data", "perhaps", "expected one of none, present, removed"),
        ("accountability.approver", " ", "cannot be ' '"),
    ],
)
def test_what_cannot_be_said_is_refused_and_nothing_is_written(
    record: tuple[Path, str], field: str, value: str, words: str
) -> None:
    """Measured fields, typing mistakes with the nearest name, values outside of a field's range."""
    db, _ = record
    with Project.open(db, mode="read") as project:
        before = project.head.size
    done = said(value, db, field=field)
    assert isinstance(done.exception, ConfigError) and words in str(done.exception)
    with Project.open(db, mode="read") as project:
        assert project.head.size == before


def test_something_missing_is_said_with_the_usage(record: tuple[Path, str]) -> None:
    """Without a reason there is no annotation."""
    done = run("annotate", "demo", "accountability.approver", "x", "--author", "Ada", "--db", record[0])
    assert "expected RUN FIELD VALUE --author NAME --reason WHY" in str(done.exception)


def test_the_fields_that_may_be_said_are_listed() -> None:
    """--list has each with its meaning and recipe key, and --json the items that ask for it."""
    rows = json.loads(run("annotate", "--list", "--json").output)
    assert [row["field"] for row in rows] == list(declarable())
    assert all(row["meaning"] and row["asked_by"] for row in rows)
    assert "accountability.approver" in run("annotate", "--list").output


def test_hostile_text_is_shown_as_text(record: tuple[Path, str]) -> None:
    """Control characters, markup, bidirectional overrides and line breaks of a value do nothing in a terminal."""
    db, _ = record
    assert said(HOSTILE, db).exit_code == 0
    done = run("coverage", "--standard", "iso-42001", "--db", db)
    assert "[bold]x[/bold]" in done.output and "\\x1b[31m" in done.output
    assert "\x1b" not in done.output and "\u202e" not in done.output


def test_another_authors_key_can_be_given(record: tuple[Path, str], tmp_path: Path) -> None:
    """--key uses, and makes on first use, a key of the author's own, mode 0600."""
    db, _ = record
    key = tmp_path / "ada.pem"
    assert said("yes", db, "--key", str(key)).exit_code == 0
    assert key.stat().st_mode & 0o777 == 0o600
    one = json.loads(said("yes", db, "--json", "--key", str(key)).output)["public_key"]
    other = json.loads(said("yes", db, "--json").output)["public_key"]
    assert one != other
