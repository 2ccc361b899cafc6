"""DuckDB: the past in Parquet, one SQL statement a granularity, rows back as CSV by COPY.

The day's events come by COPY as CSV through Arrow; the past (`rollup`) lies in a Parquet file
beside, where DuckDB reads it best, and the day's sums are added to it as another file.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from benchmarks import rollup
from benchmarks.district import LIMIT, TERM_FIRST
from benchmarks.harness import Stopwatch
from benchmarks.ways import inputs
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import Granularity
from lb_pipelines.db.engine import Database

_DAY = """
COPY (
    SELECT institution_key, DATE '{day}' AS period_start, DATE '{day}' AS period_end, student_key,
           class_key, subject_key, campus_key, sum(amount)::INTEGER AS points
    FROM events GROUP BY ALL
) TO '{file}' (FORMAT PARQUET)
"""
_PAST = """
CREATE VIEW past AS SELECT * FROM read_parquet(['{before}', '{day}'])
"""
_BOARDS = """
COPY (
    WITH marked AS (
        SELECT *, period_start >= DATE '{first}' AND period_end <= DATE '{last}' AS now_,
               period_start >= DATE '{then_first}' AND period_end <= DATE '{then_last}' AS then_
        FROM past
        WHERE period_start >= least(DATE '{first}', DATE '{then_first}')
    ), cells AS (
        SELECT 'CLASS' AS type, class_key AS board_key, student_key, points, now_, then_
        FROM marked WHERE class_key > 0 AND (now_ OR then_)
        UNION ALL
        SELECT 'SUBJECT', subject_key, student_key, points, now_, then_
        FROM marked WHERE subject_key > 0 AND (now_ OR then_)
        UNION ALL
        SELECT 'CAMPUS', campus_key, student_key, points, now_, then_
        FROM marked WHERE campus_key > 0 AND (now_ OR then_)
    ), sums AS (
        SELECT type, board_key, student_key, sum(points) FILTER (now_) AS points,
               sum(points) FILTER (then_) AS points_then
        FROM cells GROUP BY ALL
    ), ranked AS (
        SELECT type, board_key, id, points,
               rank() OVER board AS rank,
               row_number() OVER (PARTITION BY type, board_key
                                  ORDER BY points DESC NULLS LAST, id) AS place,
               CASE WHEN points_then IS NOT NULL THEN rank() OVER (
                   PARTITION BY type, board_key ORDER BY points_then DESC NULLS LAST) END AS before
        FROM sums JOIN students USING (student_key)
        WINDOW board AS (PARTITION BY type, board_key ORDER BY points DESC NULLS LAST)
    ), finished AS (
        SELECT type, board_key,
               to_json(list({{'rank': rank, 'studentId': id, 'points': points::BIGINT,
                             'previousRank': before}} ORDER BY place)
                       FILTER (place <= {limit})) AS entries,
               count(*) AS ranked, sum(points)::BIGINT AS total, avg(points) AS mean,
               quantile_cont(points::BIGINT, [0.5, 0.9]) AS quantiles, max(points)::BIGINT AS most,
               count(*) FILTER (place > {limit} AND rank <= {limit}) AS ties_cut
        FROM ranked WHERE points IS NOT NULL GROUP BY ALL
    )
    SELECT institution_id, f.type, reference_id, '{granularity}', DATE '{day}',
           {period_start}, entries,
           to_json({{'ranked': ranked, 'enrolled': coalesce(enrolled, 0), 'sum': total,
                    'mean': mean, 'median': quantiles[1], 'p90': quantiles[2], 'max': most,
                    'tiesCut': ties_cut}}),
           '\\x', '\\x'
    FROM finished f JOIN boards USING (type, board_key) LEFT JOIN enrolled USING (type, board_key)
) TO '{file}' (FORMAT CSV, HEADER false)
"""


def run(database: Database, days: DayRange, scratch: Path) -> dict[str, float]:
    """The day's boards."""
    (day,) = days
    watch = Stopwatch()
    engine = duckdb.connect()
    engine.execute(f"SET temp_directory = '{scratch}/duckdb'")
    for name, table in inputs.read(database, day).items():
        engine.register(name, table)
    watch.mark("read")
    today, finished = scratch / "day-of-duckdb.parquet", scratch / "boards-of-duckdb.csv"
    engine.execute(_DAY.format(day=day, file=today))
    engine.execute(_PAST.format(before=rollup.parquet(scratch), day=today))
    watch.mark("day's sums")
    for granularity, ((first, last), (then_first, then_last)) in rollup.windows(day).items():
        engine.execute(
            _BOARDS.format(
                day=day, first=first, last=last, then_first=then_first, then_last=then_last,
                granularity=granularity, limit=LIMIT, file=finished,
                period_start=period_start(granularity, f"DATE '{first}'", "boards.first_day"),
            )
        )  # fmt: skip
        watch.mark(str(granularity))
        inputs.copy_file(database, finished)
        watch.mark("rows in")
    return watch.parts


def period_start(granularity: Granularity, first: str, first_day: str) -> str:
    """The SQL of a window's first day."""
    if granularity is Granularity.ALL_TIME:
        return first_day
    return f"DATE '{TERM_FIRST}'" if granularity is Granularity.TERM else first
