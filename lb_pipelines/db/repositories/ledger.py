"""What is materialized, from which state of the events and up to which version of all inputs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories.completeness import day_ranges
from lb_pipelines.db.repositories.input_changes import Inputs


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
    inputs: Inputs,
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
        through_version=inputs.through_version,
        begins_at=inputs.begins_at,
        ends_at=inputs.ends_at,
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


def note_archived_differing(
    connection: Connection, institution: Institution, asset: str, day: date, differing: int
) -> None:
    """Note of a claimed day that so many of its rows in the archive say something else."""
    queries.ledger.note_archived_differing(
        connection,
        institution_key=institution.key,
        asset=asset,
        day=day,
        archived_differing=differing,
    )


def find_archived_differing(
    connection: Connection, institution: Institution, days: DayRange
) -> dict[str, list[DayRange]]:
    """By asset the days of a range of which the archive says something else than their inputs."""
    rows = queries.ledger.archived_differing(
        connection, institution_key=institution.key, first=days.first, last=days.last
    )
    return {asset: day_ranges(found) for asset, found in rows}
