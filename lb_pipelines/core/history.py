"""Which days close a period of a board: what a history shows one snapshot of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from lb_pipelines.core.periods import ONE_DAY, DayRange, Term, month_start, window_start
from lb_pipelines.core.words import Granularity

TermOn = Callable[[date], Term | None]


def periods(
    granularity: Granularity, days: DayRange, term_on: TermOn, *, every_day: bool = False
) -> list[DayRange]:
    """The periods of a range of days, newest first, each cut to the range.

    Days belong to one period as long as their window begins on the same day: a day, an ISO week, a
    month, a term; all-time boards, whose window never ends, have a period a month. Days outside
    every term have no TERM board and lie in no period. With `every_day` each day is its own.
    """
    found: list[DayRange] = []
    current: date | None = None
    day = days.last
    while day >= days.first:
        start = _period_start(granularity, day, term_on)
        # Terms may overlap, so that each of their days has to be asked; other periods have no gaps.
        whole = not every_day and granularity is not Granularity.TERM
        first = max(start, days.first) if whole and start is not None else day
        if start is not None:
            if start == current and not every_day:
                found[-1] = DayRange(first, found[-1].last)
            else:
                found.append(DayRange(first, day))
        current = start
        day = first - ONE_DAY
    return found


def _period_start(granularity: Granularity, day: date, term_on: TermOn) -> date | None:
    if granularity is Granularity.ALL_TIME:
        return month_start(day)
    term = term_on(day) if granularity is Granularity.TERM else None
    return window_start(granularity, day, term=term, first_event_day=day)
