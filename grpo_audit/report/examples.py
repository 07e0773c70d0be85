"""Rollouts and evaluation documents to read: picked by rule, never by taste, and the rule is printed beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from grpo_audit.catalogue.reader import Entry, RunReader
from grpo_audit.ledger.tables import EvalSampleRow, RewardRow, RolloutGroupRow, RolloutRow
from grpo_audit.record.events import Comparison, TaskComparison
from grpo_audit.report.evidence import Evidence, Source
from grpo_audit.report.model import FlippedExample, RewardValue, RolloutExample, StepSeries
from grpo_audit.report.visible import Excerpt, excerpt, shortened

FLIPS_PER_DIRECTION = 1
"""Documents shown per task that got better, and per task that got worse."""


def rollout_examples(reader: RunReader, session: Session, series: StepSeries) -> tuple[RolloutExample, ...]:
    """Of the first and the last step: highest reward, lowest reward, first rejected; ties go to the earliest event."""
    if not len(series):
        return ()
    ends = [(series.step[0], series.attempt[0], "First step")]
    if len(series) > 1:
        ends.append((series.step[-1], series.attempt[-1], "Last step"))
    found: list[RolloutExample] = []
    for step, attempt, where in ends:
        seen: set[int] = set()
        of_step = (RolloutRow.run_id == reader.run_id, RolloutRow.step == step, RolloutRow.attempt == attempt)
        for why, condition, order in _PICKS:
            statement = select(RolloutRow).where(*of_step, condition).order_by(order, RolloutRow.seq).limit(1)
            row = session.execute(statement).scalar_one_or_none()
            if row is not None and row.seq not in seen:
                seen.add(row.seq)
                found.append(_rollout(reader, session, row, f"{where}, {why}"))
    return tuple(found)


_PICKS: tuple[tuple[str, ColumnElement[bool], ColumnElement[Any]], ...] = (
    ("highest reward", RolloutRow.reward.is_not(None), RolloutRow.reward.desc()),
    ("lowest reward", RolloutRow.reward.is_not(None), RolloutRow.reward.asc()),
    ("left out of the loss", RolloutRow.used.is_(False), RolloutRow.seq.asc()),
)
"""Why a rollout is shown, and the query that finds it."""


def _rollout(reader: RunReader, session: Session, row: RolloutRow, why: str) -> RolloutExample:
    group = session.execute(
        select(RolloutGroupRow).where(
            RolloutGroupRow.run_id == row.run_id,
            RolloutGroupRow.step == row.step,
            RolloutGroupRow.attempt == row.attempt,
            RolloutGroupRow.group == row.group,
        )
    ).scalar_one()
    said = session.execute(select(RewardRow).where(RewardRow.seq == row.seq).order_by(RewardRow.source)).scalars()
    return RolloutExample(
        why=why,
        step=row.step,
        attempt=row.attempt,
        group=row.group,
        sample=row.sample,
        prompt_id=group.prompt_id,
        prompt=_shown(reader, group.seq, "prompt"),
        completion=_shown(reader, row.seq, "completion"),
        reward=row.reward,
        advantage=row.advantage,
        used=row.used,
        reason=row.reason,
        finish_reason=row.finish_reason,
        completion_tokens=row.completion_tokens,
        rewards=tuple(RewardValue(item.source, item.value, shortened(item.error or "")) for item in said),
        source=Source(Evidence.MEASURED, (group.seq, row.seq)),
    )


def flipped_examples(
    reader: RunReader, session: Session, comparison: Entry[Comparison] | None
) -> tuple[FlippedExample, ...]:
    """Per task, the changed documents with the lowest document hash in each direction."""
    if comparison is None:
        return ()
    found: list[FlippedExample] = []
    for task in comparison.payload.tasks:
        found += _flips(reader, session, task)
    return tuple(found)


@dataclass(frozen=True)
class _Sample:
    """One phase's answer to one document, without its texts."""

    seq: int
    doc_hash: str
    value: float


def _flips(reader: RunReader, session: Session, task: TaskComparison) -> Iterator[FlippedExample]:
    pre, post = (_samples(reader.run_id, session, task, phase) for phase in ("pre", "post"))
    sign = 1 if task.higher_is_better else -1
    changed: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for doc_id, before in pre.items():
        after = post.get(doc_id)
        if after is not None and after.value != before.value:
            changed[sign * (after.value - before.value) > 0].append((before.doc_hash, doc_id))
    for gained in (True, False):
        for _, doc_id in sorted(changed[gained])[:FLIPS_PER_DIRECTION]:
            yield _flip(reader, session, task, gained, len(changed[gained]), doc_id, pre[doc_id], post[doc_id])


def _samples(run_id: str, session: Session, task: TaskComparison, phase: str) -> dict[str, _Sample]:
    """By document; of a document answered twice (an interrupted evaluation) the newest answer counts."""
    statement = (
        select(EvalSampleRow.seq, EvalSampleRow.doc_id, EvalSampleRow.doc_hash, EvalSampleRow.metrics)
        .where(EvalSampleRow.run_id == run_id, EvalSampleRow.task == task.task, EvalSampleRow.phase == phase)
        .order_by(EvalSampleRow.seq)
    )
    found: dict[str, _Sample] = {}
    for seq, doc_id, doc_hash, metrics in session.execute(statement):
        value = json.loads(metrics).get(task.metric)
        if value is not None:
            found[doc_id] = _Sample(seq, doc_hash, float(value))
    return found


def _flip(
    reader: RunReader,
    session: Session,
    task: TaskComparison,
    gained: bool,
    of: int,
    doc_id: str,
    pre: _Sample,
    post: _Sample,
) -> FlippedExample:
    before, after = (session.get_one(EvalSampleRow, sample.seq) for sample in (pre, post))
    return FlippedExample(
        task=task.task,
        behaviour=task.behaviour,
        metric=task.metric,
        gained=gained,
        of=of,
        doc_id=doc_id,
        target=shortened(before.target),
        pre_value=pre.value,
        post_value=post.value,
        pre_prediction=shortened(before.prediction),
        post_prediction=shortened(after.prediction),
        prompt=_shown(reader, pre.seq, "prompt"),
        pre_response=_shown(reader, pre.seq, "response"),
        post_response=_shown(reader, post.seq, "response"),
        source=Source(Evidence.MEASURED, (pre.seq, post.seq)),
    )


def _shown(reader: RunReader, seq: int, name: str) -> Excerpt | None:
    text = reader.text(seq, name)
    return None if text is None else excerpt(text)
