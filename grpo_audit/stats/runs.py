"""Comparison of any two evaluations in a record: two phases of a run, or the same phase of two runs."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from grpo_audit.errors import ComparisonError
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import (
    Comparison,
    EvalSample,
    EvalTask,
    EvaluationPlan,
    EventKind,
    Finding,
    Phase,
    RunRegistered,
)
from grpo_audit.stats.paired import Side, compare


@dataclass(frozen=True)
class Evaluated:
    """One phase of one run, as the record has it."""

    run_id: str
    phase: Phase
    plan: EvaluationPlan
    side: Side
    sequence: Mapping[tuple[str, str], int]
    """By task and document id: sequence number of the sample."""


@dataclass(frozen=True)
class Flip:
    """A document whose primary metric changed."""

    task: str
    doc_id: str
    improved: bool
    pre: float
    post: float
    target: str
    pre_prediction: str
    post_prediction: str
    pre_seq: int
    """Events to look the full texts up in: content ``prompt`` and ``response``."""
    post_seq: int


@dataclass(frozen=True)
class RunComparison:
    """Two evaluations, paired."""

    comparison: Comparison
    findings: tuple[Finding, ...]
    flips: tuple[Flip, ...]
    """Documents that got worse first, each in the order of the suite."""


def compare_runs(
    project: Project, first: str, second: str, *, first_phase: Phase = "post", second_phase: Phase = "post"
) -> RunComparison:
    """Compare an evaluation of one run with that of another (or of the same run, in another phase).

    Margins and level are those that the second run fixed before its step 0.

    Raises:
        ComparisonError: A run has no such evaluation, or an unfinished one, or protocol, documents or prompts differ.
    """
    before = read_evaluation(project, first, first_phase)
    after = read_evaluation(project, second, second_phase)
    if before.plan.protocol_digest != after.plan.protocol_digest:
        raise ComparisonError(
            f"runs {first} and {second} were evaluated under different protocols",
            found=f"{after.plan.protocol_digest[:19]}... ({after.plan.harness}, suite {after.plan.suite})",
            expected=f"{before.plan.protocol_digest[:19]}... ({before.plan.harness}, suite {before.plan.suite})",
            next_step="Evaluate both again with the same suite and the same version of the harness",
        )
    result = compare(after.plan, before.side, after.side)
    return RunComparison(result.comparison, result.findings, _flips(before, after))


def read_evaluation(project: Project, run_id: str, phase: Phase) -> Evaluated:
    """Everything the record holds of one evaluation. Raises ComparisonError when a task of the plan is missing."""
    plan = _plan(project, run_id)
    samples: dict[str, list[EvalSample]] = defaultdict(list)
    responses: dict[str, dict[str, str]] = defaultdict(dict)
    sequence: dict[tuple[str, str], int] = {}
    done: dict[str, tuple[int, EvalTask]] = {}
    erased = False
    for event in project.events(run_id=run_id, kinds={EventKind.EVAL_SAMPLE, EventKind.EVAL_TASK}):
        payload = event.payload
        if isinstance(payload, EvalTask) and payload.phase == phase:
            done[payload.task] = (event.seq, payload)
        elif isinstance(payload, EvalSample) and payload.phase == phase:
            samples[payload.task].append(payload)
            sequence[payload.task, payload.doc_id] = event.seq
            response = project.content(event.seq, "response")
            erased = erased or response is None
            responses[payload.task][payload.doc_id] = hashlib.sha256(response or b"").hexdigest()
    _check_finished(run_id, phase, plan, done)
    weights = {task.weights_digest for _, task in done.values()}
    protocols = {task.protocol_digest for _, task in done.values()}
    if len(weights) != 1 or len(protocols) != 1:
        raise ComparisonError(
            f"the {phase} evaluation of run {run_id} mixes weights or protocols",
            found=", ".join(sorted(item[:19] for item in weights | protocols)),
            expected="one of each",
        )
    side = Side(
        weights=weights.pop(),
        protocol=protocols.pop(),
        samples=samples,
        responses=None if erased else responses,
        evidence=tuple(seq for seq, _ in done.values()),
    )
    return Evaluated(run_id, phase, plan, side, sequence)


def _plan(project: Project, run_id: str) -> EvaluationPlan:
    registered = project.last(run_id, EventKind.RUN_REGISTERED)
    if registered is None or not isinstance(registered.payload, RunRegistered):
        raise ComparisonError(
            f"there is no run {run_id} in {project.name}", next_step="List them with: grpo-audit runs"
        )
    plan = registered.payload.evaluation
    if plan is None:
        raise ComparisonError(f"run {run_id} was registered without an evaluation, so it cannot be compared")
    return plan


def _check_finished(run_id: str, phase: Phase, plan: EvaluationPlan, done: Mapping[str, tuple[int, EvalTask]]) -> None:
    missing = [task.task for task in plan.tasks if task.task not in done]
    if missing:
        raise ComparisonError(
            f"the {phase} evaluation of run {run_id} is not complete",
            found=f"{len(done)} of {len(plan.tasks)} tasks; the first missing one is {missing[0]}",
            next_step="Finish it with: grpo-audit run --resume",
        )


def _flips(before: Evaluated, after: Evaluated) -> tuple[Flip, ...]:
    found: list[Flip] = []
    for task in after.plan.tasks:
        later = {sample.doc_id: sample for sample in after.side.samples[task.task]}
        for sample in before.side.samples[task.task]:
            other = later[sample.doc_id]
            pre, post = sample.metrics[task.metric], other.metrics[task.metric]
            if pre != post:
                place = (task.task, sample.doc_id)
                found.append(
                    Flip(
                        task=task.task,
                        doc_id=sample.doc_id,
                        improved=(post > pre) == task.higher_is_better,
                        pre=pre,
                        post=post,
                        target=sample.target,
                        pre_prediction=sample.prediction,
                        post_prediction=other.prediction,
                        pre_seq=before.sequence[place],
                        post_seq=after.sequence[place],
                    )
                )
    return tuple(sorted(found, key=lambda flip: flip.improved))
