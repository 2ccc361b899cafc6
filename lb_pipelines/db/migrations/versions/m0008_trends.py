"""Trends of all who are ranked on both days, leaders by the events, students in order.

Trends that stand say otherwise, so that their days become stale, in both directions; what is stale
is found and materialized again by the late-events sensor.

A column more locks every leaf of trends for a moment (half of the leaf budget, 1,500, where a
server with PostgreSQL's own settings has room for 6,400 locks). Whoever reads one for long is not
waited for in front of everybody else: each try is short.
"""

from __future__ import annotations

import time
from pathlib import Path

import psycopg.errors
from alembic import op
from sqlalchemy.exc import DBAPIError

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TRIES = 60
_LOCK_TIMEOUT = "500ms"
_PAUSE_SECONDS = 0.5


def upgrade() -> None:
    _alter_trends("ALTER TABLE lb.leaderboard_trends ADD COLUMN spearman_rho double precision")
    _run("m0008_trends.sql")


def downgrade() -> None:
    _alter_trends("ALTER TABLE lb.leaderboard_trends DROP COLUMN spearman_rho")
    _run("m0008_trends_down.sql")


def _run(name: str) -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name(name).read_text())


def _alter_trends(statement: str) -> None:
    connection = op.get_bind()
    for attempt in range(1, _TRIES + 1):
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                connection.exec_driver_sql(statement)
                connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")
                return
        except DBAPIError as error:
            is_busy = isinstance(
                error.orig, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected
            )
            if not is_busy or attempt == _TRIES:
                raise
        time.sleep(_PAUSE_SECONDS)
