"""A sweep of 100,000 snapshots of real width against moving them by row; and the sensor's tick.

    python benchmarks/archive_sweep.py          # a server of its own, as `make run` would start it
    python benchmarks/archive_sweep.py --url postgresql://.../empty_database

By row: one INSERT and one UPDATE, a transaction each, as a user would write it, on rows drawn from
the same table. Both in the same database, in turns: rows by row, then a granularity by the sweep,
and so on; five rounds, of which the first makes the server's WAL files. Then 1,000 institutions (40
with a subtree of their own) over 36 months of leaves, nearly all ARCHIVED: how long `due` takes
with nothing to do and with much.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import harmonic_mean
from typing import TypeVar

import numpy as np

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import migrate, partitions
from lb_pipelines.db.embedded import EmbeddedServer
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions.leaves import create, plant
from lb_pipelines.db.partitions.names import SHARED, Root, board_leaf, months_between
from lb_pipelines.db.repositories import institutions
from lb_pipelines.retention import planning, sweeping
from lb_pipelines.retention.actor import Actor

T = TypeVar("T")
ACTOR = Actor("benchmark")
TODAY = date(2024, 6, 1)
FIRST, DAYS = date(2024, 1, 1), 91
CLASSES, SUBJECTS, CAMPUSES = 250, 20, 5
COUNT_BY_ROW = 1_000
ROUNDS = 5

# Entries as they are: N of them, points that fall, UUIDs as ids; the widths of a district's boards.
SNAPSHOTS = """
INSERT INTO lb.leaderboard_snapshots (
    institution_id, type, reference_id, time_granularity, snapshot_date, period_start,
    content_hash, entries, metadata, distribution)
SELECT 'big', b.type, b.reference, %(granularity)s, day, day,
       substring(sha256(convert_to(b.type || b.reference || day, 'UTF8')) FOR 16),
       (SELECT jsonb_agg(jsonb_build_object(
                   'rank', n, 'studentId', 'student_' || (hashtext(b.reference) + n) %% 25000,
                   'points', 40 * (%(entries)s - n) + hashtext(b.reference || n || day) %% 40,
                   'previousRank', n + hashtext(n || b.reference) %% 5) ORDER BY n)
        FROM generate_series(1, %(entries)s) AS n),
       jsonb_build_object('ranked', 98, 'enrolled', 101, 'sum', 40000 + n_board, 'mean',
                          408.163 + n_board, 'median', 390.5, 'p90', 812.25, 'max', 1630,
                          'tiesCut', 0, 'provenance', jsonb_build_object(
                              'runId', gen_random_uuid(), 'codeVersion', '0.1.0', 'watermark',
                              '2024-04-01T03:12:55.123456+00:00', 'throughRevision', 12345)),
       sha256(convert_to(b.reference || day, 'UTF8')) || sha256(convert_to(day || '', 'UTF8'))
       || sha256(convert_to(b.reference, 'UTF8'))
FROM (
    SELECT 'CLASS' AS type, 'class_' || n AS reference, n AS n_board
    FROM generate_series(1, %(classes)s) AS n
    UNION ALL
    SELECT 'SUBJECT', 'subject_' || n, n FROM generate_series(1, %(subjects)s) AS n
    UNION ALL
    SELECT 'CAMPUS', 'campus_' || n, n FROM generate_series(1, %(campuses)s) AS n
) AS b
CROSS JOIN LATERAL (
    SELECT day::date FROM generate_series(
        CAST(%(first)s AS date), CAST(%(last)s AS date), interval '1 day') AS day
) AS d
ORDER BY day, b.type, b.reference
"""
ENTRIES = {"daily": 20, "weekly": 50, "monthly": 98, "term": 98}

WHICH = """
    institution_id = 'big' AND type = %(type)s AND reference_id = %(reference)s
    AND time_granularity = %(granularity)s AND snapshot_date = %(day)s
"""
INSERT = f"""
INSERT INTO lb.archived_leaderboard_snapshots (
    archive_run, created_at, snapshot_date, period_start, institution_id, type, reference_id,
    time_granularity, academic_year, content_hash, entries, metadata, distribution)
SELECT 0, created_at, snapshot_date, period_start, institution_id, type, reference_id,
       time_granularity, '2023-2024', content_hash, entries, metadata, distribution
FROM lb.leaderboard_snapshots WHERE {WHICH}
"""
UPDATE = f"UPDATE lb.leaderboard_snapshots SET status = 'ARCHIVED' WHERE {WHICH}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--part", choices=("sweep", "due", "both"), default="both")
    parser.add_argument("--institutions", type=int, default=1_000)
    parser.add_argument("--dedicated", type=int, default=40)
    parser.add_argument("--months", type=int, default=36)
    options = parser.parse_args()
    if options.url:
        measure(Database(options.url), options)
        return
    with tempfile.TemporaryDirectory(prefix="lb-benchmark-", dir="/tmp") as home:
        Path(home).chmod(0o711)
        server = EmbeddedServer(Path(home))
        try:
            measure(Database(server.start()), options)
        finally:
            server.destroy()


def measure(database: Database, options: argparse.Namespace) -> None:
    """Both parts, or one."""
    migrate.upgrade(database)
    if options.part != "due":
        measure_sweep(database)
    if options.part != "sweep":
        measure_due(database, options.institutions, options.dedicated, options.months)


def measure_sweep(database: Database) -> None:
    """Row by row and the sweep in turns, so many rounds; the median round last."""
    school = prepare_district(database)
    rounds = []
    for _ in range(ROUNDS):
        naive, swept, seconds = [], 0, 0.0
        for granularity in ENTRIES:
            naive.append(by_row(database))
            done = sweeping.sweep(database, school, Granularity(granularity), TODAY, ACTOR)
            swept, seconds = swept + done.rows, seconds + done.seconds
            print(f"  {granularity:8s} {done.rows:7,} rows {done.rows / done.seconds:8,.0f} rows/s")
        rate, by_one = swept / seconds, harmonic_mean(naive)
        rounds.append((rate / by_one, rate, by_one))
        print(f"round      {rate:8,.0f} rows/s, by row {by_one:5,.0f}, ratio {rate / by_one:5.1f}")
        bring_back(database)
    ratio, rate, by_one = sorted(rounds)[ROUNDS // 2]
    print(f"median     {rate:8,.0f} rows/s, by row {by_one:5,.0f}, ratio {ratio:5.1f}")


def bring_back(database: Database) -> None:
    """All rows are ACTIVE again and without copies."""
    with database.transaction() as connection:
        connection.execute("UPDATE lb.leaderboard_snapshots SET status = 'ACTIVE'")
        connection.execute("TRUNCATE lb.archived_leaderboard_snapshots")
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE lb.leaderboard_snapshots")
        connection.execute("CHECKPOINT")


def prepare_district(database: Database) -> Institution:
    """One institution with classes and terms, and its snapshots."""
    with database.transaction() as connection:
        metadata = '{"leaderboardRetention": {"weekly": 30, "monthly": 30, "term": 30}}'
        connection.execute(
            "INSERT INTO lb.institutions (id, name, metadata) VALUES ('big', 'big', %s)",
            (metadata,),
        )
        connection.execute(
            "INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)"
            " SELECT institution_key, 't', 't', '2024-01-01', '2024-06-30' FROM lb.institutions"
        )
        connection.execute(
            "INSERT INTO lb.subjects (institution_key, id, name) SELECT institution_key,"
            " 'subject_' || n, '' FROM lb.institutions, generate_series(1, %s) n",
            (SUBJECTS,),
        )
        connection.execute(
            "INSERT INTO lb.classes (institution_key, id, name, subject_key, term_key)"
            " SELECT institution_key, 'class_' || n, '', subject_key, term_key"
            " FROM generate_series(1, %s) n, lb.terms t JOIN lb.subjects s USING (institution_key)"
            " WHERE s.id = 'subject_' || 1 + n %% %s",
            (CLASSES, SUBJECTS),
        )
        school = institutions.find(connection, "big")
    last = FIRST + timedelta(days=DAYS - 1)
    partitions.ensure_snapshot_months(database, "big", FIRST, last)
    partitions.ensure_archive_years(database, ["2023-2024"])
    for granularity, entries in ENTRIES.items():
        with database.transaction() as connection:
            connection.execute(
                SNAPSHOTS,
                {
                    "granularity": granularity,
                    "entries": entries,
                    "first": FIRST,
                    "last": last,
                    "classes": CLASSES,
                    "subjects": SUBJECTS,
                    "campuses": CAMPUSES,
                },
            )
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        row = connection.execute(
            "SELECT count(*), avg(pg_column_size(s.*)) FROM lb.leaderboard_snapshots s"
        ).fetchone()
    assert row is not None
    print(f"{row[0]:,} snapshots of {row[1]:,.0f} bytes")
    return school


def by_row(database: Database) -> float:
    """Rows a second, moved one by one."""
    with database.transaction() as connection:
        keys = connection.execute(
            "SELECT type, reference_id, time_granularity, snapshot_date"
            " FROM lb.leaderboard_snapshots WHERE status = 'ACTIVE' ORDER BY random() LIMIT %s",
            (COUNT_BY_ROW,),
        ).fetchall()
    names = ("type", "reference", "granularity", "day")
    with database.autocommit() as connection:
        started = time.perf_counter()
        for key in keys:
            which = dict(zip(names, key, strict=True))
            connection.execute(INSERT, which)
            connection.execute(UPDATE, which)
        return len(keys) / (time.perf_counter() - started)


def measure_due(database: Database, count: int, dedicated: int, months: int) -> None:
    """The sensor's question, with nothing due and with much."""
    today = prepare_many(database, count, dedicated, months)
    now = datetime(today.year, today.month, today.day, 12, tzinfo=UTC)
    everybody = [f"own_{n}" for n in range(dedicated)] + [SHARED]
    for what, change, of in (
        ("nothing due", None, []),
        ("some due", "status = 'ACTIVE'", everybody[::10]),
        ("all due", "status = 'ACTIVE'", everybody),
        ("all due, all held", None, []),
        ("all restored", "active_until = '9999-01-01'", everybody),
    ):
        for owner in of:
            which = f"WHERE institution_id = '{owner}'" if owner != SHARED else ""
            table = "lb.leaderboard_snapshots" if which else 'lb_part."shared:all"'
            with database.transaction() as connection:
                connection.execute(f"UPDATE {table} SET {change} {which}".encode())
        with database.transaction() as connection:
            connection.execute("DELETE FROM lb.legal_holds")
            if what.endswith("held"):
                connection.execute(
                    "INSERT INTO lb.legal_holds (institution_key, reason, placed_by)"
                    " SELECT institution_key, 'r', 'p' FROM lb.institutions"
                )
        for which in ("new connection", "again"):
            answer, seconds = timed(lambda: planning.due(database, now))
            print(f"due, {what:24s} {which:15s} {len(answer.found):6,} found {seconds:6.2f} s")
        database.close()


def prepare_many(database: Database, count: int, dedicated: int, months: int) -> date:
    """Institutions with boards of every granularity, ARCHIVED where they have expired."""
    first = date(2021, 1, 1)
    last = np.datetime64("2021-01", "M") + (months - 1)
    last_month = last.astype("datetime64[D]").astype(date)
    today = (last + 1).astype("datetime64[D]").astype(date)
    own = [f"own_{n}" for n in range(dedicated)]
    shared = [f"shared_{n}" for n in range(count - dedicated)]
    with database.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO lb.institutions (id, name) VALUES (%s, '')",
            [(id,) for id in (*own, *shared)],
        )
    started = time.perf_counter()
    for id in (*own, SHARED):
        # Only the leaves of snapshots, all of an owner in one transaction: nobody else is here.
        with database.transaction() as connection:
            if id != SHARED:
                plant(connection, id)
            for month in months_between(first, last_month):
                for type in BoardType:
                    leaf = board_leaf(id, type, month, Root.SNAPSHOTS)
                    create(connection, leaf, lz4=False)
    for id in (*own, SHARED):
        # One owner a transaction: the locks on all leaves together would be too many.
        with database.transaction() as connection:
            connection.execute(
                """
            INSERT INTO lb.leaderboard_snapshots (institution_id, type, reference_id,
                time_granularity, snapshot_date, period_start, content_hash, entries, metadata,
                distribution, status)
            SELECT i.id, type, 'r', granularity, day, day, 'x', '[]', '{}', '',
                   CASE WHEN day < CAST(%(today)s AS date) - days THEN 'ARCHIVED'
                        ELSE 'ACTIVE' END
            FROM lb.institutions i
            CROSS JOIN unnest(ARRAY['CLASS', 'SUBJECT', 'CAMPUS']) AS type
            CROSS JOIN (VALUES ('daily', 30), ('weekly', 90), ('monthly', 365), ('term', 730),
                               ('all-time', 1095)) AS g (granularity, days)
            CROSS JOIN LATERAL (
                SELECT day::date FROM generate_series(
                    CAST(%(first)s AS date), CAST(%(last)s AS date) + 27, interval '28 days'
                ) AS day) AS d
            WHERE i.id = %(id)s OR %(id)s = 'shared' AND i.id LIKE 'shared%%'
            """,
                {"today": today, "first": first, "last": last_month, "id": id},
            )
    print(
        f"{count:,} institutions, {dedicated} with a subtree of their own, {months} months, made in"
        f" {time.perf_counter() - started:.0f} s"
    )
    database.close()
    return today


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives and the seconds it took."""
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


if __name__ == "__main__":
    main()
