"""What pandas and DuckDB read from PostgreSQL for a day, as Arrow tables, and how rows go back."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa

from benchmarks.rollup import copy_out
from lb_pipelines.db.engine import Database

EVENTS = """
SELECT p.institution_key, p.student_key, coalesce(p.class_key, 0) AS class_key,
       coalesce(p.subject_key, 0) AS subject_key, coalesce(p.campus_key, 0) AS campus_key, p.amount
FROM lb.institutions i
JOIN lb.student_points p ON p.institution_key = i.institution_key
 AND p.occurred_at >= date '{day}'::timestamp AT TIME ZONE i.time_zone
 AND p.occurred_at < (date '{day}' + 1)::timestamp AT TIME ZONE i.time_zone
WHERE p.status = 'ACTIVE'
"""
BOARDS = """
SELECT 'CLASS' AS type, c.class_key AS board_key, c.id AS reference_id, i.id AS institution_id,
       f.first_day
FROM lb.classes c JOIN lb.institutions i USING (institution_key)
JOIN lb_bench.first_days f USING (institution_key)
UNION ALL
SELECT 'SUBJECT', s.subject_key, s.id, i.id, f.first_day
FROM lb.subjects s JOIN lb.institutions i USING (institution_key)
JOIN lb_bench.first_days f USING (institution_key)
UNION ALL
SELECT 'CAMPUS', p.campus_key, p.id, i.id, f.first_day
FROM lb.campuses p JOIN lb.institutions i USING (institution_key)
JOIN lb_bench.first_days f USING (institution_key)
"""
# Who is enrolled on the day, counted by PostgreSQL: nobody needs the rows themselves.
ENROLLED = """
WITH enrolled AS (
    SELECT e.student_key, e.class_key, c.subject_key,
           coalesce(e.campus_key, c.campus_key) AS campus_key
    FROM lb.enrollments e JOIN lb.classes c USING (class_key)
    WHERE coalesce(e.enrolled_on <= date '{day}', true)
      AND coalesce(e.withdrawn_on > date '{day}', true)
)
SELECT 'CLASS' AS type, class_key AS board_key, count(DISTINCT student_key) AS enrolled
FROM enrolled GROUP BY class_key
UNION ALL
SELECT 'SUBJECT', subject_key, count(DISTINCT student_key) FROM enrolled GROUP BY subject_key
UNION ALL
SELECT 'CAMPUS', campus_key, count(DISTINCT student_key) FROM enrolled
WHERE campus_key IS NOT NULL GROUP BY campus_key
"""
KEYS = ("institution_key", "student_key", "class_key", "subject_key", "campus_key")
# The packed distribution and the content hash are the project's own: empty here.
COPY_IN = (
    "COPY lb.leaderboard_snapshots (institution_id, type, reference_id, time_granularity,"
    " snapshot_date, period_start, entries, metadata, distribution, content_hash) FROM STDIN"
)
_INT, _TEXT = pa.int32(), pa.string()


def read(database: Database, day: date) -> dict[str, pa.Table]:
    """Tables `events`, `boards`, `enrolled`, `students`."""
    with database.transaction(snapshot=True) as connection:
        connection.execute("SET LOCAL work_mem = '256MB'")
        return {
            "events": copy_out(
                connection, EVENTS.format(day=day), dict.fromkeys((*KEYS, "amount"), _INT)
            ),
            "boards": copy_out(
                connection,
                BOARDS,
                {"type": _TEXT, "board_key": _INT, "reference_id": _TEXT,
                 "institution_id": _TEXT, "first_day": pa.date32()},
            ),
            "enrolled": copy_out(
                connection,
                ENROLLED.format(day=day),
                {"type": _TEXT, "board_key": _INT, "enrolled": _INT},
            ),
            "students": copy_out(
                connection,
                "SELECT student_key, id FROM lb.students",
                {"student_key": _INT, "id": _TEXT},
            ),
        }  # fmt: skip


def copy_file(database: Database, path: Path) -> None:
    """A CSV file of finished rows into the table, in one transaction."""
    with database.transaction() as connection, connection.cursor() as cursor:
        with cursor.copy(COPY_IN + " (FORMAT CSV)") as copy, path.open("rb") as file:
            while data := file.read(1 << 20):
                copy.write(data)
