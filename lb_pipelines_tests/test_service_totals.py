"""Standings that stored totals carry: one student's blocks, the totals that a window takes, and
those that it must not take.
"""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb_pipelines.core import blocks
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import aggregates as repository
from lb_pipelines.db.repositories import reading
from lb_pipelines.errors import StaleBoard
from lb_pipelines.materialize import aggregates
from lb_pipelines.service import LeaderboardService
from lb_pipelines_tests import worlds
from lb_pipelines_tests.oracle import School
from lb_pipelines_tests.test_service import SMALL, assert_standings, make

KEYS = st.integers(0, 2**31 - 1)
CELLS = st.tuples(KEYS, KEYS, KEYS, st.integers(-(2**63), 2**63 - 1), st.integers(1, 2**31 - 1))


@given(
    st.dictionaries(st.integers(1, 300), st.lists(CELLS, min_size=1, max_size=150), max_size=12),
    st.integers(0, 301),
)
def test_a_student_s_blocks_hold_all_of_theirs(
    of: dict[int, list[tuple[int, int, int, int, int]]], other: int
) -> None:
    rows = [(student, *cell) for student in sorted(of) for cell in of[student]]
    columns = np.array(rows, np.int64).reshape(-1, 6).T
    firsts, packed = blocks.pack(columns[:4], columns[4], columns[5])
    assert len(packed) == 28 * len(rows)
    for student in {*of, other}:
        # The blocks that reading.sql takes, by the same counting.
        begin = max(int(np.searchsorted(firsts, student - 1, side="right")), 1) - 1
        end = int(np.searchsorted(firsts, student, side="right"))
        own = blocks.cells_of(student, packed[begin * blocks.BYTES : end * blocks.BYTES])
        assert own == of.get(student, [])


# A world of half a year, and totals of its months.


@pytest.fixture
def world(database: Database) -> tuple[School, Institution, date]:
    """A school of 230 days, its boards of two late days, and the last of them."""
    school = worlds.make_school(4, span=230, events=300, students=9, metadata=SMALL)
    institution = worlds.load(database, school)
    last = worlds.span_of(school)[1]
    for day in (last - 40 * ONE_DAY, last):
        make(database, institution, day, day)
    months = {day.replace(day=1) for day in DayRange(last - timedelta(days=220), last)}
    aggregates.ensure_totals(database, institution, sorted(months))
    return school, institution, last


def taken(
    database: Database, institution: Institution, day: date, student: str
) -> list[tuple[int, int]]:
    """(days of the window, days between the totals taken) of a student's boards of a day."""
    found = []
    with database.reading(institution.id) as connection:
        opening = reading.opening(connection, institution.id, student_ids=[student])
        assert opening is not None
        assert opening.students[0] is not None
        boards = reading.boards_of_student(connection, institution, opening.students[0], day)
        windows = [
            (stored.window, stored.through_revision)
            for *_, stored in reading.places_of_boards(
                connection, institution, boards, day, student
            )
        ]
        for (window, _), seen in zip(
            windows,
            reading.windows_of_student(connection, institution, opening.students[0], windows),
            strict=True,
        ):
            days = (seen.totals[1].before - seen.totals[0].before).days if seen.totals else 0
            found.append((len(window), days))
    return found


def test_totals_say_what_the_events_say(
    database: Database, world: tuple[School, Institution, date]
) -> None:
    school, institution, last = world
    service, chance = LeaderboardService(database, keep=False), random.Random(3)
    days = [last - 40 * ONE_DAY, last]
    assert assert_standings(service, school, days, chance) > 50
    for day in days:
        found = taken(database, institution, day, school.students[0])
        assert any(between > 100 for _, between in found), "no total was used"
        assert all(length - between < 62 for length, between in found)
        assert all(between == 0 for length, between in found if length < 28)


def test_the_days_beside_totals_are_doubted_as_ever(
    database: Database, world: tuple[School, Institution, date]
) -> None:
    """An event that came after its day was aggregated counts in no board that was made before."""
    school, institution, last = world
    event = school.events[0]
    early, late = last - 150 * ONE_DAY, last - ONE_DAY
    with database.transaction() as connection:
        worlds.write_events(
            connection,
            institution.key,
            [
                event._replace(
                    id=f"late-{day}-{student}",
                    student=student,
                    amount=1_000,
                    status="ACTIVE",
                    occurred_at=worlds.at_local(day, event.occurred_at.time(), school.zone),
                    updated_at=datetime.now(UTC),
                )
                for day in (early, late)
                for student in school.students
            ],
        )
    service = LeaderboardService(database, keep=False)
    assert assert_standings(service, school, [last], random.Random(5)) > 20


def test_a_total_of_another_state_is_passed_over(
    database: Database, world: tuple[School, Institution, date]
) -> None:
    """Stored after its days had changed: whoever took it would give points that nobody has."""
    school, institution, last = world
    with database.transaction() as connection:
        stored = connection.execute(
            "SELECT before FROM lb.point_totals WHERE institution_key = %s", (institution.key,)
        ).fetchall()
        latest = max(before for (before,) in stored)
        cells = repository.total(connection, institution, latest)
        wrong = repository.Cells(cells.keys, cells.points + 10_000, cells.events)
        current = repository.stored_totals(connection, institution)[latest]
        connection.execute("DELETE FROM lb.point_totals WHERE before = %s", (latest,))
        repository.store_total(connection, institution, latest, current - 1, wrong)
    service = LeaderboardService(database, keep=False)
    assert assert_standings(service, school, [last], random.Random(6)) > 20
    window = [(DayRange(latest - 100 * ONE_DAY, last), 0)]
    with database.reading(institution.id) as connection:
        (seen,) = reading.windows_of_student(connection, institution, 1, window)
    assert seen.changed
    assert seen.totals is not None
    assert seen.totals[1].before < latest
    # It is that state alone that speaks against it.
    with database.transaction() as connection:
        connection.execute("UPDATE lb.point_totals SET through_revision = %s", (current,))
    with pytest.raises((AssertionError, StaleBoard)):
        assert_standings(service, school, [last], random.Random(6))
