"""Totals in blocks, and days by revision: one student's points without reading everybody's."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        Path(__file__).with_name("m0005_points_of_students.sql").read_text()
    )


def downgrade() -> None:
    op.execute("DROP INDEX lb.point_aggregates_by_revision")
    op.execute("ALTER TABLE lb.point_totals DROP blocks, DROP block_students")
