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
    begins: list[date] = []
    lasts: list[date] = []
    current = None
    for day in days:
        start = _period_start(granularity, day, term_on)
        if start is None:
            continue
        if start == current and not every_day:
            lasts[-1] = day
        else:
            begins.append(day)
            lasts.append(day)
            current = start
    return [DayRange(*ends) for ends in zip(reversed(begins), reversed(lasts), strict=True)]


def _period_start(granularity: Granularity, day: date, term_on: TermOn) -> date | None:
    if granularity is Granularity.ALL_TIME:
        return month_start(day)
    term = term_on(day) if granularity is Granularity.TERM else None
    return window_start(granularity, day, term=term, first_event_day=day)
