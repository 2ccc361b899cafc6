"""Point events by local day, and the aggregates and totals made from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from lb_pipelines.core.day_starts import find_day_starts
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.ranking import Int64
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import bulk, queries
from lb_pipelines.db.bulk import (
    POSTGRES_EPOCH_MICROSECONDS,
    ArrayConnection,
    Int4Array,
    Int8Array,
)
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import totals

# The four keys of a cell, in the order in which cells are sorted.
KEYS = ("students", "classes", "subjects", "campuses")


@dataclass(frozen=True)
class Cells:
    """Points per (student, class, subject, campus): columns of equal length, keys with 0 for none.

    `keys` int64[4, n] in the order of `KEYS`, `points` int64[n], `events` int64[n].
    """

    keys: Int64
    points: Int64
    events: Int64

    def __len__(self) -> int:
        return len(self.points)

    @property
    def content(self) -> Iterator[bytes]:
        """The bytes that say whether two sets of cells are equal."""
        yield from (column.tobytes() for column in (*self.keys, self.points, self.events))


@dataclass(frozen=True)
class DayEvents:
    """The events of a local day: ACTIVE ones as ungrouped cells, and what was read to get them.

    `source_rows` counts VOIDED events too.
    """

    cells: Cells
    source_rows: int
    watermark: datetime | None


@dataclass(frozen=True)
class DayState:
    """An aggregated day without its cells."""

    day: date
    revision: int
    watermark: datetime | None
    cells: int


def first_event(connection: Connection, institution: Institution) -> datetime | None:
    """The instant of the institution's first event of any status."""
    found: datetime | None = queries.aggregates.first_event(
        connection, institution_key=institution.key
    )
    return found


@contextmanager
def exclusive(connection: Connection, institution: Institution) -> Iterator[None]:
    """Hold the institution's aggregates alone, over several transactions of this connection.

    Reading events, deciding and writing must not interleave with another writer, and revisions
    must be committed in the order in which they were drawn.
    """
    queries.aggregates.lock(connection, institution_key=institution.key)
    try:
        yield
    finally:
        if not connection.closed:
            queries.aggregates.unlock(connection, institution_key=institution.key)


def events_of_days(
    connection: Connection, institution: Institution, days: DayRange
) -> list[DayEvents]:
    """The events of each of these days, in their order."""
    columns = bulk.read_columns(
        connection,
        queries.text(queries.aggregates.events_of_days),
        {
            "institution_key": institution.key,
            **find_day_starts(institution.zone, days).parameters,
        },
        ("day", *KEYS, "amount", "active", "updated_at"),
    )
    order = np.argsort(columns["day"], kind="stable")
    cuts = np.searchsorted(columns["day"][order], np.arange(len(days) + 1))
    return [_day_events(columns, order[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]


def _day_events(columns: Mapping[str, np.ndarray[Any, Any]], rows: Int64) -> DayEvents:
    updated = columns["updated_at"][rows] + POSTGRES_EPOCH_MICROSECONDS
    active = rows[columns["active"][rows] == 1]
    return DayEvents(
        Cells(
            np.stack([columns[name][active].astype(np.int64) for name in KEYS]),
            columns["amount"][active].astype(np.int64),
            np.ones(len(active), np.int64),
        ),
        len(rows),
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(updated.max()))
        if len(rows)
        else None,
    )


def find_stored(
    connection: Connection, institution: Institution, day: date
) -> tuple[bytes, int] | None:
    """The hash of the stored aggregate of a day, and the version up to which its inputs were read;
    None where there is none.
    """
    found: tuple[bytes, int] | None = queries.aggregates.stored(
        connection, institution_key=institution.key, day=day
    )
    return found


def touch(
    connection: Connection, institution: Institution, day: date, read: DayEvents, run_id: str
) -> None:
    """Note that the day's events were read again and gave the same cells."""
    queries.aggregates.touch(
        connection,
        institution_key=institution.key,
        day=day,
        source_rows=read.source_rows,
        watermark=read.watermark,
        run_id=run_id,
    )


def replace(
    connection: Connection,
    institution: Institution,
    day: date,
    read: DayEvents,
    cells: Cells,
    hash_: bytes,
    run_id: str,
) -> None:
    """Write a day's aggregate with a new revision and drop the totals that held the old one.

    A day without events that had no aggregate changes nothing: revision 0, and totals stay.
    """
    revision = queries.aggregates.replace(
        ArrayConnection(connection),
        institution_key=institution.key,
        day=day,
        source_rows=read.source_rows,
        watermark=read.watermark,
        run_id=run_id,
        content_hash=hash_,
        cells=len(cells),
        **_columns(cells),
    )
    if revision:
        totals.drop_after(connection, institution, day)


def states(connection: Connection, institution: Institution, last: date) -> list[DayState]:
    """All aggregated days up to `last`, ascending."""
    rows = queries.aggregates.states(connection, institution_key=institution.key, last=last)
    return [DayState(*row) for row in rows]


def missing_days(connection: Connection, institution: Institution, days: DayRange) -> list[date]:
    """Those of the days that were never aggregated, ascending."""
    rows = queries.aggregates.missing_days(
        connection, institution_key=institution.key, first=days.first, last=days.last
    )
    return [day for (day,) in rows]


def sums_of_days(
    connection: Connection, institution: Institution, type: BoardType, days: DayRange
) -> Iterator[tuple[date, Int64, Int64, Int64, Int64]]:
    """(day, reference keys, student keys, points, events) of each aggregated day."""
    query = getattr(queries.aggregates, f"cells_of_{type.lower()}")
    rows = query(
        ArrayConnection(connection),
        institution_key=institution.key,
        first=days.first,
        last=days.last,
    )
    yield from rows


def cells_of_days(
    connection: Connection, institution: Institution, days: DayRange
) -> Iterator[tuple[date, Cells]]:
    """The cells of each aggregated day, ascending; keys in their narrow type."""
    for day, *keys, points, events in queries.aggregates.cells(
        ArrayConnection(connection),
        institution_key=institution.key,
        first=days.first,
        last=days.last,
    ):
        yield day, Cells(np.stack(keys), points, events)


def _columns(cells: Cells) -> dict[str, Any]:
    return {
        **{name: Int4Array(column) for name, column in zip(KEYS, cells.keys, strict=True)},
        "points": Int8Array(cells.points),
        "events": Int4Array(cells.events),
    }
