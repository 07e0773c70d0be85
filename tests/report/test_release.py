"""The release table: every number is the record's, and what is not as planned is said."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from grpo_audit.catalogue.reader import Entry, RunReader
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import Comparison, EvalTask, EventKind, RunRegistered, Verdict
from grpo_audit.report.evidence import Evidence
from grpo_audit.report.model import ReportData, Standing
from grpo_audit.report.release import outcome, release


@pytest.fixture(scope="module")
def parts(made: Any) -> dict[str, Any]:
    """The events that a release table is made of."""
    with Project.open(made.db, mode="read") as project:
        reader = RunReader(project, made.run_id)
        tasks = {(entry.payload.phase, entry.payload.task): entry for entry in reader.entries(EvalTask)}
        return {
            "registered": reader.registered(),
            "tasks": tasks,
            "comparison": reader.newest(Comparison),
            "saved": None,
        }


def test_every_number_of_the_table_is_the_record_s(made: Any) -> None:
    """Each figure of the page's release table carries the very float of the comparison event, in the plan's order."""
    with Project.open(made.db, mode="read") as project:
        event = project.last(made.run_id, EventKind.COMPARISON)
        registered = next(project.events(made.run_id, kinds=[EventKind.RUN_REGISTERED])).payload
    assert event is not None and isinstance(event.payload, Comparison) and isinstance(registered, RunRegistered)
    assert registered.evaluation is not None
    compared = {task.task: task for task in event.payload.tasks}
    section = made.html.split('<section id="release">')[1].split("</section>")[0]
    rows = re.findall(r'<tr class="[a-z]*" id="task-\d+">(.*?)</tr>', section, flags=re.DOTALL)
    assert len(rows) == len(registered.evaluation.tasks)
    for row, plan in zip(rows, registered.evaluation.tasks, strict=True):
        task = compared[plan.task]
        numbers = [
            task.documents, task.pre, task.post, task.difference, task.ci_low, task.ci_high, task.p_adjusted,
            task.margin, task.p_margin, task.gained, task.lost,
            task.minimum_detectable if task.verdict is Verdict.INCONCLUSIVE else None,
        ]  # fmt: skip
        assert re.findall(r'<data value="([^"]*)">', row) == [repr(value) for value in numbers if value is not None]
        assert task.behaviour in row and task.verdict.value in row and f"#{event.seq}" in row
        assert (">safety<" in row) == plan.safety


def test_a_row_names_the_events_it_rests_on(made: Any) -> None:
    """Plan, both evaluations and the comparison are cited by each row."""
    with Project.open(made.db, mode="read") as project:
        kinds = {event.seq: event.kind for event in project.events(made.run_id)}
    for row in made.data.release.rows:
        assert [kinds[seq] for seq in row.source.seqs] == [
            EventKind.RUN_REGISTERED, EventKind.EVAL_TASK, EventKind.EVAL_TASK, EventKind.COMPARISON,
        ]  # fmt: skip
        assert row.source.evidence is Evidence.MEASURED


def test_a_planned_task_that_was_never_measured_shows(parts: dict[str, Any]) -> None:
    """A task of the plan without any result keeps its row, with the reason and without a number."""
    tasks = {key: entry for key, entry in parts["tasks"].items() if key[1] != "refusal"}
    found = release(parts["registered"], tasks, None, None)
    row = next(row for row in found.rows if row.task == "refusal")
    assert row.missing == "planned, not measured"
    assert (row.pre, row.post, row.difference, row.verdict, row.gained) == (None,) * 5
    assert "1" not in outcome(found) or "not compared" in outcome(found)


def test_without_a_comparison_values_stand_untested(parts: dict[str, Any]) -> None:
    """Before-only results are shown as such; nothing is called improved."""
    before = {key: entry for key, entry in parts["tasks"].items() if key[0] == "pre"}
    found = release(parts["registered"], before, None, None)
    assert {row.missing for row in found.rows} == {"measured before training only"}
    assert all(row.pre is not None and row.verdict is None and row.standing is Standing.OPEN for row in found.rows)
    assert "never evaluated" in outcome(found)


def changed(entry: Entry[Any], **update: Any) -> Entry[Any]:
    """The same event with a payload that says something else."""
    return replace(entry, payload=entry.payload.model_copy(update=update))


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"protocol_digest": "sha256:" + "0" * 64}, "protocol"),
        ({"pre_weights": "sha256:" + "0" * 64}, "before training are not those"),
        ({"alpha": 0.5}, "error rate"),
    ],
)
def test_a_comparison_of_something_else_is_remarked(parts: dict[str, Any], update: dict[str, Any], words: str) -> None:
    """Another protocol, other weights or another error rate than registered stand out above the protocol."""
    honest = release(parts["registered"], parts["tasks"], parts["comparison"], parts["saved"]).remarks
    found = release(parts["registered"], parts["tasks"], changed(parts["comparison"], **update), parts["saved"])
    new = set(found.remarks) - set(honest)
    assert len(new) == 1 and words in new.pop()


def test_a_moved_margin_is_remarked(parts: dict[str, Any]) -> None:
    """A margin that differs from the one fixed before step 0 is named, both values."""
    comparison = parts["comparison"]
    tasks = [task.model_copy(update={"margin": 0.3}) for task in comparison.payload.tasks]
    found = release(parts["registered"], parts["tasks"], changed(comparison, tasks=tasks), None)
    assert all("margin differs from the plan: registered 0.05, compared with 0.3" in row.remarks for row in found.rows)


def test_an_unplanned_task_is_remarked(parts: dict[str, Any]) -> None:
    """A task that was compared without standing in the plan keeps a row that says so."""
    comparison = parts["comparison"]
    extra = comparison.payload.tasks[0].model_copy(update={"task": "afterthought"})
    found = release(
        parts["registered"], parts["tasks"], changed(comparison, tasks=[*comparison.payload.tasks, extra]), None
    )
    row = found.rows[-1]
    assert row.task == "afterthought" and not row.planned
    assert "not in the plan registered before step 0" in row.remarks


def test_no_suite_is_said(parts: dict[str, Any]) -> None:
    """A run without evaluation has no rows and a reason."""
    found = release(changed(parts["registered"], evaluation=None), {}, None, None)
    assert found.rows == () and "no evaluation suite" in found.missing and outcome(found) == found.missing


def test_the_outcome_counts_each_row_once(data: ReportData) -> None:
    """The counts of the sentence add up to the number of tasks, and each failing safety behaviour is named."""
    sentence = outcome(data.release)
    first = sentence.split(". ")[0]
    counts = [int(number) for number in re.findall(r"\d+", first)]
    assert counts[0] == sum(counts[1:]) == len(data.release.rows)
    for row in data.release.rows:
        if row.safety and row.verdict in {"regressed", "inconclusive"}:
            assert row.behaviour in sentence
