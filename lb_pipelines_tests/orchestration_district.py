"""A small district written straight into the tables, for the tests of the Dagster layer.

Each institution has two classes of one subject on one campus and a few students, who get points
on every day of a range; what the points are is of no interest here.
"""

from __future__ import annotations

from datetime import date

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db import partitions
from lb_pipelines.db.engine import Database

DAYS = DayRange(date(2024, 3, 25), date(2024, 4, 12))


def add_institution(
    database: Database,
    id: str,
    *,
    zone: str = "UTC",
    students: int = 6,
    days: DayRange = DAYS,
    metadata: str = "{}",
    status: str = "ACTIVE",
) -> None:
    """One institution with a term that holds all its days."""
    partitions.ensure_event_months(database, days.first, days.last)
    names = {"id": id, "first": days.first, "last": days.last, "students": students}
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.institutions (id, name, status, time_zone, metadata)"
            " VALUES (%s, %s, %s, %s, %s)",
            (id, f"School {id}", status, zone, metadata),
        )
        for table in ("campuses", "subjects"):
            connection.execute(
                f"INSERT INTO lb.{table} (institution_key, id, name)"
                " SELECT institution_key, 'one', 'The only one' FROM lb.institutions WHERE id = %s",
                (id,),
            )
        connection.execute(
            "INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)"
            " SELECT institution_key, 'spring', 'Spring', %(first)s, %(last)s"
            " FROM lb.institutions WHERE id = %(id)s",
            names,
        )
        connection.execute(
            "INSERT INTO lb.classes (institution_key, id, name, subject_key, campus_key, term_key)"
            " SELECT institution_key, class, 'Class ' || class, subject_key, campus_key, term_key"
            " FROM lb.institutions i JOIN lb.subjects USING (institution_key)"
            " JOIN lb.campuses USING (institution_key) JOIN lb.terms USING (institution_key),"
            " (VALUES ('a'), ('b')) AS made (class) WHERE i.id = %(id)s",
            names,
        )
        connection.execute(
            "INSERT INTO lb.students (institution_key, id)"
            " SELECT institution_key, 'student-' || n FROM lb.institutions,"
            " generate_series(1, %(students)s) AS n WHERE id = %(id)s",
            names,
        )
        connection.execute(
            "INSERT INTO lb.enrollments (institution_key, class_key, student_key)"
            " SELECT institution_key, class_key, student_key FROM lb.institutions i"
            " JOIN lb.classes USING (institution_key) JOIN lb.students s USING (institution_key)"
            " WHERE i.id = %(id)s",
            names,
        )
        connection.execute(
            "INSERT INTO lb.student_points (occurred_at, institution_key, student_key, class_key,"
            " subject_key, campus_key, amount, event_id)"
            " SELECT (day + time '12:00') AT TIME ZONE i.time_zone_or_utc, institution_key,"
            " student_key, class_key, subject_key, campus_key,"
            " (student_key * 7 + class_key * 3 + extract(doy FROM day)::integer) %% 11 - 2,"
            " day || '/' || student_key || '/' || class_key"
            " FROM (SELECT *, CASE WHEN EXISTS (SELECT FROM pg_timezone_names z"
            "       WHERE z.name = time_zone) THEN time_zone ELSE 'UTC' END AS time_zone_or_utc"
            "       FROM lb.institutions) i"
            " JOIN lb.classes USING (institution_key) JOIN lb.students s USING (institution_key),"
            " generate_series(%(first)s::date, %(last)s::date, interval '1 day') AS day"
            " WHERE i.id = %(id)s",
            names,
        )


def add_event(database: Database, id: str, day: date, amount: int) -> None:
    """An event of the first student of class a, at noon UTC, that comes in now."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.student_points (occurred_at, institution_key, student_key, class_key,"
            " subject_key, campus_key, amount, event_id)"
            " SELECT (%(day)s::date + time '12:00') AT TIME ZONE 'UTC', institution_key,"
            " min(student_key), min(class_key), min(subject_key), min(campus_key), %(amount)s,"
            " gen_random_uuid()"
            " FROM lb.institutions i JOIN lb.classes USING (institution_key)"
            " JOIN lb.students s USING (institution_key) WHERE i.id = %(id)s"
            " GROUP BY institution_key",
            {"id": id, "day": day, "amount": amount},
        )
