"""When a day of an institution is late: some hours after its own midnight, not anybody else's."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from lb_pipelines.core.periods import ONE_DAY

DUE = timedelta(hours=4)
"""After the midnight that ends a day, by when the day has to be there."""


@dataclass(frozen=True)
class Punctuality:
    """Days of an institution that are not there: `late` ones, and `awaited` ones not due yet.

    `due` is when the first of the awaited days, else of the late ones, has or had to be there.
    """

    late: tuple[date, ...]
    awaited: tuple[date, ...]
    due: datetime | None


def due_at(day: date, zone: ZoneInfo, since: datetime) -> datetime:
    """When a day has to be there; of an institution that came later, as long after it came."""
    midnight = datetime.combine(day + ONE_DAY, time.min, zone).astimezone(UTC)
    return max(midnight, since.astimezone(UTC)) + DUE


def punctuality(
    expected: Iterable[date],
    there: Collection[date],
    zone: ZoneInfo,
    since: datetime,
    now: datetime,
) -> Punctuality:
    """Which of the expected days are late at `now` and which may still come; both ascending.

    `since`: when the institution came; both are aware datetimes.
    """
    missing = {day: due_at(day, zone, since) for day in sorted(expected) if day not in there}
    late = tuple(day for day, due in missing.items() if due <= now)
    awaited = tuple(day for day, due in missing.items() if due > now)
    first = (awaited or late or (None,))[0]
    return Punctuality(late, awaited, missing[first] if first else None)
