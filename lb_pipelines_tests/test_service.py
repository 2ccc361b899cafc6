"""What the service says of small random districts is what the naive reference says: boards,
histories, standings of everybody, neighbours; from the live table, the archive, or both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, days_between
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.errors import (
    DatabaseUnavailable,
    InactiveInstitution,
    InvalidPartition,
    InvalidSelection,
    LeaderboardError,
    NotMaterialized,
    StaleBoard,
    UnknownBoard,
    UnknownInstitution,
    UnknownStudent,
)
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.retention import sweeping
from lb_pipelines.retention.actor import Actor
from lb_pipelines.service import LeaderboardService
from lb_pipelines.service.results import Standing
from lb_pipelines_tests import oracle, worlds
from lb_pipelines_tests.oracle import GRANULARITIES, TYPES, School

RUN = Provenance("run")
LATER = timedelta(days=400)
_names = (f"inst_{number}" for number in itertools.count())


def load(database: Database, school: School) -> tuple[School, Institution]:
    """A school under an id that nothing else has, aggregated and materialized over its span."""
    school = oracle.renamed(school, next(_names))
    institution = worlds.load(database, school)
    make(database, institution, *span(school))
    return school, institution


def span(school: School) -> tuple[date, date]:
    """Its days, and some quiet ones after them."""
    if not school.events:
        return date(2024, 1, 1), date(2024, 1, 3)
    first, last = worlds.span_of(school)
    return first, last + 3 * ONE_DAY


def make(database: Database, institution: Institution, first: date, last: date) -> None:
    days = DayRange(first, last)
    list(aggregates.materialize(database, institution, days, RUN))
    for type in BoardType:
        list(snapshots.materialize(database, institution, type, days, RUN))


def sweep(database: Database, institution: Institution, through: date) -> int:
    """Archive everything through a day, whatever the granularity."""
    return sum(
        sweeping.sweep(
            database, institution, granularity, through + timedelta(days=1500), Actor("test")
        ).rows
        for granularity in Granularity
    )


def purge(database: Database, institution: Institution, day: date) -> None:
    """Let the originals of a day go, as the purge of a leaf does."""
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.leaderboard_snapshots"
            " WHERE institution_id = %s AND snapshot_date = %s AND status = 'ARCHIVED'",
            (institution.id, day),
        )


def expected(school: School, type: str, reference: str, granularity: str, day: date) -> Any:
    """(rank, points, percentile, ranked) of every student by the reference; None: not ranked."""
    board = oracle.board(school, type, reference, granularity, day)
    places = {p.student: p for p in board.places} if board else {}
    total = len(places)
    return {
        student: (
            places[student].rank,
            places[student].points,
            100 * sum(p.points <= places[student].points for p in places.values()) / total,
            total,
        )
        if student in places
        else (None, None, None, total)
        for student in school.students
    }


def told(standing: Standing) -> Any:
    return (standing.rank, standing.points, standing.percentile, standing.ranked)


def assert_standings(
    service: LeaderboardService, school: School, days: list[date], students: list[str] | None = None
) -> int:
    """All boards of these days; gives how many standings were those of somebody ranked."""
    ranked = 0
    for type, granularity, day in itertools.product(TYPES, GRANULARITIES, days):
        for reference in school.references(type):
            want = expected(school, type, reference, granularity, day)
            for student in students or school.students:
                standing = service.get_rank(school.id, student, type, reference, granularity, day)
                found = told(standing)
                assert found == want[student], (type, reference, granularity, day, student)
                ranked += found[0] is not None
    return ranked


WORLD = {"leaderboardLimits": {t: dict.fromkeys(GRANULARITIES, 2) for t in TYPES}}


@settings(
    max_examples=6,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    school=worlds.schools(spans=(20, 45), events=(10, 60, 120)),
    chance=st.randoms(use_true_random=False),
    swept=st.booleans(),
)
def test_everybody_stands_where_the_reference_says(
    database: Database, school: School, chance: Any, swept: bool
) -> None:
    school, institution = load(database, school)
    first, last = span(school)
    days = sorted({first, last, *(first + chance.randint(0, 60) * ONE_DAY for _ in range(2))})
    days = [day for day in days if day <= last]
    if swept:
        sweep(database, institution, last)
        purge(database, institution, days[0])
    assert_standings(LeaderboardService(database, keep=False), school, days)


@pytest.mark.parametrize("method", ["competition", "dense", "ordinal"])
def test_below_the_top_as_in_it(database: Database, method: str) -> None:
    school, institution = load(
        database,
        worlds.make_school(
            7, events=300, students=12, metadata=WORLD | {"leaderboardRanking": method}
        ),
    )
    first, last = span(school)
    days = [first, first + 20 * ONE_DAY, last]
    service = LeaderboardService(database, keep=False)
    assert assert_standings(service, school, days) > 200
    # Archived, beside their originals; and with those gone.
    assert sweep(database, institution, last)
    assert assert_standings(service, school, days[1:2]) > 50
    purge(database, institution, days[1])
    assert assert_standings(service, school, days[1:2]) > 50
