"""Which rollouts were left out of the loss, and which reward calls failed: counted by the database, never loaded."""

from __future__ import annotations

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from grpo_audit.ledger.tables import RewardRow, RolloutRow, StepRow
from grpo_audit.report.evidence import Evidence, nothing, spanning
from grpo_audit.report.model import Count, Rejections
from grpo_audit.report.visible import shortened

MAX_ERRORS = 20
"""Different reward errors listed; the rest is counted together."""


def rejections(session: Session, run_id: str) -> Rejections:
    """Counts over the effective rollouts (of each step, those of the highest attempt)."""
    attempts = set(session.execute(select(StepRow.attempt).where(StepRow.run_id == run_id).distinct()).scalars())
    if not attempts:
        return Rejections(0, 0, (), (), "no training step was recorded", nothing())
    effective = _effective(run_id, resumed=len(attempts) > 1)
    groups = session.execute(
        select(RolloutRow.used, RolloutRow.reason, func.count(), func.min(RolloutRow.seq), func.max(RolloutRow.seq))
        .where(effective)
        .group_by(RolloutRow.used, RolloutRow.reason)
        .order_by(func.count().desc(), RolloutRow.reason)
    ).all()
    total = sum(row[2] for row in groups)
    if not total:
        return Rejections(0, 0, (), (), "no rollout was recorded", nothing())
    by_reason = tuple(
        Count(reason or "no reason recorded", count, total, spanning(Evidence.MEASURED, first, last, count))
        for used, reason, count, first, last in groups
        if not used
    )
    first, last = min(row[3] for row in groups), max(row[4] for row in groups)
    return Rejections(
        rollouts=total,
        used=sum(row[2] for row in groups if row[0]),
        by_reason=by_reason,
        reward_errors=_reward_errors(session, effective, total),
        missing="",
        source=spanning(Evidence.MEASURED, first, last, total),
    )


def _reward_errors(session: Session, effective: ColumnElement[bool], total: int) -> tuple[Count, ...]:
    found = session.execute(
        select(RewardRow.source, RewardRow.error, func.count(), func.min(RewardRow.seq), func.max(RewardRow.seq))
        .join(RolloutRow, RolloutRow.seq == RewardRow.seq)
        .where(effective, RewardRow.error.is_not(None))
        .group_by(RewardRow.source, RewardRow.error)
        .order_by(func.count().desc(), RewardRow.source, RewardRow.error)
    ).all()
    listed = [
        Count(shortened(f"{source}: {error}"), count, total, spanning(Evidence.MEASURED, first, last, count))
        for source, error, count, first, last in found[:MAX_ERRORS]
    ]
    rest = found[MAX_ERRORS:]
    if rest:
        count = sum(row[2] for row in rest)
        first, last = min(row[3] for row in rest), max(row[4] for row in rest)
        listed.append(Count(f"{len(rest)} other errors", count, total, spanning(Evidence.MEASURED, first, last, count)))
    return tuple(listed)


def _effective(run_id: str, *, resumed: bool) -> ColumnElement[bool]:
    """Which rollouts count; looking up each step's highest attempt is only paid for when a run was resumed."""
    of_run = RolloutRow.run_id == run_id
    if not resumed:
        return of_run
    highest = select(StepRow.step, func.max(StepRow.attempt)).where(StepRow.run_id == run_id).group_by(StepRow.step)
    return of_run & tuple_(RolloutRow.step, RolloutRow.attempt).in_(highest)
