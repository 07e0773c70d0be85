"""Is the model as often right as it is sure? Tasks whose samples have a confidence and a verdict, before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from grpo_audit.catalogue.reader import Entry
from grpo_audit.ledger.tables import EvalSampleRow
from grpo_audit.record.events import EvalTask, Phase
from grpo_audit.report.evidence import Evidence, spanning
from grpo_audit.report.model_checks import CalibrationRow
from grpo_audit.stats.calibration import curve, expected_error

CONFIDENCE, VERDICT = "confidence", "acc"
"""Metrics of a sample: probability of the answer given, and whether it was right."""


def calibration(
    session: Session, run_id: str, tasks: Mapping[tuple[Phase, str], Entry[EvalTask]]
) -> tuple[CalibrationRow, ...]:
    """One row for each task and phase that has both metrics on every document, in the order of the record."""
    wanted = [key for key, entry in tasks.items() if {CONFIDENCE, VERDICT} <= entry.payload.metrics.keys()]
    rows = (_row(session, run_id, *key) for key in sorted(wanted, key=lambda key: (key[1], key[0] != "pre")))
    return tuple(row for row in rows if row is not None)


def _row(session: Session, run_id: str, phase: Phase, task: str) -> CalibrationRow | None:
    found = session.execute(
        select(EvalSampleRow.seq, EvalSampleRow.metrics)
        .where(EvalSampleRow.run_id == run_id, EvalSampleRow.phase == phase, EvalSampleRow.task == task)
        .order_by(EvalSampleRow.seq)
    ).all()
    metrics = [json.loads(text) for _, text in found]
    sure = [item.get(CONFIDENCE) for item in metrics]
    right = [item.get(VERDICT) for item in metrics]
    values = [*sure, *right]
    if not values or not all(isinstance(value, float | int) and 0 <= value <= 1 for value in values):
        return None  # a metric that happens to have the name
    bins = curve(sure, right)
    return CalibrationRow(
        task=task,
        phase=phase,
        documents=len(found),
        confidence=sum(sure) / len(sure),
        accuracy=sum(right) / len(right),
        expected_error=expected_error(bins),
        curve=tuple((item.low, item.high, item.documents, item.confidence, item.accuracy) for item in bins),
        source=spanning(Evidence.DERIVED, found[0].seq, found[-1].seq, len(found)),
    )
