"""Renewals of archived snapshots: the archive's copies, their originals, the ledger of both.

Only on purpose, and under no legal hold. What a copy said before stays in `lb.archive_revisions`
by its hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import academic_years_around
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import holds
from lb_pipelines.errors import UnderLegalHold


@dataclass(frozen=True)
class Renewal:
    """A run that was told to make archived snapshots anew; `today` is the institution's own."""

    run_id: str
    today: date


def renew(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    day: date,
    renewal: Renewal,
) -> None:
    """Make the day's archived snapshots and their originals say what is staged, each copy that
    changes with another revision; those of boards that are not staged go.

    Raises `UnderLegalHold` where a hold in force covers them.
    """
    for hold in holds.in_force(connection, institution, renewal.today):
        if hold.covers(type, day):
            raise UnderLegalHold(
                f"Institution {institution.id!r}: the archived {type} boards of {day}",
                hold.number,
                hold.placed_by,
                hold.reason,
            )
    which = {
        "institution_id": institution.id,
        "type": type.value,
        "day": day,
        "academic_years": academic_years_around(day),
    }
    queries.revisions.renew_originals(connection, **which)
    queries.revisions.remove_originals(connection, **which)
    queries.revisions.renew_copies(
        connection, **which, institution_key=institution.key, run_id=renewal.run_id
    )
