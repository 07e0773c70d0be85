"""One evaluation, wherever it comes from: a phase of a recorded run, or a model folder that was evaluated just now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from grpo_audit.errors import ComparisonError
from grpo_audit.ledger.project import Project
from grpo_audit.record.events import (
    Artifact,
    Decontamination,
    EvalSample,
    EvalTask,
    EvaluationPlan,
    EventKind,
    Phase,
    RunRegistered,
)
from grpo_audit.record.identity import bytes_digest
from grpo_audit.stats.binding import Side
from grpo_audit.stats.clean import flagged_documents
from grpo_audit.stats.protocol import restricted

PROTOCOL_ROLE = "evaluation protocol"
"""Role of the artifact that holds a run's protocol in full."""


@dataclass(frozen=True)
class Texts:
    """What was asked and answered; None where it was erased."""

    prompt: str | None
    response: str | None


@dataclass(frozen=True)
class Evaluated:
    """All answers of one set of weights to a suite."""

    run_id: str
    """The run, or what a model folder was called on the command line."""
    phase: Phase
    plan: EvaluationPlan
    side: Side
    sequence: Mapping[tuple[str, str], int]
    """By task and document id: sequence number of the sample. Empty for what is in no record."""
    texts: Callable[[str, str], Texts]
    """The texts of one answer, by task and document id."""
    protocol: bytes | None = None
    """The protocol in full, whose digest ``side.protocol`` is; None where the record does not hold it."""
    flagged: Mapping[str, frozenset[str]] | None = None
    """By task: documents that overlap with a training prompt; None where that was not checked, or in vain."""

    @property
    def recorded(self) -> bool:
        """Whether it stands in a record."""
        return bool(self.sequence)

    def only(self, tasks: Collection[str]) -> Evaluated:
        """The same with some of its tasks, under the protocol of those alone.

        Raises:
            ComparisonError: A task is not there, or the protocol's text, which says what binds it, is not at hand.
        """
        if self.protocol is None:
            raise ComparisonError(
                f"the evaluation of {self.run_id} cannot be cut down to some tasks",
                found="no text of its protocol in the record",
                next_step="Compare all tasks",
            )
        text = restricted(self.protocol, tasks)
        planned = [task for task in self.plan.tasks if task.task in tasks]
        plan = self.plan.model_copy(update={"tasks": planned, "protocol_digest": bytes_digest(text)})
        kept = {task.task for task in planned}
        responses = self.side.responses
        side = replace(
            self.side,
            protocol=plan.protocol_digest,
            samples={name: rows for name, rows in self.side.samples.items() if name in kept},
            responses=None if responses is None else {name: rows for name, rows in responses.items() if name in kept},
        )
        return replace(self, plan=plan, side=side, protocol=text)


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
            responses[payload.task][payload.doc_id] = bytes_digest(response or b"")
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
    checked = project.last(run_id, EventKind.DECONTAMINATION)
    found = checked.payload if checked is not None else None
    return Evaluated(
        run_id=run_id,
        phase=phase,
        plan=plan,
        side=side,
        sequence=sequence,
        texts=lambda task, document: _texts(project, sequence[task, document]),
        protocol=_protocol(project, run_id, side.protocol),
        flagged=flagged_documents(plan, found) if isinstance(found, Decontamination) else None,
    )


def _texts(project: Project, seq: int) -> Texts:
    prompt, response = (project.content(seq, name) for name in ("prompt", "response"))
    return Texts(*(None if text is None else text.decode("utf-8", "replace") for text in (prompt, response)))


def _protocol(project: Project, run_id: str, digest: str) -> bytes | None:
    """The recorded text that has this digest."""
    for event in project.events(run_id=run_id, kinds={EventKind.ARTIFACT}):
        payload = event.payload
        if isinstance(payload, Artifact) and payload.role == PROTOCOL_ROLE and payload.digest == digest:
            text = project.content(event.seq, "text")
            if text is not None and bytes_digest(text) == digest:
                return text
    return None


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
