"""What has been materialized from which state of the events, and what has become stale since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


@dataclass(frozen=True)
class MaterializedDay:
    """One day of one asset: the state of the events it was made from, its rows, its run."""

    day: date
    through_revision: int
    boards: int
    run_id: str


def claim(
    connection: Connection,
    institution: Institution,
    asset: str,
    day: date,
    *,
    through_revision: int,
    boards: int,
    run_id: str,
    code_version: str,
) -> bool:
    """Lock the day for this transaction and enter it; False where a later state already stands."""
    claimed = queries.ledger.claim(
        connection,
        institution_key=institution.key,
        asset=asset,
        day=day,
        through_revision=through_revision,
        boards=boards,
        run_id=run_id,
        code_version=code_version,
    )
    return claimed is not None


def materialized(
    connection: Connection, institution: Institution, asset: str, days: DayRange
) -> list[MaterializedDay]:
    """The materialized days of an asset within a range."""
    rows = queries.ledger.materialized(
        connection,
        institution_key=institution.key,
        asset=asset,
        first=days.first,
        last=days.last,
    )
    return [MaterializedDay(*row) for row in rows]


def possibly_stale(
    connection: Connection, asked: Sequence[tuple[Institution, datetime]]
) -> set[str]:
    """The ids of those institutions that something has happened to since the instant of each, so
    that a day can be stale. Of the others none is, if none was then.
    """
    if not asked:
        return set()
    rows = queries.ledger.possibly_stale(
        connection,
        institution_keys=[institution.key for institution, _ in asked],
        zones=[institution.time_zone for institution, _ in asked],
        updated_since=[since for _, since in asked],
        earliest=min(since for _, since in asked),
    )
    keys = {key for (key,) in rows}
    return {institution.id for institution, _ in asked if institution.key in keys}


def changed_days(
    connection: Connection, institution: Institution, updated_since: datetime
) -> list[date]:
    """Aggregated days whose events have changed, as far as `updated_at` reaches back."""
    rows = queries.ledger.changed_days(
        connection,
        institution_key=institution.key,
        zone=institution.time_zone,
        updated_since=updated_since,
    )
    return [day for (day,) in rows]


def outdated_days(connection: Connection, institution: Institution) -> list[date]:
    """Days of which some board was made from an older state than the aggregates now have."""
    rows = queries.ledger.outdated_days(connection, institution_key=institution.key)
    return [day for (day,) in rows]


def materialized_since(connection: Connection, institution: Institution, day: date) -> list[date]:
    """Every day from `day` on that some asset has been materialized for."""
    rows = queries.ledger.materialized_days_since(
        connection, institution_key=institution.key, day=day
    )
    return [found for (found,) in rows]
