"""Which days of which institution are there, by asset; and since when there is an institution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


def made_days(
    connection: Connection, assets: Sequence[str], days: DayRange
) -> Mapping[tuple[str, str], frozenset[date]]:
    """By (institution id, asset) its materialized days in the range."""
    rows = queries.freshness.made_days(
        connection, assets=list(assets), first=days.first, last=days.last
    )
    return {(id, asset): frozenset(found) for id, asset, found in rows}


def since(connection: Connection) -> Mapping[str, datetime]:
    """When each active institution came."""
    return dict(queries.freshness.since(connection))
