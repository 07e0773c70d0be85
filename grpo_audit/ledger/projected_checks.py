"""Rows of what surrounds training: contamination, probes, second verifiers, gates."""

from __future__ import annotations

from collections.abc import Iterable

from grpo_audit.ledger import tables
from grpo_audit.ledger.event import Event
from grpo_audit.ledger.row import ProjectionError, Row, json_text, text
from grpo_audit.record import audits


def of_decontamination(event: Event, payload: audits.Decontamination, _: int) -> list[Row]:
    """One row a task."""
    _distinct("decontamination: task", (item.task for item in payload.tasks))
    return [
        Row(
            tables.ContaminationRow,
            {
                "seq": event.seq,
                "task": text(item.task),
                "run_id": event.run_id,
                "documents": item.documents,
                "contaminated": item.contaminated,
                "flagged": item.flagged,
                "numbers_only": item.numbers_only,
                "untestable": item.untestable,
            },
        )
        for item in payload.tasks
    ]


def of_probes(event: Event, payload: audits.RewardProbed, _: int) -> list[Row]:
    """One row a family."""
    _distinct("reward.probed: family", (item.family for item in payload.families))
    return [
        Row(
            tables.RewardProbeRow,
            {
                "seq": event.seq,
                "family": text(item.family),
                "run_id": event.run_id,
                "source": text(payload.source),
                "negatives": item.negatives,
                "false_positives": item.false_positives,
                "positives": item.positives,
                "false_negatives": item.false_negatives,
                "failures": item.failures,
                "unstable": item.unstable,
            },
        )
        for item in payload.families
    ]


def of_regrade(event: Event, payload: audits.RewardRegraded, _: int) -> list[Row]:
    """One row."""
    values = {
        "seq": event.seq,
        "run_id": event.run_id,
        "source": text(payload.source),
        "second": text(payload.second),
        "rollouts": payload.rollouts,
        "only_first": payload.only_first,
        "only_second": payload.only_second,
        "by_both": payload.both,
        "by_neither": payload.neither,
        "failures": payload.failures,
        "kappa": payload.kappa,
    }
    return [Row(tables.RewardRegradeRow, values)]


def of_gates(event: Event, payload: audits.GatesChecked, _: int) -> list[Row]:
    """One row a gate."""
    _distinct("gates.checked: gate", (item.name for item in payload.gates))
    return [
        Row(
            tables.GateRow,
            {
                "seq": event.seq,
                "name": text(item.name),
                "run_id": event.run_id,
                "figure": text(item.figure),
                "condition": text(item.condition),
                "passed": item.passed,
                "found": json_text(item.found),
            },
        )
        for item in payload.gates
    ]


def _distinct(what: str, names: Iterable[str]) -> None:
    found = [text(name) for name in names]
    if len(set(found)) != len(found):
        raise ProjectionError(f"{what} named twice")
