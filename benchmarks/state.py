"""The state of the database before a way runs, and what must be equal after it: not timed.

`before` puts the days back to where nothing was made of them; `digest` is one hash over every row
of the boards, the same whoever wrote them.
"""

from __future__ import annotations

from typing import Any

from benchmarks import rollup
from benchmarks.district import all_institutions
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.materialize import aggregates
from lb_pipelines.materialize.results import Provenance

# Ways write their entries in jsonb, which keeps one spelling; fractions are rounded, because the
# last bit of a mean depends on the order of a division. Provenance, the packed distribution and
# the content hash are the project's own: others need not make them.
_ROWS = """
SELECT institution_id, type, reference_id, time_granularity, snapshot_date,
       md5(concat_ws('|', period_start, entries, metadata->>'ranked', metadata->>'enrolled',
           metadata->>'sum', metadata->>'max', metadata->>'tiesCut',
           round((metadata->>'mean')::numeric, 6), round((metadata->>'median')::numeric, 6),
           round((metadata->>'p90')::numeric, 6))) AS digest
FROM lb.leaderboard_snapshots WHERE snapshot_date BETWEEN %s AND %s
"""
_KEY = "institution_id, type, reference_id, time_granularity, snapshot_date"
_DIGEST = f"""
SELECT count(*), md5(string_agg(concat_ws('|', {_KEY}, digest), '' ORDER BY {_KEY}))
FROM ({_ROWS}) AS rows
"""
_DIFFERING = f"""
SELECT count(*) FROM ({_ROWS}) AS found
LEFT JOIN {{expected}} AS e USING ({_KEY}, digest) WHERE e.digest IS NULL
"""
_SIZES = """
SELECT s.time_granularity, count(*), sum(pg_column_size(s.*)), sum(pg_column_size(s.entries)),
       sum(pg_column_size(s.distribution)), sum(pg_column_size(s.metadata))
FROM lb.leaderboard_snapshots s GROUP BY 1
"""
_ON_DISK = """
SELECT sum(pg_total_relation_size(relid)), sum(pg_relation_size(relid)),
       sum(pg_indexes_size(relid))
FROM pg_partition_tree('lb.leaderboard_snapshots') WHERE isleaf
"""


def complete_past(database: Database, days: DayRange) -> None:
    """Every day before these is aggregated, whatever another measurement took away."""
    for institution in all_institutions(database):
        aggregates.ensure(database, institution, days.first - ONE_DAY, Provenance("benchmark"))


def before(database: Database, days: DayRange) -> None:
    """Nothing is aggregated from the first of the days on, and there is no board at all."""
    with database.transaction() as connection:
        connection.execute("TRUNCATE lb.leaderboard_snapshots")
        connection.execute(
            "DELETE FROM lb.materialized_days WHERE day >= %s OR asset LIKE '%%snapshots'",
            (days.first,),
        )
        connection.execute("DELETE FROM lb.point_aggregates WHERE day >= %s", (days.first,))
        connection.execute("DELETE FROM lb.point_totals WHERE before > %s", (days.first,))
        rollup.reset(connection, days.first)
    with database.autocommit() as connection:
        connection.execute(
            "VACUUM ANALYZE lb.point_aggregates, lb.point_totals, lb.materialized_days"
        )
        connection.execute("CHECKPOINT")


def digest(database: Database, days: DayRange) -> tuple[int, str]:
    """How many rows there are, and the hash of what they say."""
    with database.transaction() as connection:
        connection.execute("SET LOCAL work_mem = '256MB'")
        rows, found = connection.execute(_DIGEST, (days.first, days.last)).fetchone() or (0, "")
    return rows, found


def keep_expected(database: Database, days: DayRange) -> None:
    """Remember the hash of every row that stands."""
    span = (days.first, days.last)
    with database.transaction() as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS lb_bench")
        connection.execute(f"DROP TABLE IF EXISTS {_expected(days)}".encode())
        connection.execute(f"CREATE TABLE {_expected(days)} AS {_ROWS}".encode(), span)


def differing(database: Database, days: DayRange) -> int:
    """How many rows do not say what was expected of them, or were not expected."""
    with database.transaction() as connection:
        connection.execute("SET LOCAL work_mem = '256MB'")
        row = connection.execute(
            _DIFFERING.format(expected=_expected(days)).encode(), (days.first, days.last)
        ).fetchone()
    return row[0] if row else 0


def _expected(days: DayRange) -> str:
    return f'lb_bench."expected {days.first} {days.last}"'


def sizes(database: Database) -> dict[str, Any]:
    """Bytes a row of the boards that stand: whole leaves on disk, and values by granularity."""
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE lb.leaderboard_snapshots")
        by_granularity = connection.execute(_SIZES).fetchall()
        total, heap, indexes = connection.execute(_ON_DISK).fetchone() or (0, 0, 0)
    rows = sum(count for _, count, *_ in by_granularity)
    return {
        "rows": rows,
        "bytes_a_row": round(float(total) / rows),
        "heap_a_row": round(float(heap) / rows),
        "indexes_a_row": round(float(indexes) / rows),
        "toast_and_maps_a_row": round(float(total - heap - indexes) / rows),
        "by_granularity": {
            granularity: {
                "rows": count,
                "row": round(row / count),
                "entries": round(entries / count),
                "distribution": round(packed / count),
                "metadata": round(metadata / count),
            }
            for granularity, count, row, entries, packed, metadata in by_granularity
        },
    }
