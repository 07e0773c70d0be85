"""A suite: lm-eval tasks with their documents, their primary metrics, and the protocol that binds them.

Loading a suite does everything that can fail without a model, so that it fails before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from grpo_audit.config.sections import EvaluationConfig
from grpo_audit.errors import EvaluationError
from grpo_audit.record.events import EvaluationPlan, TaskPlan
from grpo_audit.record.identity import bytes_digest
from grpo_audit_evals import behaviours, harness
from grpo_audit_evals.checks import check_decoding, check_kind, check_scoring
from grpo_audit_evals.documents import Document, documents_digest, read_documents
from grpo_audit_evals.metrics import Metric
from grpo_audit_evals.protocol import protocol_text
from grpo_audit_evals.sampling import Sampling
from grpo_audit_evals.sources import find
from grpo_audit_evals.task_files import load_tasks, nearest


class TaskMetadata(BaseModel):
    """What we read from ``metadata:`` of a task file. Everything may be left out; other keys belong to others."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)
    behaviour: str | None = None
    primary_metric: str | None = None
    higher_is_better: bool | None = None
    safety: bool | None = None


@dataclass(frozen=True)
class SuiteTask:
    """One task, ready to be run."""

    plan: TaskPlan
    task: Any
    """lm-eval's task object."""
    documents: tuple[Document, ...]
    metrics: tuple[Metric, ...]
    """Every metric that is a number on each document; the primary one among them."""
    left_out: tuple[str, ...]
    """Metrics that are not recorded, each with the reason."""
    sampling: Sampling | None = None
    """How answers are sampled; None: greedily."""

    @property
    def name(self) -> str:
        """As lm-eval calls it."""
        return self.plan.task

    @property
    def primary(self) -> Metric:
        """The metric the comparison is about."""
        return next(metric for metric in self.metrics if metric.key == self.plan.metric)


@dataclass(frozen=True)
class Suite:
    """All tasks of an evaluation, fixed before step 0."""

    plan: EvaluationPlan
    tasks: tuple[SuiteTask, ...]
    protocol: bytes
    """The protocol in full, JSON; ``plan.protocol_digest`` is its SHA-256. Worth keeping as an artifact."""
    batch_size: int


def load_suite(config: EvaluationConfig, base_dir: Path) -> Suite:
    """Load a suite and try out everything that needs no model.

    Args:
        config: The section ``evaluation`` of the recipe.
        base_dir: Folder that a relative ``evaluation.suite`` is relative to.

    Raises:
        EvaluationError: Unknown task or metric (with the nearest names), unreadable file, failing or incomparable
            scoring, a task that asks for a way to answer that there is not, documents with equal ids.
    """
    source = find(config, base_dir)
    tasks = load_tasks(source.folder, config.tasks, more=source.more, data=source.data)
    _check_margins(config, tasks)
    ready = tuple(_suite_task(name, task, config) for name, task in tasks.items())
    protocol = protocol_text({item.name: item.task for item in ready}, {item.name: item.documents for item in ready})
    plan = EvaluationPlan(
        suite=str(config.suite),
        harness=harness.HARNESS,
        protocol_digest=bytes_digest(protocol),
        alpha=config.alpha,
        tasks=[item.plan for item in ready],
    )
    return Suite(plan, ready, protocol, config.batch_size)


def _check_margins(config: EvaluationConfig, tasks: Mapping[str, Any]) -> None:
    for name, margin in config.margins.items():
        if name not in tasks:
            raise EvaluationError(
                f"evaluation.margins names {name!r}, which is no task of the suite",
                expected=f"something like {nearest(name, sorted(tasks))}",
            )
        if not margin > 0:
            raise EvaluationError(f"evaluation.margins.{name} is {margin}", expected="a number above 0")


def _suite_task(name: str, task: Any, config: EvaluationConfig) -> SuiteTask:
    check_kind(name, task)
    sampled = check_decoding(name, task)
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    documents = read_documents(name, task.eval_docs, config.limit)
    metrics, left_out = check_scoring(name, task, documents, sampled)
    metadata = _metadata(name, task)
    primary = _primary(name, metadata.primary_metric, metrics, left_out)
    known = behaviours.of(name)
    plan = TaskPlan(
        task=name,
        behaviour=metadata.behaviour or known.behaviour,
        metric=primary.key,
        higher_is_better=_direction(name, task, primary, metadata, known),
        safety=known.safety if metadata.safety is None else metadata.safety,
        margin=config.margins.get(name, config.margin),
        documents=len(documents),
        documents_digest=documents_digest([document.digest for document in documents]),
        samples=sampled.samples if sampled else 1,
        temperature=sampled.temperature if sampled else None,
    )
    return SuiteTask(plan, task, documents, tuple(metrics), tuple(left_out), sampled)


def _metadata(name: str, task: Any) -> TaskMetadata:
    try:
        return TaskMetadata.model_validate(task.config.metadata or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise EvaluationError(
            f"Task {name}: metadata.{'.'.join(map(str, first['loc']))} is wrong",
            found=repr(first["input"]),
            expected=first["msg"],
        ) from error


def _primary(name: str, wanted: str | None, metrics: Sequence[Metric], left_out: Sequence[str]) -> Metric:
    if wanted is None:
        return metrics[0]
    for metric in metrics:
        if wanted in (metric.key, metric.name):
            return metric
    reasons = [reason for reason in left_out if reason.startswith(f"{wanted} ")]
    raise EvaluationError(
        f"Task {name} cannot be judged by the metric {wanted!r}",
        found=", ".join(reasons) or "no such metric",
        expected=f"something like {nearest(wanted, [metric.key for metric in metrics])}",
        next_step="Check metadata.primary_metric of the task",
    )


def _direction(name: str, task: Any, metric: Metric, metadata: TaskMetadata, known: behaviours.Behaviour) -> bool:
    direction = known.higher_is_better if metadata.higher_is_better is None else metadata.higher_is_better
    if direction is None:
        direction = task.higher_is_better().get(metric.name)
    if not isinstance(direction, bool):
        raise EvaluationError(
            f"Task {name} does not say whether a larger {metric.key} is better",
            next_step="Set metadata.higher_is_better (or higher_is_better in metric_list) in the task file",
        )
    return direction
