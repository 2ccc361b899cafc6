"""Rows and looks at the catalog for the tests of partitions: the least the tables accept."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from lb_pipelines.db.engine import Connection, Database

SNAPSHOT = """
    INSERT INTO lb.leaderboard_snapshots
        (institution_id, type, reference_id, time_granularity, snapshot_date, period_start,
         content_hash, entries, metadata, distribution)
    VALUES (%(institution)s, %(type)s, %(reference)s, 'daily', %(day)s, %(day)s,
            %(hash)s, '[]', '{}', '')
    ON CONFLICT (institution_id, type, reference_id, time_granularity, snapshot_date)
    DO UPDATE SET content_hash = excluded.content_hash
"""
TREND = """
    INSERT INTO lb.leaderboard_trends
        (institution_id, type, reference_id, time_granularity, snapshot_date, baseline_date,
         leader_since, ranked, ranked_change, mean, median, leader_id, content_hash, movement,
         students, metadata)
    VALUES (%(institution)s, %(type)s, %(reference)s, 'daily', %(day)s, %(day)s,
            %(day)s, 1, 0, 1, 1, 'student_1', %(hash)s, '{}', '[]', '{}')
    ON CONFLICT (institution_id, type, reference_id, time_granularity, snapshot_date)
    DO UPDATE SET content_hash = excluded.content_hash
"""


def row(
    institution: str, day: date, *, type: str = "CLASS", reference: str = "r", hash: bytes = b"0"
) -> dict[str, object]:
    """The parameters of `SNAPSHOT` and `TREND`."""
    return {
        "institution": institution,
        "type": type,
        "reference": reference,
        "day": day,
        "hash": hash,
    }


def fill(database: Database, institution: str, days: Iterable[date], references: int = 2) -> int:
    """A snapshot and a trend of every type, for so many boards on these days; how many rows."""
    rows = [
        row(institution, day, type=type, reference=f"r{number}")
        for day in days
        for type in ("CLASS", "SUBJECT", "CAMPUS")
        for number in range(references)
    ]
    with database.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(SNAPSHOT, rows)
        cursor.executemany(TREND, rows)
    return 2 * len(rows)


def add_institution(
    database: Database, institution: str, *, students: int = 0, status: str = "ACTIVE"
) -> None:
    """An institution with one class and so many enrolments."""
    with database.transaction() as connection:
        key = connection.execute(
            "INSERT INTO lb.institutions (id, name, status) VALUES (%s, %s, %s)"
            " RETURNING institution_key",
            (institution, institution, status),
        ).fetchone()[0]  # type: ignore[index]
        connection.execute(
            "WITH subject AS (INSERT INTO lb.subjects (institution_key, id, name)"
            "  VALUES (%(key)s, 's', 's') RETURNING subject_key),"
            " term AS (INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)"
            "  VALUES (%(key)s, 't', 't', '2023-01-01', '2023-12-31') RETURNING term_key)"
            " INSERT INTO lb.classes (institution_key, id, name, subject_key, term_key)"
            " SELECT %(key)s, 'c', 'c', subject_key, term_key FROM subject, term",
            {"key": key},
        )
        connection.execute(
            "INSERT INTO lb.students (institution_key, id)"
            " SELECT %s, 's' || n FROM generate_series(1, %s) n",
            (key, students),
        )
        connection.execute(
            "INSERT INTO lb.enrollments (institution_key, class_key, student_key)"
            " SELECT institution_key, class_key, student_key"
            " FROM lb.students JOIN lb.classes USING (institution_key) WHERE institution_key = %s",
            (key,),
        )


def rows_by_leaf(connection: Connection, institution: str) -> dict[str, int]:
    """How many rows of an institution lie in which leaf, read through the roots."""
    return dict(
        connection.execute(
            "SELECT relname::text, count(*) FROM ("
            "  SELECT tableoid AS leaf, institution_id FROM lb.leaderboard_snapshots UNION ALL"
            "  SELECT tableoid, institution_id FROM lb.leaderboard_trends) rows"
            " JOIN pg_class ON pg_class.oid = leaf"
            " WHERE institution_id = %s GROUP BY relname ORDER BY relname",
            (institution,),
        ).fetchall()
    )


def content(connection: Connection, institution: str) -> list[tuple[object, ...]]:
    """All that the two tables hold of an institution, wherever it lies."""
    return connection.execute(
        "SELECT 's', s.id, s.partition_key, s.created_at, s.content_hash, s.status"
        " FROM lb.leaderboard_snapshots s WHERE institution_id = %(id)s"
        " UNION ALL "
        "SELECT 't', concat_ws(':', t.type, t.reference_id, t.time_granularity, t.snapshot_date),"
        " t.partition_key, t.created_at, t.content_hash, t.leader_days::text"
        " FROM lb.leaderboard_trends t WHERE institution_id = %(id)s"
        " ORDER BY 1, 2",
        {"id": institution},
    ).fetchall()


def leaf_tables(connection: Connection) -> set[str]:
    """All plain tables of `lb_part`, hanging in a tree or not."""
    rows = connection.execute(
        "SELECT relname::text FROM pg_class"
        " WHERE relnamespace = 'lb_part'::regnamespace AND relkind = 'r'"
    )
    return {name for (name,) in rows}


def locked_leaves(connection: Connection) -> set[str]:
    """The leaves on which this transaction holds a lock."""
    rows = connection.execute(
        "SELECT DISTINCT relname::text FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
        " WHERE pid = pg_backend_pid() AND relkind = 'r'"
        " AND relnamespace = 'lb_part'::regnamespace"
    )
    return {name for (name,) in rows}
