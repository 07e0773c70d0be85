"""Schema version 3: contamination, probes, second verifiers and gates as tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# SQLite only makes INTEGER PRIMARY KEY an alias of the row id; PostgreSQL wants BIGINT. Text is ordered by code point
# in both.
WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, TEXT, nullable=False)


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, WHOLE, nullable=False) for name in names]


def upgrade() -> None:
    """Add what is new; projections are derived anew after a migration (``ledger.rebuild``)."""
    seq = ("seq", WHOLE)
    op.create_table(
        "contamination",
        sa.Column(*seq, autoincrement=False, nullable=False),
        _key("task"),
        _key("run_id"),
        *_counts("documents", "contaminated", "flagged", "numbers_only", "untestable"),
        sa.PrimaryKeyConstraint("seq", "task"),
    )
    op.create_table(
        "reward_probe",
        sa.Column(*seq, autoincrement=False, nullable=False),
        _key("family"),
        _key("run_id"),
        _key("source"),
        *_counts("negatives", "false_positives", "positives", "false_negatives", "failures", "unstable"),
        sa.PrimaryKeyConstraint("seq", "family"),
    )
    op.create_table(
        "reward_regrade",
        sa.Column(*seq, autoincrement=False, nullable=False),
        _key("run_id"),
        _key("source"),
        _key("second"),
        *_counts("rollouts", "only_first", "only_second", "by_both", "by_neither", "failures"),
        sa.Column("kappa", sa.Double()),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_table(
        "gate",
        sa.Column(*seq, autoincrement=False, nullable=False),
        _key("name"),
        _key("run_id"),
        _key("figure"),
        _key("condition"),
        sa.Column("passed", sa.Boolean(), nullable=False),
        _key("found"),
        sa.PrimaryKeyConstraint("seq", "name"),
    )
    for table in ("contamination", "reward_probe", "reward_regrade", "gate"):
        op.create_index(f"ix_{table}_run_id", table, ["run_id"])
