"""Legal holds: what nobody may archive, purge, renew or erase until it is released.

Placed and released while nobody else writes the institution: what was in flight has been committed
before, and whatever comes after sees the hold. `core.retention.Hold` says what a hold covers.
"""

from __future__ import annotations

from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import month_start
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import holds, writers
from lb_pipelines.errors import InvalidHold
from lb_pipelines.retention.actor import Actor


def place(
    database: Database,
    institution: Institution,
    *,
    type: BoardType | None = None,
    first_month: date | None = None,
    last_month: date | None = None,
    until: date | None = None,
    reason: str,
    today: date,
    actor: Actor,
) -> int:
    """Place a hold and give its number; any day of a month stands for it.

    None: all types, from the first month, without end. `until` is the last day in force. Raises
    `InvalidHold` where this cannot be meant.
    """
    reason = reason.strip()
    if not reason:
        raise InvalidHold(
            f"A legal hold on institution {institution.id!r} without a reason",
            "Say why: a case, an audit, a request",
        )
    if not actor.name.strip():
        raise InvalidHold(
            f"A legal hold on institution {institution.id!r} that nobody places",
            "Say who places it",
        )
    first = first_month and month_start(first_month)
    last = last_month and month_start(last_month)
    if first and last and last < first:
        raise InvalidHold(
            f"The months {first:%Y-%m} to {last:%Y-%m} of a legal hold run backwards",
            "Give the earlier month first",
        )
    if until is not None and until < today:
        raise InvalidHold(
            f"A legal hold until {until} would be over on {today}, the day it is placed",
            "Give a later last day, or none to hold until it is released",
        )
    with database.transaction() as connection:
        writers.write_alone(connection, institution)
        return holds.place(
            connection,
            institution,
            type=type,
            first_month=first,
            last_month=last,
            until=until,
            reason=reason,
            placed_by=actor.name,
        )


def release(database: Database, institution: Institution, hold: int, actor: Actor) -> None:
    """End a hold; it stays in the ledger. Raises `InvalidHold` where there is nothing to end."""
    with database.transaction() as connection:
        writers.write_alone(connection, institution)
        if holds.release(connection, institution, hold, actor.name):
            return
        entries = {entry.hold.number: entry for entry in holds.every(connection, institution)}
    if hold not in entries:
        raise InvalidHold(
            f"Institution {institution.id!r} has no legal hold {hold}",
            "List its holds for their numbers",
        )
    entry = entries[hold]
    raise InvalidHold(
        f"Legal hold {hold} was released by {entry.released_by} on {entry.released_at:%Y-%m-%d}",
        "Nothing is left to do",
    )
