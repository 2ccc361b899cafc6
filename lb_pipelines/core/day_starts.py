"""The instants at which an institution's days begin: the one clock of everything that reads events.

They come from the zone rules of `core.zones` alone and are handed to PostgreSQL as instants, so
that no SQL converts a zone and the server's own zone data cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from lb_pipelines.core.periods import ONE_DAY, DayRange, days_between, local_day, month_start

_NOON = time(12)
_RESOLUTION = timedelta(microseconds=1)


@dataclass(frozen=True)
class DayStarts:
    """When clocks in a zone begin to show each of some days.

    `instants`, ascending and in UTC, cut time into segments: from `instants[i]` until before
    `instants[i + 1]` clocks show the day `first + offsets[i]`, or, where that is None, a day out of
    the range. The last instant ends the last segment and has no offset. A day has several segments
    where clocks go back across midnight, and none where a zone skips it.
    """

    first: date
    instants: tuple[datetime, ...]
    offsets: tuple[int | None, ...]

    @property
    def low(self) -> datetime:
        """The first instant of any of the days."""
        return self.instants[0]

    @property
    def high(self) -> datetime:
        """The first instant after all of them."""
        return self.instants[-1]

    @property
    def parameters(self) -> dict[str, object]:
        """What SQL takes to read the day of an event off its instant: the offset is
        `(:offsets)[width_bucket(occurred_at, :instants)]` for events from `low` until before
        `high`.
        """
        return {
            "instants": list(self.instants),
            "offsets": list(self.offsets),
            "low": self.low,
            "high": self.high,
        }


def find_day_starts(zone: ZoneInfo, days: DayRange) -> DayStarts:
    """When each day of the range begins in `zone`."""
    changes = list(_changes_around(zone, days))
    inside = [at for at, (_, day) in enumerate(changes) if day in days]
    if not inside:
        # All days of the range are skipped: an empty interval where they would lie.
        instant = next(instant for instant, day in changes if day > days.last)
        return DayStarts(days.first, (instant, instant), (None,))
    chosen = changes[inside[0] : inside[-1] + 2]
    return DayStarts(
        days.first,
        tuple(instant for instant, _ in chosen),
        tuple((day - days.first).days if day in days else None for _, day in chosen[:-1]),
    )


def find_day_bounds(zone: ZoneInfo, day: date) -> tuple[datetime, datetime]:
    """The first instant of a day and the first one after it, in UTC; equal for a skipped day."""
    starts = find_day_starts(zone, DayRange(day, day))
    return starts.low, starts.high


def _changes_around(zone: ZoneInfo, days: DayRange) -> Iterator[tuple[datetime, date]]:
    """(instant, day from then on) of each change of the local day in the months of these days, and
    at least one change into and one out of the range.
    """
    month, last = month_start(days.first - 2 * ONE_DAY), days.last + 3 * ONE_DAY
    while month <= last:
        yield from _changes_of_month(zone, month)
        month = month_start(month + timedelta(days=32))


@lru_cache(maxsize=4096)
def _changes_of_month(zone: ZoneInfo, month: date) -> tuple[tuple[datetime, date], ...]:
    """The changes between the noon before the first of a month and the noon of its last day."""
    end = month_start(month + timedelta(days=32)) - ONE_DAY
    noons = [_instant(zone, day, _NOON) for day in days_between(month - ONE_DAY, end)]
    changes: list[tuple[datetime, date]] = []
    for begin, until in zip(noons, noons[1:], strict=False):
        changes += _changes_between(zone, begin, until)
    return tuple(changes)


def _changes_between(
    zone: ZoneInfo, begin: datetime, until: datetime
) -> Iterator[tuple[datetime, date]]:
    """The changes of the local day from `begin` until before `until`, between which the offset from
    UTC changes once at most.
    """
    if begin >= until:
        return
    parts = [(begin, until)]
    if _offset(zone, begin) != _offset(zone, until):
        transition = _find_transition(zone, begin, until)
        parts = [(begin, transition), (transition, until)]
    day = local_day(begin - _RESOLUTION, zone)
    for low, high in parts:
        offset = _offset(zone, low)
        if (shown := local_day(low, zone)) != day:
            yield low, shown
            day = shown
        midnight = datetime.combine(day + ONE_DAY, time.min, UTC) - offset
        if low < midnight < high:
            day += ONE_DAY
            yield midnight, day


def _find_transition(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The first whole second at which the offset is no longer that at `low`."""
    before = _offset(zone, low)
    while (gap := (high - low) // timedelta(seconds=1)) > 1:
        middle = low + timedelta(seconds=gap // 2)
        if _offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _instant(zone: ZoneInfo, day: date, at: time) -> datetime:
    return datetime.combine(day, at, zone).astimezone(UTC)


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
