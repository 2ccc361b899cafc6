"""Reading with three years of data in place: how long answers take, and whether they are right.

    python benchmarks/reading.py build --url postgresql://.../empty_database
    python benchmarks/reading.py time --url postgresql://.../that_database
    python benchmarks/reading.py check --url ... --institution inst_101 --number 10000

`build`: one institution, 25,000 students on one campus, 50 classes of 500, 20 subjects, 1,095 days.
Events are made by SQL: 24,800 students have one a week, 200 have 1.5 a day (as many as DESIGN
counts for everybody, and as many to read). All boards and trends of all days are materialized for
real; 700,000 further rows of real width are copies of them under ids of classes that do not exist.

`time`: p50, p99 and worst of each question, each asked of random students, boards and days.

`check`: exact standings of random (student, board, day) against the naive reference of the tests,
on any database with materialized boards; prints how many were equal.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import migrate, partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import Provenance

INSTITUTION = "inst_big"
FIRST, LAST = date(2022, 8, 1), date(2025, 7, 30)
DAYS = DayRange(FIRST, LAST)
FILLER_ROWS = 700_000

_SCHOOL = """
INSERT INTO lb.institutions (id, name, time_zone) VALUES ('inst_big', 'Big', 'Europe/London');
INSERT INTO lb.campuses (institution_key, id, name)
SELECT institution_key, 'campus', 'Campus' FROM lb.institutions;
INSERT INTO lb.subjects (institution_key, id, name)
SELECT institution_key, 'subject-' || n, 'Subject ' || n
FROM lb.institutions, generate_series(1, 20) n;
INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)
SELECT institution_key, 'term-' || n, 'Term ' || n, starts, ends
FROM lb.institutions, (VALUES
    (0, date '2022-08-01', date '2025-07-30'),
    (1, date '2022-09-01', date '2023-01-31'), (2, date '2023-02-01', date '2023-07-15'),
    (3, date '2023-09-01', date '2024-01-31'), (4, date '2024-02-01', date '2024-07-15'),
    (5, date '2024-09-01', date '2025-01-31'), (6, date '2025-02-01', date '2025-07-15')
) v (n, starts, ends);
INSERT INTO lb.classes (institution_key, id, name, subject_key, campus_key, term_key)
SELECT i.institution_key, 'class-' || n, 'Class ' || n, s.subject_key, c.campus_key, t.term_key
FROM lb.institutions i
JOIN lb.campuses c USING (institution_key)
JOIN lb.terms t ON t.institution_key = i.institution_key AND t.id = 'term-0'
CROSS JOIN generate_series(1, 50) n
JOIN lb.subjects s ON s.institution_key = i.institution_key AND s.id = 'subject-' || (n % 20 + 1);
INSERT INTO lb.students (institution_key, id, name)
SELECT institution_key, 's' || lpad(n::text, 6, '0'), 'Student ' || n
FROM lb.institutions, generate_series(1, 25000) n ORDER BY random();
INSERT INTO lb.enrollments (institution_key, class_key, student_key)
SELECT s.institution_key, c.class_key, s.student_key
FROM lb.students s
JOIN lb.classes c ON c.institution_key = s.institution_key
 AND c.id = 'class-' || (right(s.id, 6)::integer % 50 + 1);
"""
_EVENTS = """
INSERT INTO lb.student_points (occurred_at, updated_at, institution_key, student_key, class_key,
    subject_key, campus_key, amount, event_id)
SELECT at, at + interval '3 seconds', institution_key, student_key, class_key, subject_key,
       campus_key, amount, 'e' || day || '-' || n
FROM (
    SELECT d.day, n, s.*, c.class_key, c.subject_key, c.campus_key,
           (d.day + time '08:00' + random() * interval '9 hours') AT TIME ZONE 'Europe/London' AS at,
           CASE WHEN s.number <= 200 THEN floor(random() * 3)::integer
                ELSE 5 * ceil(random() * 5)::integer END AS amount
    FROM generate_series(%s::date, %s::date, interval '1 day') AS g (at)
    CROSS JOIN LATERAL (SELECT g.at::date AS day) d
    CROSS JOIN LATERAL (
        SELECT n, CASE WHEN n <= 300 THEN 1 + floor(random() * 200)::integer
                       ELSE 201 + floor(random() * 24800)::integer END AS number
        FROM generate_series(1, CASE WHEN extract(isodow FROM d.day) < 6 THEN 5000 ELSE 600 END) n
    ) picked
    JOIN everybody s USING (number)
    JOIN lb.classes c ON c.institution_key = s.institution_key
     AND c.id = 'class-' || (s.number %% 50 + 1)
) e
"""
_FILLER = """
INSERT INTO lb.leaderboard_snapshots (snapshot_date, period_start, institution_id, type,
    reference_id, time_granularity, content_hash, entries, metadata, distribution)
SELECT snapshot_date, period_start, institution_id, type, 'filler-' || n || '-' || reference_id,
       time_granularity, content_hash, entries, metadata, distribution
FROM lb.leaderboard_snapshots CROSS JOIN generate_series(1, 4) n
WHERE type = 'CLASS' AND snapshot_date BETWEEN %s AND %s
"""


def build(database: Database) -> None:
    """Fill an empty database; prints what took how long."""
    clock = _Clock()
    migrate.upgrade(database)
    partitions.ensure_event_months(database, FIRST, LAST)
    with database.transaction() as connection:
        connection.execute(_SCHOOL)
    for month_first in sorted({day.replace(day=1) for day in DAYS}):
        last = min(LAST, (month_first + timedelta(days=32)).replace(day=1) - timedelta(days=1))
        with database.transaction() as connection:
            connection.execute(
                "CREATE TEMPORARY TABLE everybody ON COMMIT DROP AS"
                " SELECT institution_key, student_key, right(id, 6)::integer AS number"
                " FROM lb.students; CREATE INDEX ON everybody (number); ANALYZE everybody"
            )
            connection.execute(_EVENTS, (max(FIRST, month_first), last))
    clock.print("events")
    with database.transaction() as connection:
        institution = institutions.find_active(connection, INSTITUTION)
    run = Provenance("benchmark")
    for _ in aggregates.materialize(database, institution, DAYS, run):
        pass
    clock.print("aggregates")
    for type in BoardType:
        rows = sum(
            day.rows for day in snapshots.materialize(database, institution, type, DAYS, run)
        )
        clock.print(f"{rows:,} snapshots of {type}")
    for type in BoardType:
        for _ in trends.materialize(database, institution, type, DAYS, run):
            pass
        clock.print(f"trends of {type}")
    per_day = 50 * 5 * 4
    filled = DayRange(LAST - timedelta(days=FILLER_ROWS // per_day), LAST)
    with database.transaction() as connection:
        connection.execute(_FILLER, (filled.first, filled.last))
    clock.print("copies")
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE")
    clock.print("VACUUM")
    with database.transaction() as connection:
        for what in (
            "(SELECT count(*) FROM lb.leaderboard_snapshots)",
            "(SELECT count(*) FROM lb.student_points)",
            "pg_size_pretty(pg_database_size(current_database()))",
        ):
            print(what, connection.execute(f"SELECT {what}").fetchone())


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def print(self, what: str) -> None:
        now = time.perf_counter()
        print(f"{what:40s} {now - self._last:7.1f} s", flush=True)
        self._last = now


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("build", "time", "check"))
    parser.add_argument("--url", required=True)
    options = parser.parse_args()
    database = Database(options.url)
    {"build": build}[options.what](database)


if __name__ == "__main__":
    main()
