"""Reading with three years of data in place: how long answers take, and whether they are right.

    python -m benchmarks.reading build --url postgresql://.../empty_database
    python -m benchmarks.reading time --url postgresql://.../that_database
    python -m benchmarks.reading check --url ... --institution inst_101 --number 10000

`build`: one institution, 25,000 students on one campus, 50 classes of 500, 20 subjects, 1,095 days.
Events are made by SQL: 24,800 students have one a week, 200 have 1.5 a day (as many as DESIGN
counts for everybody, and as many to read). All boards and trends of all days are materialized for
real; 700,000 further rows of real width are copies of them under ids of classes that do not exist.

`time`: p50 and p99 of each question, each asked of random students, boards and days, beside the
goals, as a table.

`check`: exact standings of random (student, board, day) against the naive reference of the tests,
on any database with materialized boards; prints how many were equal.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from lb_pipelines.core.periods import DayRange, Term
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import migrate, partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates, past, snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.service import LeaderboardService
from lb_pipelines_tests import oracle

INSTITUTION = "inst_big"
FIRST, LAST = date(2022, 8, 1), date(2025, 7, 30)
DAYS = DayRange(FIRST, LAST)
NOW = datetime(2025, 7, 31, 12, tzinfo=UTC)
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
           (d.day + time '08:00' + random() * interval '9 hours')
               AT TIME ZONE 'Europe/London' AS at,
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
    # As runs of single days leave them.
    months = [day for day in DAYS if day.day == 1]
    past.ensure_totals(database, institution, dict.fromkeys(BoardType, months))
    clock.print("totals")
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


def time_questions(database: Database, number: int, only: str = "") -> None:
    """Print p50 and p99 of every question whose name holds `only`."""
    # As a server does once it has started: else the modules' own objects are looked through again
    # and again, 60 ms each time.
    gc.collect()
    gc.freeze()
    chance = random.Random(1)
    cold = LeaderboardService(database, keep=False, now=lambda: NOW)
    kept = LeaderboardService(database, now=lambda: NOW)
    days = list(DAYS)[100:]
    year = (LAST - timedelta(days=364), LAST)
    campus, classes = ("CAMPUS", "campus"), [("CLASS", f"class-{n}") for n in range(1, 51)]

    def a_class() -> tuple[str, str]:
        return chance.choice(classes)

    def student(heavy: bool = False) -> str:
        return f"s{chance.randint(1, 200) if heavy else chance.randint(201, 25_000):06d}"

    def member(heavy: bool = False) -> tuple[str, str, str]:
        id = student(heavy)
        return id, "CLASS", f"class-{int(id[1:]) % 50 + 1}"

    def on_campus(heavy: bool = False) -> tuple[str, str, str]:
        return student(heavy), *campus

    def history(board: Callable[[], tuple[str, str]], granularity: str) -> object:
        return cold.get_historical_leaderboard(INSTITUTION, *board(), granularity, *year)

    def rank(who: Callable[[], tuple[str, str, str]], granularity: str) -> object:
        return cold.get_rank(INSTITUTION, *who(), granularity, chance.choice(days))

    def trend(who: Callable[[], tuple[str, str, str]], granularity: str) -> object:
        return cold.get_student_trends(INSTITUTION, *who(), granularity)

    def asked(what: str, number: int, ask: Callable[[], Any], goal: float | None = None) -> None:
        if only in what:
            measure(database, what, number, ask, goal)

    print(f"{number} times each, on a machine with a load of {os.getloadavg()[0]:.1f}\n")
    print("| milliseconds | p50 | p99 | processor p50 | processor p99 | goal for p99 | |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for granularity in ("monthly", "term", "all-time"):
        asked(
            f"12 months of a class, {granularity}, cold",
            number,
            partial(history, a_class, granularity),
            goal=5,
        )
    for granularity in ("monthly", "all-time"):
        asked(
            f"12 months of the campus, {granularity} (200, 500 entries), cold",
            number,
            partial(history, lambda: campus, granularity),
        )
    asked(
        "12 months of a class, monthly, kept",
        10 * number,
        lambda: kept.get_historical_leaderboard(INSTITUTION, *classes[0], "monthly", *year),
        goal=0.2,
    )
    asked(
        "12 months of the campus, all-time, kept",
        10 * number,
        lambda: kept.get_historical_leaderboard(INSTITUTION, *campus, "all-time", *year),
        goal=0.2,
    )
    for granularity in Granularity:
        asked(
            f"rank of a member, class of 500, {granularity}, cold",
            number,
            partial(rank, lambda: member(chance.random() < 0.2), granularity),
            goal=5,
        )
    for granularity in Granularity:
        for who, heavy in (("one event a week", False), ("1.5 events a day", True)):
            asked(
                f"rank of a student ({who}), campus of 25,000, {granularity}, cold",
                number,
                partial(rank, partial(on_campus, heavy), granularity),
                goal=5,
            )
    tops: list[tuple[str, date]] = []
    for day in chance.sample(days, 20):
        board = cold.get_leaderboard(INSTITUTION, *campus, "all-time", day)
        tops += [(entry.student_id, day) for entry in board.entries]
    asked(
        "rank of a student in the top 500 of the campus, all-time, cold",
        number,
        lambda: (lambda top: cold.get_rank(INSTITUTION, top[0], *campus, "all-time", top[1]))(
            chance.choice(tops)
        ),
        goal=5,
    )
    for granularity in ("monthly", "all-time"):
        asked(
            f"12 months of a student in a class, {granularity}, cold",
            number,
            partial(trend, lambda: member(chance.random() < 0.2), granularity),
        )
        asked(
            f"12 months of a student on the campus, {granularity}, cold",
            number,
            partial(trend, lambda: on_campus(chance.random() < 0.2), granularity),
        )
    asked(
        "trends of a class over 12 months, monthly, cold",
        number,
        lambda: cold.get_leaderboard_trends(INSTITUTION, *a_class(), "monthly"),
    )
    asked(
        "all boards of a student on a day, cold",
        number,
        lambda: cold.get_student_boards(INSTITUTION, student(), chance.choice(days)),
    )
    asked(
        "around a member of a class of 500, monthly, cold",
        number // 4,
        lambda: cold.get_around(INSTITUTION, *member(), "monthly", chance.choice(days)),
    )
    asked(
        "around a student on the campus of 25,000, all-time, cold",
        number // 10,
        lambda: cold.get_around(INSTITUTION, student(), *campus, "all-time", chance.choice(days)),
    )


def check(database: Database, institution_id: str, number: int) -> None:
    """Compare random standings with one naive query a board over the events; print how many agree.

    Ten students a board: half of those ranked, half of any. `None` counts too: not ranked.
    """
    chance = random.Random(2)
    service = LeaderboardService(database, keep=False)
    with database.transaction() as connection:
        institution = institutions.find_active(connection, institution_id)
        terms = institutions.terms(connection, institution)
        boards: list[tuple[Any, ...]] = []
        for type, table, key in (
            ("CLASS", "classes", "class_key"),
            ("SUBJECT", "subjects", "subject_key"),
            ("CAMPUS", "campuses", "campus_key"),
        ):
            term = "b.term_key" if type == "CLASS" else "NULL::integer"
            boards += connection.execute(
                f"SELECT '{type}', '{key}', {key}, b.id, t.id FROM lb.{table} b"
                f" LEFT JOIN lb.terms t ON t.term_key = {term} WHERE b.institution_key = %s",
                (institution.key,),
            ).fetchall()
        made = connection.execute(
            "SELECT day FROM lb.materialized_days WHERE institution_key = %s"
            " GROUP BY day HAVING count(*) FILTER (WHERE asset LIKE '%%snapshots') = 3",
            (institution.key,),
        ).fetchall()
        students = connection.execute(
            "SELECT id FROM lb.students WHERE institution_key = %s ORDER BY id", (institution.key,)
        ).fetchall()
    equal = asked = ranked = below = 0
    began = time.perf_counter()
    while asked < number:
        type, column, key, reference, term_id = chance.choice(boards)
        granularity, (day,) = chance.choice(list(Granularity)), chance.choice(made)
        own = [t for t in terms if t.id == term_id]
        # With its own term alone a class's window is found as a campus's.
        calendar = _Calendar(own if type == "CLASS" else terms)
        first = oracle.period_start(calendar, "CAMPUS", reference, granularity, day)  # type: ignore[arg-type]
        points: dict[str, int] = {}
        if first is not None:
            with database.transaction() as connection:
                points = dict(
                    connection.execute(
                        "SELECT s.id, sum(amount) FROM lb.student_points p"
                        " JOIN lb.students s USING (institution_key, student_key)"
                        f" WHERE p.institution_key = %s AND {column} = %s AND status = 'ACTIVE'"
                        " AND occurred_at BETWEEN %s::date - 1 AND %s::date + 2"
                        " AND (occurred_at AT TIME ZONE %s)::date BETWEEN %s AND %s GROUP BY 1",
                        (institution.key, key, first, day, institution.time_zone, first, day),
                    ).fetchall()
                )
        some = chance.sample(sorted(points), min(5, len(points)))
        for student in (*some, *(chance.choice(students)[0] for _ in range(10 - len(some)))):
            mine = points.get(student)
            better = [p for p in points.values() if mine is not None and p > mine]
            want: tuple[int | None, int | None, int] = (None, None, len(points))
            if mine is not None:
                want = len(better) + 1, mine, len(points)
            found = service.get_rank(institution_id, student, type, reference, granularity, day)
            asked += 1
            ranked += mine is not None
            limit = institution.limit(found.key.type, found.key.granularity)
            below += mine is not None and len(better) >= limit
            if (found.rank, found.points, found.ranked) == want:
                equal += 1
            else:
                print("DIFFERENT", found, want)
    print(
        f"{institution_id}: {equal:,} of {asked:,} standings equal the reference"
        f" ({ranked:,} ranked, {below:,} of them below the top N), {len(made)} days,"
        f" {time.perf_counter() - began:.0f} s"
    )


class _Calendar:
    """What the reference asks of a school to know a window; all time begins with time."""

    def __init__(self, terms: list[Term]) -> None:
        self.terms = [oracle.Term(t.id, t.starts_on, t.ends_on) for t in terms]
        self.days: dict[date, Any] = {date(1970, 1, 3): ()}


def measure(
    database: Database, what: str, number: int, ask: Callable[[], Any], goal: float | None = None
) -> None:
    """Ask so many times, after a tenth more to warm up; print the spread as a row of a table.

    Then as often again for the CPU time of this process and of the one that serves it, which says
    what is left of an answer where nobody else wants the processor; it is known only where the
    server runs on this machine. Apart, because looking that up between two answers makes the second
    one slower.
    """
    server = Path(f"/proc/{database.at_once(lambda c: c.info.backend_pid)}/schedstat")
    walls, cpus = [], []
    for _ in range(number // 10 + number):
        wall = time.perf_counter()
        ask()
        walls.append(1000 * (time.perf_counter() - wall))
    for _ in range(number // 10 + number):
        cpu = _cpu(server)
        ask()
        cpus.append(_cpu(server) - cpu)
    cells = []
    for times in (walls, cpus):
        spread = sorted(times[number // 10 :])
        cells += [spread[len(spread) // 2], spread[len(spread) * 99 // 100]]
    holds = ("", "") if goal is None else (str(goal), "holds" if cells[1] < goal else "missed")
    print(
        "|", what, *(f"| {value:.3f}" for value in cells), "|", " | ".join(holds), "|", flush=True
    )


def _cpu(server: Path) -> float:
    """Milliseconds that this thread and the server's process have had of a processor."""
    try:
        theirs = int(server.read_text().split()[0]) / 1e6
    except OSError:
        theirs = 0.0
    return 1000 * time.thread_time() + theirs


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("build", "time", "check"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--number", type=int, default=400)
    parser.add_argument("--only", default="", help="time questions whose name holds this")
    parser.add_argument("--institution", default=INSTITUTION)
    options = parser.parse_args()
    database = Database(options.url)
    if options.what == "build":
        build(database)
    elif options.what == "time":
        time_questions(database, options.number, options.only)
    else:
        check(database, options.institution, options.number)


if __name__ == "__main__":
    main()
