"""What a caller gave as the domain's own types, or the error that says what is wrong with it."""

from __future__ import annotations

from datetime import date, datetime

from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.errors import InvalidSelection
from lb_pipelines.service.results import BoardKey

EARLIEST, LATEST = date(1970, 1, 2), date(2999, 12, 30)
"""So that neighbouring days, years and instants in any zone exist as well."""


def board_key(
    institution_id: str,
    type: BoardType | str,
    reference_id: str,
    granularity: Granularity | str,
) -> BoardKey:
    """Which board is meant."""
    try:
        return BoardKey(institution_id, board_type(type), reference_id, Granularity(granularity))
    except ValueError:
        raise InvalidSelection(
            f"{granularity!r} is no granularity", f"Use one of {', '.join(Granularity)}"
        ) from None


def board_type(value: BoardType | str) -> BoardType:
    """Which type is meant."""
    try:
        return BoardType(value)
    except ValueError:
        raise InvalidSelection(
            f"{value!r} is no type of board", f"Use one of {', '.join(BoardType)}"
        ) from None


def one_day(day: date) -> DayRange:
    """A day as a range."""
    return day_range(day, day)


def day_range(first: date, last: date) -> DayRange:
    """Days from first to last."""
    for day in (first, last):
        # An instant is a date to Python, but which day it is depends on the zone.
        if not isinstance(day, date) or isinstance(day, datetime):
            raise InvalidSelection(f"{day!r} is no day", "Give a datetime.date")
        if not EARLIEST <= day <= LATEST:
            raise InvalidSelection(
                f"{day} lies outside all that boards are made of",
                f"Give a day from {EARLIEST} to {LATEST}",
            )
    return DayRange(first, last)
