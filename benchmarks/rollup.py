"""The past as somebody without the project would keep it: sums by period, prepared, not timed.

`lb_bench.rollup` holds one row per (period, student, class, subject, campus) with an event; the
periods are those between the beginnings of the term and of months, then single days from the first
of the day's month on. So every window of the day, and of its baseline, is a whole number of
periods, and the long past costs a reader no more than it must: what `lb.point_totals` does for the
project. The same rows as Parquet, in the scratch directory, for those who would keep them there.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from benchmarks.district import TERM_FIRST
from lb_pipelines.core.periods import ONE_DAY, baseline_day, month_start, next_month, week_start
from lb_pipelines.core.words import Granularity
from lb_pipelines.db.engine import Connection, Database

_MAKE = """
CREATE SCHEMA IF NOT EXISTS lb_bench;
DROP TABLE IF EXISTS lb_bench.rollup, lb_bench.first_days;
CREATE TABLE lb_bench.rollup (
    institution_key integer NOT NULL, period_start date NOT NULL, period_end date NOT NULL,
    student_key integer NOT NULL, class_key integer NOT NULL, subject_key integer NOT NULL,
    campus_key integer NOT NULL, points integer NOT NULL
);
CREATE TABLE lb_bench.first_days AS
SELECT institution_key, min(day) AS first_day FROM lb.point_aggregates WHERE cells > 0 GROUP BY 1
"""
_FILL = """
INSERT INTO lb_bench.rollup
SELECT institution_key, %(first)s, %(last)s, student_key, class_key, subject_key, campus_key,
       sum(cells.points)
FROM lb.point_aggregates
CROSS JOIN LATERAL unnest(students, classes, subjects, campuses, points)
    AS cells (student_key, class_key, subject_key, campus_key, points)
WHERE day BETWEEN %(first)s AND %(last)s
GROUP BY institution_key, student_key, class_key, subject_key, campus_key
"""
_COLUMNS = "institution_key, period_start, period_end, student_key, class_key, subject_key, campus_key, points"  # noqa: E501
_TYPES = {
    name: pa.date32() if name.startswith("period") else pa.int32()
    for name in _COLUMNS.split(", ")
}  # fmt: skip
_PARQUET_ROWS = 1_000_000


def windows(day: date) -> dict[Granularity, tuple[tuple[date, date], tuple[date, date]]]:
    """(first, last) of each granularity's window as of `day`, and as of its baseline."""

    def window(granularity: Granularity, last: date) -> tuple[date, date]:
        first = {
            Granularity.DAILY: last,
            Granularity.WEEKLY: week_start(last),
            Granularity.MONTHLY: month_start(last),
            Granularity.TERM: TERM_FIRST,
            Granularity.ALL_TIME: date.min.replace(year=1900),
        }[granularity]
        return first, last

    return {g: (window(g, day), window(g, baseline_day(g, day))) for g in Granularity}


def prepare(database: Database, day: date, scratch: Path) -> int:
    """Fill table and Parquet from the aggregates of all days before `day`; gives the rows.

    Does nothing where they stand for that day already.
    """
    path = parquet(scratch)
    mark = scratch / "rollup-of"
    if path.exists() and mark.exists() and mark.read_text() == f"{database.url}{day}":
        return pq.read_metadata(path).num_rows
    if day.day < 14:
        raise SystemExit("Choose a day from the 14th on: baselines are to lie in its month")
    scratch.mkdir(parents=True, exist_ok=True)
    with database.transaction() as connection:
        connection.execute("SET LOCAL work_mem = '512MB'")
        connection.execute(_MAKE)
        for first, last in _periods(connection, day):
            connection.execute(_FILL, {"first": first, "last": last})
    with database.autocommit() as connection:
        connection.execute("CREATE INDEX ON lb_bench.rollup (period_start)")
        connection.execute("VACUUM ANALYZE lb_bench.rollup, lb_bench.first_days")
    rows = _export(database, path)
    mark.write_text(f"{database.url}{day}")
    return rows


def parquet(scratch: Path) -> Path:
    """Where the rows before the day lie."""
    return scratch / "rollup.parquet"


def reset(connection: Connection, day: date) -> None:
    """Take out what a run has put in, indexes that only `ways.naive` wants included."""
    row = connection.execute("SELECT to_regclass('lb_bench.rollup') IS NOT NULL").fetchone()
    if row and row[0]:
        connection.execute("DELETE FROM lb_bench.rollup WHERE period_start >= %s", (day,))
        for kind in ("class", "subject", "campus"):
            connection.execute(f"DROP INDEX IF EXISTS lb_bench.rollup_by_{kind}".encode())


def copy_out(connection: Connection, query: str, types: dict[str, pa.DataType]) -> pa.Table:
    """The rows of a query by COPY as CSV, read by Arrow: the quickest way out that needs no more
    than psycopg and pyarrow.
    """
    with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT CSV)") as c:
        data = b"".join(c)
    if not data:
        return pa.table({name: pa.array([], type) for name, type in types.items()})
    return csv.read_csv(
        pa.BufferReader(data),
        read_options=csv.ReadOptions(column_names=list(types)),
        convert_options=csv.ConvertOptions(column_types=types),
    )


def _periods(connection: Connection, day: date) -> list[tuple[date, date]]:
    row = connection.execute("SELECT min(first_day) FROM lb_bench.first_days").fetchone()
    first: date = row[0] if row else day
    month = month_start(day)
    cuts = {first, month, TERM_FIRST}
    position = next_month(month_start(TERM_FIRST))
    while position < month:
        cuts.add(position)
        position = next_month(position)
    cuts |= {month + timedelta(days=n) for n in range((day - month).days + 1)}
    ordered = sorted(cut for cut in cuts if first <= cut <= day)
    return [(a, b - ONE_DAY) for a, b in zip(ordered, ordered[1:], strict=False)]


def _export(database: Database, path: Path) -> int:
    rows = 0
    writer: pq.ParquetWriter | None = None
    with database.transaction() as connection:
        days = connection.execute(
            "SELECT DISTINCT period_start FROM lb_bench.rollup ORDER BY 1"
        ).fetchall()
        for (first,) in days:
            table = copy_out(
                connection,
                f"SELECT {_COLUMNS} FROM lb_bench.rollup WHERE period_start = '{first}'",
                _TYPES,
            )
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table, row_group_size=_PARQUET_ROWS)
            rows += table.num_rows
    if writer is not None:
        writer.close()
    return rows
