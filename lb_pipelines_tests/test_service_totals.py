"""Standings that stored totals carry: one student's blocks, the totals that a window takes, and
those that it must not take.
"""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb_pipelines.clock import utc_now
from lb_pipelines.core import blocks
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.sums import Total
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import directory, institutions, reading, totals
from lb_pipelines.errors import StaleBoard
from lb_pipelines.materialize import past
from lb_pipelines.service import LeaderboardService
from lb_pipelines_tests import worlds
from lb_pipelines_tests.oracle import School
from lb_pipelines_tests.test_service import SMALL, assert_standings, make

KEYS = st.integers(0, 2**31 - 1)
CELLS = st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(1, 2**31 - 1))


@given(
    st.dictionaries(
        st.integers(1, 300) | KEYS,
        st.dictionaries(KEYS, CELLS, min_size=1, max_size=150),
        max_size=12,
    ),
    st.integers(0, 301),
    st.randoms(use_true_random=False),
)
def test_a_student_s_blocks_hold_all_of_theirs(
    of: dict[int, dict[int, tuple[int, int]]], other: int, chance: random.Random
) -> None:
    rows = [(student, board, *cell) for student in of for board, cell in of[student].items()]
    chance.shuffle(rows)
    firsts, packed = blocks.pack(*np.array(rows, np.int64).reshape(-1, 4).T)
    assert len(packed) == 20 * len(rows)
    for student in {*of, other}:
        # The blocks that reading.sql takes, by the same counting.
        begin = max(int(np.searchsorted(firsts, student - 1, side="right")), 1) - 1
        end = int(np.searchsorted(firsts, student, side="right"))
        own = blocks.cells_of(student, packed[begin * blocks.BYTES : end * blocks.BYTES])
        assert own == [(board, *cell) for board, cell in sorted(of.get(student, {}).items())]


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
    past.ensure_totals(database, institution, dict.fromkeys(BoardType, sorted(months)))
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
            (type, stored.window, stored.through_revision)
            for type, *_, stored in reading.places_of_boards(
                connection, institution, boards, day, student
            )
        ]
        for (_, window, _), seen in zip(
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


@pytest.mark.present
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
                    updated_at=utc_now(),
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
        ((latest, current),) = connection.execute(
            "SELECT DISTINCT before, through_revision FROM lb.point_totals"
            " WHERE blocks IS NOT NULL AND before = (SELECT max(before) FROM lb.point_totals"
            "  WHERE blocks IS NOT NULL)"
        ).fetchall()
        wrong = {}
        for type in BoardType:
            sums = totals.sums(connection, institution, type, latest, current)
            assert sums is not None
            boards, students, points, events = sums
            wrong[type] = (
                Total(points + 10_000, events),
                blocks.pack(students, boards, points + 10_000, events),
            )
        connection.execute("DELETE FROM lb.point_totals WHERE before = %s", (latest,))
        for type, of_type in wrong.items():
            totals.store(connection, institution, type, latest, current - 1, *of_type)
    service = LeaderboardService(database, keep=False)
    assert assert_standings(service, school, [last], random.Random(6)) > 20
    windows = [(type, DayRange(latest - 100 * ONE_DAY, last), 0) for type in BoardType]
    with database.reading(institution.id) as connection:
        for seen in reading.windows_of_student(connection, institution, 1, windows):
            assert seen.changed
            assert seen.totals is not None
            assert seen.totals[1].before < latest
    # It is that state alone that speaks against it.
    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.point_totals SET through_revision = %s WHERE before = %s", (current, latest)
        )
    with pytest.raises((AssertionError, StaleBoard)):
        assert_standings(service, school, [last], random.Random(6))


def test_totals_that_are_kept_for_good_are_kept_by_student(
    database: Database, world: tuple[School, Institution, date]
) -> None:
    """And say the same; those of the last days are not."""
    _, institution, _ = world
    by_student = passing = 0
    with database.transaction() as connection:
        terms = institutions.terms(connection, institution)
        for type in BoardType:
            _, board_terms = directory.boards(connection, institution, type, terms)
            for before, through in totals.stored(connection, institution, type).items():
                ((packed,),) = connection.execute(
                    "SELECT blocks FROM lb.point_totals WHERE type = %s AND before = %s",
                    (type.value, before),
                ).fetchall()
                assert (packed is not None) == board_terms.is_cut(before)
                if packed is None:
                    passing += 1
                    continue
                by_student += 1
                sums = totals.sums(connection, institution, type, before, through)
                assert sums is not None
                want: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
                for board, student, points, events in sorted(
                    zip(*(column.tolist() for column in sums), strict=True)
                ):
                    if events:
                        want[student].append((board, points, events))
                assert len(packed) == 20 * sum(map(len, want.values()))
                for student, cells in want.items():
                    assert blocks.cells_of(student, packed) == cells
    assert by_student > 9
    assert passing > 9
