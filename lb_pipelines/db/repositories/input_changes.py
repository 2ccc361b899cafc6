"""The ledger of changed inputs: versions, and what is materialized from older ones.

The database enters changes itself (migration 0007). Versions of an institution become visible in
ascending order, so whoever reads inputs and the version in one snapshot has seen all changes up to
it. A change is settled once no materialized day is older than it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import writers
from lb_pipelines.db.repositories.completeness import day_ranges

_KEPT = timedelta(days=7)
"""How long settled changes of events stay in the ledger."""

StaleDays = Mapping[str, Sequence[DayRange]]
"""By asset the days to be materialized again, as ascending ranges."""


@dataclass(frozen=True)
class Inputs:
    """The state of inputs that something is made from: the version, and the bounds of its day.

    `begins_at` and `ends_at` are the first instant of the day and the first after it.
    """

    through_version: int
    begins_at: datetime
    ends_at: datetime


def read_version(connection: Connection, institution: Institution) -> int:
    """The version up to which this snapshot sees all changes of the institution's inputs."""
    version: int = queries.input_changes.version(connection, institution_key=institution.key)
    return version


def find_changed_institutions(
    connection: Connection, institutions: Collection[Institution]
) -> set[str]:
    """The ids of those with a change, not settled yet, that can touch something materialized."""
    rows = queries.input_changes.institutions_with_open_changes(
        connection, institution_keys=[institution.key for institution in institutions]
    )
    keys = {key for (key,) in rows}
    return {institution.id for institution in institutions if institution.key in keys}


def find_stale_days(
    connection: Connection, institutions: Collection[Institution]
) -> dict[str, StaleDays]:
    """By institution id, of those that have any, the days that are older than a change."""
    ids = {institution.key: institution.id for institution in institutions}
    found: dict[str, dict[str, Sequence[DayRange]]] = {}
    for key, asset, ranges in queries.input_changes.stale_days(
        connection, institution_keys=list(ids)
    ):
        found.setdefault(ids[key], {})[asset] = day_ranges(ranges)
    return dict(found)


def find_stale_aggregates(
    connection: Connection, institution: Institution, last: date
) -> dict[date, int]:
    """Aggregated days up to `last`, ascending, older than a change of their events; and the version
    of the first such change.
    """
    return dict(
        queries.input_changes.stale_aggregates(
            connection, institution_key=institution.key, last=last
        )
    )


def settle(database: Database, institution: Institution, now: datetime) -> bool:
    """Note that nothing materialized is older than the changes so far; False where something is,
    or where somebody is writing the institution's boards at this moment.
    """
    with database.transaction() as connection:
        # No day is being written from here on, so none can appear that is older.
        if not writers.try_write_alone(connection, institution):
            return False
        version = read_version(connection, institution)
        if find_stale_days(connection, [institution]):
            return False
        key = institution.key
        queries.input_changes.settle(connection, institution_key=key, through_version=version)
        queries.input_changes.drop_settled_events(
            connection, institution_key=key, before=now.astimezone(UTC) - _KEPT
        )
    return True


def note_aggregate(
    connection: Connection,
    institution: Institution,
    day: date,
    inputs: Inputs,
    *,
    before: int,
    changed: Collection[BoardType],
    is_contiguous: bool,
) -> None:
    """Bring the ledger to what a day turned out to be, in the transaction that aggregates it.

    `before`: the version that its aggregate had, 0 for none; `changed`: the types of boards whose
    sums are others now. Changes of events that changed no sums leave the ledger; a change of sums
    that no entry explains (an aggregate that was altered by hand, events older than the ledger) is
    entered. `is_contiguous`: no instant of another day lies between the bounds of this one.
    """
    span = {
        "institution_key": institution.key,
        "after_version": before,
        "begins_at": inputs.begins_at,
        "ends_at": inputs.ends_at,
    }
    if changed and not queries.input_changes.explains(connection, **span):
        queries.input_changes.enter_aggregates(connection, institution_key=institution.key, day=day)
    if not before or not is_contiguous or before == inputs.through_version:
        return
    span["through_version"] = inputs.through_version
    if not changed:
        queries.input_changes.drop_without_effect(connection, **span)
        queries.input_changes.shorten(connection, **span)
    elif unchanged := set(BoardType) - set(changed):
        names = [f"{t.lower()}_{kind}" for t in unchanged for kind in ("snapshots", "trends")]
        queries.input_changes.narrow(connection, **span, unchanged=names)
