"""A day's boards at a glance: the few that a person wants to see first; no student is named."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


@dataclass(frozen=True)
class BoardGlance:
    """The largest board of a granularity; `name` is the class's, subject's or campus's.

    `points` are those of the first three entries.
    """

    granularity: str
    name: str
    ranked: int
    points: list[int]


@dataclass(frozen=True)
class TrendGlance:
    """What has moved on the largest board of a granularity."""

    granularity: str
    name: str
    baseline: date
    ranked: int
    ranked_change: int
    leader_days: int
    leader_points: int
    retained_share: float | None


def largest_snapshots(
    connection: Connection, institution: Institution, type: BoardType, day: date
) -> list[BoardGlance]:
    """Of each granularity the board with the most ranked students."""
    rows = queries.glances.largest_snapshots(
        connection, institution_id=institution.id, type=type, day=day
    )
    return [BoardGlance(*row) for row in rows]


def largest_trends(
    connection: Connection, institution: Institution, type: BoardType, day: date
) -> list[TrendGlance]:
    """Of each granularity the trend of the board with the most ranked students."""
    rows = queries.glances.largest_trends(
        connection, institution_id=institution.id, type=type, day=day
    )
    return [TrendGlance(*row) for row in rows]
