"""From a record to report data: effective attempts, evidence, what is missing, and every run of the project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sql_event

from grpo_audit.catalogue.collect import collect as collect_catalogue
from grpo_audit.catalogue.coverage import counts, cover, standards
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.runs import RunState
from grpo_audit.record.events import EvalSample, EventKind, Rollout, Step
from grpo_audit.report.data import collect
from grpo_audit.report.evidence import Absence, Evidence, Fact, Source, absent, series
from grpo_audit.report.index import cited, sources
from grpo_audit.report.model import ReportData, Standing
from grpo_audit.report.render import render_card, render_html


@pytest.fixture(scope="module")
def unfinished(made: Any) -> ReportData:
    """Report data of the run that was never sealed, without verification."""
    with Project.open(made.db, mode="read") as project:
        return collect(project, made.other, None)


@pytest.fixture(scope="module")
def record(made: Any) -> Iterator[Project]:
    """The record itself."""
    with Project.open(made.db, mode="read") as project:
        yield project


def facts(value: object) -> Iterator[Fact]:
    """Every fact anywhere in report data."""
    if isinstance(value, Fact):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from facts(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from facts(getattr(value, field.name))


def test_the_highest_attempt_counts(made: Any, record: Project) -> None:
    """Of a step done twice, the figures, rollouts and rejections of the later attempt are reported."""
    steps = {}
    for event in record.events(made.run_id, kinds=[EventKind.STEP]):
        assert isinstance(event.payload, Step)
        steps[event.payload.step] = (event.seq, event.payload)
    shown = made.data.training.series
    assert shown.step == tuple(sorted(steps))
    assert shown.seq == tuple(steps[step][0] for step in shown.step)
    assert shown.reward == tuple(steps[step][1].reward_mean for step in shown.step)
    assert 2 in shown.attempt, "the record has a step done twice"

    highest = {step: payload.attempt for step, (_, payload) in steps.items()}
    rollouts = [event.payload for event in record.events(made.run_id, kinds=[EventKind.ROLLOUT])]
    counted = [item for item in rollouts if isinstance(item, Rollout) and highest[item.step] == item.attempt]
    assert len(counted) < len(rollouts)
    found = made.data.rejections
    assert (found.rollouts, found.used) == (len(counted), sum(item.used for item in counted))
    assert sum(count.count for count in found.by_reason) == sum(not item.used for item in counted)
    assert sum(count.count for count in found.reward_errors) == sum(len(item.errors) for item in counted)


def test_interrupted_work_is_in_the_budget(made: Any, record: Project) -> None:
    """Tokens and FLOP count every executed step, the repeated ones too: each token drawn (2N), scored under the
    reference (2N), and trained on (6N)."""
    steps = [event.payload for event in record.events(made.run_id, kinds=[EventKind.STEP])]
    row = next(row for row in made.data.budget.rows if row.phase == "Training")
    assert row.completion_tokens == sum(step.completion_tokens for step in steps if isinstance(step, Step))
    assert row.prompt_tokens == sum(step.prompt_tokens for step in steps if isinstance(step, Step))
    parameters = 16
    assert row.flop == pytest.approx(10 * parameters * (row.prompt_tokens + row.completion_tokens))


def test_examples_are_picked_by_rule(made: Any, record: Project) -> None:
    """Best and worst of the first and last step have the extreme rewards; the rejected one was left out."""
    events = {event.seq: event.payload for event in record.events(made.run_id, kinds=[EventKind.ROLLOUT])}
    for item in made.data.rollouts:
        of_step = [
            other.reward
            for other in events.values()
            if isinstance(other, Rollout) and (other.step, other.attempt) == (item.step, item.attempt)
        ]
        known = [reward for reward in of_step if reward is not None]
        if "highest" in item.why:
            assert item.reward == max(known)
        elif "lowest" in item.why:
            assert item.reward == min(known)
        else:
            assert not item.used
    assert {item.step for item in made.data.rollouts} == {0, 11}


def test_flipped_documents_really_flipped(made: Any, record: Project) -> None:
    """A gained document scored better after training, a lost one worse, and the count is the comparison's."""
    events = {event.seq: event.payload for event in record.events(made.run_id, kinds=[EventKind.EVAL_SAMPLE])}
    rows = {row.task: row for row in made.data.release.rows}
    assert made.data.flipped
    for item in made.data.flipped:
        pre, post = (events[seq] for seq in item.source.seqs)
        assert isinstance(pre, EvalSample) and isinstance(post, EvalSample)
        assert pre.doc_hash == post.doc_hash and (pre.phase, post.phase) == ("pre", "post")
        assert (post.metrics[item.metric] > pre.metrics[item.metric]) == item.gained
        assert item.of == (rows[item.task].gained if item.gained else rows[item.task].lost)


def test_every_fact_has_evidence_or_a_reason(made: Any, unfinished: ReportData) -> None:
    """A value names events or how it was derived; a missing one names in what way it is missing."""
    for data in (made.data, unfinished):
        found = list(facts(data))
        assert len(found) > 80
        for fact in found:
            if fact.value is None:
                assert fact.source.evidence is Evidence.ABSENT and fact.source.absence is not None, fact
            else:
                assert fact.value != "" and fact.source.absence is None, fact
                assert fact.source.named or fact.source.note, fact


def test_a_fact_cannot_contradict_itself() -> None:
    """A value without evidence, and an absence with a value, are refused."""
    with pytest.raises(ValueError, match="contradict"):
        Fact("x", "1", Source(Evidence.ABSENT))
    with pytest.raises(ValueError, match="contradict"):
        Fact("x", None, Source(Evidence.MEASURED))
    assert absent("x", "why", Absence.NOT_MEASURED).missing


def test_a_long_series_names_its_ends() -> None:
    """Up to two events are named one by one; of more, the first, the last and their number."""
    assert series(Evidence.MEASURED, []).named == ()
    assert series(Evidence.MEASURED, [5, 3]).seqs == (3, 5)
    span = series(Evidence.MEASURED, [9, 3, 5]).spans[0]
    assert (span.first, span.last, span.count) == (3, 9, 3)


def test_the_index_lists_what_is_cited(made: Any, record: Project) -> None:
    """The evidence index has exactly the events the report names, each with its kind and leaf hash."""
    events = {event.seq: event for event in record.events()}
    assert [row.seq for row in made.data.index] == cited(made.data) != []
    for row in made.data.index:
        assert (row.kind, row.leaf_hash) == (events[row.seq].kind.value, events[row.seq].leaf_hash.hex())
    assert {seq for source in sources(made.data) for seq in source.named} == {row.seq for row in made.data.index}


def test_every_run_of_the_project_shows(made: Any) -> None:
    """The run that was never finished is listed beside the one reported."""
    shown = {run.run_id: run for run in made.data.runs}
    assert shown.keys() == {made.run_id, made.other}
    assert shown[made.run_id].this and not shown[made.other].this
    assert shown[made.other].state != "sealed"
    assert made.other in made.html and made.other in made.card


def test_an_unfinished_run_has_a_report(unfinished: ReportData) -> None:
    """Without seal, comparison, saved weights and verification there is a report, and it says each of these."""
    assert unfinished.header.state is not RunState.SEALED
    assert unfinished.verdict.record.word == "Not verified" and unfinished.verdict.record.standing is Standing.OPEN
    assert unfinished.verdict.run.standing is not Standing.GOOD
    assert unfinished.verdict.release.word == "Not compared"
    page, card = render_html(unfinished), render_card(unfinished)
    for text in (page, card):
        assert "not recorded" in text and "never evaluated" in text and "Not verified" in text
        assert "no trained weights were saved" in text
    assert not unfinished.flipped


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({}, "No evaluation was recorded"),
        ({"evaluation": None}, "no evaluation suite"),
        ({"preset": "of another version", "formula": {}}, "of another version"),
    ],
)
def test_a_run_killed_right_after_registration_has_a_report(
    made: Any, tmp_path: Path, update: dict[str, Any], words: str
) -> None:
    """With nothing but the registration, every section says what it does not have."""
    with Project.open(made.db, mode="read") as source:
        registered = next(source.events(made.run_id, kinds=[EventKind.RUN_REGISTERED])).payload
    with Project.open(tmp_path / "r.db", mode="create") as project:
        project.append([NewEvent(registered.model_copy(update=update), "alone-1")])
        data = collect(project, "alone-1", None)
    page = render_html(data)
    for text in (page, render_card(data)):
        assert "No optimiser step was recorded" in text and words in text
    assert "no training step was recorded" in page and "<svg" not in page
    assert data.rejections.rollouts == 0 and data.rejections.missing
    assert not data.budget.rows and {fact.value for fact in data.budget.facts} == {None}


def test_nothing_undeclared_becomes_a_value(made: Any) -> None:
    """Governance fields nobody declared are shown as not declared; the declared ones as they are."""
    found = {fact.label: fact for fact in made.data.governance.facts}
    assert found["Owner"].value == "A. Person" and found["Owner"].source.evidence is Evidence.DECLARED
    assert found["Approver"].source.absence is Absence.NOT_DECLARED
    assert found["Post-market monitoring plan"].value is None


def test_coverage_has_the_whole_seed_list(made: Any) -> None:
    """Each field the design asks for has its row, and a sampler setting, a behaviour and a link among them."""
    labels = [row.fact.label for row in made.data.coverage]
    assert len(labels) == len(set(labels)) == 43
    assert {"Base model", "Group size", "Hallucination", "Energy", "Reasoning-trace policy", "Audit trail"} <= set(
        labels
    )
    assert "compliant" not in (made.html + made.card).lower()


def test_each_standard_is_counted_from_the_rows_of_the_mapping(made: Any, record: Project) -> None:
    """The report's summary has every standard but our own list, and its numbers are those of ``coverage``."""
    catalogue = collect_catalogue(record, made.run_id)
    shown = {row.name: row for row in made.data.standards}
    assert set(shown) == {item.standard for item in standards()} - {"seed-list"}
    for item in standards():
        if item.standard in shown:
            row, numbers = shown[item.standard], counts(cover(catalogue, item))
            assert (row.documented, row.partly, row.missing) == tuple(numbers.values())[:3]
            assert row.documented + row.partly + row.missing + row.other == len(item.items)
            assert item.title in made.html and item.title in made.card


def test_the_same_record_gives_the_same_data(made: Any, record: Project) -> None:
    """Collecting twice gives equal data."""
    assert collect(record, made.run_id, made.verification) == made.data


def test_rollouts_are_never_loaded(made: Any, record: Project) -> None:
    """No query of the report returns a number of rows that grows with the number of rollouts."""
    rollouts = record.counts(made.run_id)[EventKind.ROLLOUT]
    with record.session() as session:
        engine = session.get_bind()
        statements: list[str] = []

        def note(_: Any, __: Any, statement: str, *___: Any) -> None:
            statements.append(" ".join(statement.split()))

        sql_event.listen(engine, "before_cursor_execute", note)
        try:
            collect(record, made.run_id, None)
        finally:
            sql_event.remove(engine, "before_cursor_execute", note)
    touching = [text for text in statements if "FROM rollout " in text or "FROM reward " in text]
    assert touching and rollouts > 100
    for text in touching:
        bounded = "LIMIT" in text or "GROUP BY" in text or "reward.seq = ?" in text
        assert bounded, text


def test_calibration_is_that_of_the_samples(made: Any) -> None:
    """Tasks with a confidence and a verdict on each document have their calibration error, before and after, as the
    mean distance over bins gives it; other tasks have none."""
    rows = made.data.beside.calibration
    assert [(row.task, row.phase) for row in rows] == [("knowledge", "pre"), ("knowledge", "post")]
    for row in rows:
        assert row.documents == sum(bin[2] for bin in row.curve) == 12
        error = sum(count * abs(sure - right) for _, _, count, sure, right in row.curve) / row.documents
        assert row.expected_error == pytest.approx(error)
        assert row.confidence == pytest.approx(0.525)
