"""What a release report says, as plain data: built by ``data.collect``, drawn by the templates and by nothing else.

Every section is a frozen dataclass; every value in it has a ``Source`` (or stands in a row that has one).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from grpo_audit.ledger.runs import RunState
from grpo_audit.record.events import Severity
from grpo_audit.report.evidence import Fact, Source
from grpo_audit.report.model_checks import Beside, Contamination, Gates, Others, RewardAudit
from grpo_audit.report.visible import Excerpt


class Standing(StrEnum):
    """How a box or a row is coloured; the words beside it say the same."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"
    QUIET = "quiet"


@dataclass(frozen=True)
class Statement:
    """One box of the verdict: a word, and a sentence that says what it means."""

    title: str
    word: str
    standing: Standing
    badge: str
    """The attestation word beside it, when there is one."""

    sentence: str
    source: Source


@dataclass(frozen=True)
class VerdictBox:
    """What the reader must know first."""

    record: Statement
    run: Statement
    release: Statement
    problems: tuple[str, ...]
    """What verification found wrong, worst first; empty when it holds or was not run."""

    checks: tuple[tuple[int, str, str, str], ...]
    """Number, name, outcome and detail of each step of the procedure; empty when it was not run."""

    not_shown: tuple[str, ...]
    """What the verdict does not show."""


@dataclass(frozen=True)
class Header:
    """Title block."""

    run_id: str
    name: str
    project: str
    tool: str
    state: RunState
    registered_at: str
    ended_at: str | None
    """When the newest state event was written; None while the run is only registered."""

    source: Source


@dataclass(frozen=True)
class ReleaseRow:
    """One evaluation task: planned before step 0, measured before and after, compared in pairs."""

    task: str
    behaviour: str
    metric: str
    higher_is_better: bool
    safety: bool
    planned: bool
    """Whether the task stands in the plan registered before step 0."""

    documents: int | None
    pre: float | None
    post: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    p_adjusted: float | None
    p_margin: float | None
    minimum_detectable: float | None
    margin: float | None
    gained: int | None
    lost: int | None
    verdict: str | None
    method: str
    """How p was computed; empty when all rows share the method, which the protocol then names."""

    standing: Standing
    missing: str
    """Why figures are missing; empty when the comparison is complete."""

    remarks: tuple[str, ...]
    """What the reader should know about this row, e.g. many truncated answers."""

    source: Source


@dataclass(frozen=True)
class Release:
    """The release table."""

    rows: tuple[ReleaseRow, ...]
    facts: tuple[Fact, ...]
    """Suite, harness, protocol, error rate."""

    remarks: tuple[str, ...]
    missing: str
    """Why there is no comparison; empty when there is one."""


@dataclass(frozen=True)
class StepSeries:
    """The effective steps (highest attempt of each), one column a figure, all of the same length."""

    step: tuple[int, ...]
    attempt: tuple[int, ...]
    seq: tuple[int, ...]
    reward: tuple[float | None, ...]
    rewards: dict[str, tuple[float | None, ...]]
    """Mean by reward source."""

    length: tuple[float, ...]
    truncated: tuple[float, ...]
    entropy: tuple[float, ...]
    kl: tuple[float | None, ...]
    zero_variance: tuple[float, ...]
    grad_norm: tuple[float, ...]
    source: Source

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class Training:
    """What training did."""

    series: StepSeries
    facts: tuple[Fact, ...]
    missing: str


@dataclass(frozen=True)
class RewardValue:
    """What one source said of one rollout."""

    name: str
    value: float | None
    error: str


@dataclass(frozen=True)
class RolloutExample:
    """One rollout, with the reason why it is shown."""

    why: str
    step: int
    attempt: int
    group: int
    sample: int
    prompt_id: str
    prompt: Excerpt | None
    completion: Excerpt | None
    reward: float | None
    advantage: float
    used: bool
    reason: str
    finish_reason: str
    completion_tokens: int
    rewards: tuple[RewardValue, ...]
    source: Source


@dataclass(frozen=True)
class FlippedExample:
    """One evaluation document whose result changed."""

    task: str
    behaviour: str
    metric: str
    gained: bool
    of: int
    """How many documents flipped in this direction."""

    doc_id: str
    target: str
    pre_value: float
    post_value: float
    pre_prediction: str
    post_prediction: str
    prompt: Excerpt | None
    pre_response: Excerpt | None
    post_response: Excerpt | None
    source: Source


@dataclass(frozen=True)
class Difference:
    """One value that differs from the preset's."""

    path: str
    preset: str
    value: str


@dataclass(frozen=True)
class Method:
    """What was optimised, and how."""

    preset: str
    preset_source: str
    differences: tuple[Difference, ...]
    unstated: tuple[str, ...]
    """What the cited paper leaves open, and what stands there instead."""

    deviations: tuple[str, ...]
    """What the cited paper does that a run of this preset does not."""

    formula: tuple[tuple[str, str], ...]
    groups: tuple[tuple[str, tuple[Fact, ...]], ...]
    """Settings by topic: advantage, surrogate, KL, aggregation, sampler, optimiser ..."""

    source: Source


@dataclass(frozen=True)
class RewardSource:
    """One reward source as registered, with its text."""

    name: str
    function: str
    role: str
    kind: str
    weight: float
    version: str
    domain: str | None
    time_limit_s: float
    digest: str
    file: str
    text: str | None
    missing: str
    """Why the text is missing."""

    source: Source


@dataclass(frozen=True)
class Count:
    """How many, of what, by which reason."""

    label: str
    count: int
    total: int
    source: Source


@dataclass(frozen=True)
class Rejections:
    """Rollouts left out of the loss, and reward calls that failed."""

    rollouts: int
    used: int
    by_reason: tuple[Count, ...]
    reward_errors: tuple[Count, ...]
    missing: str
    source: Source


@dataclass(frozen=True)
class BudgetRow:
    """One phase's cost. None: not recorded, for the reason in ``note``."""

    phase: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    flop: float | None
    note: str
    source: Source
    device_seconds: float | None = None
    """Wall-clock times the processes that were held."""

    joules: float | None = None
    """Energy as the machine counted it."""


@dataclass(frozen=True)
class Budget:
    """What the run cost."""

    rows: tuple[BudgetRow, ...]
    facts: tuple[Fact, ...]
    method: str
    """How FLOP were derived, and what they leave out."""


@dataclass(frozen=True)
class ArtifactRow:
    """One file or folder by digest."""

    role: str
    name: str
    digest: str
    size: int | None
    location: str | None
    """None: kept inside the record."""

    source: Source


@dataclass(frozen=True)
class Lineage:
    """From the base model to the released weights."""

    stages: tuple[tuple[str, tuple[Fact, ...]], ...]
    artifacts: tuple[ArtifactRow, ...]


@dataclass(frozen=True)
class FindingItem:
    """One finding."""

    rule: str
    severity: Severity
    message: str
    source: Source
    """The finding's own event."""

    rests_on: Source
    """The events it names as evidence."""


@dataclass(frozen=True)
class Note:
    """An annotation by a person, after the fact."""

    at: str
    author: str
    field: str
    value: str
    reason: str
    source: Source
    signature: str
    """Whose signature it carries, and whether it holds."""


@dataclass(frozen=True)
class Governance:
    """What people declared."""

    facts: tuple[Fact, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Attempt:
    """One attempt of this run, or one change of its state."""

    attempt: int
    state: str
    at: str
    detail: str
    source: Source


@dataclass(frozen=True)
class OtherRun:
    """One run of the project; all of them are listed, this one too."""

    run_id: str
    name: str
    registered_at: str
    state: str
    model: str
    preset: str
    this: bool
    source: Source


@dataclass(frozen=True)
class RecordSection:
    """Where the evidence is, and how to check it."""

    facts: tuple[Fact, ...]
    by_kind: tuple[tuple[str, int], ...]
    checkpoint: str | None
    """The signed note, verbatim."""

    commands: tuple[str, ...]


@dataclass(frozen=True)
class CoverageRow:
    """One field a release record is asked for: its value or why it is missing."""

    group: str
    fact: Fact
    asked_by: str
    anchor: str
    """Section of the report that holds the whole of it."""


@dataclass(frozen=True)
class StandardRow:
    """How far one standard's items are documented: numbers of items."""

    name: str
    title: str
    document: str
    documented: int
    partly: int
    missing: int
    other: int
    """Not applicable, or outside of a training record."""

    open: tuple[str, ...]
    """Items of which nothing is documented."""


@dataclass(frozen=True)
class IndexRow:
    """One event that this report cites."""

    seq: int
    kind: str
    run_id: str | None
    at: str
    leaf_hash: str


@dataclass(frozen=True)
class CardFacts:
    """What the Hub's metadata of a model card needs, unformatted."""

    base_model: str
    base_revision: str | None
    base_weights: str
    trained_weights: str | None
    licence: str | None
    notice: str | None
    record_root: str
    """Root of the tree when the card was made, hexadecimal."""

    dataset: str | None
    """Hub id of the prompt set, when it has one."""


@dataclass(frozen=True)
class ReportData:
    """Everything the report and the card say."""

    header: Header
    notice: Fact
    verdict: VerdictBox
    release: Release
    gates: Gates
    beside: Beside
    contamination: Contamination
    audit: RewardAudit
    training: Training
    rollouts: tuple[RolloutExample, ...]
    flipped: tuple[FlippedExample, ...]
    method: Method
    rewards: tuple[RewardSource, ...]
    prompts: tuple[Fact, ...]
    rejections: Rejections
    budget: Budget
    environment: tuple[Fact, ...]
    packages: tuple[tuple[str, str], ...]
    lineage: Lineage
    findings: tuple[FindingItem, ...]
    governance: Governance
    attempts: tuple[Attempt, ...]
    runs: tuple[OtherRun, ...]
    record: RecordSection
    coverage: tuple[CoverageRow, ...]
    standards: tuple[StandardRow, ...]
    limits: tuple[str, ...]
    card: CardFacts
    others: tuple[Others, ...] = ()
    """Other runs of the record, on request."""

    index: tuple[IndexRow, ...] = ()
