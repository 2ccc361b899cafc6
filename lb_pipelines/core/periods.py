"""Calendar arithmetic: local days, windows, baselines. Everything here is pure.

A day is a `datetime.date` in the institution's own zone; windows are closed on both ends and end
on their day. What a window is for each granularity is said once, in `window_start`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from lb_pipelines.core.words import Granularity
from lb_pipelines.errors import InvalidPartition

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class DayRange:
    """The days from `first` to `last`, both included; never empty."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise InvalidPartition(
                f"The range of days {self.first} to {self.last} runs backwards",
                "Give the earlier day first",
            )

    def __iter__(self) -> Iterator[date]:
        return days_between(self.first, self.last)

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last


@dataclass(frozen=True)
class Term:
    """A term of an institution; both ends belong to it."""

    id: str
    starts_on: date
    ends_on: date

    def holds(self, day: date) -> bool:
        """Whether `day` lies in the term."""
        return self.starts_on <= day <= self.ends_on


def days_between(first: date, last: date) -> Iterator[date]:
    """All days from `first` to `last`, both included; none where `last` is earlier."""
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)


def contiguous_ranges(days: Iterable[date]) -> list[DayRange]:
    """Any set of days as the fewest ranges, in ascending order."""
    ranges: list[DayRange] = []
    for day in sorted(set(days)):
        if ranges and ranges[-1].last + ONE_DAY == day:
            ranges[-1] = DayRange(ranges[-1].first, day)
        else:
            ranges.append(DayRange(day, day))
    return ranges


def month_start(day: date) -> date:
    """The first of the month of `day`."""
    return day.replace(day=1)


def next_month(day: date) -> date:
    """The first of the month after that of `day`."""
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)


def week_start(day: date) -> date:
    """The ISO Monday of the week of `day`."""
    return day - timedelta(days=day.weekday())


def institution_term(terms: Sequence[Term], day: date) -> Term | None:
    """The term whose TERM board a subject or campus has on `day`; None outside all terms.

    Where several hold the day the latest start wins; of equal starts the later end, then the
    smaller id, so that the choice never depends on the order of rows.
    """
    holding = [term for term in terms if term.holds(day)]
    if not holding:
        return None
    latest = max((term.starts_on, term.ends_on) for term in holding)
    return min(
        (term for term in holding if (term.starts_on, term.ends_on) == latest),
        key=lambda term: term.id,
    )


def window_start(
    granularity: Granularity, day: date, *, term: Term | None, first_event_day: date
) -> date | None:
    """First day of the window that ends on `day`; None where there is no such board.

    `term` is the board's term on that day (`institution_term`, or a class's own term where it
    holds the day); `first_event_day` is the institution's first day with an ACTIVE event.
    """
    match granularity:
        case Granularity.DAILY:
            return day
        case Granularity.WEEKLY:
            return week_start(day)
        case Granularity.MONTHLY:
            return month_start(day)
        case Granularity.TERM:
            return term.starts_on if term is not None and term.holds(day) else None
        case Granularity.ALL_TIME:
            return first_event_day if first_event_day <= day else None


def baseline_day(granularity: Granularity, day: date) -> date:
    """The day whose snapshot of the same board a trend compares with (DESIGN, Trends)."""
    match granularity:
        case Granularity.DAILY:
            return day - ONE_DAY
        case Granularity.WEEKLY:
            return week_start(day) - ONE_DAY
        case Granularity.MONTHLY:
            return month_start(day) - ONE_DAY
        case Granularity.TERM | Granularity.ALL_TIME:
            return day - timedelta(days=7)


def local_day(instant: datetime, zone: ZoneInfo) -> date:
    """The calendar day that clocks in `zone` show at `instant` (an aware datetime)."""
    return instant.astimezone(zone).date()


def closed_through(now: datetime, zone: ZoneInfo) -> date:
    """The last day that is over in `zone` at `now`: yesterday there."""
    return local_day(now, zone) - ONE_DAY


def academic_year(day: date, start_month: int) -> str:
    """The academic year of `day` as `2023-2024`, for years that begin in month `start_month`."""
    first = day.year if day.month >= start_month else day.year - 1
    return f"{first}-{first + 1}"


def academic_years_around(day: date) -> list[str]:
    """The academic years that `day` can lie in, whatever month an institution's years begin in."""
    return [f"{day.year - 1}-{day.year}", f"{day.year}-{day.year + 1}"]
