"""The tables of schema version 1, spelled out: a migration never changes once a record was made with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite only makes INTEGER PRIMARY KEY an alias of the row id; PostgreSQL wants BIGINT.
SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create everything."""
    _record()
    _runs()
    _training()
    _evaluation()
    for view in VIEWS:
        op.execute(view if op.get_bind().dialect.name == "sqlite" else _for_postgresql(view))


def _for_postgresql(view: str) -> str:
    """PostgreSQL casts bytes to their hexadecimal spelling; text needs the encoding."""
    for column in ("prompt.data", "completion.data", "response.data"):
        view = view.replace(f"CAST({column} AS TEXT)", f"convert_from({column}, 'UTF8')")
    return view


def _record() -> None:
    op.create_table(
        "event",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("event_run_kind", "event", ["run_id", "kind", "seq"])
    op.create_table(
        "content",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("encoding", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq", "name"),
    )
    op.create_table(
        "checkpoint",
        sa.Column("size", SEQ, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("size"),
    )


def _runs() -> None:
    op.create_table(
        "run",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.Text(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("weights_digest", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("run_id"),
    )
    op.create_table(
        "run_state",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_run_state_run_id", "run_state", ["run_id"])
    op.create_table(
        "artifact",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("location", sa.Text()),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_artifact_run_id", "artifact", ["run_id"])
    op.create_table(
        "finding",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_finding_run_id", "finding", ["run_id"])


def _training() -> None:
    op.create_table(
        "step",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("learning_rate", sa.Double(), nullable=False),
        sa.Column("loss", sa.Double(), nullable=False),
        sa.Column("reward_mean", sa.Double()),
        sa.Column("reward_std", sa.Double()),
        sa.Column("rewards", sa.Text(), nullable=False),
        sa.Column("zero_variance_share", sa.Double(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("completion_tokens_mean", sa.Double(), nullable=False),
        sa.Column("truncated_share", sa.Double(), nullable=False),
        sa.Column("entropy", sa.Double(), nullable=False),
        sa.Column("kl", sa.Double()),
        sa.Column("clip_low_share", sa.Double(), nullable=False),
        sa.Column("clip_high_share", sa.Double(), nullable=False),
        sa.Column("agreement", sa.Double(), nullable=False),
        sa.Column("grad_norm", sa.Double(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("step_run", "step", ["run_id", "step", "attempt"])
    op.create_table(
        "rollout_group",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("group_index", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("exposure", sa.Integer(), nullable=False),
        sa.Column("reward_mean", sa.Double()),
        sa.Column("reward_std", sa.Double()),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("rollout_group_step", "rollout_group", ["run_id", "step", "attempt", "group_index"])
    op.create_table(
        "rollout",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("group_index", sa.Integer(), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("reward", sa.Double()),
        sa.Column("advantage", sa.Double(), nullable=False),
        sa.Column("used", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.Text(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("rollout_step", "rollout", ["run_id", "step", "attempt", "group_index", "sample"])
    op.create_table(
        "reward",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("seq", "source"),
    )
    op.create_table(
        "snapshot",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("weights_digest", sa.Text(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_snapshot_run_id", "snapshot", ["run_id"])


def _evaluation() -> None:
    op.create_table(
        "eval_sample",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("doc_id", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("doc_hash", sa.Text(), nullable=False),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("prediction", sa.Text(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("finish_reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("eval_sample_task", "eval_sample", ["run_id", "task", "phase"])
    op.create_table(
        "eval_task",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("behaviour", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("documents", sa.Integer(), nullable=False),
        sa.Column("weights_digest", sa.Text(), nullable=False),
        sa.Column("protocol_digest", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_eval_task_run_id", "eval_task", ["run_id"])
    op.create_table(
        "comparison",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("behaviour", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("pre", sa.Double(), nullable=False),
        sa.Column("post", sa.Double(), nullable=False),
        sa.Column("difference", sa.Double(), nullable=False),
        sa.Column("ci_low", sa.Double()),
        sa.Column("ci_high", sa.Double()),
        sa.Column("p_adjusted", sa.Double()),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", "task"),
    )
    op.create_index("ix_comparison_run_id", "comparison", ["run_id"])


VIEWS = (
    """\
CREATE VIEW run_overview AS
SELECT run.run_id, run.name, run_state.state, run_state.attempt, run.registered_at, run_state.at AS changed_at,
       run.preset, run.seed, run.model, run.weights_digest, run_state.detail
FROM run
JOIN run_state ON run_state.seq = (SELECT max(s.seq) FROM run_state AS s WHERE s.run_id = run.run_id)""",
    """\
CREATE VIEW effective_step AS
SELECT step.* FROM step
WHERE step.attempt =
      (SELECT max(s.attempt) FROM step AS s WHERE s.run_id = step.run_id AND s.step = step.step)""",
    """\
CREATE VIEW effective_rollout AS
SELECT rollout.* FROM rollout
WHERE rollout.attempt =
      (SELECT max(s.attempt) FROM step AS s WHERE s.run_id = rollout.run_id AND s.step = rollout.step)""",
    """\
CREATE VIEW rollout_text AS
SELECT rollout.seq, rollout.run_id, rollout.attempt, rollout.step, rollout.group_index, rollout.sample,
       rollout_group.prompt_id, rollout.reward, rollout.advantage, rollout.used, rollout.reason, rollout.finish_reason,
       CAST(prompt.data AS TEXT) AS prompt, CAST(completion.data AS TEXT) AS completion
FROM rollout
JOIN rollout_group ON rollout_group.run_id = rollout.run_id AND rollout_group.step = rollout.step
     AND rollout_group.attempt = rollout.attempt AND rollout_group.group_index = rollout.group_index
LEFT JOIN content AS prompt
     ON prompt.seq = rollout_group.seq AND prompt.name = 'prompt' AND prompt.encoding = 'plain'
LEFT JOIN content AS completion
     ON completion.seq = rollout.seq AND completion.name = 'completion' AND completion.encoding = 'plain'""",
    """\
CREATE VIEW eval_text AS
SELECT eval_sample.seq, eval_sample.run_id, eval_sample.phase, eval_sample.task, eval_sample.doc_id, eval_sample.target,
       eval_sample.prediction, eval_sample.metrics, eval_sample.finish_reason,
       CAST(prompt.data AS TEXT) AS prompt, CAST(response.data AS TEXT) AS response
FROM eval_sample
LEFT JOIN content AS prompt
     ON prompt.seq = eval_sample.seq AND prompt.name = 'prompt' AND prompt.encoding = 'plain'
LEFT JOIN content AS response
     ON response.seq = eval_sample.seq AND response.name = 'response' AND response.encoding = 'plain'""",
)
