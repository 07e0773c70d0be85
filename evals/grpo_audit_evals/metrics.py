"""From lm-eval's logged samples to one number a document and metric: nothing else can be paired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_audit.errors import EvaluationError
from grpo_audit_evals import harness
from grpo_audit_evals.documents import Document, document_hash
from grpo_audit_evals.sampling import Values


@dataclass(frozen=True)
class Metric:
    """One figure of a task that every document has."""

    key: str
    """As recorded: lm-eval's name, followed by ``,FILTER`` when the task has several filters."""
    name: str
    filter: str


def by_document(
    task: str, documents: Sequence[Document], samples: Sequence[Mapping[str, Any]]
) -> list[dict[str, Mapping[str, Any]]]:
    """For each document its logged sample by filter, joined on position *and* content.

    Raises EvaluationError when the harness scored other documents than the plan holds.
    """
    rows: list[dict[str, Mapping[str, Any]]] = [{} for _ in documents]
    for sample in samples:
        position = int(sample["doc_id"])
        if position >= len(documents) or document_hash(sample["doc"]) != documents[position].digest:
            raise EvaluationError(
                f"Task {task}: document {position} changed between loading and scoring",
                expected="the same documents in the same order each time",
                next_step="Its process_docs must not depend on chance or on time",
            )
        rows[position][str(sample["filter"])] = sample
    if any(not row for row in rows):
        raise EvaluationError(f"Task {task}: the harness left documents out", found=f"{len(samples)} samples")
    return rows


def usable_metrics(task: Any, rows: Sequence[Mapping[str, Mapping[str, Any]]]) -> tuple[list[Metric], list[str]]:
    """The metrics that are a number on every document, and why each of the others is not used."""
    filters = list(rows[0])
    usable: list[Metric] = []
    left_out: list[str] = []
    for name in rows[0][filters[0]]["metrics"]:
        missing = sum(name not in row[filters[0]] for row in rows)
        if missing:
            left_out.append(f"{name} (missing on {missing} documents)")
        elif not harness.is_mean(task, name) and name != "brier_score":
            left_out.append(f"{name} (not a mean over documents)")
        elif any(numbers(name, row[item].get(name)) is None for row in rows for item in filters):
            left_out.append(f"{name} (not a finite number on every document)")
        else:
            usable += [Metric(name if len(filters) == 1 else f"{name},{item}", name, item) for item in filters]
    return usable, left_out


def values(
    metrics: Sequence[Metric], row: Mapping[str, Mapping[str, Any]], *, task: str, doc_id: str
) -> dict[str, list[float]]:
    """The metrics of one document: a value for each of its answers. Raises EvaluationError where one is missing or no
    finite number."""
    found: dict[str, list[float]] = {}
    for metric in metrics:
        value = numbers(metric.name, row[metric.filter].get(metric.name))
        if value is None:
            raise EvaluationError(
                f"Task {task}: {metric.key} of document {doc_id!r} is no finite number",
                found=repr(row[metric.filter].get(metric.name)),
                next_step="Correct the task's scoring function",
            )
        found[metric.key] = value
    return found


def numbers(name: str, value: Any) -> list[float] | None:
    """A metric's value, or its values for several answers, as finite floats; None when one of them is no such."""
    found = [number(name, item) for item in (value if isinstance(value, Values) else [value])]
    return [item for item in found if item is not None] if found and None not in found else None


def number(name: str, value: Any) -> float | None:
    """A metric's value as a finite float, else None. Brier scores come as (gold, probabilities)."""
    if name == "brier_score" and isinstance(value, tuple) and len(value) == 2:
        gold, probabilities = int(value[0]), np.asarray(value[1], dtype=np.float64)
        value = float(((probabilities - np.eye(len(probabilities))[gold]) ** 2).sum())
    if not isinstance(value, bool | int | float | np.bool_ | np.number):
        return None
    return float(value) if math.isfinite(value) else None
