"""What was made lately, whosever it is, without reading all that was ever made."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("m0006_what_is_new.sql").read_text())


def downgrade() -> None:
    op.execute("DROP INDEX lb.point_aggregates_moved, lb.materialized_days_by_making")
