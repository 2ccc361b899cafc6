"""PostgreSQL alone: the past in a table of sums, one statement a granularity.

Nothing leaves the server. `work_mem` is what somebody would set who runs it once a day.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

from benchmarks import rollup
from benchmarks.district import LIMIT
from benchmarks.harness import Stopwatch
from benchmarks.ways import inputs
from benchmarks.ways.with_duckdb import period_start
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database

WORK_MEM = "512MB"
_DAY = """
INSERT INTO lb_bench.rollup
SELECT institution_key, date '{day}', date '{day}', student_key, class_key, subject_key,
       campus_key, sum(amount)
FROM ({events}) AS events GROUP BY 1, 2, 3, 4, 5, 6, 7
"""
_BOARDS = """
INSERT INTO lb.leaderboard_snapshots (institution_id, type, reference_id, time_granularity,
    snapshot_date, period_start, entries, metadata, distribution, content_hash)
WITH enrolled_on AS MATERIALIZED ({enrolled}),
boards AS ({boards}),
sums AS (
    SELECT type, board_key, student_key, sum(points) FILTER (WHERE now_)::bigint AS points,
           sum(points) FILTER (WHERE then_)::bigint AS points_then
    FROM (
        SELECT *, period_start >= date '{first}' AND period_end <= date '{last}' AS now_,
               period_start >= date '{then_first}' AND period_end <= date '{then_last}' AS then_
        FROM lb_bench.rollup
        WHERE period_start >= least(date '{first}', date '{then_first}')
    ) AS marked
    CROSS JOIN LATERAL (VALUES ('CLASS', class_key), ('SUBJECT', subject_key),
                               ('CAMPUS', campus_key)) AS boards (type, board_key)
    WHERE (now_ OR then_) AND board_key > 0
    GROUP BY type, board_key, student_key
), ranked AS (
    SELECT type, board_key, s.id, points, rank() OVER board AS rank,
           row_number() OVER (PARTITION BY type, board_key
                              ORDER BY points DESC NULLS LAST, s.id) AS place,
           CASE WHEN points_then IS NOT NULL THEN rank() OVER (
               PARTITION BY type, board_key ORDER BY points_then DESC NULLS LAST) END AS before
    FROM sums JOIN lb.students s USING (student_key)
    WINDOW board AS (PARTITION BY type, board_key ORDER BY points DESC NULLS LAST)
), finished AS (
    SELECT type, board_key,
           jsonb_agg(jsonb_build_object('rank', rank, 'studentId', id, 'points', points,
                                        'previousRank', before) ORDER BY place)
               FILTER (WHERE place <= {limit}) AS entries,
           count(*) AS ranked, sum(points)::bigint AS total, avg(points) AS mean,
           percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY points) AS quantiles,
           max(points) AS most,
           count(*) FILTER (WHERE place > {limit} AND rank <= {limit}) AS ties_cut
    FROM ranked WHERE points IS NOT NULL GROUP BY type, board_key
)
SELECT institution_id, type, reference_id, '{granularity}', date '{day}', {period_start}, entries,
       jsonb_build_object('ranked', ranked, 'enrolled', coalesce(enrolled, 0), 'sum', total,
           'mean', mean, 'median', quantiles[1], 'p90', quantiles[2], 'max', most,
           'tiesCut', ties_cut),
       '', ''
FROM finished JOIN boards USING (type, board_key) LEFT JOIN enrolled_on USING (type, board_key)
"""


def run(database: Database, days: DayRange, scratch: Path) -> dict[str, float]:
    """The day's boards."""
    (day,) = days
    watch = Stopwatch()
    add_day(database, day)
    watch.mark("day's sums")
    for granularity, ((first, last), (then_first, then_last)) in rollup.windows(day).items():
        with database.transaction() as connection:
            connection.execute(f"SET LOCAL work_mem = '{WORK_MEM}'".encode())
            connection.execute(
                _BOARDS.format(
                    enrolled=inputs.ENROLLED.format(day=day), boards=inputs.BOARDS, day=day,
                    first=first, last=last, then_first=then_first, then_last=then_last,
                    granularity=granularity, limit=LIMIT,
                    period_start=period_start(granularity, f"date '{first}'", "boards.first_day"),
                ).encode()
            )  # fmt: skip
        watch.mark(str(granularity))
    return watch.parts


def add_day(database: Database, day: date) -> None:
    """The day's events, summed, to the past."""
    with database.transaction() as connection:
        connection.execute(_DAY.format(day=day, events=inputs.EVENTS.format(day=day)).encode())
