"""How far each institution's materialized days have got: what schedules and sensors ask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import date, datetime

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


def complete_days(
    connection: Connection, assets: Collection[str], days: DayRange
) -> dict[str, set[date]]:
    """By institution id the days of a range for which every one of these assets is there."""
    complete: dict[str, set[date]] = defaultdict(set)
    for institution_id, day in queries.progress.complete_days(
        connection, assets=list(assets), first=days.first, last=days.last
    ):
        complete[institution_id].add(day)
    return dict(complete)


def last_written(
    connection: Connection, institution: Institution, days: DayRange
) -> datetime | None:
    """When any asset of any of these days was last materialized; None: never."""
    found: datetime | None = queries.progress.last_written(
        connection, institution_key=institution.key, first=days.first, last=days.last
    )
    return found
