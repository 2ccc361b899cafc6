"""Legal holds as the ledger has them: in force, or every one with who placed and released it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.retention import Hold
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


@dataclass(frozen=True)
class HoldEntry:
    """A hold with its history."""

    institution_id: str
    hold: Hold
    placed_at: datetime
    released_by: str | None
    released_at: datetime | None


def in_force(connection: Connection, institution: Institution, today: date) -> list[Hold]:
    """The institution's holds that hold on this day, the oldest first."""
    return [hold for hold in of(connection, institution) if hold.in_force(today)]


def of(connection: Connection, institution: Institution) -> list[Hold]:
    """All holds of an institution, those that are over included, the oldest first."""
    rows = queries.holds.of_institution(connection, institution_key=institution.key)
    return [_hold(*row) for row in rows]


def every(connection: Connection, institution: Institution | None = None) -> list[HoldEntry]:
    """Every hold ever placed, of one institution or of all, by institution and number."""
    rows = queries.holds.every(connection, institution_key=institution and institution.key)
    return [
        HoldEntry(id, _hold(*fields), placed_at, released_by, released_at)
        for id, *fields, placed_at, released_by, released_at in rows
    ]


def place(
    connection: Connection,
    institution: Institution,
    *,
    type: BoardType | None,
    first_month: date | None,
    last_month: date | None,
    until: date | None,
    reason: str,
    placed_by: str,
) -> int:
    """Enter a hold; gives its number."""
    number: int = queries.holds.place(
        connection,
        institution_key=institution.key,
        type=type,
        first_month=first_month,
        last_month=last_month,
        until=until,
        reason=reason,
        placed_by=placed_by,
    )
    return number


def release(
    connection: Connection, institution: Institution, number: int, released_by: str
) -> bool:
    """End a hold; False where the institution has none of this number that is not yet released."""
    released: int = queries.holds.release(
        connection, institution_key=institution.key, hold=number, released_by=released_by
    )
    return released == 1


def _hold(number: int, type: str | None, *rest: Any) -> Hold:
    return Hold(number, None if type is None else BoardType(type), *rest)
