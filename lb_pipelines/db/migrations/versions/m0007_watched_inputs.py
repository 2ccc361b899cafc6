"""Watched inputs: the ledger of changes, the triggers that write it, and what was read up to which.

Days that were stale before the ledger began are entered in it as one change of their institution.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import psycopg
from alembic import op
from sqlalchemy import Connection

from lb_pipelines.core.day_starts import find_day_bounds
from lb_pipelines.core.zones import is_valid_zone, load_zone

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# By institution the first day whose aggregate or boards are older than the events, as far as it can
# be told: by the checksum that this migration drops, with the zones as the server knows them.
_FIRST_STALE_DAYS = """
WITH zones AS (
    SELECT institution_key,
           CASE WHEN time_zone IN (SELECT name FROM pg_timezone_names) THEN time_zone END AS zone
    FROM lb.institutions
), present AS (
    SELECT p.institution_key, (p.occurred_at AT TIME ZONE z.zone)::date AS day,
           count(*) AS source_rows,
           sum((extract(epoch FROM p.updated_at) * 1000000)::bigint & 2147483647)::bigint
               AS checksum
    FROM lb.student_points p JOIN zones z USING (institution_key)
    WHERE z.zone IS NOT NULL
    GROUP BY 1, 2
), changed AS (
    SELECT a.institution_key, a.day
    FROM lb.point_aggregates a
    JOIN zones z USING (institution_key)
    LEFT JOIN present p USING (institution_key, day)
    WHERE z.zone IS NULL
       OR (a.source_rows, a.source_checksum)
           IS DISTINCT FROM (coalesce(p.source_rows, 0), coalesce(p.checksum, 0))
    UNION ALL
    SELECT institution_key, day
    FROM (
        SELECT institution_key, day, through_revision,
               max(revision) OVER (PARTITION BY institution_key ORDER BY day) AS newest
        FROM (
            SELECT institution_key, day, revision, NULL::bigint AS through_revision
            FROM lb.point_aggregates
            UNION ALL
            SELECT institution_key, day, NULL, through_revision
            FROM lb.materialized_days WHERE asset <> 'point_aggregates'
        ) AS states
    ) AS history
    WHERE through_revision < newest
)
SELECT institution_key, min(day) FROM changed GROUP BY institution_key
"""
_ENTER = """
INSERT INTO lb.input_changes (institution_key, input, assets, granularities, first_day)
VALUES (%s, 'aggregates',
        ARRAY['point_aggregates']
            || lb.board_assets(ARRAY['CLASS', 'SUBJECT', 'CAMPUS'], true, true),
        ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'], %s)
"""
_BOUNDS = """
UPDATE lb.materialized_days m SET begins_at = b.begins_at, ends_at = b.ends_at
FROM unnest(%s::date[], %s::timestamptz[], %s::timestamptz[]) AS b (day, begins_at, ends_at)
WHERE m.institution_key = %s AND m.day = b.day
"""


def upgrade() -> None:
    connection = op.get_bind()
    stale = connection.exec_driver_sql(_FIRST_STALE_DAYS).fetchall()
    _run_file(connection, "m0007_watched_inputs.sql")
    _fill_bounds(connection)
    op.execute(
        "ALTER TABLE lb.materialized_days ALTER begins_at SET NOT NULL, ALTER ends_at SET NOT NULL"
    )
    for institution_key, first_day in stale:
        connection.exec_driver_sql(_ENTER, (institution_key, first_day))


def _fill_bounds(connection: Connection) -> None:
    zones = connection.exec_driver_sql(
        "SELECT institution_key, time_zone FROM lb.institutions"
    ).fetchall()
    for institution_key, name in zones:
        # Of a zone that is wrong nothing can be materialized again before it is corrected, which
        # makes every day stale.
        zone = load_zone(name if is_valid_zone(name) else "UTC")
        days: list[date] = list(
            connection.exec_driver_sql(
                "SELECT DISTINCT day FROM lb.materialized_days WHERE institution_key = %s",
                (institution_key,),
            ).scalars()
        )
        bounds = [find_day_bounds(zone, day) for day in days]
        connection.exec_driver_sql(
            _BOUNDS,
            (days, [begin for begin, _ in bounds], [end for _, end in bounds], institution_key),
        )


def downgrade() -> None:
    _run_file(op.get_bind(), "m0007_watched_inputs_down.sql")


def _run_file(connection: Connection, name: str) -> None:
    text = Path(__file__).with_name(name).read_text()
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    # Without parameters, so that a percent sign is one.
    driver.execute(text)
