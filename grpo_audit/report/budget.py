"""What the run cost: tokens, wall-clock, FLOP and energy by phase. Interrupted work is counted: it was paid for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from grpo_audit.catalogue.collect import Catalogue
from grpo_audit.catalogue.cost import Cost, PhaseCost
from grpo_audit.report.evidence import Evidence, Fact, Source, absent, series
from grpo_audit.report.fields import of_field
from grpo_audit.report.model import Budget, BudgetRow
from grpo_audit.report.numbers import duration, powers, whole
from grpo_audit.report.training import Steps

_NAMES = {"pre": "Evaluation before", "train": "Training", "post": "Evaluation after"}


def budget(catalogue: Catalogue, cost: Cost, steps: Steps) -> Budget:
    """Cost by phase and in total."""
    rows = tuple(_row(phase) for phase in cost.phases)
    method = catalogue.budget.flop_method.value or ""
    return Budget(rows, _facts(catalogue, cost, rows, steps), method)


def _row(phase: PhaseCost) -> BudgetRow:
    note = "an attempt did not finish: of it only the steps count" if phase.unfinished and phase.seconds else ""
    if phase.seconds is None:
        note = "the phase did not finish, so its wall-clock is not recorded"
    spans = (phase.tokens_from,) if phase.tokens_from else ()
    return BudgetRow(
        phase=_NAMES[phase.phase],
        prompt_tokens=phase.prompt_tokens,
        completion_tokens=phase.completion_tokens,
        seconds=phase.seconds,
        flop=phase.flop,
        note=note,
        source=Source(Evidence.MEASURED, phase.finished, spans),
        device_seconds=phase.device_seconds,
        joules=phase.joules,
    )


def _facts(catalogue: Catalogue, cost: Cost, rows: Sequence[BudgetRow], steps: Steps) -> tuple[Fact, ...]:
    executed = series(Evidence.DERIVED, steps.seqs, f"sum over {steps.executed} executed steps")
    parts = [
        Fact(f"Wall-clock of training: {part}", duration(value), executed)
        for part, value in sorted(steps.seconds.items())
    ]
    flops = [
        Fact(f"FLOP of training: {part}", powers(value), executed)
        for part, value in (catalogue.budget.flop_by_part.value or {}).items()
        if value
    ]
    inside = sum(steps.seconds.values())
    rate = "Completion tokens a second, while stepping"
    base, ratio = catalogue.budget.base_flop, catalogue.budget.modifier_ratio
    return (
        _total("Wall-clock, all phases", duration, cost.seconds, rows),
        *parts,
        Fact(rate, whole(round(steps.completion_tokens / inside)), executed)
        if inside
        else absent(rate, "no step was recorded"),
        _total("FLOP, all phases", powers, cost.flop, rows),
        *flops,
        _total("Device-hours", lambda seconds: f"{seconds / 3600:.3g}", cost.device_seconds, rows),
        of_field(catalogue.budget.energy, "budget.energy", "Energy"),
        of_field(base, "budget.base_flop", "Compute of the base model"),
        of_field(ratio, "budget.modifier_ratio", "Compute of this run against it"),
    )


def _total(label: str, write: Callable[[float], str], value: float | None, rows: Sequence[BudgetRow]) -> Fact:
    if value is None:
        return absent(label, "no phase was recorded")
    seqs = tuple(dict.fromkeys(seq for row in rows for seq in row.source.seqs))
    spans = tuple(span for row in rows for span in row.source.spans)
    return Fact(label, write(value), Source(Evidence.DERIVED, seqs, spans, "sum of the table above"))
