"""Totals by slot: packed, one row a type, with the pairs that the slots stand for.

Totals are derived, so none is carried over in either direction: they are made when next needed.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _run(name: str) -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name(name).read_text())


def upgrade() -> None:
    _run("m0004_totals.sql")


def downgrade() -> None:
    _run("m0004_totals_down.sql")
