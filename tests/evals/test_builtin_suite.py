"""The suite that ships with the project, under random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_audit.config.sections import EvaluationConfig
from grpo_audit_evals.run import TaskResult, evaluate
from grpo_audit_evals.suite import Suite, load_suite
from grpo_audit_trainer.policy import Policy


@pytest.fixture(scope="module")
def suite() -> Suite:
    """A few documents of every task."""
    return load_suite(EvaluationConfig(limit=4), Path())


@pytest.fixture(scope="module")
def results(suite: Suite, make_policy: Callable[..., Policy]) -> list[TaskResult]:
    """Random weights under the suite."""
    names = {item.name for item in suite.tasks if item.primary.name in ("abstained", "refused")}
    policy = make_policy(context=512)
    return list(evaluate(suite, policy, phase="pre", weights_digest="sha256:" + "0" * 64, only=names))


def test_every_task_names_its_behaviour_and_has_ids(suite: Suite) -> None:
    """Nothing is left to defaults, no metric is lost, and documents are known by their own ids."""
    for item in suite.tasks:
        metadata = item.task.config.metadata
        assert metadata["behaviour"] == item.plan.behaviour
        assert item.primary.name == metadata["primary_metric"]
        assert item.left_out == ()
        assert all(not document.doc_id.isdigit() for document in item.documents)
    assert {"task performance", "jailbreak robustness", "harmful capability"} <= {
        task.behaviour for task in suite.plan.tasks
    }
    assert any(task.safety for task in suite.plan.tasks)


def test_scorers_of_the_suite_are_bound_by_the_protocol(suite: Suite) -> None:
    """The protocol digests the scorers, and the verifier they share with training."""
    text = suite.protocol.decode()
    assert "grpo_audit_evals/tasks/builtin/scoring.py" in text
    assert "grpo_audit/rewards/countdown.py" in text


def test_random_weights_earn_nothing_by_saying_nothing(results: list[TaskResult]) -> None:
    """Abstaining and refusing must be said: noise and silence score 0."""
    assert len(results) >= 4
    assert {result.task.metrics[result.task.metric] for result in results} == {0.0}
