"""Rows that are derived from events. The same pure function writes them and lets ``verify`` derive them again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from grpo_audit.ledger import canonical, tables
from grpo_audit.ledger.event import Event
from grpo_audit.ledger.projected_checks import of_decontamination, of_gates, of_probes, of_regrade
from grpo_audit.ledger.row import ProjectionError as ProjectionError, Row as Row, json_text, text
from grpo_audit.record import events as e
from grpo_audit.record.events import EventKind


def rows(event: Event, attempt: int) -> list[Row]:
    """The rows derived from an event. ``attempt`` is the run's attempt at this event (0 outside of a run).

    Raises ProjectionError.
    """
    project = _PROJECTIONS.get(event.payload.kind)
    return project(event, event.payload, attempt) if project else []


PROJECTED: tuple[type[tables.Base], ...] = (
    tables.RunRow,
    tables.RunStateRow,
    tables.ArtifactRow,
    tables.EvalSampleRow,
    tables.EvalTaskRow,
    tables.StepRow,
    tables.RolloutGroupRow,
    tables.RolloutRow,
    tables.RewardRow,
    tables.SnapshotRow,
    tables.ComparisonRow,
    tables.FindingRow,
    tables.ContaminationRow,
    tables.RewardProbeRow,
    tables.RewardRegradeRow,
    tables.GateRow,
    tables.AnnotationRow,
    tables.ErasedRow,
)
"""Every table that is derived."""


def _run_registered(event: Event, payload: e.RunRegistered, attempt: int) -> list[Row]:
    # canonical, because an event read back has the configuration's floats as strings
    config = canonical.dumps(canonical.plain(payload.config)).decode("utf-8")
    seed = payload.config.get("seed")
    if type(seed) is not int:
        raise ProjectionError(f"run.registered: config.seed is {seed!r}")
    run = {
        "seq": event.seq,
        "run_id": event.run_id,
        "name": text(payload.name),
        "registered_at": event.time,
        "preset": text(payload.preset),
        "seed": seed,
        "model": text(payload.model.source),
        "weights_digest": payload.model.weights_digest,
        "config": config,
    }
    return [Row(tables.RunRow, run), _state(event, "registered", attempt, "")]


def _state(event: Event, state: str, attempt: int, detail: str) -> Row:
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "state": state,
        "at": event.time,
        "attempt": attempt,
        "detail": text(detail),
    }
    return Row(tables.RunStateRow, values)


def _run_resumed(event: Event, payload: e.RunResumed, attempt: int) -> list[Row]:
    return [_state(event, "resumed", attempt, f"{payload.phase}, from step {payload.from_step}")]


def _run_sealed(event: Event, payload: e.RunSealed, attempt: int) -> list[Row]:
    return [_state(event, "sealed", attempt, f"{payload.events} events")]


def _run_aborted(event: Event, payload: e.RunAborted, attempt: int) -> list[Row]:
    return [_state(event, "aborted", attempt, payload.error)]


def _run_abandoned(event: Event, payload: e.RunAbandoned, attempt: int) -> list[Row]:
    return [_state(event, "abandoned", attempt, f"{payload.author}: {payload.reason}")]


def _artifact(event: Event, payload: e.Artifact, _: int) -> list[Row]:
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "role": text(payload.role),
        "name": text(payload.name),
        "digest": payload.digest,
        "size": payload.size,
        "location": None if payload.location is None else text(payload.location),
    }
    return [Row(tables.ArtifactRow, values)]


def _eval_sample(event: Event, payload: e.EvalSample, _: int) -> list[Row]:
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "phase": payload.phase,
        "task": text(payload.task),
        "doc_id": text(payload.doc_id),
        "cluster": text(payload.cluster),
        "doc_hash": payload.doc_hash,
        "prompt_hash": payload.prompt_hash,
        "target": text(payload.target),
        "prediction": text(payload.prediction),
        "metrics": json_text(payload.metrics),
        "completion_tokens": payload.completion_tokens,
        "finish_reason": payload.finish_reason,
    }
    return [Row(tables.EvalSampleRow, values)]


def _eval_task(event: Event, payload: e.EvalTask, _: int) -> list[Row]:
    if payload.metric not in payload.metrics:
        raise ProjectionError(f"eval.task: the primary metric {payload.metric!r} is not among the metrics")
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "phase": payload.phase,
        "task": text(payload.task),
        "behaviour": text(payload.behaviour),
        "metric": text(payload.metric),
        "value": payload.metrics[payload.metric],
        "documents": payload.documents,
        "weights_digest": payload.weights_digest,
        "protocol_digest": payload.protocol_digest,
        "seconds": payload.seconds,
    }
    return [Row(tables.EvalTaskRow, values)]


_STEP_FIELDS = {column.name for column in tables.StepRow.__table__.columns} & e.Step.model_fields.keys()
"""Columns that are fields of the payload; three of them hold something else than the field and are set below."""


def _step(event: Event, payload: e.Step, _: int) -> list[Row]:
    values = {
        **payload.model_dump(include=_STEP_FIELDS),
        "seq": event.seq,
        "run_id": event.run_id,
        "rewards": json_text(payload.rewards),
        "engine": text(payload.engine),
        "seconds": math.fsum(payload.seconds.values()),
    }
    return [Row(tables.StepRow, values)]


def _group(event: Event, payload: e.Group, _: int) -> list[Row]:
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "attempt": payload.attempt,
        "step": payload.step,
        "group_index": payload.group,
        "prompt_id": text(payload.prompt_id),
        "prompt_tokens": payload.prompt_tokens,
        "exposure": payload.exposure,
        "reward_mean": payload.reward_mean,
        "reward_std": payload.reward_std,
    }
    return [Row(tables.RolloutGroupRow, values)]


def _rollout(event: Event, payload: e.Rollout, _: int) -> list[Row]:
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "attempt": payload.attempt,
        "step": payload.step,
        "group_index": payload.group,
        "sample": payload.sample,
        "reward": payload.reward,
        "advantage": payload.advantage,
        "used": payload.used,
        "reason": text(payload.reason),
        "finish_reason": payload.finish_reason,
        "completion_tokens": payload.completion_tokens,
    }
    rewards, errors = payload.rewards, payload.errors
    sources = rewards.keys() | errors.keys() if errors else rewards
    return [
        Row(tables.RolloutRow, values),
        *(
            Row(
                tables.RewardRow,
                {
                    "seq": event.seq,
                    "source": text(source),
                    "value": rewards.get(source),
                    "error": text(errors[source]) if source in errors else None,
                },
            )
            for source in sorted(sources)
        ),
    ]


def _snapshot(event: Event, payload: e.Snapshot, _: int) -> list[Row]:
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "attempt": payload.attempt,
        "step": payload.step,
        "weights_digest": payload.weights_digest,
        "location": text(payload.location),
    }
    return [Row(tables.SnapshotRow, values)]


def _comparison(event: Event, payload: e.Comparison, _: int) -> list[Row]:
    return [
        Row(
            tables.ComparisonRow,
            {
                "seq": event.seq,
                "task": text(task.task),
                "run_id": event.run_id,
                "behaviour": text(task.behaviour),
                "metric": text(task.metric),
                "pre": task.pre,
                "post": task.post,
                "difference": task.difference,
                "ci_low": task.ci_low,
                "ci_high": task.ci_high,
                "p_adjusted": task.p_adjusted,
                "verdict": task.verdict.value,
            },
        )
        for task in payload.tasks
    ]


def _finding(event: Event, payload: e.Finding, _: int) -> list[Row]:
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "rule": text(payload.rule),
        "severity": payload.severity.value,
        "message": text(payload.message),
    }
    return [Row(tables.FindingRow, values)]


def _annotation(event: Event, payload: e.Annotation, _: int) -> list[Row]:
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "author": text(payload.author),
        "field": text(payload.field),
        "value": text(payload.value),
        "reason": text(payload.reason),
        "at": event.time,
    }
    return [Row(tables.AnnotationRow, values)]


def _erasure(event: Event, payload: e.Erasure, _: int) -> list[Row]:
    gone = [(item.seq, text(name)) for item in payload.contents for name in item.names]
    if len(set(gone)) != len(gone):
        raise ProjectionError("erasure: the same content is named twice")
    return [
        Row(
            tables.ErasedRow,
            {
                "seq": event.seq,
                "content_seq": seq,
                "name": name,
                "run_id": event.run_id,
                "author": text(payload.author),
                "reason": text(payload.reason),
                "at": event.time,
            },
        )
        for seq, name in gone
    ]


_PROJECTIONS: dict[EventKind, Callable[[Event, Any, int], list[Row]]] = {
    EventKind.RUN_REGISTERED: _run_registered,
    EventKind.RUN_RESUMED: _run_resumed,
    EventKind.RUN_SEALED: _run_sealed,
    EventKind.RUN_ABORTED: _run_aborted,
    EventKind.ARTIFACT: _artifact,
    EventKind.EVAL_SAMPLE: _eval_sample,
    EventKind.EVAL_TASK: _eval_task,
    EventKind.STEP: _step,
    EventKind.GROUP: _group,
    EventKind.ROLLOUT: _rollout,
    EventKind.SNAPSHOT: _snapshot,
    EventKind.COMPARISON: _comparison,
    EventKind.FINDING: _finding,
    EventKind.DECONTAMINATION: of_decontamination,
    EventKind.REWARD_PROBED: of_probes,
    EventKind.REWARD_REGRADED: of_regrade,
    EventKind.GATES_CHECKED: of_gates,
    EventKind.RUN_ABANDONED: _run_abandoned,
    EventKind.ANNOTATION: _annotation,
    EventKind.ERASURE: _erasure,
}
