"""The box at the top never says more than verification said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grpo_audit.catalogue.reader import Entry, RunReader
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Comparison, Finding, Severity
from grpo_audit.report.data import collect
from grpo_audit.report.model import ReportData, Standing, Statement
from grpo_audit.report.render import render_html
from grpo_audit.report.verdict import _release
from grpo_audit.verify.verdict import Check, Outcome, VerifyReport


def reported(made: Any, verification: VerifyReport | None) -> ReportData:
    """Report data of the sealed run under another verification."""
    with Project.open(made.db, mode="read") as project:
        return collect(project, made.run_id, verification)


def test_an_intact_record_is_self_attested(made: Any) -> None:
    """Passed checks give "Intact" with the attestation word and everything that is not shown."""
    box = made.data.verdict
    assert box.record.word == "Intact" and box.record.badge == "SELF-ATTESTED" and box.record.standing is Standing.GOOD
    assert box.not_shown == tuple(made.verification.not_shown) != ()
    assert box.run.word == "Sealed"
    assert all(line in made.html for line in box.not_shown)
    assert "SELF-ATTESTED" in made.card


def test_a_failed_check_is_never_green(made: Any) -> None:
    """One failed check turns the box red and stands below it, word for word."""
    failed = Check(5, "leaf hashes", Outcome.FAILED, "event 12: <b>changed</b>")
    data = reported(made, replace(made.verification, checks=[*made.verification.checks[:5], failed]))
    assert data.verdict.record.standing is Standing.BAD and data.verdict.record.badge == ""
    page = render_html(data)
    assert "(5) leaf hashes: event 12: &lt;b&gt;changed&lt;/b&gt;" in page and "Do not rely on this page" in page


def test_no_checks_is_no_pass(made: Any) -> None:
    """A verification that checked nothing is not a pass."""
    assert reported(made, replace(made.verification, checks=[])).verdict.record.standing is Standing.BAD


@pytest.mark.parametrize("update", [{"events": 3}, {"root": "00" * 32}, {"root": None}])
def test_a_verification_of_another_state_does_not_count(made: Any, update: dict[str, Any]) -> None:
    """A verdict about another size or root than the one rendered is shown as "Not verified"."""
    data = reported(made, replace(made.verification, **update))
    assert data.verdict.record.word == "Not verified" and data.verdict.record.badge == ""


def test_without_verification_nothing_vouches(made: Any) -> None:
    """No verification is said in the box, and there are no checks to list."""
    data = reported(made, None)
    assert data.verdict.record.word == "Not verified" and data.verdict.checks == ()
    assert "SELF-ATTESTED" not in render_html(data)


def test_a_regression_is_the_first_word(made: Any) -> None:
    """A run with a regressed behaviour is red, and the sentence names it."""
    box = made.data.verdict.release
    assert (
        box.word == "Regression found" and box.standing is Standing.BAD and "hallucination (regressed)" in box.sentence
    )


@pytest.mark.parametrize(
    ("rule", "word", "standing"),
    [
        ("contamination-void", "No regression found", Standing.OPEN),
        ("evaluation-did-not-see-the-weights", "Evaluation void", Standing.BAD),
    ],
)
def test_an_error_among_the_findings_is_never_green(made: Any, rule: str, word: str, standing: Standing) -> None:
    """A release whose evaluation or contamination check proved nothing says so at the top, and names the finding."""
    with Project.open(made.db, mode="read") as project:
        reader = RunReader(project, made.run_id)
        comparison = reader.newest(Comparison)
        good = replace(made.data.release, rows=())
        gates = replace(made.data.gates, rows=(), passed=None)

        def release(errors: list[Entry[Finding]]) -> Statement:
            return _release(good, comparison, gates, "", errors)

        assert (release([]).word, release([]).standing) == ("No regression found", Standing.GOOD)
        error = Finding(rule=rule, severity=Severity.ERROR, message="m", evidence=[1])
        box = release([Entry(7, "2026-01-01T00:00:00Z", error)])
    assert (box.word, box.standing) == (word, standing)
    assert rule in box.sentence and 7 in box.source.seqs
