"""The instants at which days begin: the day of any instant is what a clock in the zone shows."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, date, datetime, time, timedelta
from importlib import resources
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lb_pipelines.core.day_starts import DayStarts, find_day_bounds, find_day_starts
from lb_pipelines.core.periods import DayRange, local_day
from lb_pipelines.core.zones import load_zone
from lb_pipelines.db.engine import Database
from lb_pipelines_tests.worlds import MOMENTS

ZONES = sorted(resources.files("tzdata").joinpath("zones").read_text().split())
ZONES.remove("Factory")
STEPS = [timedelta(seconds=s) for s in (-3601, -1800, -1, 0, 1, 59, 60, 1800, 3600)]


def offset_at(starts: DayStarts, instant: datetime) -> int | None:
    """What `(:offsets)[width_bucket(instant, :instants)]` gives between low and high."""
    if not starts.low <= instant < starts.high:
        return None
    return starts.offsets[bisect_right(starts.instants, instant) - 1]


def shown(zone: ZoneInfo, days: DayRange, instant: datetime) -> int | None:
    day = local_day(instant, zone)
    return (day - days.first).days if day in days else None


@settings(max_examples=400)
@given(
    st.sampled_from(ZONES),
    st.dates(date(1990, 1, 1), date(2037, 1, 1)),
    st.sampled_from((0, 0, 1, 2, 7, 40)),
    st.integers(-4 * 86_400, 45 * 86_400),
)
@example("Pacific/Apia", date(2011, 12, 30), 0, 0)
@example("America/St_Johns", date(2010, 11, 6), 1, 90_060)
@example("Antarctica/Casey", date(2010, 3, 4), 2, 0)
def test_an_instant_lies_on_the_day_that_a_clock_shows(
    name: str, first: date, length: int, seconds: int
) -> None:
    zone = load_zone(name)
    days = DayRange(first, first + timedelta(days=length))
    starts = find_day_starts(zone, days)
    anywhere = datetime.combine(first, time.min, UTC) + timedelta(seconds=seconds)
    for instant in [anywhere, *(at + step for at in starts.instants for step in STEPS)]:
        assert offset_at(starts, instant) == shown(zone, days, instant)


@pytest.mark.parametrize(("name", "pivot"), MOMENTS)
def test_every_minute_around_what_clocks_do(name: str, pivot: date) -> None:
    zone = load_zone(name)
    days = DayRange(pivot - timedelta(days=1), pivot + timedelta(days=1))
    starts = find_day_starts(zone, days)
    begin = datetime.combine(days.first, time.min, UTC) - timedelta(days=1)
    for minute in range(5 * 1440):
        instant = begin + timedelta(minutes=minute)
        assert offset_at(starts, instant) == shown(zone, days, instant), instant


def test_a_day_that_never_was_is_an_empty_interval() -> None:
    zone = load_zone("Pacific/Apia")
    begin, end = find_day_bounds(zone, date(2011, 12, 30))
    assert begin == end == datetime(2011, 12, 30, 10, tzinfo=UTC)
    assert find_day_bounds(zone, date(2011, 12, 29))[1] == begin
    assert find_day_bounds(zone, date(2011, 12, 31))[0] == end


@pytest.mark.parametrize(("name", "pivot"), MOMENTS)
def test_postgresql_reads_the_same_days_off_the_instants(
    database: Database, name: str, pivot: date
) -> None:
    zone = load_zone(name)
    days = DayRange(pivot - timedelta(days=2), pivot + timedelta(days=2))
    starts = find_day_starts(zone, days)
    instants = [at + step for at in starts.instants for step in STEPS]
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT CASE WHEN i >= %(low)s AND i < %(high)s THEN"
            " (%(offsets)s::integer[])[width_bucket(i, %(instants)s::timestamptz[])] END"
            " FROM unnest(%(asked)s::timestamptz[]) WITH ORDINALITY AS u (i, n) ORDER BY n",
            {**starts.parameters, "asked": instants},
        ).fetchall()
    assert [offset for (offset,) in rows] == [shown(zone, days, at) for at in instants]
