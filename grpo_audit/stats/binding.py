"""What two evaluations must share before they are compared: protocol, documents and prompts, each by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo_audit.errors import ComparisonError
from grpo_audit.record.events import EvalSample, EvaluationPlan, TaskPlan

Pair = tuple[EvalSample, EvalSample]
"""One document: its answer before and after."""


@dataclass(frozen=True)
class Side:
    """One set of weights under the suite."""

    weights: str
    """Digest of the weights under test."""
    protocol: str
    """Protocol digest the evaluation was made under."""
    samples: Mapping[str, Sequence[EvalSample]]
    """By task."""
    responses: Mapping[str, Mapping[str, str]] | None = None
    """By task and document id: digest of the raw response. None when the texts are not at hand."""
    evidence: tuple[int, ...] = ()
    """Sequence numbers of the events this rests on."""


def documents_digest(hashes: Sequence[str]) -> str:
    """SHA-256 over the documents' hashes, one a line, in order."""
    return "sha256:" + hashlib.sha256("".join(f"{item}\n" for item in hashes).encode("ascii")).hexdigest()


def pair_up(plan: EvaluationPlan, pre: Side, post: Side) -> dict[str, list[Pair]]:
    """The pairs of every task of the plan, in the order of its documents.

    Raises:
        ComparisonError: Protocols, documents or prompts differ, a task is missing or has no primary metric.
    """
    if not plan.tasks:
        raise ComparisonError("the evaluation plan has no tasks, so there is nothing to compare")
    for name, side in (("first", pre), ("second", post)):
        if side.protocol != plan.protocol_digest:
            raise ComparisonError(
                f"the {name} evaluation was not made under the protocol of the plan",
                found=side.protocol,
                expected=plan.protocol_digest,
                next_step="Evaluate both sets of weights with the same suite and the same version of the harness",
            )
    return {task.task: _pair(task, pre.samples, post.samples) for task in plan.tasks}


def _pair(
    task: TaskPlan, pre: Mapping[str, Sequence[EvalSample]], post: Mapping[str, Sequence[EvalSample]]
) -> list[Pair]:
    """Join by document id; document and prompt must be the same bytes. In the order of the plan's documents."""
    first, second = _by_document(task, pre, "first"), _by_document(task, post, "second")
    if missing := first.keys() ^ second.keys():
        side = "second" if missing & first.keys() else "first"
        raise ComparisonError(
            f"task {task.task}: {len(missing)} documents were answered only once",
            found=f"document {min(missing)!r} missing from the {side} evaluation",
            expected="the same documents in both",
        )
    for doc_id, before in first.items():
        after = second[doc_id]
        for what, one, two in (
            ("document", before.doc_hash, after.doc_hash),
            ("prompt", before.prompt_hash, after.prompt_hash),
            ("cluster", before.cluster, after.cluster),
        ):
            if one != two:
                raise ComparisonError(
                    f"task {task.task}: the {what} of {doc_id!r} differs",
                    found=f"{two!r:.100}",
                    expected=f"{one!r:.100}",
                    next_step="Both models must be asked the same text: the same documents, chat template and few-shot "
                    "examples"
                    if what == "prompt"
                    else "",
                )
    return [(before, second[doc_id]) for doc_id, before in first.items()]


def _by_document(task: TaskPlan, samples: Mapping[str, Sequence[EvalSample]], side: str) -> dict[str, EvalSample]:
    where = f"task {task.task} of the {side} evaluation"
    rows = samples.get(task.task, ())
    result = {row.doc_id: row for row in rows}
    if len(result) != len(rows) or len(rows) != task.documents:
        raise ComparisonError(
            f"{where} does not cover its documents",
            found=f"{len(rows)} samples of {len(result)} documents",
            expected=f"{task.documents} documents, each once",
        )
    if (digest := documents_digest([row.doc_hash for row in rows])) != task.documents_digest:
        raise ComparisonError(
            f"{where} has other documents than the plan, or another order",
            found=digest,
            expected=task.documents_digest,
        )
    for row in rows:
        if task.metric not in row.metrics:
            raise ComparisonError(
                f"{where} has no {task.metric!r} for document {row.doc_id!r}",
                found=", ".join(sorted(row.metrics)),
            )
    return result
