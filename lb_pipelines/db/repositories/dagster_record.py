"""What Dagster's own record says of the partitions: green, failed, and how the last one went.

The database is the one that Dagster keeps its tables in.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories.completeness import day_ranges

Place = tuple[str, str]
"""Asset and institution."""


@dataclass(frozen=True)
class DagsterRecord:
    """By asset and institution: days that are green, and days whose last run failed, by run."""

    green: dict[Place, list[DayRange]] = field(default_factory=dict)
    failed: dict[Place, list[tuple[str, DayRange]]] = field(default_factory=dict)


def is_there(connection: Connection) -> bool:
    """Whether Dagster has its tables here."""
    found: bool = queries.dagster_record.is_there(connection)
    return found


def read(connection: Connection, assets: Iterable[str], days: DayRange) -> DagsterRecord:
    """The record of all institutions over a range of days, in two statements."""
    by_key = {_key(asset): asset for asset in assets}
    which = {
        "asset_keys": list(by_key),
        "first": _day(days.first),
        "last": _day(days.last + ONE_DAY),
    }
    green = {
        (by_key[key], institution_id): day_ranges(found)
        for key, institution_id, found in queries.dagster_record.green(connection, **which)
    }
    failed: dict[Place, list[tuple[str, DayRange]]] = defaultdict(list)
    for key, institution_id, run_id, found in queries.dagster_record.failed(connection, **which):
        failed[by_key[key], institution_id] += [(run_id, part) for part in day_ranges(found)]
    return DagsterRecord(green, dict(failed))


def materializations(
    connection: Connection, asset: str, partitions: list[str]
) -> list[tuple[str, str]]:
    """(institution, event as Dagster has serialized it) of the last one of each partition."""
    return list(
        queries.dagster_record.materializations(
            connection, asset_key=_key(asset), partitions=partitions
        )
    )


def _key(asset: str) -> str:
    """An asset's key as Dagster's tables have it."""
    return json.dumps([asset])


def _day(day: date) -> str:
    return day.isoformat()
