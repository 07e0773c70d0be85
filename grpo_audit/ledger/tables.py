"""The tables of a record. ``event`` is the truth; all tables below "Projections" are derived from it, row by row, and
``verify`` derives them again. Rows are only ever inserted. ``docs/schema.md`` is generated from the comments here.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 3
"""Number of the newest migration. A record with a larger number is refused."""

# SQLite only makes INTEGER PRIMARY KEY an alias of the row id; PostgreSQL wants BIGINT.
Seq = BigInteger().with_variant(Integer, "sqlite")
# every whole number has the same range in both: what one can record, the other can
Whole = Seq


class Base(DeclarativeBase):
    """Declarative base of all tables."""


def _seq(comment: str = "event this row is derived from") -> Mapped[int]:
    return mapped_column(Seq, primary_key=True, autoincrement=False, comment=comment)


class EventRow(Base):
    """The record: numbered, canonical bytes, hashed into the Merkle tree."""

    __tablename__ = "event"
    seq: Mapped[int] = _seq("position in the log, from 0")
    run_id: Mapped[str | None] = mapped_column(Text, comment="run the event belongs to; empty for the project's own")
    kind: Mapped[str] = mapped_column(Text, comment="event kind, as in docs/record-format.md")
    body: Mapped[bytes] = mapped_column(LargeBinary, comment="canonical bytes; never serialised again to verify")
    leaf_hash: Mapped[bytes] = mapped_column(LargeBinary, comment="SHA-256(0x00 || body)")
    __table_args__ = (Index("event_run_kind", "run_id", "kind", "seq"),)


class ContentRow(Base):
    """Text and arrays of an event. The event holds SHA-256(salt || data), so this row can be erased, visibly."""

    __tablename__ = "content"
    seq: Mapped[int] = _seq("event this content belongs to")
    name: Mapped[str] = mapped_column(
        Text, primary_key=True, comment="prompt, fields, completion, trace, response, text, examples"
    )
    salt: Mapped[bytes] = mapped_column(LargeBinary, comment="16 random bytes")
    encoding: Mapped[str] = mapped_column(
        Text, comment="how data is stored: plain, zstd or zlib; the digest is over the plain bytes"
    )
    data: Mapped[bytes] = mapped_column(LargeBinary, comment="UTF-8 text, or arrays as docs/record-format.md says")


class CheckpointRow(Base):
    """Signed tree heads, one a transaction (C2SP tlog-checkpoint in a signed note)."""

    __tablename__ = "checkpoint"
    size: Mapped[int] = _seq("events in the tree")
    root: Mapped[bytes] = mapped_column(LargeBinary, comment="Merkle tree hash (RFC 6962)")
    note: Mapped[bytes] = mapped_column(LargeBinary, comment="the signed note")
    frontier: Mapped[bytes] = mapped_column(
        LargeBinary, comment="hashes of the complete subtrees, left to right, 32 bytes each"
    )


class WitnessRow(Base):
    """What witnesses said of tree heads. Beside the log, not in it: a statement comes after the head it is about."""

    __tablename__ = "witness"
    size: Mapped[int] = _seq("events in the tree that the witness saw")
    name: Mapped[str] = mapped_column(Text, primary_key=True, comment="the witness")
    kind: Mapped[str] = mapped_column(Text, comment="directory, git or rfc3161")
    statement: Mapped[bytes] = mapped_column(LargeBinary, comment="its statement, in the format of its kind")
    at: Mapped[str] = mapped_column(Text, comment="when it was kept here, UTC, RFC 3339; informative")


# --- Projections ----------------------------------------------------------------------------------------------------


class RunRow(Base):
    """Every run ever registered, finished or not."""

    __tablename__ = "run"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, unique=True, comment="run id")
    name: Mapped[str] = mapped_column(Text, comment="name from the recipe")
    registered_at: Mapped[str] = mapped_column(Text, comment="UTC, RFC 3339")
    preset: Mapped[str] = mapped_column(Text, comment="preset of the objective")
    seed: Mapped[int] = mapped_column(BigInteger, comment="run seed")
    model: Mapped[str] = mapped_column(Text, comment="base model as the recipe names it")
    weights_digest: Mapped[str] = mapped_column(Text, comment="weights of the base model")
    config: Mapped[str] = mapped_column(Text, comment="resolved configuration, JSON")


class RunStateRow(Base):
    """What became of a run: registered, resumed, sealed, aborted, abandoned. The newest row counts."""

    __tablename__ = "run_state"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    state: Mapped[str] = mapped_column(Text, comment="registered, resumed, sealed, aborted or abandoned")
    at: Mapped[str] = mapped_column(Text, comment="UTC, RFC 3339")
    attempt: Mapped[int] = mapped_column(Whole, comment="attempt this state belongs to, from 1")
    detail: Mapped[str] = mapped_column(Text, comment="error, reason, or where it went on")


class ArtifactRow(Base):
    """Files and folders by digest."""

    __tablename__ = "artifact"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    role: Mapped[str] = mapped_column(Text, comment="what it is to the run")
    name: Mapped[str] = mapped_column(Text, comment="file name")
    digest: Mapped[str] = mapped_column(Text, comment="sha256:...")
    size: Mapped[int] = mapped_column(BigInteger, comment="bytes")
    location: Mapped[str | None] = mapped_column(
        Text, comment="path relative to the run folder; empty when kept in content"
    )


class EvalSampleRow(Base):
    """One evaluation document answered by one set of weights."""

    __tablename__ = "eval_sample"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, comment="run id")
    phase: Mapped[str] = mapped_column(Text, comment="pre or post")
    task: Mapped[str] = mapped_column(Text, comment="lm-eval task")
    doc_id: Mapped[str] = mapped_column(Text, comment="our own document id")
    cluster: Mapped[str] = mapped_column(Text, comment="documents that share a source")
    doc_hash: Mapped[str] = mapped_column(Text, comment="digest of the document")
    prompt_hash: Mapped[str] = mapped_column(Text, comment="digest of the prompt as sent")
    target: Mapped[str] = mapped_column(Text, comment="expected answer")
    prediction: Mapped[str] = mapped_column(Text, comment="answer as scored")
    metrics: Mapped[str] = mapped_column(Text, comment="JSON: metric to value")
    completion_tokens: Mapped[int | None] = mapped_column(Whole, comment="tokens of the answer; empty for likelihoods")
    finish_reason: Mapped[str] = mapped_column(Text, comment="stop, length or likelihood")
    __table_args__ = (Index("eval_sample_task", "run_id", "task", "phase"),)


class EvalTaskRow(Base):
    """One evaluation task under one set of weights."""

    __tablename__ = "eval_task"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    phase: Mapped[str] = mapped_column(Text, comment="pre or post")
    task: Mapped[str] = mapped_column(Text, comment="lm-eval task")
    behaviour: Mapped[str] = mapped_column(Text, comment="behaviour it stands for")
    metric: Mapped[str] = mapped_column(Text, comment="primary metric")
    value: Mapped[float] = mapped_column(comment="mean of the primary metric")
    documents: Mapped[int] = mapped_column(Whole, comment="documents")
    weights_digest: Mapped[str] = mapped_column(Text, comment="weights under test")
    protocol_digest: Mapped[str] = mapped_column(Text, comment="protocol of the suite")
    seconds: Mapped[float] = mapped_column(comment="wall-clock seconds")


class StepRow(Base):
    """One optimiser step of one attempt."""

    __tablename__ = "step"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, comment="run id")
    attempt: Mapped[int] = mapped_column(
        Whole, comment="attempt, from 1; a step done again after a crash has a higher one"
    )
    step: Mapped[int] = mapped_column(Whole, comment="step, from 0")
    learning_rate: Mapped[float] = mapped_column(comment="learning rate of this step")
    loss: Mapped[float] = mapped_column(comment="value of the objective; near 0 on-policy, its gradient is not")
    reward_mean: Mapped[float | None] = mapped_column(comment="mean weighted reward")
    reward_std: Mapped[float | None] = mapped_column(comment="standard deviation of it")
    rewards: Mapped[str] = mapped_column(Text, comment="JSON: mean by reward source")
    zero_variance_share: Mapped[float] = mapped_column(comment="share of groups without signal")
    used: Mapped[int] = mapped_column(Whole, comment="rollouts in the loss")
    rejected: Mapped[int] = mapped_column(Whole, comment="rollouts left out")
    completion_tokens_mean: Mapped[float] = mapped_column(comment="mean completion length in tokens")
    truncated_share: Mapped[float] = mapped_column(comment="share that ran into the length limit")
    entropy: Mapped[float] = mapped_column(comment="mean token entropy in nats")
    kl: Mapped[float | None] = mapped_column(comment="KL to the initial policy; empty when not measured")
    kl_reference: Mapped[float | None] = mapped_column(comment="KL to the reference, once that is another policy")
    value_loss: Mapped[float | None] = mapped_column(comment="loss of the value model; empty without one")
    clip_low_share: Mapped[float] = mapped_column(comment="share of tokens clipped below")
    clip_high_share: Mapped[float] = mapped_column(comment="share of tokens clipped above")
    agreement: Mapped[float] = mapped_column(comment="mean difference of sampler and scorer log-probabilities")
    grad_norm: Mapped[float] = mapped_column(comment="gradient norm before clipping")
    prompt_tokens: Mapped[int] = mapped_column(Whole, comment="prompt tokens")
    completion_tokens: Mapped[int] = mapped_column(Whole, comment="completion tokens")
    rounds: Mapped[int] = mapped_column(Whole, comment="rounds of prompts drawn; above 1 with dynamic sampling only")
    dropped_groups: Mapped[int] = mapped_column(Whole, comment="groups that dynamic sampling dropped")
    engine: Mapped[str] = mapped_column(Text, comment="what drew the rollouts, with its version")
    seconds: Mapped[float] = mapped_column(comment="wall-clock seconds")
    fingerprint: Mapped[str] = mapped_column(Text, comment="fingerprint of the weights after the step")
    __table_args__ = (Index("step_run", "run_id", "step", "attempt"),)


class RolloutGroupRow(Base):
    """The completions of one prompt at one step."""

    __tablename__ = "rollout_group"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, comment="run id")
    attempt: Mapped[int] = mapped_column(Whole, comment="attempt, from 1")
    step: Mapped[int] = mapped_column(Whole, comment="step, from 0")
    group: Mapped[int] = mapped_column("group_index", Whole, comment="position in the step, from 0")
    prompt_id: Mapped[str] = mapped_column(Text, comment="id of the prompt in its set")
    prompt_tokens: Mapped[int] = mapped_column(Whole, comment="prompt tokens")
    exposure: Mapped[int] = mapped_column(Whole, comment="earlier draws of this prompt in this run")
    reward_mean: Mapped[float | None] = mapped_column(comment="mean reward of the group")
    reward_std: Mapped[float | None] = mapped_column(comment="standard deviation of the group")
    __table_args__ = (Index("rollout_group_step", "run_id", "step", "attempt", "group_index"),)


class RolloutRow(Base):
    """One completion; its text is ``content.data`` where name = 'completion' and seq = rollout.seq."""

    __tablename__ = "rollout"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, comment="run id")
    attempt: Mapped[int] = mapped_column(Whole, comment="attempt, from 1")
    step: Mapped[int] = mapped_column(Whole, comment="step, from 0")
    group: Mapped[int] = mapped_column("group_index", Whole, comment="position of its group in the step")
    sample: Mapped[int] = mapped_column(Whole, comment="position in the group, from 0")
    reward: Mapped[float | None] = mapped_column(comment="weighted sum of the train sources")
    advantage: Mapped[float] = mapped_column(comment="advantage")
    used: Mapped[bool] = mapped_column(comment="whether it is in the loss")
    reason: Mapped[str] = mapped_column(Text, comment="why it was left out")
    finish_reason: Mapped[str] = mapped_column(Text, comment="stop or length")
    completion_tokens: Mapped[int] = mapped_column(Whole, comment="tokens of the completion")
    __table_args__ = (Index("rollout_step", "run_id", "step", "attempt", "group_index", "sample"),)


class RewardRow(Base):
    """What one reward source said of one rollout."""

    __tablename__ = "reward"
    seq: Mapped[int] = _seq()
    source: Mapped[str] = mapped_column(Text, primary_key=True, comment="name of the reward source")
    value: Mapped[float | None] = mapped_column(comment="reward; empty where the source does not apply or failed")
    error: Mapped[str | None] = mapped_column(Text, comment="how it failed")
    __table_args__ = {"sqlite_with_rowid": False}


class SnapshotRow(Base):
    """Model checkpoints on disk."""

    __tablename__ = "snapshot"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    attempt: Mapped[int] = mapped_column(Whole, comment="attempt, from 1")
    step: Mapped[int] = mapped_column(Whole, comment="steps done")
    weights_digest: Mapped[str] = mapped_column(Text, comment="digest of the weights")
    location: Mapped[str] = mapped_column(Text, comment="folder, relative to the run folder")


class ComparisonRow(Base):
    """Paired pre and post of one task."""

    __tablename__ = "comparison"
    seq: Mapped[int] = _seq()
    task: Mapped[str] = mapped_column(Text, primary_key=True, comment="lm-eval task")
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    behaviour: Mapped[str] = mapped_column(Text, comment="behaviour")
    metric: Mapped[str] = mapped_column(Text, comment="primary metric")
    pre: Mapped[float] = mapped_column(comment="mean before")
    post: Mapped[float] = mapped_column(comment="mean after")
    difference: Mapped[float] = mapped_column(comment="post - pre")
    ci_low: Mapped[float | None] = mapped_column(comment="95 % interval, lower end")
    ci_high: Mapped[float | None] = mapped_column(comment="95 % interval, upper end")
    p_adjusted: Mapped[float | None] = mapped_column(comment="p value, Holm-adjusted")
    verdict: Mapped[str] = mapped_column(Text, comment="improved, regressed, ...")


class FindingRow(Base):
    """What checks noticed."""

    __tablename__ = "finding"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    rule: Mapped[str] = mapped_column(Text, comment="stable slug")
    severity: Mapped[str] = mapped_column(Text, comment="info, warning or error")
    message: Mapped[str] = mapped_column(Text, comment="for the reader")


class ContaminationRow(Base):
    """One evaluation task against the prompt set."""

    __tablename__ = "contamination"
    seq: Mapped[int] = _seq()
    task: Mapped[str] = mapped_column(Text, primary_key=True, comment="lm-eval task")
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    documents: Mapped[int] = mapped_column(Whole, comment="documents")
    contaminated: Mapped[int] = mapped_column(Whole, comment="more than half of them stands in one prompt")
    flagged: Mapped[int] = mapped_column(Whole, comment="some overlap, the contaminated ones included")
    numbers_only: Mapped[int] = mapped_column(Whole, comment="the same numbers and nothing else")
    untestable: Mapped[int] = mapped_column(Whole, comment="only an exact copy would be seen")


class RewardProbeRow(Base):
    """One family of probes against one reward source."""

    __tablename__ = "reward_probe"
    seq: Mapped[int] = _seq()
    family: Mapped[str] = mapped_column(Text, primary_key=True, comment="family of probes")
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    source: Mapped[str] = mapped_column(Text, comment="name of the reward source")
    negatives: Mapped[int] = mapped_column(Whole, comment="probes that must not be rewarded")
    false_positives: Mapped[int] = mapped_column(Whole, comment="of these, rewarded")
    positives: Mapped[int] = mapped_column(Whole, comment="probes that must be rewarded")
    false_negatives: Mapped[int] = mapped_column(Whole, comment="of these, not rewarded")
    failures: Mapped[int] = mapped_column(Whole, comment="calls that raised, hung or died")
    unstable: Mapped[int] = mapped_column(Whole, comment="judged differently when asked again")


class RewardRegradeRow(Base):
    """Rollouts graded again by an independent second verifier."""

    __tablename__ = "reward_regrade"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    source: Mapped[str] = mapped_column(Text, comment="name of the reward source")
    second: Mapped[str] = mapped_column(Text, comment="the second verifier")
    rollouts: Mapped[int] = mapped_column(Whole, comment="graded by both")
    only_first: Mapped[int] = mapped_column(Whole, comment="rewarded by the source only")
    only_second: Mapped[int] = mapped_column(Whole, comment="rewarded by the second verifier only")
    by_both: Mapped[int] = mapped_column(Whole, comment="rewarded by both")
    by_neither: Mapped[int] = mapped_column(Whole, comment="rewarded by neither")
    failures: Mapped[int] = mapped_column(Whole, comment="the second verifier failed")
    kappa: Mapped[float | None] = mapped_column(comment="Cohen's kappa; empty where one says always the same")


class GateRow(Base):
    """Release conditions, fixed before step 0, at the end of the run."""

    __tablename__ = "gate"
    seq: Mapped[int] = _seq()
    name: Mapped[str] = mapped_column(Text, primary_key=True, comment="name of the gate")
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    figure: Mapped[str] = mapped_column(Text, comment="figure or pattern it is about")
    condition: Mapped[str] = mapped_column(Text, comment="what must hold")
    passed: Mapped[bool] = mapped_column(comment="whether it does")
    found: Mapped[str] = mapped_column(Text, comment="JSON: figures that were found")


class AnnotationRow(Base):
    """What people said afterwards."""

    __tablename__ = "annotation"
    seq: Mapped[int] = _seq()
    run_id: Mapped[str | None] = mapped_column(Text, index=True, comment="run id; empty when about the project")
    author: Mapped[str] = mapped_column(Text, comment="who says so")
    field: Mapped[str] = mapped_column(Text, comment="what it is about")
    value: Mapped[str] = mapped_column(Text, comment="what is said")
    reason: Mapped[str] = mapped_column(Text, comment="why")
    at: Mapped[str] = mapped_column(Text, comment="UTC, RFC 3339")


class ErasedRow(Base):
    """Content that was removed on purpose."""

    __tablename__ = "erased"
    seq: Mapped[int] = _seq("erasure event")
    content_seq: Mapped[int] = mapped_column(Seq, primary_key=True, comment="event whose content is gone")
    name: Mapped[str] = mapped_column(Text, primary_key=True, comment="which content")
    run_id: Mapped[str] = mapped_column(Text, index=True, comment="run id")
    author: Mapped[str] = mapped_column(Text, comment="who erased it")
    reason: Mapped[str] = mapped_column(Text, comment="why")
    at: Mapped[str] = mapped_column(Text, comment="UTC, RFC 3339")
