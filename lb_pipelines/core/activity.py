"""Until when an institution's days are expected: what ended is not expected for ever.

Pure arithmetic over the last event and the last term; that a day is late or missing is said
elsewhere, of expected days alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from lb_pipelines.core.periods import ONE_DAY, local_day, next_month

_LONGEST_BASELINE = timedelta(days=7)


@dataclass(frozen=True)
class Activity:
    """The last event of an institution and the last day of its last term; None: it has none."""

    last_event_at: datetime | None = None
    last_term_day: date | None = None

    def last_expected_day(self, zone: ZoneInfo) -> date:
        """The last day that is expected to be materialized.

        The last active day is that of the last event or the last day of the last term, whichever
        is later. Boards can change until its windows have ended: the week and, after it, the month.
        Trends compare with a day up to 7 days before. So the last expected day is the end of the
        month of the last active day, or 7 days after that day, whichever is later. Without events
        and terms there is no such day, and `date.max` is given.
        """
        days = [] if self.last_event_at is None else [local_day(self.last_event_at, zone)]
        if self.last_term_day is not None:
            days.append(self.last_term_day)
        last = max(days, default=date.max)
        if last > date.max - timedelta(days=31):
            return date.max
        return max(next_month(last) - ONE_DAY, last + _LONGEST_BASELINE)
