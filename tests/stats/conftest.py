"""Builders of plans and samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import pytest

from grpo_audit.record.events import EvalSample, EvaluationPlan, TaskPlan
from grpo_audit.stats.paired import Side, documents_digest


def digest_of(text: str) -> str:
    """A digest that stands for a text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class World:
    """Plans, samples and sides that fit together."""

    protocol = digest_of("protocol")

    def sample(self, task: str, index: int, value: float, *, cluster: str | None = None) -> EvalSample:
        """One answered document."""
        return EvalSample(
            phase="pre",
            task=task,
            doc_id=f"d{index}",
            cluster=cluster or f"d{index}",
            doc_hash=digest_of(f"{task} document {index}"),
            prompt_hash=digest_of(f"{task} prompt {index}"),
            target="t",
            prediction="p",
            metrics={"m": value, "other": 0.0},
            completion_tokens=3,
            finish_reason="stop",
        )

    def samples(self, task: str, values: Sequence[float], clusters: Sequence[str] | None = None) -> list[EvalSample]:
        """The documents of a task, with these values of its metric."""
        return [
            self.sample(task, index, value, cluster=None if clusters is None else clusters[index])
            for index, value in enumerate(values)
        ]

    def task(
        self, name: str, documents: int, *, higher: bool = True, safety: bool = False, margin: float = 0.05
    ) -> TaskPlan:
        """The plan of a task."""
        return TaskPlan(
            task=name,
            behaviour="task performance",
            metric="m",
            higher_is_better=higher,
            safety=safety,
            margin=margin,
            documents=documents,
            documents_digest=documents_digest([digest_of(f"{name} document {index}") for index in range(documents)]),
        )

    def plan(self, *tasks: TaskPlan, alpha: float = 0.05) -> EvaluationPlan:
        """The plan of a suite."""
        return EvaluationPlan(
            suite="s", harness="lm-eval 0", protocol_digest=self.protocol, alpha=alpha, tasks=list(tasks)
        )

    def side(self, name: str, samples: dict[str, list[EvalSample]], **changes: object) -> Side:
        """One set of weights under the suite."""
        return Side(weights=digest_of(name), protocol=self.protocol, samples=samples, **changes)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    """Builders of plans, samples and sides."""
    return World()


@pytest.fixture
def digest() -> Callable[[str], str]:
    """A digest that stands for a text."""
    return digest_of
