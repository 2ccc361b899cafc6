"""Whether stored boards agree with themselves: read from the rows, not from what wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from psycopg.types.json import Jsonb

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


@dataclass(frozen=True)
class Verdict:
    """How many boards a day has, how many were looked at, how many are wrong, and one of those."""

    boards: int = 0
    looked_at: int = 0
    wrong: int = 0
    example: str | None = None


def wrong_boards(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    *,
    at_most: int | None = None,
) -> dict[date, Verdict]:
    """A verdict for each day of the range, by the institution's settings as they are now.

    `at_most`: look at that many boards of each day, drawn anew for every day; None: at all.
    """
    limits = {str(g): institution.limit(type, g) for g in Granularity}
    rows = queries.verification.wrong_boards(
        connection,
        institution_id=institution.id,
        type=type,
        first=days.first,
        last=days.last,
        method=institution.rank_method,
        limits=Jsonb(limits),
        at_most=2**31 if at_most is None else at_most,
    )
    found = {day: Verdict(*verdict) for day, *verdict in rows}
    return {day: found.get(day, Verdict()) for day in days}
