"""The step of a run: what is recorded of a prompt set and a suite, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grpo_audit.cli.suite_documents import suite_documents
from grpo_audit.config.sections import EvaluationConfig, PromptConfig
from grpo_audit.contamination.documents import Document, Kind
from grpo_audit.contamination.findings import findings
from grpo_audit.contamination.run import SPELLED, decontaminate_run
from grpo_audit.errors import EvaluationError
from grpo_audit.prompts.loading import PromptSet, load
from grpo_audit.record.audits import ControlOutcome, Decontamination, TaskContamination
from grpo_audit.record.events import EvaluationPlan, Severity, TaskPlan
from grpo_audit_evals.suite import Suite, load_suite

PROBE = "builtin_contamination_probe"


@pytest.fixture(scope="module")
def builtin() -> tuple[PromptSet, Suite]:
    """The prompts and the suite that ship with the project."""
    return load(PromptConfig(source="builtin"), Path()), load_suite(EvaluationConfig(suite="builtin"), Path())


@pytest.fixture(scope="module")
def found(builtin: tuple[PromptSet, Suite]) -> Decontamination:
    """What the step records for them."""
    prompts, suite = builtin
    return decontaminate_run(prompts, suite.plan, suite_documents(suite))


def test_the_living_positive_control_is_found_whole(builtin: tuple[PromptSet, Suite], found: Decontamination) -> None:
    """Of the probe's documents every one that stands in the prompts is found, to the word, and no other document of the
    built-in suite is: other numbers in the same five words are another exercise."""
    prompts, suite = builtin
    texts = {row.text for row in prompts.rows}
    planted = {(doc.task, doc.id) for doc in suite_documents(suite) if doc.text in texts}
    assert len(planted) >= 200 and {task for task, _ in planted} == {PROBE}
    assert {(item.task, item.doc_id) for item in found.overlaps if item.contaminated} == planted
    assert {item.how for item in found.overlaps if item.contaminated} == {Kind.EXACT.value}
    assert found.valid and all(task.flagged == task.contaminated for task in found.tasks)


def test_the_record_of_the_step_agrees_with_itself(builtin: tuple[PromptSet, Suite], found: Decontamination) -> None:
    """Tasks and digests are those of the plan, counts those of the overlaps, the strongest first; the event is read
    back from its bytes."""
    prompts, suite = builtin
    assert [(item.task, item.documents, item.documents_digest) for item in found.tasks] == [
        (item.task, item.documents, item.documents_digest) for item in suite.plan.tasks
    ]
    assert (found.prompts, found.prompts_digest) == (len(prompts.rows), prompts.identity.digest)
    for task in found.tasks:
        here = [item for item in found.overlaps if item.task == task.task]
        assert task.contaminated == sum(item.contaminated for item in here)
        assert task.flagged + task.numbers_only == len(here)
    strengths = [(item.contaminated, item.coverage) for item in found.overlaps]
    assert strengths == sorted(strengths, reverse=True)
    assert Decontamination.model_validate_json(found.model_dump_json()) == found


def test_documents_that_are_not_the_plans_are_refused(builtin: tuple[PromptSet, Suite]) -> None:
    """A document too few is named with its task: a check of half a suite must not pass for one of the whole."""
    prompts, suite = builtin
    with pytest.raises(EvaluationError, match=suite.plan.tasks[-1].task):
        decontaminate_run(prompts, suite.plan, list(suite_documents(suite))[:-1])


def test_every_overlap_is_kept_and_only_the_strongest_name_prompts(tmp_path: Path) -> None:
    """With more overlaps than are spelled out every document is still there, for the comparison leaves each one out."""
    count = SPELLED + 20
    texts = [f"The word number {number} of {number * 7} is spelled in the old way here" for number in range(count)]
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "{text}"}}\n' for text in texts))
    digest = "sha256:" + "0" * 64
    task = TaskPlan(task="t", behaviour="b", metric="m", higher_is_better=True, safety=False, margin=0.1,
                    documents=count, documents_digest=digest)  # fmt: skip
    plan = EvaluationPlan(suite="s", harness="h", protocol_digest=digest, alpha=0.05, tasks=[task])
    documents = [Document("t", str(number), text) for number, text in enumerate(texts)]
    found = decontaminate_run(load(PromptConfig(source="p.jsonl"), tmp_path), plan, documents)
    assert [item.doc_id for item in found.overlaps] == [str(number) for number in range(count)]
    assert [bool(item.examples) for item in found.overlaps] == [True] * SPELLED + [False] * 20


# --- findings ---------------------------------------------------------------------------------------------------------


def _check(**changes: Any) -> Decontamination:
    digest = "sha256:" + "0" * 64
    task = TaskContamination(task="quiz", documents=100, documents_digest=digest, contaminated=0, flagged=0,
                             numbers_only=0, untestable=0)  # fmt: skip
    tasks = [task.model_copy(update=changes.pop("task", {}))]
    control = ControlOutcome(name="planted", planted=5, found=5, expected=5)
    fields = {"method": "m", "prompts_digest": digest, "prompts": 9, "words": 9, "prompts_contaminated": 0,
              "prompts_flagged": 0, "tasks": tasks, "overlaps": [], "controls": [control], "valid": True,
              "seconds": 0.1}  # fmt: skip
    return Decontamination(**(fields | changes))


@pytest.mark.parametrize(
    ("task", "expected", "rules"),
    [
        ({}, [], []),
        ({"contaminated": 3, "flagged": 3}, [], [("contaminated-documents", "warning")]),
        ({"contaminated": 3, "flagged": 3}, ["quiz"], []),
        ({"flagged": 2}, [], [("flagged-documents", "info")]),
        ({"numbers_only": 2}, [], [("numbers-only-documents", "info")]),
        ({"untestable": 21}, [], [("untestable-documents", "info")]),
        ({"untestable": 20}, [], []),
        ({}, ["quiz"], [("contamination-probe-missed", "error")]),
        ({}, ["nowhere"], [("contamination-probe-missed", "error")]),
    ],
)
def test_each_rule_speaks_where_it_must_and_nowhere_else(
    task: dict[str, int], expected: list[str], rules: list[tuple[str, str]]
) -> None:
    """A planted fault gives one finding of its rule and severity, with the evidence; a clean check gives none."""
    found = findings(_check(task=task), expected, [7])
    assert [(item.rule, item.severity.value) for item in found] == rules
    assert all(item.evidence == [7] for item in found)


@pytest.mark.parametrize(("planted", "seen", "words"), [(5, 4, "planted: 4 of 5"), (0, 0, "to be planted")])
def test_a_void_check_is_an_error_and_comes_first(planted: int, seen: int, words: str) -> None:
    """A control that did not come out is named, before anything the check believes to have found."""
    control = ControlOutcome(name="planted", planted=planted, found=seen, expected=5)
    found = findings(_check(controls=[control], valid=False, task={"contaminated": 1, "flagged": 1}), [])
    assert [item.rule for item in found] == ["contamination-void", "contaminated-documents"]
    assert found[0].severity is Severity.ERROR and words in found[0].message
