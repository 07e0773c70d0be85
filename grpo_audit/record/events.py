"""WHAT is recorded: one model per event kind. The ledger keeps their canonical bytes; projections, verification and
the report read them back through the same models.

In canonical bytes a float is a string (``repr``), so that any language reads the same bytes; the models turn it back.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from grpo_audit.config.presets import PresetDifference as PresetDifference
from grpo_audit.record.audits import (
    Decontamination as Decontamination,
    GatesChecked as GatesChecked,
    RewardProbed as RewardProbed,
    RewardRegraded as RewardRegraded,
)
from grpo_audit.record.comparisons import (
    CleanComparison as CleanComparison,
    CorrectedRate as CorrectedRate,
    LengthShift as LengthShift,
    SecondaryComparison as SecondaryComparison,
)
from grpo_audit.record.identities import (
    AdapterIdentity as AdapterIdentity,
    Digest as Digest,
    Environment as Environment,
    EvaluationPlan as EvaluationPlan,
    FileDigest as FileDigest,
    ModelIdentity as ModelIdentity,
    PhaseEnergy as PhaseEnergy,
    PromptSetIdentity as PromptSetIdentity,
    RewardIdentity as RewardIdentity,
    TaskComparison as TaskComparison,
    TaskPlan as TaskPlan,
    UpdateFigures as UpdateFigures,
    Verdict as Verdict,
)
from grpo_audit.record.payload import (
    EventKind as EventKind,
    Payload as Payload,
    Phase as Phase,
    Severity as Severity,
)


class ProjectCreated(Payload):
    """First event of a record."""

    kind: ClassVar[EventKind] = EventKind.PROJECT_CREATED
    project_id: str
    name: str
    public_key: str
    """Verifier key in signed-note form: ``NAME+KEYHASH+BASE64``."""


class RunRegistered(Payload):
    """Everything that is fixed before step 0."""

    kind: ClassVar[EventKind] = EventKind.RUN_REGISTERED
    name: str
    tool: str
    config: dict[str, Any]
    """The resolved configuration; ``RunConfig.model_validate(config, strict=False)`` reads it."""
    preset: str
    preset_source: str
    """Paper the preset's numbers come from."""
    preset_differences: list[PresetDifference]
    formula: dict[str, str]
    """The formula manifest: advantage, surrogate, kl, aggregation ..., rendered from the objects the loss reads."""
    model: ModelIdentity
    reference: str
    """What the reference policy is, in words, and its digest when there is one."""
    rewards: list[RewardIdentity]
    prompts: PromptSetIdentity
    evaluation: EvaluationPlan | None
    environment: Environment
    adapter: AdapterIdentity | None = None
    """The adapters that train; None when all weights do."""
    seconds: list[RewardIdentity] = []
    """Second verifiers, each under the name of the reward source whose rollouts it grades again after training."""


class RunResumed(Payload):
    """A new attempt after an interruption. Steps done again are recorded again, under the new attempt."""

    kind: ClassVar[EventKind] = EventKind.RUN_RESUMED
    attempt: int
    phase: Phase
    from_step: int
    """First step this attempt executes; 0 when there was no snapshot."""
    snapshot_digest: Digest | None
    processes: int = 1
    """Processes that train together in this attempt; it need not be as many as before."""
    strategy: str = "single process"


class PhaseFinished(Payload):
    """A phase ended."""

    kind: ClassVar[EventKind] = EventKind.PHASE_FINISHED
    phase: Phase
    attempt: int
    seconds: float
    figures: dict[str, float]
    energy: PhaseEnergy | None = None
    """As the machine counted it; None where it does not, or this process may not read it."""


class Artifact(Payload):
    """A file or folder named by digest. Small texts are kept inside the record (content ``text``)."""

    kind: ClassVar[EventKind] = EventKind.ARTIFACT
    role: str
    """``reward source``, ``prompt index``, ``chat template``, ``lock``, ``model card``, ``recipe``, ``report`` ..."""
    name: str
    digest: Digest
    size: int
    media_type: str
    location: str | None
    """Path relative to the run folder when it is kept outside the record."""


class EvalSample(Payload):
    """One document, one answer. Content: ``prompt``, ``response`` (raw, trace included)."""

    kind: ClassVar[EventKind] = EventKind.EVAL_SAMPLE
    flat: ClassVar[bool] = True
    phase: Phase
    task: str
    doc_id: str
    cluster: str
    doc_hash: Digest
    prompt_hash: Digest
    target: str
    prediction: str
    metrics: dict[str, float]
    completion_tokens: int | None
    """None for tasks that score likelihoods."""
    finish_reason: Literal["stop", "length", "likelihood"]


class EvalTask(Payload):
    """All documents of one task under one set of weights."""

    kind: ClassVar[EventKind] = EventKind.EVAL_TASK
    phase: Phase
    task: str
    behaviour: str
    metric: str
    documents: int
    metrics: dict[str, float]
    """Mean of each metric over the documents."""
    empty_rate: float | None
    truncated_rate: float | None
    weights_digest: Digest
    protocol_digest: Digest
    seconds: float


class Group(Payload):
    """The G completions of one prompt at one step. Content: ``prompt`` (text as sent to the tokenizer), ``fields`` (the
    row of the prompt set as canonical JSON: ``columns``, ``id``, ``prompt``; what the reward sources were given)."""

    kind: ClassVar[EventKind] = EventKind.GROUP
    flat: ClassVar[bool] = True
    attempt: int
    step: int
    group: int
    """Position in the step, from 0."""
    prompt_id: str
    prompt_tokens: int
    exposure: int
    """How many times this prompt was drawn before, in this run."""
    reward_mean: float | None
    reward_std: float | None
    """With the ddof of the objective; None when fewer than two rollouts could be rewarded."""


class Rollout(Payload):
    """One completion. Content: ``completion`` (text), ``trace`` (token ids as u32le, then sampling
    log-probabilities as f32le)."""

    kind: ClassVar[EventKind] = EventKind.ROLLOUT
    flat: ClassVar[bool] = True
    attempt: int
    step: int
    group: int
    sample: int
    """Position in the group, from 0."""
    rewards: dict[str, float | None]
    """By source; None where the source does not apply or failed."""
    errors: dict[str, str]
    """By source, where it failed."""
    reward: float | None
    """Weighted sum of the train sources; None when none applied."""
    advantage: float
    """With a value model, which gives each token one, the mean over its tokens."""
    used: bool
    """Whether it contributed to the loss."""
    reason: str
    """Why not, when not: ``reward error``, ``truncated`` ...; else empty."""
    finish_reason: Literal["stop", "length"]
    completion_tokens: int


class Step(Payload):
    """One batch of rollouts and the updates on it."""

    kind: ClassVar[EventKind] = EventKind.STEP
    attempt: int
    step: int
    learning_rate: float
    loss: float
    """Mean over the updates; 0 in value on-policy, where its gradient is not 0."""
    reward_mean: float | None
    reward_std: float | None
    rewards: dict[str, float]
    """Mean of each source over the rollouts it applied to."""
    zero_variance_share: float
    """Share of groups whose rewards are all equal: no signal."""
    used: int
    rejected: int
    completion_tokens_mean: float
    truncated_share: float
    entropy: float
    """Mean over tokens of the sampling distribution's entropy, in nats."""
    kl: float | None
    """KL to the initial policy by the objective's estimator, mean over tokens, before the first update; None when not
    measured at this step."""
    kl_reference: float | None = None
    """The same to the reference, once that is another policy than the initial one."""
    kl_loss: float | None
    clip_low_share: float
    clip_high_share: float
    agreement: float
    """Mean |log-probability of the sampler - of the scorer| over tokens, before the first update."""
    agreement_max: float
    grad_norm: float
    """Largest of the updates, before clipping."""
    prompt_tokens: int
    completion_tokens: int
    seconds: dict[str, float]
    """Wall-clock by part: rollout, reward, update."""
    fingerprint: Digest
    """Strided sample of every weight tensor after the step; the full digest is taken at snapshots."""
    sampled_by: Digest | None = None
    """The same before the step: the old policy, which drew the rollouts."""
    engine: str = ""
    """What drew the rollouts, with the library and version that computed its logits."""
    rounds: int = 1
    """Rounds of prompts that were drawn; more than one with dynamic sampling only."""
    dropped_groups: int = 0
    """Groups that dynamic sampling dropped; their rollouts are recorded with the reason."""
    updates: list[UpdateFigures] = []
    value_loss: float | None = None
    """Of the value model (PPO), mean over the updates; None without one."""
    explained_variance: float | None = None
    """Share of the returns' variance over the tokens that the values explain, before the first update; None without a
    value model, and where all returns are equal."""


class Snapshot(Payload):
    """Weights and optimiser on disk, for resume and replay."""

    kind: ClassVar[EventKind] = EventKind.SNAPSHOT
    attempt: int
    step: int
    """Steps done."""
    weights_digest: Digest
    location: str
    files: list[FileDigest]


class ModelSaved(Payload):
    """The trained weights as released."""

    kind: ClassVar[EventKind] = EventKind.MODEL_SAVED
    location: str
    model: ModelIdentity
    adapter: AdapterIdentity | None = None
    """The adapters that were merged into the weights, in float32; None when all weights were trained."""
    adapter_location: str | None = None
    """Where they are kept in peft's format, relative to the run folder."""
    adapter_digest: Digest | None = None
    """SHA-256 over their tensors, as of ``weights_digest``."""


class Comparison(Payload):
    """All tasks, paired."""

    kind: ClassVar[EventKind] = EventKind.COMPARISON
    protocol_digest: Digest
    pre_weights: Digest
    post_weights: Digest
    alpha: float
    tasks: list[TaskComparison]
    """The primary metric of each task, Holm-corrected."""
    secondary: list[SecondaryComparison] = []
    """Every other metric: exploratory, with the false discovery rate controlled (Benjamini-Hochberg)."""
    lengths: list[LengthShift] = []
    """Answers before and after by their length."""
    clean: list[CleanComparison] = []
    """The primary metric again on the documents that no prompt overlaps with."""
    corrected: list[CorrectedRate] = []
    """Rates that a detector counted, corrected for its measured error."""


class Finding(Payload):
    """What a check noticed."""

    kind: ClassVar[EventKind] = EventKind.FINDING
    rule: str
    """Stable slug, e.g. ``zero-variance``."""
    severity: Severity
    message: str
    evidence: list[int]
    """Sequence numbers of the events it rests on."""


class RunSealed(Payload):
    """The last event of a run: nothing but annotations may follow."""

    kind: ClassVar[EventKind] = EventKind.RUN_SEALED
    events: int
    """Events of this run before this one."""
    by_kind: dict[str, int]
    weights_digest: Digest | None
    """Of the released weights."""
    runs: int | None = None
    """Runs registered in the project up to here, this one included: a bundle that hides one of them does not hold."""


class RunAborted(Payload):
    """The run ended with an error. It can be resumed; then ``run.resumed`` follows."""

    kind: ClassVar[EventKind] = EventKind.RUN_ABORTED
    error: str


class RunAbandoned(Payload):
    """A person gave the run up. It can still be resumed; then ``run.resumed`` follows, and both stay visible."""

    kind: ClassVar[EventKind] = EventKind.RUN_ABANDONED
    author: str
    reason: str


class Annotation(Payload):
    """A note by a person, after the fact. The newest one about a field counts; all stay visible."""

    kind: ClassVar[EventKind] = EventKind.ANNOTATION
    author: str
    field: str
    value: str
    reason: str
    signed: str = ""
    """Signed note (C2SP) by the author's own key over the above; empty when only the log's key vouches for it."""
    public_key: str = ""
    """Verifier key of that signature, ``NAME+KEYHASH+BASE64``. Whose key it is, is the author's claim."""


class ErasedContent(BaseModel):
    """Pieces of content of one event that are gone."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    seq: int
    """The event that names them."""
    names: list[str]
    """``prompt``, ``completion``, ``trace``, ``fields``, ``response``, ``text``."""


class Erasure(Payload):
    """Text and salt of some content were removed on purpose. The digests stay, so the tree does; nothing else in the
    record changes."""

    kind: ClassVar[EventKind] = EventKind.ERASURE
    author: str
    reason: str
    contents: list[ErasedContent]


class KeyRotated(Payload):
    """The log is signed by another key from here on. The tree head over this event carries the signatures of both."""

    kind: ClassVar[EventKind] = EventKind.KEY_ROTATED
    author: str
    reason: str
    old_key: str
    """Verifier key in force until here, ``NAME+KEYHASH+BASE64``."""
    new_key: str


AnyPayload = (
    ProjectCreated
    | RunRegistered
    | RunResumed
    | PhaseFinished
    | Artifact
    | EvalSample
    | EvalTask
    | Group
    | Rollout
    | Step
    | Snapshot
    | ModelSaved
    | Comparison
    | Finding
    | Decontamination
    | RewardProbed
    | RewardRegraded
    | GatesChecked
    | RunSealed
    | RunAborted
    | RunAbandoned
    | Annotation
    | Erasure
    | KeyRotated
)

PAYLOADS: dict[EventKind, type[Payload]] = {model.kind: model for model in AnyPayload.__args__}
