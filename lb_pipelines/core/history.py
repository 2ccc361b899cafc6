"""Which days close a period of a board: what a history shows one snapshot of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from lb_pipelines.core.periods import DayRange, Term, month_start, window_start
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
    found: list[tuple[date, DayRange]] = []
    for day in days:
        start = _period_start(granularity, day, term_on)
        if start is None:
            continue
        if found and found[-1][0] == start and not every_day:
            found[-1] = (start, DayRange(found[-1][1].first, day))
        else:
            found.append((start, DayRange(day, day)))
    return [period for _, period in reversed(found)]


def _period_start(granularity: Granularity, day: date, term_on: TermOn) -> date | None:
    if granularity is Granularity.ALL_TIME:
        return month_start(day)
    term = term_on(day) if granularity is Granularity.TERM else None
    return window_start(granularity, day, term=term, first_event_day=day)
