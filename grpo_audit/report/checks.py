"""Gates, contamination, the rewards under audit, and what was measured beside the headline: from events to rows."""

from __future__ import annotations

from grpo_audit.catalogue.reader import Entry
from grpo_audit.config.run import RunConfig
from grpo_audit.record.audits import Decontamination, GateResult, GatesChecked
from grpo_audit.record.comparisons import CleanComparison, CorrectedRate, DetectorError
from grpo_audit.record.events import Comparison, RunRegistered
from grpo_audit.report.evidence import Evidence, Source, measured, nothing
from grpo_audit.report.model_checks import (
    Beside,
    CalibrationRow,
    Contamination,
    ContaminationRow,
    ControlRow,
    CorrectedRow,
    FigureFound,
    GateRow,
    Gates,
    LengthRow,
    OverlapRow,
    SecondaryRow,
)
from grpo_audit.report.numbers import duration, figure, significant, whole
from grpo_audit.report.visible import shortened

FIGURES = 6
"""Figures of a gate that are shown; those that fail come first."""
OVERLAPS = 12
"""Documents that are spelled out in the section on contamination."""
NOT_CHECKED = "No check of the prompts against the evaluation documents is recorded."
_COUNTS = ("documents", "contaminated", "flagged", "numbers_only", "untestable")


def gates(registered: Entry[RunRegistered], config: RunConfig, checked: Entry[GatesChecked] | None) -> Gates:
    """The conditions as registered, and what became of them."""
    if not config.gates:
        return Gates((), None, "The recipe fixed no release gates before step 0.")
    results = {item.name: item for item in checked.payload.gates} if checked else {}
    reasons = {gate.name: gate.reason for gate in config.gates}
    at = Source(Evidence.MEASURED, (registered.seq,))
    rows = tuple(
        _gate(results[gate.name], reasons[gate.name], registered.seq, checked)
        if checked is not None and gate.name in results
        else GateRow(gate.name, gate.figure, gate.condition, gate.reason, None, (), 0, at)
        for gate in config.gates
    )
    missing = "" if checked else "Registered before step 0; the run has not come to the point where they are checked."
    return Gates(rows, checked.payload.passed if checked else None, missing)


def _gate(result: GateResult, reason: str | None, at: int, checked: Entry[GatesChecked]) -> GateRow:
    names = [*result.failed, *(name for name in result.found if name not in result.failed)]
    shown = tuple(FigureFound(name, _shown(result.found[name]), name not in result.failed) for name in names[:FIGURES])
    seqs = tuple(dict.fromkeys((at, checked.seq, *result.evidence[:FIGURES])))
    return GateRow(
        name=result.name,
        figure=result.figure,
        condition=result.condition,
        reason=reason,
        passed=result.passed,
        found=shown,
        left_out=len(names) - len(shown),
        source=Source(Evidence.DERIVED, seqs, note="held against the figures of the record"),
    )


def _shown(value: str) -> str:
    """A figure of a gate as people read it."""
    try:
        return significant(float(value))
    except ValueError:
        return value


# --- contamination --------------------------------------------------------------------------------------------------


def contamination(
    found: Entry[Decontamination] | None, comparison: Entry[Comparison] | None, config: RunConfig
) -> Contamination:
    """The prompt set against the evaluation documents, and the headlines on what is clean."""
    if found is None:
        return Contamination(
            (), (), 0, (), (), None, "No check of the prompts against the evaluation documents is recorded."
        )
    payload, expected = found.payload, set(config.decontamination.expected)
    clean = {item.task: item for item in comparison.payload.clean if item.flagged} if comparison else {}
    rows = tuple(
        _contamination_row(item.task, item.task in expected, item, clean.get(item.task), found.seq, comparison)
        for item in payload.tasks
    )
    # a document that only has a prompt's numbers is counted, and overlaps with nothing
    worst = [item for item in payload.overlaps if item.task not in expected and (item.coverage or item.contaminated)]
    worst.sort(key=lambda item: (not item.contaminated, -item.coverage))
    facts = (
        measured("Method", payload.method, found.seq),
        measured("Prompts", f"{whole(payload.prompts)}, {whole(payload.words)} words", found.seq),
        measured("Prompts that contaminate a document", whole(payload.prompts_contaminated), found.seq),
        measured("Prompts that share words or characters with one", whole(payload.prompts_flagged), found.seq),
        measured("Prompts that share its numbers only", whole(payload.prompts_numbers_only), found.seq),
        measured("Time", duration(payload.seconds), found.seq),
    )
    return Contamination(
        rows=rows,
        overlaps=tuple(
            OverlapRow(
                item.task,
                shortened(item.doc_id, 80),
                item.how,
                item.coverage,
                item.contaminated,
                item.prompts,
                tuple(shortened(name, 80) for name in item.examples),
            )
            for item in worst[:OVERLAPS]
        ),
        left_out=max(0, len(worst) - OVERLAPS),
        controls=tuple(ControlRow(item.name, item.planted, item.found, item.expected) for item in payload.controls),
        facts=facts,
        valid=payload.valid,
        missing="",
    )


def _contamination_row(
    task: str,
    expected: bool,
    item: object,
    clean: CleanComparison | None,
    seq: int,
    comparison: Entry[Comparison] | None,
) -> ContaminationRow:
    counts = {
        name: getattr(item, name) for name in ("documents", "contaminated", "flagged", "numbers_only", "untestable")
    }
    seqs = (seq, comparison.seq) if clean and comparison else (seq,)
    return ContaminationRow(
        task=task,
        expected=expected,
        **counts,
        clean=clean.clean if clean else None,
        clean_pre=clean.pre if clean else None,
        clean_post=clean.post if clean else None,
        clean_difference=clean.difference if clean else None,
        clean_ci_low=clean.ci_low if clean else None,
        clean_ci_high=clean.ci_high if clean else None,
        clean_verdict=clean.verdict.value if clean and clean.verdict else None,
        source=Source(Evidence.MEASURED, seqs),
    )


# --- beside the headline ----------------------------------------------------------------------------------------------


def beside(comparison: Entry[Comparison] | None, calibration: tuple[CalibrationRow, ...]) -> Beside:
    """Other metrics, lengths and corrected rates of the comparison, and how sure the model is."""
    if comparison is None:
        return Beside((), (), (), calibration, nothing("no comparison was recorded"))
    found = comparison.payload
    return Beside(
        secondary=tuple(
            SecondaryRow(
                item.task,
                item.metric,
                item.pre,
                item.post,
                item.difference,
                item.ci_low,
                item.ci_high,
                item.p_adjusted,
                item.changed,
            )
            for item in found.secondary
        ),
        lengths=tuple(LengthRow(**item.model_dump()) for item in found.lengths),
        corrected=tuple(_corrected(item) for item in found.corrected),
        calibration=calibration,
        source=Source(Evidence.MEASURED, (comparison.seq,)),
    )


def _corrected(item: CorrectedRate) -> CorrectedRow:
    kept = set(CorrectedRow.__dataclass_fields__) - {"error"}
    parts = (
        [_error(item.error)]
        if item.post_error is None
        else [
            f"before: {_error(item.error)}",
            f"after: {_error(item.post_error)}",
        ]
    )
    return CorrectedRow(**item.model_dump(include=kept), error="; ".join(parts))


def _error(error: DetectorError) -> str:
    rates = [
        f"{name} {'not measured' if value is None else figure(value)}"
        for name, value in (("sensitivity", error.sensitivity), ("specificity", error.specificity))
    ]
    return f"{', '.join(rates)}, on {whole(error.labelled)} labelled answers ({error.source})"


def gate_sentence(found: Gates) -> str:
    """For the box at the top; empty when there are no gates."""
    if not found.rows:
        return ""
    if found.passed is None:
        return f"{len(found.rows)} release gates were registered and are not checked yet."
    failed = [row.name for row in found.rows if not row.passed]
    if not failed:
        return f"All {len(found.rows)} release gates fixed before step 0 hold."
    names = shortened(", ".join(failed), 200)
    return f"{len(failed)} of {len(found.rows)} release gates fixed before step 0 fail: {names}."
