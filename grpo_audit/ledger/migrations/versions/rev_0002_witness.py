"""Schema version 2: witnesses, annotations, erasures; a step says more. Projections are derived anew after a migration
(``ledger.rebuild``), so the one that changes is simply made again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from grpo_audit.ledger.migrations.versions.rev_0001_baseline import VIEWS as OLDER_VIEWS

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# SQLite only makes INTEGER PRIMARY KEY an alias of the row id; PostgreSQL wants BIGINT.
SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what is new; make the table of steps again."""
    op.create_table(
        "witness",
        sa.Column("size", SEQ, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("size", "name"),
    )
    op.create_table(
        "annotation",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text()),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("ix_annotation_run_id", "annotation", ["run_id"])
    op.create_table(
        "erased",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("content_seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", "content_seq", "name"),
    )
    op.create_index("ix_erased_run_id", "erased", ["run_id"])
    _reward()
    _step()


def _reward() -> None:
    """Without row ids the primary key is the table, and not an index beside it."""
    op.drop_table("reward")
    op.create_table(
        "reward",
        sa.Column("seq", SEQ, autoincrement=False, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("seq", "source"),
        sqlite_with_rowid=False,
    )


def _step() -> None:
    for view in ("eval_text", "rollout_text", "effective_rollout", "effective_step"):
        op.execute(f"DROP VIEW {view}")
    op.drop_table("step")
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
        sa.Column("kl_reference", sa.Double()),
        sa.Column("value_loss", sa.Double()),
        sa.Column("clip_low_share", sa.Double(), nullable=False),
        sa.Column("clip_high_share", sa.Double(), nullable=False),
        sa.Column("agreement", sa.Double(), nullable=False),
        sa.Column("grad_norm", sa.Double(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("dropped_groups", sa.Integer(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("step_run", "step", ["run_id", "step", "attempt"])
    if op.get_bind().dialect.name != "sqlite":
        _postgresql()
        return
    for view in VIEWS:
        op.execute(view)


def _postgresql() -> None:
    """Text is ordered by code point and whole numbers have 64 bits, as in SQLite; a NUL in a text breaks no view."""
    op.execute("DROP VIEW run_overview")
    columns = op.get_bind().execute(
        sa.text(
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND data_type IN ('integer', 'text') ORDER BY table_name"
        )
    )
    changes: dict[str, list[str]] = {}
    for table, column, kind in columns:
        wanted = "bigint" if kind == "integer" else 'text COLLATE "C"'
        changes.setdefault(table, []).append(f"ALTER COLUMN {column} TYPE {wanted}")
    for table, parts in changes.items():
        op.execute(f"ALTER TABLE {table} {', '.join(parts)}")
    for view in (OLDER_VIEWS[0], *VIEWS):
        op.execute(_for_postgresql(view))


def _for_postgresql(view: str) -> str:
    """PostgreSQL casts bytes to their hexadecimal spelling; text needs the encoding, and holds no NUL."""
    for column in ("prompt.data", "completion.data", "response.data"):
        view = view.replace(
            f"CAST({column} AS TEXT)",
            f"convert_from(CASE WHEN position(CAST('\\x00' AS bytea) IN {column}) = 0 THEN {column} ELSE decode("
            f"replace(regexp_replace(encode({column}, 'hex'), '(..)', '\\1 ', 'g'), '00 ', 'e29080 '), 'hex') END, "
            "'UTF8')",
        )
    return view


VIEWS = (
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
       CASE WHEN prompt.encoding <> 'plain' THEN '(compressed)' ELSE CAST(prompt.data AS TEXT) END AS prompt,
       CASE WHEN completion.encoding <> 'plain' THEN '(compressed)' ELSE CAST(completion.data AS TEXT) END AS completion
FROM rollout
JOIN rollout_group ON rollout_group.run_id = rollout.run_id AND rollout_group.step = rollout.step
     AND rollout_group.attempt = rollout.attempt AND rollout_group.group_index = rollout.group_index
LEFT JOIN content AS prompt
     ON prompt.seq = rollout_group.seq AND prompt.name = 'prompt'
LEFT JOIN content AS completion
     ON completion.seq = rollout.seq AND completion.name = 'completion'""",
    """\
CREATE VIEW eval_text AS
SELECT eval_sample.seq, eval_sample.run_id, eval_sample.phase, eval_sample.task, eval_sample.doc_id, eval_sample.target,
       eval_sample.prediction, eval_sample.metrics, eval_sample.finish_reason,
       CASE WHEN prompt.encoding <> 'plain' THEN '(compressed)' ELSE CAST(prompt.data AS TEXT) END AS prompt,
       CASE WHEN response.encoding <> 'plain' THEN '(compressed)' ELSE CAST(response.data AS TEXT) END AS response
FROM eval_sample
LEFT JOIN content AS prompt
     ON prompt.seq = eval_sample.seq AND prompt.name = 'prompt'
LEFT JOIN content AS response
     ON response.seq = eval_sample.seq AND response.name = 'response'""",
)
