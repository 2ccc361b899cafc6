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


# Tables of lb_part that nothing hangs below: leaves first, then what held them.
_OUTERMOST = """
    SELECT 'lb_part.' || quote_ident(c.relname) FROM pg_class c
    WHERE c.relnamespace = 'lb_part'::regnamespace AND c.relkind IN ('r', 'p')
      AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid)
"""


def downgrade() -> None:
    # One transaction each: all leaves at once need more locks than a server holds by default
    # (3,000 leaves: "out of shared memory"). Where this is cut short, another run goes on.
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        while names := connection.exec_driver_sql(_OUTERMOST).scalars().all():
            for name in names:
                connection.exec_driver_sql(f"DROP TABLE {name}")
    op.execute("DROP SCHEMA lb_part CASCADE")
    op.execute("DROP SCHEMA lb CASCADE")
