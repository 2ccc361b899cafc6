"""What is there of an institution's days, what it weighs, and what of it lies in the archive."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, academic_years_around
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection

RangesByAsset = dict[str, list[DayRange]]
_YEAR = timedelta(days=365)


def made(connection: Connection, institution: Institution, days: DayRange) -> RangesByAsset:
    """By asset the days of a range that the ledger has."""
    return _by_asset(
        queries.completeness.made(
            connection, institution_key=institution.key, first=days.first, last=days.last
        )
    )


def rows_near(
    connection: Connection, institution: Institution, asset: str, days: DayRange, at_most: int
) -> list[tuple[date, int]]:
    """(day, rows) of an asset's days that are made, those within a range and the nearest first."""
    return list(
        queries.completeness.rows_near(
            connection,
            institution_key=institution.key,
            asset=asset,
            first=days.first,
            last=days.last,
            at_most=at_most,
        )
    )


def days_not_aggregated(
    connection: Connection, institution: Institution, first_event_day: date, before: date
) -> int:
    """How many days from the first event on, before a day, have never been aggregated."""
    if first_event_day >= before:
        return 0
    aggregated: int = queries.completeness.aggregated_days(
        connection, institution_key=institution.key, first=first_event_day, last=before - ONE_DAY
    )
    return (before - first_event_day).days - aggregated


def row_bytes(
    connection: Connection, institution: Institution, type: BoardType, day: date, *, trends: bool
) -> int | None:
    """What a row of a day weighs on average, without indexes; None where there is none."""
    ask = queries.completeness.trend_bytes if trends else queries.completeness.snapshot_bytes
    found: int | None = ask(connection, institution_id=institution.id, type=type, day=day)
    return found


def archived_rows(
    connection: Connection, institution: Institution, type: BoardType, days: DayRange
) -> dict[date, int]:
    """By day how many snapshots of a type are in the archive."""
    years: set[str] = set()
    day = days.first
    while day <= days.last:
        years.update(academic_years_around(day))
        day += _YEAR
    years.update(academic_years_around(days.last))
    rows = queries.completeness.archived_rows(
        connection,
        institution_id=institution.id,
        type=type,
        first=days.first,
        last=days.last,
        academic_years=sorted(years),
    )
    return dict(rows)


def _by_asset(rows: Iterable[tuple[str, Any]]) -> RangesByAsset:
    return {asset: day_ranges(found) for asset, found in rows}


def day_ranges(multirange: Iterable[Any]) -> list[DayRange]:
    """A datemultirange of PostgreSQL, whose ranges are half open."""
    return [DayRange(one.lower, one.upper - ONE_DAY) for one in multirange]
