"""Which days of an institution no longer say what the events say.

Two ways to be stale: a day's events changed after it was aggregated (seen by `updated_at`), or a
day's boards were made before an earlier day's aggregate changed. All-time boards hold every day
before them, so a change makes every later day stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, contiguous_ranges
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import ledger

# Before any event: look at everything, not only at what was updated lately.
EVER = datetime(1970, 1, 1, tzinfo=UTC)
# What is new is looked for among everybody's events at once, back to the earliest instant asked
# for. An institution that asks for much more than the others is to be asked by itself.
_LOOKED_AT_TOGETHER = timedelta(days=1)


def undisturbed(database: Database, asked: Sequence[tuple[Institution, datetime]]) -> set[str]:
    """The ids of those institutions of which nothing can have become stale since the instant of
    each (aware datetimes, with the slack of `stale_ranges`): one statement for all.

    For the others `stale_ranges` tells; it also does for one of which it was not known to be
    current at that instant.
    """
    latest = max((since for _, since in asked), default=EVER)
    together = [(one, since) for one, since in asked if since >= latest - _LOOKED_AT_TOGETHER]
    with database.transaction() as connection:
        disturbed = ledger.possibly_stale(connection, together)
    return {institution.id for institution, _ in together} - disturbed


def stale_ranges(
    database: Database, institution: Institution, updated_since: datetime = EVER
) -> list[DayRange]:
    """The days to materialize again, as contiguous ranges in ascending order; empty if current.

    Changed days themselves, and every materialized day from the first of them on. `updated_since`
    (an aware datetime) bounds the search to events updated from then on; give it some slack, for
    an event becomes visible only when its transaction commits.
    """
    with database.transaction(snapshot=True) as connection:
        changed = ledger.changed_days(connection, institution, updated_since)
        outdated = ledger.outdated_days(connection, institution)
        if not changed and not outdated:
            return []
        since = min([*changed[:1], *outdated[:1]])
        later = ledger.materialized_since(connection, institution, since)
    return contiguous_ranges([*changed, *later])
