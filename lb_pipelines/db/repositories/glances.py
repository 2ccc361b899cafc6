"""A day's boards at a glance: the few that a person wants to see first; no student is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


@dataclass(frozen=True)
class BoardGlance:
    """The largest board of a granularity; `name` is the class's, subject's or campus's.

    `points` are those of the first three entries; `distribution` is packed, of all ranked.
    """

    granularity: str
    name: str
    ranked: int
    points: list[int]
    distribution: bytes


@dataclass(frozen=True)
class TrendGlance:
    """What has moved on the largest board of a granularity.

    `previous_ranks` and `ranks` are those of the first ten entries, None where there was none.
    """

    granularity: str
    name: str
    baseline: date
    ranked: int
    ranked_change: int
    leader_days: int
    leader_points: int
    retained_share: float | None
    previous_ranks: list[int | None]
    ranks: list[int]


@dataclass(frozen=True)
class AggregateGlance:
    """A day's aggregates without their cells: the events read, VOIDED included, and their state."""

    day: date
    source_rows: int
    revision: int
    watermark: datetime | None


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


def recent_aggregates(
    connection: Connection, institution: Institution, days: DayRange
) -> dict[date, AggregateGlance]:
    """The aggregated days of a range."""
    rows = queries.glances.recent_aggregates(
        connection, institution_key=institution.key, first=days.first, last=days.last
    )
    return {row[0]: AggregateGlance(*row) for row in rows}


def weekly_participation(
    connection: Connection, institution: Institution, type: BoardType, days: Sequence[date]
) -> list[tuple[str, date, int, int]]:
    """Name, day, ranked and enrolled of every weekly board of these days."""
    return list(
        queries.glances.weekly_participation(
            connection,
            institution_id=institution.id,
            institution_key=institution.key,
            type=type,
            days=list(days),
        )
    )


def largest_board(
    connection: Connection, institution: Institution, type: BoardType, day: date
) -> str | None:
    """The id of the largest board of the term, or of all time where there is no term."""
    found: str | None = queries.glances.largest_board(
        connection, institution_id=institution.id, type=type, day=day
    )
    return found
