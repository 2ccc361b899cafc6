"""`point_aggregates`: the events of a local day, summed per (student, class, subject, campus).

A day is aggregated anew each time; where that gives the same cells, nothing that was made from it
becomes stale.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date
from hashlib import blake2b

import numpy as np

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, contiguous_ranges, local_day
from lb_pipelines.core.ranking import Int64, opens
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import aggregates as repository
from lb_pipelines.db.repositories import ledger
from lb_pipelines.db.repositories.aggregates import Cells
from lb_pipelines.materialize.results import DayResult, Provenance

ASSET = "point_aggregates"
# Days read from the events at once: enough to spare small institutions round trips, and no more
# than about so many events, which take some 200 bytes each until they are grouped.
DAYS_AT_ONCE = 8
EVENTS_AT_ONCE = 1 << 17


def materialize(
    database: Database, institution: Institution, days: DayRange, provenance: Provenance
) -> Iterator[DayResult]:
    """Aggregate every day of the range, one transaction a day, in ascending order.

    `rows` of a result are cells; `numbers` are events, voided events and points of the day.
    """
    with database.autocommit() as connection, repository.exclusive(connection, institution):
        first, ahead = days.first, 1
        while first <= days.last:
            chunk = DayRange(first, min(days.last, first + (ahead - 1) * ONE_DAY))
            started, events = time.perf_counter(), 0
            for day, read in zip(
                chunk, repository.events_of_days(connection, institution, chunk), strict=True
            ):
                with connection.transaction():
                    result = _write_day(connection, institution, day, read, provenance, started)
                yield result
                started, events = time.perf_counter(), events + read.source_rows
            first = chunk.last + ONE_DAY
            most = EVENTS_AT_ONCE * len(chunk) // max(events, 1)
            ahead = max(1, min(2 * ahead, most, DAYS_AT_ONCE))


def ensure(
    database: Database, institution: Institution, last: date, provenance: Provenance
) -> None:
    """Aggregate every day up to `last` that has never been, from the first event on.

    The all-time boards of any day need all days before it, whether somebody asked for them or not.
    """
    with database.transaction() as connection:
        first_event = repository.first_event(connection, institution)
        if first_event is None:
            return
        # One day earlier: where clocks go back across midnight, a later instant can be an earlier
        # day.
        first = local_day(first_event, institution.zone) - ONE_DAY
        if first > last:
            return
        never = repository.missing_days(connection, institution, DayRange(first, last))
    for missing in contiguous_ranges(never):
        for _ in materialize(database, institution, missing, provenance):
            pass


def group(keys: Int64, points: Int64, events: Int64) -> Cells:
    """Sum cells with equal keys; the result is sorted by student, class, subject, campus."""
    if not len(points):
        return Cells(keys.reshape(4, 0), points, events)
    order = _order(keys)
    keys = keys[:, order]
    begins = np.flatnonzero(opens(*keys))
    return Cells(
        keys[:, begins],
        np.add.reduceat(points[order], begins),
        np.add.reduceat(events[order], begins),
    )


def _order(keys: Int64) -> Int64:
    """The permutation that sorts cells by their keys; one packed integer a cell where they fit."""
    bits = [int(column.max()).bit_length() for column in keys]
    if sum(bits) > 63:
        return np.lexsort(keys[::-1])
    packed = np.zeros(keys.shape[1], np.int64)
    for column, width in zip(keys, bits, strict=True):
        packed <<= width
        packed |= column
    return np.argsort(packed, kind="stable")


def _write_day(
    connection: Connection,
    institution: Institution,
    day: date,
    read: repository.DayEvents,
    provenance: Provenance,
    started: float,
) -> DayResult:
    cells = group(read.cells.keys, read.cells.points, read.cells.events)
    digest = blake2b(digest_size=16)
    for part in cells.content:
        digest.update(part)
    fresh = digest.digest()
    changed = repository.content_hash(connection, institution, day) != fresh
    if changed:
        repository.replace(connection, institution, day, read, cells, fresh, provenance.run_id)
    else:
        repository.touch(connection, institution, day, read, provenance.run_id)
    ledger.claim(
        connection,
        institution,
        ASSET,
        day,
        through_revision=0,
        boards=len(cells),
        run_id=provenance.run_id,
        code_version=provenance.code_version,
    )
    events = len(read.cells)
    return DayResult(
        institution.id,
        ASSET,
        day,
        rows=len(cells),
        written=len(cells) if changed else 0,
        seconds=time.perf_counter() - started,
        numbers={
            "events": events,
            "voided_events": read.source_rows - events,
            "points": int(cells.points.sum()),
            "students": len(np.unique(cells.keys[0])),
        },
    )
