"""`around` on a board on which a hundred thousand students tie.

    python -m benchmarks.around_ties --url postgresql://.../empty_database

Builds one institution with one campus whose students all have the same points on one day (one
student above the tie, one below), materializes its boards, and prints the median and the most of
`get_around` for random students: the whole answer, and what of it comes after the aggregates are
read.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from datetime import date
from typing import Any
from unittest import mock

from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import migrate, partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates, snapshots
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.service import LeaderboardService, neighbours

INSTITUTION = "inst_ties"
DAY = date(2026, 3, 2)

_SCHOOL = """
INSERT INTO lb.institutions (id, name, time_zone) VALUES ('inst_ties', 'Ties', 'UTC');
INSERT INTO lb.campuses (institution_key, id, name)
SELECT institution_key, 'campus', 'Campus' FROM lb.institutions;
"""
_STUDENTS = """
INSERT INTO lb.students (institution_key, id, name)
SELECT institution_key, 's' || lpad(n::text, 6, '0'), NULL
FROM lb.institutions, generate_series(1, %s) n ORDER BY random();
"""
_EVENTS = """
INSERT INTO lb.student_points (institution_key, event_id, student_key, campus_key, amount,
                               occurred_at, status, updated_at)
SELECT s.institution_key, 'e' || s.student_key, s.student_key, c.campus_key,
       CASE s.id WHEN 's000001' THEN 9 WHEN 's000002' THEN 1 ELSE 5 END,
       timestamptz '2026-03-02 12:00Z', 'ACTIVE', timestamptz '2026-03-02 12:00Z'
FROM lb.students s JOIN lb.campuses c USING (institution_key);
"""


def main() -> None:
    """Build what is not there, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--students", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=30)
    options = parser.parse_args()
    database = Database(options.url)
    migrate.upgrade(database)
    with database.transaction() as connection:
        row = connection.execute("SELECT count(*) FROM lb.institutions").fetchone()
    if row == (0,):
        build(database, options.students)
    measure(database, options.students, options.times)


def build(database: Database, students: int) -> None:
    """The institution, its events, and its campus's boards of the day."""
    partitions.ensure_event_months(database, DAY, DAY)
    with database.transaction() as connection:
        connection.execute(_SCHOOL)
        connection.execute(_STUDENTS, (students,))
        connection.execute(_EVENTS)
        institution = institutions.find_active(connection, INSTITUTION)
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE lb.students, lb.student_points")
    run, days = Provenance("benchmark"), DayRange(DAY, DAY)
    list(aggregates.materialize(database, institution, days, run))
    list(snapshots.materialize(database, institution, BoardType.CAMPUS, days, run))


def measure(database: Database, students: int, times: int) -> None:
    """Print how long answers take."""
    service = LeaderboardService(database, keep=False)
    chance = random.Random(1)
    read: list[float] = []
    real = neighbours._parts

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        parts = list(real(*arguments))
        read.append(time.perf_counter() - began)
        return iter(parts)

    def ask(number: int, k: int) -> Callable[[], Any]:
        return lambda: service.get_around(
            INSTITUTION, f"s{number:06}", "CAMPUS", "campus", "all-time", DAY, k=k
        )

    print(f"{students:,} students, times in ms: median, most")
    for k in (3, 50):
        whole, after = [], []
        with mock.patch.object(neighbours, "_parts", timed):
            ask(4, k)()
            for _ in range(times):
                number = chance.randint(1_000, students)
                read.clear()
                began = time.perf_counter()
                ask(number, k)()
                taken = time.perf_counter() - began
                whole.append(taken * 1_000)
                after.append((taken - sum(read)) * 1_000)
        for name, values in (("whole answer", whole), ("after the aggregates are read", after)):
            print(f"k = {k:2}, {name}: {statistics.median(values):.1f}, {max(values):.1f}")


if __name__ == "__main__":
    main()
