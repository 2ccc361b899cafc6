"""Dimensions, events, aggregates, totals, snapshots and trends."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("m0001_baseline.sql").read_text())


def downgrade() -> None:
    op.execute("DROP SCHEMA lb_part CASCADE")
    op.execute("DROP SCHEMA lb CASCADE")
