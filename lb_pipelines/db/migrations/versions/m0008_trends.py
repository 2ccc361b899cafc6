"""Trends of all who are ranked on both days, and leaders by the events.

Trends that stand say otherwise, so that their days become stale, in both directions; what is stale
is found and materialized again by the late-events sensor.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("m0008_trends.sql").read_text())


def downgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("m0008_trends_down.sql").read_text())
