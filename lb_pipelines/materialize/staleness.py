"""Which materialized days are older than a change of what they are computed from.

The database enters every change in a ledger (`db.repositories.input_changes`) with the days and
assets that it can touch; a day is stale where an entry that touches it is newer than the version
that its inputs were read up to. Nothing here depends on how long ago a change was made.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, contiguous_ranges
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import input_changes
from lb_pipelines.db.repositories.input_changes import StaleDays


def find_changed(database: Database, institutions: Collection[Institution]) -> set[str]:
    """The ids of those institutions of which anything can be stale: one statement for all.

    Of the others nothing is.
    """
    with database.transaction() as connection:
        return input_changes.find_changed_institutions(connection, institutions)


def find_stale_days(database: Database, institution: Institution) -> StaleDays:
    """By asset the days to materialize again, as contiguous ascending ranges; empty if current."""
    with database.transaction() as connection:
        return input_changes.find_stale_days(connection, [institution]).get(institution.id, {})


def stale_ranges(database: Database, institution: Institution) -> list[DayRange]:
    """The days of which some asset is to be materialized again, as ascending ranges."""
    return join_ranges(find_stale_days(database, institution).values())


def join_ranges(ranges: Collection[Sequence[DayRange]]) -> list[DayRange]:
    """The days of any of these ranges, as the fewest ranges."""
    return contiguous_ranges(day for of_one in ranges for days in of_one for day in days)


def settle(database: Database, institution: Institution, now: datetime) -> bool:
    """Take the changes so far for done with, where nothing is stale; the institution then no longer
    counts as changed.
    """
    return input_changes.settle(database, institution, now)
