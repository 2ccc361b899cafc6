"""What a report says of events before the first day that is a partition."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import local_day
from lb_pipelines.errors import InvalidInstitution

_AROUND_MIDNIGHT = timedelta(hours=4)
"""Clocks that are changed about midnight change by no more since 1970 (`periods`)."""


def describe_early_events(
    institution: Institution, instants: pa.ChunkedArray, start_day: date
) -> str | None:
    """How many of the institution's events lie before `start_day`, in its zone, and since when.

    None where there are none, and where its zone is none: that is named wherever it is used.
    """
    try:
        zone = institution.zone
    except InvalidInstitution:
        return None
    midnight = datetime.combine(start_day, time.min, zone).astimezone(UTC)
    doubtful_from = pa.scalar(midnight - _AROUND_MIDNIGHT, instants.type)
    doubtful_to = pa.scalar(midnight + _AROUND_MIDNIGHT, instants.type)
    early = pc.sum(pc.less(instants, doubtful_from)).as_py() or 0
    doubtful = instants.filter(
        pc.and_(pc.greater_equal(instants, doubtful_from), pc.less(instants, doubtful_to))
    )
    for counted in pc.value_counts(doubtful):
        if local_day(counted["values"].as_py(), zone) < start_day:
            early += counted["counts"].as_py()
    if not early:
        return None
    first = local_day(pc.min(instants).as_py(), zone)
    return (
        f"{institution.id}: {early:,} of the events lie before {start_day} (LB_START_DAY), the"
        f" first on {first}; they count in the boards of later days, and no day before"
        f" {start_day} is a partition"
    )
