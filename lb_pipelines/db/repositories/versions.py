"""The versions of an institution's months: who changes boards raises them, who keeps boards asks.

A version is raised in the transaction that changes the boards, trends or archive of a month, as
its last statement: everybody else who changes that month waits for it until the commit, and one
who waited with rows locked could be waited for.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, month_start
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database

EVER = DayRange(date.min, date.max)
"""For what depends on all months."""


def raise_versions(
    connection: Connection, institution: Institution, type_months: Iterable[tuple[BoardType, date]]
) -> None:
    """Say that boards of these types have changed in these months; the last statement of a
    transaction.

    Any day stands for its month, and the same may be named more than once. None: nothing is done.
    """
    raised = sorted({(type.value, month_start(day)) for type, day in type_months})
    if raised:
        types, months = map(list, zip(*raised, strict=True))
        queries.versions.raise_versions(
            connection, institution_key=institution.key, types=types, months=months
        )


def version_of(
    database: Database, institution_id: str, types: Iterable[BoardType], days: DayRange
) -> str | None:
    """What changes whenever boards of these types and days do, or the institution itself; None
    where there is no such institution.

    One prepared statement on a connection in autocommit, because it is asked at every reading. It
    carries nothing but numbers, so it is not read as lb_reader.
    """
    parameters = {
        "institution_id": institution_id,
        "types": [type.value for type in types],
        "first": month_start(days.first),
        "last": days.last,
    }
    statement = queries.versions.version_of.sql
    row = database.at_once(
        lambda connection: connection.execute(statement, parameters, prepare=True).fetchone()
    )
    return f"{row[0]}:{row[1]}" if row else None
