"""Trends equal the naive reference, in any order of materialization; Kendall's tau-b in bulk."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection
from datetime import date, timedelta
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from lb_pipelines.core import timeline
from lb_pipelines.core.correlation import tau_b
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.leaders import LeaderStreaks
from lb_pipelines.core.periods import ONE_DAY, DayRange, days_between
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.migrate import downgrade, upgrade
from lb_pipelines.db.repositories import currency
from lb_pipelines.materialize import aggregates, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.materialize.staleness import find_stale_days, stale_ranges
from lb_pipelines_tests import oracle, worlds
from lb_pipelines_tests.oracle import School
from lb_pipelines_tests.stored import Key

RUN = Provenance("run")
_names = (f"inst_{number}" for number in itertools.count())
_FIGURES = (
    "ranked",
    "ranked_change",
    "mean",
    "mean_change",
    "median",
    "median_change",
    "retained_share",
    "rank_correlation",
    "spearman_rho",
    "leader_id",
)


def make(
    database: Database, institution: Institution, type: str, first: date, last: date
) -> list[Any]:
    days = DayRange(first, last)
    results = list(trends.materialize(database, institution, BoardType(type), days, RUN))
    assert [result.day for result in results] == list(days)
    return results


def stored_trends(database: Database, institution_id: str) -> dict[Key, dict[str, Any]]:
    """All trends of an institution, without what tells of the run that wrote them."""
    columns = (
        *("type", "reference_id", "time_granularity", "snapshot_date", "baseline_date"),
        *("leader_since", "leader_days", *_FIGURES, "movement", "students", "partition_key"),
        "content_hash",
    )
    with database.transaction() as connection:
        rows = connection.execute(
            f"SELECT {', '.join(columns)} FROM lb.leaderboard_trends WHERE institution_id = %s",
            (institution_id,),
        ).fetchall()
    return {row[:4]: dict(zip(columns[4:], row[4:], strict=True)) for row in rows}


def assert_trends_equal_the_reference(
    database: Database, school: School, made: dict[str, Collection[date]]
) -> int:
    """Compare every trend of the days `made` by type, and that there are no others."""
    rows = stored_trends(database, school.id)
    expected = {
        (type, reference, granularity, day): trend
        for type, days in made.items()
        for reference in school.references(type)
        for granularity in oracle.GRANULARITIES
        for day in days
        if (trend := oracle.trend(school, type, reference, granularity, day)) is not None
    }
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        want, day = expected[key], key[3]
        assert row["baseline_date"] == want.baseline_date, key
        for name, value in want.figures.items():
            if value is None or isinstance(value, str):
                assert row[name] == value, (key, name)
            else:
                # Differences of large means lose what both have in common.
                near = pytest.approx(float(value), rel=1e-9, abs=1e-6)
                assert row[name] == near, (key, name)
        assert row["movement"] == want.movement, key
        assert row["students"] == want.students, key
        since = oracle.leader_since(school, *key)
        assert row["leader_since"] == since, key
        assert row["leader_days"] == (day - since).days + 1
        assert row["partition_key"] == f"{school.id}_{key[0]}_{day:%Y-%m}"
    return len(rows)


def load(database: Database, school: School) -> tuple[School, Institution]:
    school = oracle.renamed(school, next(_names))
    return school, worlds.load(database, school)


@settings(
    max_examples=3,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(worlds.schools(spans=(12, 30), events=(40, 120)), st.integers(0, 2**32))
@example(worlds.make_school(0, events=0), 0)
def test_all_trends_equal_the_reference_whatever_the_order(
    database: Database, school: School, seed: int
) -> None:
    chance = random.Random(seed)
    school, institution = load(database, school)
    first, last = worlds.span_of(school) if school.events else (date(2023, 1, 1),) * 2
    last += 3 * ONE_DAY
    # Not every day of every type: which were made changes nothing.
    pieces = []
    for type in oracle.TYPES:
        day = first
        while day <= last:
            end = min(last, day + timedelta(days=chance.choice((0, 0, 1, 4, 11))))
            if chance.random() < 0.85:
                pieces.append((type, day, end))
            day = end + ONE_DAY
    chance.shuffle(pieces)
    for piece in pieces:
        make(database, institution, *piece)
    made: dict[str, Collection[date]] = {
        type: {day for t, begin, end in pieces if t == type for day in days_between(begin, end)}
        for type in oracle.TYPES
    }
    rows = assert_trends_equal_the_reference(database, school, made)
    assert rows or not school.days or not any(made.values())
    # The gaps filled, then all once more, one granularity after the other: nothing is new the
    # second time.
    for type in oracle.TYPES:
        make(database, institution, type, first, last)
    days = list(days_between(first, last))
    assert_trends_equal_the_reference(database, school, dict.fromkeys(oracle.TYPES, days))
    with mock.patch.object(timeline, "RANKED_TOGETHER", 0):
        for type in oracle.TYPES:
            assert sum(r.written for r in make(database, institution, type, first, last)) == 0


@pytest.mark.parametrize("backwards", [False, True])
def test_a_late_event_moves_a_lead_in_any_order(database: Database, backwards: bool) -> None:
    """Somebody else led on one day in the middle after all: the lead begins anew after it."""
    school, institution = load(database, one_leader(days=9))
    first, last = worlds.span_of(school)
    days = list(days_between(first, last))
    make(database, institution, "CLASS", first, last)
    daily = "CLASS", "a", "daily"
    assert stored_trends(database, school.id)[*daily, last]["leader_days"] == 9

    late = school.events[4]._replace(id="late", student="s2", amount=50)
    school = oracle.renamed(school, school.id, events=(*school.events, late))
    with database.transaction() as connection:
        worlds.write_events(connection, institution.key, [late])
    middle = days[4]
    list(aggregates.materialize(database, institution, DayRange(middle, middle), RUN))
    again = days[4:]
    for day in reversed(again) if backwards else again:
        make(database, institution, "CLASS", day, day)
    assert stored_trends(database, school.id)[*daily, last]["leader_days"] == 4
    assert_trends_equal_the_reference(database, school, {"CLASS": days})


def test_a_board_that_vanishes_ends_a_lead(database: Database) -> None:
    school, institution = load(database, one_leader(days=6))
    first, last = worlds.span_of(school)
    days = list(days_between(first, last))
    make(database, institution, "CLASS", first, last)
    voided = school.events[2]._replace(status="VOIDED")
    school = oracle.renamed(
        school, school.id, events=(*school.events[:2], voided, *school.events[3:])
    )
    with database.transaction() as connection:
        worlds.write_events(connection, institution.key, [voided])
    list(aggregates.materialize(database, institution, DayRange(days[2], days[2]), RUN))
    for day in reversed(days):
        make(database, institution, "CLASS", day, day)
    assert_trends_equal_the_reference(database, school, {"CLASS": days})


def test_two_passes_at_once_over_neighbouring_days_join_their_leads(database: Database) -> None:
    """Each reads before the other writes: the later day first, its neighbour in between."""
    school, institution = load(database, one_leader(days=4))
    first, last = worlds.span_of(school)
    days = list(days_between(first, last))
    list(aggregates.materialize(database, institution, DayRange(first, last), RUN))
    later = trends.materialize(
        database, institution, BoardType.CLASS, DayRange(days[2], days[3]), RUN
    )
    next(later)
    make(database, institution, "CLASS", days[0], days[1])
    list(later)
    assert_trends_equal_the_reference(database, school, {"CLASS": days})


def season(race_days: list[date]) -> School:
    """One class that gets points on race days alone, over two terms; the lead changes, is tied and
    is lost by a penalty, and one race does not count.
    """
    points = [(9, 6, 4), (6, 9, 4), (1, 1, 9), (0, 0, 0), (9, 9, 9), (1, -9, 3), (2, 2, 9)]
    first, last = race_days[0] - 3 * ONE_DAY, race_days[-1] + 3 * ONE_DAY
    middle = race_days[len(race_days) // 2]
    terms = oracle.Term("t1", first, middle), oracle.Term("t2", middle + ONE_DAY, last)
    classes = oracle.SchoolClass("a", "f1", None, "t1"), oracle.SchoolClass("b", "f1", None, "t2")
    events = tuple(
        oracle.Event(
            f"e{race}-{driver}",
            f"s{driver}",
            "a" if day <= middle else "b",
            "f1",
            None,
            points[race % len(points)][driver],
            worlds.at_local(day, worlds.time(14), "Europe/London"),
            "VOIDED" if race == 3 else "ACTIVE",
            worlds.at_local(date(2025, 1, 1), worlds.time(0), "UTC"),
        )
        for race, day in enumerate(race_days)
        for driver in range(3)
    )
    students = "s0", "s1", "s2"
    return School("i", "Europe/London", terms, (), ("f1",), classes, students, (), events)


RACES = [date(2023, 3, 5) + timedelta(days=14 * race) for race in range(20)]


@pytest.mark.parametrize("type", ["CLASS", "SUBJECT"])
def test_leaders_lead_on_days_that_were_never_made(database: Database, type: str) -> None:
    """Race days alone, one by one in any order: as of all days in one pass."""
    school, institution = load(database, season(RACES))
    sparse = RACES[:]
    random.Random(4).shuffle(sparse)
    for day in sparse:
        make(database, institution, type, day, day)
    assert_trends_equal_the_reference(database, school, {type: RACES})
    alone = stored_trends(database, school.id)
    counted = [row["leader_days"] for key, row in alone.items() if key[2] == "all-time"]
    assert max(counted) > 28, "nobody led from one race to the third"

    whole, institution = load(database, school)
    make(database, institution, type, RACES[0], RACES[-1])
    whole_rows = stored_trends(database, whole.id)
    for key, row in alone.items():
        one = {name: value for name, value in row.items() if name != "partition_key"}
        other = {n: value for n, value in whole_rows[key].items() if n != "partition_key"}
        assert one == other, key


def test_leaders_are_followed_from_the_latest_day_that_is_current(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from the beginning; and not from a day whose trends are stale."""
    school, institution = load(database, season(RACES))
    followed: list[date] = []
    real = LeaderStreaks.add

    def add(self: LeaderStreaks, day: date, *sums: Any) -> None:
        followed.append(day)
        real(self, day, *sums)

    monkeypatch.setattr(LeaderStreaks, "add", add)
    first, known = RACES[0], RACES[10]
    make(database, institution, "SUBJECT", first, first)
    assert followed == []
    make(database, institution, "SUBJECT", known, known)
    assert followed == list(days_between(first + ONE_DAY, known - ONE_DAY))
    followed.clear()
    make(database, institution, "SUBJECT", known + ONE_DAY, known + 3 * ONE_DAY)
    make(database, institution, "SUBJECT", known + 4 * ONE_DAY, known + 4 * ONE_DAY)
    assert followed == []
    make(database, institution, "SUBJECT", RACES[15], RACES[15])
    assert followed == list(days_between(known + 5 * ONE_DAY, RACES[15] - ONE_DAY))

    # An event of race 5 is late: what was made after it is stale.
    late = school.events[15]._replace(id="late", student="s0", amount=500)
    school = oracle.renamed(school, school.id, events=(*school.events, late))
    with database.transaction() as connection:
        worlds.write_events(connection, institution.key, [late])
    list(aggregates.materialize(database, institution, DayRange(RACES[5], RACES[5]), RUN))
    followed.clear()
    make(database, institution, "SUBJECT", RACES[15], RACES[15])
    assert followed == list(days_between(first + ONE_DAY, RACES[15] - ONE_DAY))
    rows = stored_trends(database, school.id)
    since = rows["SUBJECT", "f1", "all-time", RACES[15]]["leader_since"]
    assert since == RACES[5]
    assert since == oracle.leader_since(school, "SUBJECT", "f1", "all-time", RACES[15])


def test_trends_of_the_release_before_become_stale(database: Database) -> None:
    """Their columns say less: the migration leaves them, and has them made again."""
    school, institution = load(database, season(RACES[:4]))
    days = DayRange(RACES[0], RACES[3])
    make(database, institution, "CLASS", days.first, days.last)
    downgrade(database, "0007")
    with database.transaction() as connection:
        # As the release before leaves them.
        connection.execute(
            "UPDATE lb.materialized_days SET through_version ="
            " (SELECT max(version) FROM lb.input_changes) WHERE asset LIKE '%trends'"
        )
    assert stale_ranges(database, institution) == []
    upgrade(database)
    assert list(find_stale_days(database, institution)) == ["class_trends"]
    with database.transaction() as connection:
        assert (
            currency.find_latest_current_day(connection, institution, "class_trends", days.last)
            is None
        )
    rows = stored_trends(database, school.id).values()
    assert rows
    assert {row["spearman_rho"] for row in rows} == {None}
    make(database, institution, "CLASS", days.first, days.last)
    assert_trends_equal_the_reference(database, school, {"CLASS": list(days)})
    assert stale_ranges(database, institution) == []


def one_leader(days: int) -> School:
    """One class in which s1 gets a point every day, s2 none."""
    day = date(2024, 2, 26)
    term = oracle.Term("t", day, day + timedelta(days=60))
    events = tuple(
        oracle.Event(
            f"e{number}",
            "s1",
            "a",
            None,
            None,
            1,
            worlds.at_local(day + timedelta(days=number), worlds.time(12), "UTC"),
            "ACTIVE",
            worlds.at_local(date(2025, 1, 1), worlds.time(0), "UTC"),
        )
        for number in range(days)
    )
    school_class = oracle.SchoolClass("a", "math", None, "t")
    return School("i", "UTC", (term,), (), ("math",), (school_class,), ("s1", "s2"), (), events)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12),
        max_size=8,
    )
)
@example([[(1, 2), (2, 1)], [], [(1, 1)], [(1, 1), (1, 2)], [(n, n) for n in range(40)]])
def test_kendalls_tau_of_many_groups_at_once(groups: list[list[tuple[int, int]]]) -> None:
    flat = [pair for group in groups for pair in group]
    x, y = (np.array([pair[i] for pair in flat], np.int32) for i in range(2))
    offsets = np.concatenate(([0], np.cumsum([len(group) for group in groups]))).astype(np.int64)
    for group, found in zip(groups, tau_b(x, y, offsets).tolist(), strict=True):
        expected = oracle.tau_b(group)
        if expected is None:
            assert np.isnan(found)
        else:
            assert found == pytest.approx(expected, abs=1e-12)


def test_kendalls_tau_of_groups_too_large_for_one_block() -> None:
    chance = np.random.default_rng(1)
    sizes = [1500, 3, 1500, 0, 700]
    x, y = (chance.integers(1, 50, sum(sizes)).astype(np.int32) for _ in range(2))
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    found = tau_b(x, y, offsets)
    for at in (1, 4):
        pairs = list(
            zip(
                x[offsets[at] : offsets[at + 1]].tolist(),
                y[offsets[at] : offsets[at + 1]].tolist(),
                strict=True,
            )
        )
        assert found[at] == pytest.approx(oracle.tau_b(pairs), abs=1e-12)
    assert np.isnan(found[3])
    assert np.abs(found[[0, 2]]).max() < 0.1
