"""What has expired, and whether the archive and the originals agree: read, nothing moved."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.retention import Holding
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


@dataclass(frozen=True)
class DueDay:
    """How many snapshots of one type and day a sweep would move."""

    type: BoardType
    day: date
    rows: int


def holdings(
    connection: Connection, institution: Institution, granularity: Granularity, cutoff: date
) -> list[Holding]:
    """ACTIVE snapshots older than a cutoff, by type, day and until when they were restored."""
    rows = queries.retention.holdings(
        connection, institution_id=institution.id, granularity=granularity, cutoff=cutoff
    )
    return [
        Holding(BoardType(type), granularity, day, until, count, bytes)
        for type, day, until, count, bytes in rows
    ]


def due_days(
    connection: Connection,
    institution: Institution,
    granularity: Granularity,
    cutoff: date,
    today: date,
) -> list[DueDay]:
    """Where a sweep has something to do, by type and day."""
    rows = queries.retention.due_days(
        connection,
        institution_id=institution.id,
        institution_key=institution.key,
        granularity=granularity,
        cutoff=cutoff,
        today=today,
    )
    return [DueDay(BoardType(type), day, count) for type, day, count in rows]
