"""What the run cost: tokens, wall-clock and derived FLOP by phase. Interrupted work is counted: it was paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from grpo_audit.catalogue.reader import Entry
from grpo_audit.record.events import ModelIdentity, PhaseFinished
from grpo_audit.report.evidence import Absence, Evidence, Fact, Source, absent, derived, series, spanning
from grpo_audit.report.model import Budget, BudgetRow
from grpo_audit.report.numbers import duration, powers, whole
from grpo_audit.report.training import Steps

METHOD = (
    "FLOP = 6·N·T for training plus 2·N·T for generation, N the stored parameters ({parameters}) and T the prompt and "
    "completion tokens of the phase (Kaplan et al. 2020, section 2.1, without the attention term). Left out: forward "
    "passes of the reference policy, recomputed activations, evaluation prompts and likelihood tasks, whose tokens are "
    "not recorded. An estimate of arithmetic, not a measurement."
)
_NAMES = {"pre": "Evaluation before", "train": "Training", "post": "Evaluation after"}

EvalTokens = Mapping[str, tuple[int, tuple[int, int], int]]
"""By phase: completion tokens, first and last sample, number of samples."""


def budget(model: ModelIdentity, steps: Steps, phases: Sequence[Entry[PhaseFinished]], tokens: EvalTokens) -> Budget:
    """Cost by phase and in total."""
    rows = tuple(
        row
        for phase in ("pre", "train", "post")
        if (row := _row(phase, model.parameters, steps, phases, tokens)) is not None
    )
    finished = tuple(entry.seq for entry in phases)
    return Budget(rows, _facts(rows, steps, finished), METHOD.format(parameters=whole(model.parameters)))


def _row(
    phase: str, parameters: int, steps: Steps, phases: Sequence[Entry[PhaseFinished]], tokens: EvalTokens
) -> BudgetRow | None:
    finished = [entry for entry in phases if entry.payload.phase == phase]
    seconds = sum(entry.payload.seconds for entry in finished) if finished else None
    prompt: int | None = None
    completion: int | None = None
    flop: float | None = None
    source = Source(Evidence.MEASURED)
    if phase == "train":
        source = series(Evidence.MEASURED, steps.seqs)
        if steps.executed:
            prompt, completion = steps.prompt_tokens, steps.completion_tokens
            flop = float((6 + 2) * parameters * (prompt + completion))
    elif phase in tokens:
        completion, (first, last), count = tokens[phase]
        source = spanning(Evidence.MEASURED, first, last, count)
        flop = float(2 * parameters * completion)
    if completion is None and not finished:
        return None
    return BudgetRow(
        phase=_NAMES[phase],
        prompt_tokens=prompt,
        completion_tokens=completion,
        seconds=seconds,
        flop=flop,
        note="" if finished else "the phase did not finish, so its wall-clock is not recorded",
        source=replace(source, seqs=(*source.seqs, *(entry.seq for entry in finished))),
    )


def _facts(rows: Sequence[BudgetRow], steps: Steps, finished: tuple[int, ...]) -> tuple[Fact, ...]:
    seconds = [row.seconds for row in rows if row.seconds is not None]
    flop = [row.flop for row in rows if row.flop is not None]
    summed = f"sum over {len(seconds)} of {len(rows)} phases" if rows else "no phase was recorded"
    executed = series(Evidence.DERIVED, steps.seqs, f"sum over {steps.executed} executed steps")
    parts = [
        Fact(f"Wall-clock of training: {part}", duration(value), executed)
        for part, value in sorted(steps.seconds.items())
    ]
    inside = sum(steps.seconds.values())
    rate = "Completion tokens a second, while stepping"
    return (
        derived("Wall-clock, all phases", duration(sum(seconds)) if seconds else None, *finished, how=summed),
        *parts,
        Fact(rate, whole(round(steps.completion_tokens / inside)), executed)
        if inside
        else absent(rate, "no step was recorded"),
        Fact("FLOP, all phases", powers(sum(flop)), _union(rows, "sum of the table above"))
        if flop
        else absent("FLOP, all phases", "no tokens were recorded"),
        absent("Energy", "the machine's power was not read", Absence.NOT_MEASURED),
        absent("Compute of the base model", "so the share that this run adds cannot be stated", Absence.NOT_DECLARED),
    )


def _union(rows: Sequence[BudgetRow], how: str) -> Source:
    seqs = tuple(dict.fromkeys(seq for row in rows for seq in row.source.seqs))
    return Source(Evidence.DERIVED, seqs, tuple(span for row in rows for span in row.source.spans), how)
