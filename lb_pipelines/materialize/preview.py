"""What a backfill would touch, before anybody starts it: partitions, rows, bytes, time; what the
archive keeps from it, and what would be in its way.

Nothing is written. Rows are those of the same days where they are made already, else the average
of the nearest days that are; seconds are those that the same partitions of the same institution
took the last times. Where there is nothing to go by, the preview says so and does not guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, local_day
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import aggregates as events
from lb_pipelines.db.repositories import completeness, holds
from lb_pipelines.errors import InvalidSelection
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.completeness import ASSETS

NEAREST = 30
"""Days that an estimate is made from at most."""
_CELL_BYTES = 32  # Six arrays of an aggregate, a cell: four keys of 4 bytes, points, events.


@dataclass(frozen=True)
class Rate:
    """Seconds that a partition took on average, over so many of the last ones."""

    seconds: float
    partitions: int


@dataclass(frozen=True)
class PreviewedAsset:
    """An asset of an institution in a backfill; None where there is no basis for an estimate.

    `made`: partitions that would be made anew. `archived`: rows that the archive has and that
    would stay as they are, or, if asked for, be renewed; `held`: of those, under a legal hold.
    """

    institution_id: str
    asset: str
    partitions: int
    made: int
    rows: int | None
    bytes: int | None
    seconds: float | None
    measured: int
    archived: int = 0
    held: int = 0


@dataclass(frozen=True)
class Preview:
    """A backfill of one institution; `not_over`: days asked for that have yet to end there.

    `to_aggregate`: days before the first one that were never aggregated, and have to be first.
    """

    institution_id: str
    days: DayRange | None
    not_over: int
    to_aggregate: int
    assets: tuple[PreviewedAsset, ...]


def assets_of(names: Sequence[str]) -> tuple[str, ...]:
    """The assets named, each once, in the order in which they are made; all where none is named.

    Raises `InvalidSelection` for a name that is none.
    """
    strange = sorted(set(names) - set(ASSETS))
    if strange:
        raise InvalidSelection(
            f"{', '.join(map(repr, strange))} is no asset that a day is made of",
            f"Give one or more of {', '.join(ASSETS)}",
        )
    return tuple(asset for asset in ASSETS if not names or asset in names)


def preview(
    database: Database,
    institution: Institution,
    assets: Sequence[str],
    days: DayRange,
    today: date,
    rates: Mapping[str, Rate],
) -> Preview:
    """What a backfill of these assets and days would do; `today` is the institution's own.

    `rates` by asset are what the same institution's partitions took.
    """
    over = [day for day in days if day < today]
    not_over = len(days) - len(over)
    if not over:
        return Preview(institution.id, None, not_over, 0, ())
    days = DayRange(over[0], over[-1])
    with database.transaction(snapshot=True) as connection:
        began = events.first_event(connection, institution)
        to_aggregate = 0
        if began is not None and set(assets) != {aggregates.ASSET}:
            to_aggregate = completeness.days_not_aggregated(
                connection, institution, local_day(began, institution.zone), days.first
            )
        previewed = tuple(
            _asset(connection, institution, asset, days, today, rates.get(asset))
            for asset in assets
        )
    return Preview(institution.id, days, not_over, to_aggregate, previewed)


def _asset(
    connection: Connection,
    institution: Institution,
    asset: str,
    days: DayRange,
    today: date,
    rate: Rate | None,
) -> PreviewedAsset:
    partitions = len(days)
    near = completeness.rows_near(connection, institution, asset, days, max(NEAREST, partitions))
    made = {day: rows for day, rows in near if day in days}
    basis = [rows for _, rows in near[:NEAREST]]
    average = sum(basis) / len(basis) if basis else None
    rows = (
        None if average is None else round(sum(made.values()) + average * (partitions - len(made)))
    )
    type = next((t for t in BoardType if asset.startswith(t.lower())), None)
    weight: int | None = _CELL_BYTES if type is None else None
    archived = held = 0
    if type is not None:
        if near:
            weight = completeness.row_bytes(
                connection,
                institution,
                type,
                near[0][0],
                trends=asset == trends.asset_name(type),
            )
        if asset == snapshots.asset_name(type):
            in_force = holds.in_force(connection, institution, today)
            counts = completeness.archived_rows(connection, institution, type, days)
            archived = sum(counts.values())
            held = sum(
                rows
                for day, rows in counts.items()
                if any(hold.covers(type, day) for hold in in_force)
            )
    return PreviewedAsset(
        institution_id=institution.id,
        asset=asset,
        partitions=partitions,
        made=len(made),
        rows=rows,
        bytes=None if rows is None or weight is None else rows * weight,
        seconds=None if rate is None else rate.seconds * partitions,
        measured=0 if rate is None else rate.partitions,
        archived=archived,
        held=held,
    )


def recent_days(
    database: Database, institution: Institution, asset: str, days: DayRange
) -> list[date]:
    """The days whose partitions a rate is to be taken from: made, and nearest to these days."""
    with database.transaction() as connection:
        near = completeness.rows_near(connection, institution, asset, days, NEAREST)
    return [day for day, _ in near]
