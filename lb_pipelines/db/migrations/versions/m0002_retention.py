"""Retention: the archive, its ledgers, legal holds, purges, exports, erasures."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("m0002_retention.sql").read_text())


# The archive and tables between the two phases of a purge hold what stands nowhere else.
_ONLY_HERE = """
    SELECT count(*) FROM lb.purges WHERE state <> 'KEPT'
    UNION ALL SELECT count(*) FROM lb.archive_runs WHERE kind = 'IMPORT' AND rows > 0
"""


def downgrade() -> None:
    connection = op.get_bind()
    if any(connection.exec_driver_sql(_ONLY_HERE).scalars().all()):
        raise RuntimeError(
            "The archive holds snapshots whose originals were purged, or that were imported. "
            "Restore them, or export them and empty lb.purges and lb.archive_runs, then go back."
        )
    for statement in (
        "UPDATE lb.leaderboard_snapshots SET status = 'ACTIVE' WHERE status <> 'ACTIVE'",
        "DROP TABLE lb.archived_leaderboard_snapshots",
        "DROP TABLE lb.erasure_tasks, lb.erasures, lb.purges, lb.exports, lb.legal_holds,"
        " lb.archive_revisions, lb.archive_runs",
        "DROP FUNCTION lb.digest, lb.digest_high, lb.digest_low",
        "DROP INDEX lb.leaderboard_snapshots_active",
        "ALTER TABLE lb.leaderboard_snapshots DROP COLUMN active_until",
        "ALTER TABLE lb.students DROP COLUMN order_key",
        "ALTER TABLE lb.institutions DROP COLUMN erasures, DROP COLUMN erasure_salt",
    ):
        op.execute(statement)
