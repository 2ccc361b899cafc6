"""`point_aggregates`: the events of a local day, summed per (student, class, subject, campus).

A day is aggregated again each time; where that gives the same cells, nothing that was made from it
becomes stale.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b

import numpy as np

from lb_pipelines.core.day_starts import find_day_starts
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, contiguous_ranges, local_day
from lb_pipelines.core.ranking import Int64, opens
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import aggregates as repository
from lb_pipelines.db.repositories import input_changes, institutions, ledger, writers
from lb_pipelines.db.repositories.aggregates import KEYS, Cells, DayEvents
from lb_pipelines.db.repositories.input_changes import Inputs
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
            for read in _read_days(connection, institution, chunk):
                with connection.transaction():
                    result = _write_day(connection, institution, read, provenance, started)
                yield result
                started, events = time.perf_counter(), events + read.events.source_rows
            first = chunk.last + ONE_DAY
            most = EVENTS_AT_ONCE * len(chunk) // max(events, 1)
            ahead = max(1, min(2 * ahead, most, DAYS_AT_ONCE))


def ensure(
    database: Database, institution: Institution, last: date, provenance: Provenance
) -> None:
    """Aggregate every day up to `last` that has never been, from the first event on, and every one
    whose events have changed since.

    The all-time boards of any day need all days before it, whether somebody asked for them or not.
    """
    with database.transaction() as connection:
        institution = institutions.find(connection, institution.id)
        stale = input_changes.find_stale_aggregates(connection, institution, last)
        first_event = repository.first_event(connection, institution)
        never: list[date] = []
        if first_event is not None:
            # One day earlier: where clocks go back across midnight, a later instant can be an
            # earlier day.
            first = local_day(first_event, institution.zone) - ONE_DAY
            if first <= last:
                never = repository.missing_days(connection, institution, DayRange(first, last))
    for days in contiguous_ranges([*never, *stale]):
        for _ in materialize(database, institution, days, provenance):
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


@dataclass(frozen=True)
class _ReadDay:
    """The events of a day, and the state of the inputs that says which these are.

    `is_contiguous`: no instant of another day lies between its first and its last.
    """

    day: date
    events: DayEvents
    inputs: Inputs
    is_contiguous: bool


def _read_days(
    connection: Connection, institution: Institution, days: DayRange
) -> Iterator[_ReadDay]:
    """Read the events of some days, the zone that cuts them and the version of both in one
    snapshot.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        institution = institutions.find(connection, institution.id)
        version = input_changes.read_version(connection, institution)
        events = repository.events_of_days(connection, institution, days)
    for day, of_day in zip(days, events, strict=True):
        starts = find_day_starts(institution.zone, DayRange(day, day))
        inputs = Inputs(version, starts.low, starts.high)
        yield _ReadDay(day, of_day, inputs, len(starts.offsets) == 1)


def _write_day(
    connection: Connection,
    institution: Institution,
    day_read: _ReadDay,
    provenance: Provenance,
    started: float,
) -> DayResult:
    day, read = day_read.day, day_read.events
    # What is settled is not to be while a day is written that may be older.
    writers.write_beside_others(connection, institution)
    cells = group(read.cells.keys, read.cells.points, read.cells.events)
    digest = blake2b(digest_size=16)
    for part in cells.content:
        digest.update(part)
    fresh = digest.digest()
    stored = repository.find_stored(connection, institution, day)
    changed = stored is None or stored[0] != fresh
    types: Sequence[BoardType] = ()
    if changed:
        before = None if stored is None else _read_cells(connection, institution, day)
        types = _find_changed_types(before, cells)
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
        inputs=day_read.inputs,
        boards=len(cells),
        run_id=provenance.run_id,
        code_version=provenance.code_version,
    )
    input_changes.note_aggregate(
        connection,
        institution,
        day,
        day_read.inputs,
        before=stored[1] if stored is not None else 0,
        changed=types,
        is_contiguous=day_read.is_contiguous,
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


_COLUMN_OF = {
    BoardType.CLASS: KEYS.index("classes"),
    BoardType.SUBJECT: KEYS.index("subjects"),
    BoardType.CAMPUS: KEYS.index("campuses"),
}


def _read_cells(connection: Connection, institution: Institution, day: date) -> Cells | None:
    stored = repository.cells_of_days(connection, institution, DayRange(day, day))
    return next((of_day for _, of_day in stored), None)


def _find_changed_types(before: Cells | None, cells: Cells) -> Sequence[BoardType]:
    """The types of boards of which some student has other points with these cells of a day than
    with those before; None: no cells.
    """
    return [
        type
        for type, column in _COLUMN_OF.items()
        if not np.array_equal(_sum_by_student(before, column), _sum_by_student(cells, column))
    ]


def _sum_by_student(cells: Cells | None, column: int) -> Int64:
    """int64[3, n]: reference, student, points of every pair that has an event, ascending."""
    if cells is None:
        return np.empty((3, 0), np.int64)
    keys = cells.keys.astype(np.int64)
    pairs = (keys[column] << 32) | keys[KEYS.index("students")]
    on_board = keys[column] != 0
    distinct, place = np.unique(pairs[on_board], return_inverse=True)
    points = np.zeros(len(distinct), np.int64)
    np.add.at(points, place, cells.points[on_board].astype(np.int64))
    return np.stack((distinct >> 32, distinct & 0xFFFFFFFF, points))
