"""Calendar arithmetic: days, windows, baselines, terms."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lb_pipelines.core.periods import (
    DayRange,
    Term,
    academic_year,
    baseline_day,
    closed_through,
    contiguous_ranges,
    days_between,
    institution_term,
    month_start,
    next_month,
    week_start,
    window_start,
)
from lb_pipelines.core.words import Granularity
from lb_pipelines.errors import InvalidPartition
from lb_pipelines_tests import oracle

DAYS = st.dates(date(1999, 1, 1), date(2032, 12, 31))
TERM = Term("t", date(2023, 9, 1), date(2023, 12, 31))


@given(DAYS)
@example(date(2024, 2, 29))
@example(date(2023, 3, 1))
@example(date(2020, 12, 31))
@example(date(2021, 1, 3))
@example(date(2021, 1, 4))
def test_windows_and_baselines_are_those_of_the_calendar(day: date) -> None:
    school = oracle.School("i", "UTC", (), (), (), (), (), (), ())
    for granularity in Granularity:
        assert baseline_day(granularity, day) == oracle.baseline_day(granularity, day)
    for granularity in (Granularity.DAILY, Granularity.WEEKLY, Granularity.MONTHLY):
        start = window_start(granularity, day, term=None, first_event_day=day)
        assert start == oracle.period_start(school, "CLASS", "", granularity, day)
    assert week_start(day).isocalendar()[:2] == day.isocalendar()[:2]
    assert week_start(day).isocalendar()[2] == 1
    assert next_month(day) - timedelta(days=1) >= day
    assert month_start(next_month(day)) == next_month(day)
    assert next_month(day) - month_start(day) <= timedelta(days=31)


@pytest.mark.parametrize(
    ("granularity", "day", "baseline"),
    [
        (Granularity.DAILY, date(2024, 3, 1), date(2024, 2, 29)),
        (Granularity.WEEKLY, date(2024, 1, 1), date(2023, 12, 31)),
        (Granularity.WEEKLY, date(2024, 1, 7), date(2023, 12, 31)),
        (Granularity.MONTHLY, date(2024, 3, 31), date(2024, 2, 29)),
        (Granularity.MONTHLY, date(2024, 1, 1), date(2023, 12, 31)),
        (Granularity.TERM, date(2024, 1, 3), date(2023, 12, 27)),
        (Granularity.ALL_TIME, date(2024, 3, 7), date(2024, 2, 29)),
    ],
)
def test_baselines_as_the_design_says_them(
    granularity: Granularity, day: date, baseline: date
) -> None:
    assert baseline_day(granularity, day) == baseline


def test_a_term_board_exists_on_both_ends_of_its_term_and_not_beyond() -> None:
    def start(day: date) -> date | None:
        return window_start(Granularity.TERM, day, term=TERM, first_event_day=date(2020, 1, 1))

    assert start(TERM.starts_on) == start(TERM.ends_on) == TERM.starts_on
    assert start(TERM.starts_on - timedelta(days=1)) is None
    assert start(TERM.ends_on + timedelta(days=1)) is None
    assert (
        window_start(Granularity.TERM, TERM.starts_on, term=None, first_event_day=date(2020, 1, 1))
        is None
    )


def test_all_time_begins_with_the_first_event() -> None:
    first = date(2023, 5, 5)
    for day, start in ((first, first), (date(2030, 1, 1), first), (date(2023, 5, 4), None)):
        assert window_start(Granularity.ALL_TIME, day, term=None, first_event_day=first) == start


def test_of_overlapping_terms_the_latest_start_counts_whatever_their_order() -> None:
    year = Term("year", date(2023, 8, 1), date(2024, 7, 31))
    autumn = Term("autumn", date(2023, 9, 1), date(2023, 12, 31))
    longer = Term("longer", date(2023, 9, 1), date(2024, 1, 15))
    twin = Term("a-twin", date(2023, 9, 1), date(2024, 1, 15))
    day = date(2023, 10, 1)
    for terms in ([year, autumn], [autumn, year]):
        assert institution_term(terms, day) == autumn
    for terms in ([year, autumn, longer, twin], [twin, longer, autumn, year]):
        assert institution_term(terms, day) == twin
    assert institution_term([year, autumn], date(2024, 2, 1)) == year
    assert institution_term([year, autumn], date(2025, 2, 1)) is None
    assert institution_term([], day) is None


@given(st.lists(st.dates(date(2023, 12, 1), date(2024, 3, 5)), max_size=40))
def test_any_set_of_days_becomes_the_fewest_ranges(days: list[date]) -> None:
    ranges = contiguous_ranges(days)
    assert [day for range_ in ranges for day in range_] == sorted(set(days))
    for earlier, later in zip(ranges, ranges[1:], strict=False):
        assert later.first - earlier.last > timedelta(days=1)


def test_a_range_of_days() -> None:
    days = DayRange(date(2023, 12, 30), date(2024, 1, 2))
    assert len(days) == 4 == len(list(days))
    assert date(2023, 12, 30) in days
    assert date(2024, 1, 2) in days
    assert date(2023, 12, 29) not in days
    assert date(2024, 1, 3) not in days
    assert list(DayRange(days.first, days.first)) == [days.first]
    assert list(days_between(days.last, days.first)) == []
    with pytest.raises(InvalidPartition, match="2024-01-02 to 2023-12-30"):
        DayRange(days.last, days.first)


def test_the_last_closed_day_is_yesterday_there() -> None:
    now = datetime(2023, 7, 1, 10, 30, tzinfo=UTC)
    assert closed_through(now, ZoneInfo("UTC")) == date(2023, 6, 30)
    assert closed_through(now, ZoneInfo("Pacific/Kiritimati")) == date(2023, 7, 1)
    assert closed_through(now, ZoneInfo("Pacific/Pago_Pago")) == date(2023, 6, 29)


def test_academic_years_begin_in_their_month() -> None:
    assert academic_year(date(2023, 7, 31), 8) == "2022-2023"
    assert academic_year(date(2023, 8, 1), 8) == "2023-2024"
    assert academic_year(date(2024, 2, 29), 8) == "2023-2024"
    assert academic_year(date(2023, 1, 1), 1) == "2023-2024"
    assert academic_year(date(2023, 12, 31), 1) == "2023-2024"
