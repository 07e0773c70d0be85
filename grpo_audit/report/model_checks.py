"""What the report says of gates, of contamination, of the rewards under audit, and of what was measured beside the
headline: plain data, as in ``report.model``."""

from __future__ import annotations

from dataclasses import dataclass

from grpo_audit.report.evidence import Fact, Source


@dataclass(frozen=True)
class FigureFound:
    """A figure that a gate is about."""

    name: str
    value: str
    holds: bool


@dataclass(frozen=True)
class GateRow:
    """One release condition."""

    name: str
    figure: str
    condition: str
    reason: str | None
    """Why this bound, as the recipe says."""

    passed: bool | None
    """None: not checked yet."""

    found: tuple[FigureFound, ...]
    """Those that do not meet the condition first."""

    left_out: int
    """Figures that are not shown."""

    source: Source


@dataclass(frozen=True)
class Gates:
    """All release conditions of the run."""

    rows: tuple[GateRow, ...]
    passed: bool | None
    """None: there are none, or they were not checked yet."""

    missing: str


@dataclass(frozen=True)
class ContaminationRow:
    """One evaluation task against the prompt set, and its headline on what is clean."""

    task: str
    expected: bool
    """Whether the recipe says that it is contaminated on purpose."""

    documents: int
    contaminated: int
    flagged: int
    numbers_only: int
    untestable: int
    clean: int | None
    """Documents the headline was tested on again; None where there was no need."""

    clean_pre: float | None
    clean_post: float | None
    clean_difference: float | None
    clean_ci_low: float | None
    clean_ci_high: float | None
    clean_verdict: str | None
    source: Source


@dataclass(frozen=True)
class OverlapRow:
    """One evaluation document that prompts overlap with."""

    task: str
    doc_id: str
    how: str
    coverage: float
    contaminated: bool
    prompts: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class ControlRow:
    """A check of the check."""

    name: str
    planted: int
    found: int
    expected: int


@dataclass(frozen=True)
class Contamination:
    """The prompt set against the evaluation documents."""

    rows: tuple[ContaminationRow, ...]
    overlaps: tuple[OverlapRow, ...]
    """The worst of them, the expected tasks left out."""

    left_out: int
    controls: tuple[ControlRow, ...]
    facts: tuple[Fact, ...]
    valid: bool | None
    missing: str


@dataclass(frozen=True)
class ProbeRow:
    """One family of probes against one source."""

    family: str
    negatives: int
    false_positives: int
    false_positive_high: float | None
    positives: int
    false_negatives: int
    false_negative_high: float | None
    failures: int
    unstable: int


@dataclass(frozen=True)
class ExploitRow:
    """One probe that was judged wrongly."""

    family: str
    what: str
    text: str | None
    """The probe, shortened; None when it was erased."""


@dataclass(frozen=True)
class Probed:
    """One reward source under the probes."""

    name: str
    rows: tuple[ProbeRow, ...]
    quiet: int
    """Families in which nothing was wrong; they are not among the rows."""

    exploits: tuple[ExploitRow, ...]
    facts: tuple[Fact, ...]
    missing: str
    source: Source


@dataclass(frozen=True)
class RegradeRow:
    """Rollouts graded again by an independent second verifier."""

    name: str
    second: str
    rollouts: int
    both: int
    only_first: int
    only_second: int
    neither: int
    failures: int
    kappa: float | None
    early: float | None
    late: float | None
    source: Source


@dataclass(frozen=True)
class RewardAudit:
    """What is known of the holes in the rewards."""

    probed: tuple[Probed, ...]
    regraded: tuple[RegradeRow, ...]
    missing: str


@dataclass(frozen=True)
class SecondaryRow:
    """One metric beside the primary one."""

    task: str
    metric: str
    pre: float
    post: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    p_adjusted: float | None
    changed: bool | None


@dataclass(frozen=True)
class LengthRow:
    """Lengths of the answers to one task."""

    task: str
    documents: int
    pre_mean: float
    post_mean: float
    pre_median: float
    post_median: float
    p_shift: float | None
    p_distribution: float | None
    matched_documents: int
    matched_difference: float | None


@dataclass(frozen=True)
class CorrectedRow:
    """A rate that a detector counted, corrected for its error."""

    task: str
    what: str
    documents: int
    pre_raw: float
    post_raw: float
    pre: float
    pre_ci_low: float | None
    pre_ci_high: float | None
    post: float
    post_ci_low: float | None
    post_ci_high: float | None
    difference: float
    ci_low: float | None
    ci_high: float | None
    clipped: bool
    error: str
    """How often the detector is right, and on what that was measured."""


@dataclass(frozen=True)
class CalibrationRow:
    """Confidence against accuracy on one task, before or after."""

    task: str
    phase: str
    documents: int
    confidence: float
    """Mean probability of the answers given."""

    accuracy: float
    expected_error: float
    """Expected calibration error: mean distance of confidence and accuracy over ten bins."""

    curve: tuple[tuple[float, float, int, float, float], ...]
    """Bins: from, to, documents, mean confidence, accuracy."""

    source: Source


@dataclass(frozen=True)
class Beside:
    """What was measured beside the headline; every figure rests on the comparison."""

    secondary: tuple[SecondaryRow, ...]
    lengths: tuple[LengthRow, ...]
    corrected: tuple[CorrectedRow, ...]
    calibration: tuple[CalibrationRow, ...]
    source: Source


@dataclass(frozen=True)
class OtherRow:
    """One task under the trained weights of another run, and of this one."""

    task: str
    behaviour: str
    metric: str
    safety: bool
    documents: int
    other: float
    this: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    p_adjusted: float | None
    gained: int
    lost: int
    verdict: str
    standing: str


@dataclass(frozen=True)
class Others:
    """Another run that this one is set beside."""

    run_id: str
    rows: tuple[OtherRow, ...]
    missing: str
    """Why they cannot be compared; empty when they are."""

    source: Source
