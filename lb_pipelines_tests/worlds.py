"""Small random districts: seeded makers, hypothesis strategies, and their way into PostgreSQL.

A world is made to be awkward: few students and amounts, so that they tie; events around local
midnights, changes of clocks, and the ends of weeks, months, years and terms; voided, negative and
huge amounts; null classes, subjects and campuses; terms that overlap, touch, start together or
leave gaps. It goes into the database by plain INSERTs, not by the code under test.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from lb_pipelines.core.institution import Institution
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import ensure_event_months
from lb_pipelines.db.repositories import institutions
from lb_pipelines_tests.oracle import (
    GRANULARITIES,
    TYPES,
    Enrollment,
    Event,
    School,
    SchoolClass,
    Term,
)

# A zone with a day on which its calendar or clocks do something, and what.
MOMENTS = (
    ("Europe/London", date(2023, 3, 26)),  # Clocks go forward.
    ("Europe/London", date(2023, 10, 29)),  # Clocks go back.
    ("America/New_York", date(2021, 1, 1)),  # A year ends inside ISO week 2020-W53.
    ("America/New_York", date(2023, 11, 5)),  # Clocks go back.
    ("Asia/Kolkata", date(2024, 2, 29)),  # A leap day, half an hour off.
    ("Australia/Lord_Howe", date(2023, 4, 2)),  # Clocks go back by half an hour.
    ("Pacific/Apia", date(2011, 12, 30)),  # A day that never was.
    ("America/St_Johns", date(2010, 11, 7)),  # Back across midnight: 00:01 becomes 23:01.
    ("America/Sao_Paulo", date(2018, 11, 4)),  # Midnight never was.
    ("America/Sao_Paulo", date(2018, 2, 18)),  # Midnight was twice.
    ("Antarctica/Casey", date(2010, 3, 5)),  # Back by three hours across midnight.
    ("UTC", date(2024, 1, 1)),
)
AMOUNTS = (-7, -1, 0, 1, 1, 2, 2, 2, 3, 5, 10, 10)
HUGE = (2**31 - 1, -(2**31))
# Byte order is neither the order of numbers nor that of a dictionary; CSV and JSON have wishes.
STUDENTS = ("s1", "s10", "s2", "S3", "é4", "NA", 'q"5', "b\\6", "n,7", "ß8", "𝔰9", " lead")
REFERENCES = ("a", "B", "null", 'd"', "é")


def at_local(day: date, clock: time, zone: str, fold: int = 0) -> datetime:
    """The instant at which a clock in the zone shows this."""
    return datetime.combine(day, clock, ZoneInfo(zone)).replace(fold=fold).astimezone(UTC)


def make_school(
    seed: int,
    *,
    id: str = "inst",
    moment: tuple[str, date] = MOMENTS[0],
    span: int = 40,
    events: int = 120,
    students: int = 6,
    metadata: dict[str, Any] | None = None,
) -> School:
    """A school whose events lie within `span` days around the moment; equal for an equal seed."""
    chance = random.Random(seed)
    zone, pivot = moment
    first = pivot - timedelta(days=chance.randint(span // 3, max(span // 3, 2 * span // 3)))
    last = first + timedelta(days=span)
    names = STUDENTS[:students]
    campuses, subjects = REFERENCES[: chance.randint(1, 3)], REFERENCES[: chance.randint(1, 3)]
    terms = tuple(_terms(chance, first, last, pivot))
    classes = tuple(
        SchoolClass(
            name,
            chance.choice(subjects),
            chance.choice((*campuses, None)),
            chance.choice(terms).id,
        )
        for name in REFERENCES[: chance.randint(1, 4)]
    )
    enrollments = tuple(
        Enrollment(
            school_class.id,
            student,
            chance.choice((None, None, *campuses)),
            chance.choice((None, first, _between(chance, first, last))),
            chance.choice((None, None, last, _between(chance, first, last))),
        )
        for school_class in classes
        for student in names
        if chance.random() < 0.6
    )
    school = School(
        id, zone, terms, campuses, subjects, classes, names, enrollments, (), dict(metadata or {})
    )
    made = [make_event(chance, school, number, first, last, pivot) for number in range(events)]
    return replace(school, events=tuple(made))


def make_event(
    chance: random.Random, school: School, number: int, first: date, last: date, pivot: date
) -> Event:
    """One event of the school, on a day that matters or on any."""
    edges = [pivot, pivot - timedelta(days=1), first, last]
    edges += [day for term in school.terms for day in (term.first, term.last)]
    months = [first + timedelta(days=i) for i in range((last - first).days)]
    edges += [day for day in months if day.day == 1 or day.isoweekday() == 1]
    day = chance.choice(edges) if chance.random() < 0.4 else _between(chance, first, last)
    day = min(max(day, first), last)
    clock = chance.choice(
        (
            time(0),
            time(23, 59, 59, 999_999),
            time(0, 0, 30),
            time(23, 30),
            time(1, 59),
            time(2, 30),
            time(12, chance.randint(0, 59), chance.randint(0, 59)),
            time(chance.randint(0, 23), chance.randint(0, 59)),
        )
    )
    school_class = chance.choice((*school.classes, None))
    # The class, subject and campus stand on the event: mostly those of the class, not always.
    odd = school_class is None or chance.random() < 0.2
    return Event(
        id=f"e{number}",
        student=chance.choice(school.students),
        class_id=school_class.id if school_class else None,
        subject=chance.choice((*school.subjects, None)) if odd else school_class.subject,
        campus=chance.choice((*school.campuses, None)) if odd else school_class.campus,
        amount=chance.choice(HUGE) if chance.random() < 0.02 else chance.choice(AMOUNTS),
        occurred_at=at_local(day, clock, school.zone, fold=chance.randint(0, 1)),
        status="VOIDED" if chance.random() < 0.12 else "ACTIVE",
        updated_at=datetime(2025, 1, 1, tzinfo=UTC)
        + timedelta(microseconds=chance.randrange(10**13)),
    )


def _terms(chance: random.Random, first: date, last: date, pivot: date) -> Iterable[Term]:
    starts = [first + timedelta(days=5), pivot, _between(chance, first, last), first]
    for number in range(chance.randint(1, 4)):
        start = chance.choice(starts)
        yield Term(f"t{number}", start, start + timedelta(days=chance.choice((0, 6, 20, 45, 200))))


def _between(chance: random.Random, first: date, last: date) -> date:
    return first + timedelta(days=chance.randint(0, (last - first).days))


def span_of(school: School) -> tuple[date, date]:
    """The first and last local day with any event, whatever its status."""
    days = [event.occurred_at.astimezone(ZoneInfo(school.zone)).date() for event in school.events]
    return min(days), max(days)


@st.composite
def settings(draw: st.DrawFn) -> dict[str, Any]:
    """`metadata` of an institution: a rank method, and limits small enough to cut ties."""
    metadata: dict[str, Any] = {}
    if draw(st.booleans()):
        metadata["leaderboardRanking"] = draw(st.sampled_from(("competition", "dense", "ordinal")))
    limits = draw(
        st.dictionaries(
            st.sampled_from(TYPES),
            st.dictionaries(st.sampled_from(GRANULARITIES), st.integers(1, 4), max_size=5),
            max_size=3,
        )
    )
    return metadata | ({"leaderboardLimits": limits} if limits else {})


@st.composite
def schools(
    draw: st.DrawFn,
    *,
    spans: tuple[int, ...] = (3, 20, 45),
    events: tuple[int, ...] = (0, 1, 10, 60),
    moments: tuple[tuple[str, date], ...] = MOMENTS,
) -> School:
    """Schools of a drawn seed, moment, size and settings."""
    return make_school(
        draw(st.integers(0, 2**32)),
        moment=draw(st.sampled_from(moments)),
        span=draw(st.sampled_from(spans)),
        events=draw(st.sampled_from(events)),
        students=draw(st.integers(1, len(STUDENTS))),
        metadata=draw(settings()),
    )


def load(database: Database, school: School) -> Institution:
    """Write a school into the database; returns its institution, as the code reads it."""
    instants = [event.occurred_at for event in school.events]
    if instants:
        ensure_event_months(database, min(instants).date(), max(instants).date())
    with database.transaction() as connection:
        row = connection.execute(
            "INSERT INTO lb.institutions (id, name, time_zone, metadata) VALUES (%s, %s, %s, %s)"
            " RETURNING institution_key",
            (school.id, school.id, school.zone, Jsonb(school.metadata)),
        ).fetchone()
        assert row is not None
        key = row[0]
        for table, ids in (
            ("campuses", school.campuses),
            ("subjects", school.subjects),
            ("students", school.students),
        ):
            # Keys in another order than ids: nothing may rely on theirs.
            _insert(
                connection,
                f"INSERT INTO lb.{table} (institution_key, id, name) VALUES (%s, %s, %s)",
                [(key, id, id) for id in reversed(ids)],
            )
        _insert(
            connection,
            "INSERT INTO lb.terms (institution_key, id, name, starts_on, ends_on)"
            " VALUES (%s, %s, %s, %s, %s)",
            [(key, t.id, t.id, t.first, t.last) for t in school.terms],
        )
        _insert(
            connection,
            "INSERT INTO lb.classes (institution_key, id, name, subject_key, campus_key, term_key)"
            " SELECT i, %s, %s,"
            " (SELECT subject_key FROM lb.subjects WHERE institution_key = i AND id = %s),"
            " (SELECT campus_key FROM lb.campuses WHERE institution_key = i AND id = %s),"
            " (SELECT term_key FROM lb.terms WHERE institution_key = i AND id = %s)"
            " FROM (VALUES (%s::integer)) AS v (i)",
            [(c.id, c.id, c.subject, c.campus, c.term, key) for c in reversed(school.classes)],
        )
        _insert(
            connection,
            "INSERT INTO lb.enrollments"
            " (institution_key, class_key, student_key, campus_key, enrolled_on, withdrawn_on)"
            " SELECT i,"
            " (SELECT class_key FROM lb.classes WHERE institution_key = i AND id = %s),"
            " (SELECT student_key FROM lb.students WHERE institution_key = i AND id = %s),"
            " (SELECT campus_key FROM lb.campuses WHERE institution_key = i AND id = %s), %s, %s"
            " FROM (VALUES (%s::integer)) AS v (i)",
            [
                (e.class_id, e.student, e.campus, e.enrolled_on, e.withdrawn_on, key)
                for e in school.enrollments
            ],
        )
        write_events(connection, key, school.events)
        return institutions.find_active(connection, school.id)


def write_events(connection: Connection, key: int, events: Sequence[Event]) -> None:
    """Insert events, or change those that are there; an event may move to another instant."""
    _insert(
        connection,
        "DELETE FROM lb.student_points WHERE institution_key = %s AND event_id = %s",
        [(key, e.id) for e in events],
    )
    _insert(
        connection,
        "INSERT INTO lb.student_points (institution_key, event_id, student_key, class_key,"
        " subject_key, campus_key, amount, occurred_at, status, updated_at)"
        " SELECT i, %s,"
        " (SELECT student_key FROM lb.students WHERE institution_key = i AND id = %s),"
        " (SELECT class_key FROM lb.classes WHERE institution_key = i AND id = %s),"
        " (SELECT subject_key FROM lb.subjects WHERE institution_key = i AND id = %s),"
        " (SELECT campus_key FROM lb.campuses WHERE institution_key = i AND id = %s),"
        " %s, %s, %s, %s FROM (VALUES (%s::integer)) AS v (i)",
        [
            (
                e.id,
                e.student,
                e.class_id,
                e.subject,
                e.campus,
                e.amount,
                e.occurred_at,
                e.status,
                e.updated_at,
                key,
            )
            for e in events
        ],
    )


def _insert(connection: Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(statement, rows)
