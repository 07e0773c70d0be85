"""Events about what surrounds training: contamination of the prompts, holes in the rewards, the release gates."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from grpo_audit.record.identities import Digest
from grpo_audit.record.payload import EventKind, Payload


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


# --- contamination


class TaskContamination(_Part):
    """Documents of one evaluation task against the prompt set."""

    task: str
    documents: int
    documents_digest: Digest
    """SHA-256 over the documents' hashes, in order, as in the plan."""
    contaminated: int
    """More than half of the document stands in one prompt."""
    flagged: int
    """Some overlap of words or characters; the contaminated ones included."""
    numbers_only: int
    """Nothing but the same multiset of numbers: a translation, or a coincidence."""
    untestable: int
    """Too short, or without one distinctive n-gram: only an exact copy would be seen."""
    texts_digest: Digest | None = None
    """SHA-256 over the words looked for, a line a document, in order; without what all documents of the task begin and
    end with. None where it was not kept."""


class DocumentOverlap(_Part):
    """One evaluation document that a prompt overlaps with."""

    task: str
    doc_id: str
    how: str
    """``exact``, ``words`` ..."""
    coverage: float
    """Largest share of the document's distinctive words (or of its characters) that one prompt covers; 0 where nothing
    but the numbers is the same."""
    contaminated: bool
    prompts: int
    """Prompts that overlap with it."""
    examples: list[str]
    """Ids of the first of them; none for the weakest overlaps when there are very many."""


class ControlOutcome(_Part):
    """A check of the check: documents planted on purpose."""

    name: str
    planted: int
    found: int
    expected: int


class Decontamination(Payload):
    """The prompt set against every evaluation document, before step 0."""

    kind: ClassVar[EventKind] = EventKind.DECONTAMINATION
    method: str
    """n-grams, thresholds and normalisation, in words."""
    prompts_digest: Digest
    """Of the prompt set, as registered."""
    prompts: int
    words: int
    prompts_contaminated: int
    """With more than half of a document in them."""
    prompts_flagged: int
    """With an overlap of words or characters, the contaminated ones included."""
    prompts_numbers_only: int = 0
    """With nothing but the same numbers as a document."""
    tasks: list[TaskContamination]
    overlaps: list[DocumentOverlap]
    """Every one: contaminated documents first, then the largest coverage, then the suite's order."""
    controls: list[ControlOutcome]
    valid: bool
    """Whether every control came out; otherwise the check says nothing."""
    seconds: float


# --- rewards under audit


class ProbeFamily(_Part):
    """One family of probes against one reward source."""

    family: str
    """Stable slug, e.g. ``shotgun-list``."""
    negatives: int
    """Probes that must not be rewarded."""
    false_positives: int
    false_positive_high: float | None
    """Upper end of the two-sided 95 % Clopper-Pearson interval of the rate; None without negatives."""
    positives: int
    """Probes that must be rewarded."""
    false_negatives: int
    false_negative_high: float | None
    failures: int
    """Calls that raised, hung or died."""
    unstable: int
    """Probes that were judged differently when asked again; counted in the families that ask again."""
    false_positive_low: float | None = None
    """Lower end of the same interval."""
    false_negative_low: float | None = None
    hangs: int = 0
    """Of the failures, calls that ran into the time limit or ended the process."""
    open: int = 0
    """Probes that a verifier may judge either way, as long as it judges them."""
    open_rewarded: int = 0
    """Of these, rewarded: what this source is lenient about."""


class ProbeExample(_Part):
    """One probe that was judged wrongly. Its text is content ``examples``."""

    family: str
    what: str
    """What is wrong, in words: ``rewarded 1.0 although ...``."""
    value: float | None
    error: str


class RewardProbed(Payload):
    """A reward source under the probe families. Content: ``examples``, JSON list of the probes judged wrongly."""

    kind: ClassVar[EventKind] = EventKind.REWARD_PROBED
    source: str
    """Name of the reward source."""
    source_digest: Digest
    threshold: float
    """From which value on a completion counts as rewarded."""
    rows: int
    """Rows of the prompt set that the probes are made of."""
    probes: int
    families: list[ProbeFamily]
    examples: list[ProbeExample]
    """Worst first, a few for each family."""
    seconds_per_call: float
    seconds_worst: float
    seconds: float
    not_probed: str = ""
    """Why there is nothing, where the source could not be probed; else empty."""
    gold: str = ""
    """Where right completions came from, e.g. ``column answer``; empty when none was found, and then no probe could be
    made that must be rewarded, nor one that mixes a right and a wrong answer."""
    formats: list[str] = []
    """Forms of the answer in which the source rewards it, the one the probes use first."""
    kinds: dict[str, int] = {}
    """Rows by kind of their answer."""
    skipped: dict[str, str] = {}
    """Families without a probe, and why."""


class RewardRegraded(Payload):
    """Real rollouts graded again by an independent second verifier."""

    kind: ClassVar[EventKind] = EventKind.REWARD_REGRADED
    source: str
    second: str
    """``package.module:function`` or ``file.py:function`` of the second verifier."""
    second_digest: Digest
    threshold: float
    rollouts: int
    """Rollouts graded by both."""
    only_first: int
    """Rewarded by the source and not by the second verifier: what an exploit looks like."""
    only_second: int
    """The reverse: what the source fails to see."""
    both: int
    neither: int
    kappa: float | None
    """Cohen's kappa; None where one of them says always the same."""
    early_only_first: float | None
    """Share of only_first in the first fifth of the steps."""
    late_only_first: float | None
    """The same in the last fifth: a rise is the sign of a policy that games its reward."""
    failures: int
    """Rollouts the second verifier failed on."""
    examples: list[int]
    """Rollout events on which they disagree, those only the source rewards first."""
    inapplicable: int = 0
    """Rollouts one of the two does not apply to, or the source failed on."""
    unreadable: int = 0
    """Rollouts whose text was erased."""


# --- gates


class GateResult(_Part):
    """One release condition, fixed before step 0, and whether it holds."""

    name: str
    figure: str
    """As the recipe names it; may be a pattern."""
    condition: str
    """In words, e.g. ``at least 0.4``."""
    passed: bool
    found: dict[str, str]
    """Figure by name, as text; empty when there is none, and then the gate fails."""
    failed: list[str]
    """Names of the figures that do not meet it."""
    evidence: list[int]


class GatesChecked(Payload):
    """All release gates of a run, at its end."""

    kind: ClassVar[EventKind] = EventKind.GATES_CHECKED
    gates: list[GateResult]
    passed: bool
