"""Restores: archived snapshots back to live, until a day that must be given.

Restored snapshots are ACTIVE again and out of expiry through that day; then a sweep takes them
back. Each batch is committed alone, so a restore that was killed is run again for what is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import groupby

import psycopg.errors

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, month_start, next_month
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import archive, archive_ledger, snapshot_months, writers
from lb_pipelines.db.repositories.archive import Batch, Moved, SelectedDay
from lb_pipelines.db.repositories.archive_ledger import RunKind
from lb_pipelines.db.repositories.versions import raise_versions
from lb_pipelines.errors import InvalidSelection
from lb_pipelines.retention.actor import Actor

BATCH_ROWS = 4_000


@dataclass(frozen=True)
class PlannedRestore:
    """What a restore would bring back, and its first and last day."""

    institution_id: str
    rows: int
    bytes: int
    first: date | None
    last: date | None


@dataclass(frozen=True)
class Restored:
    """What a restore has brought back. `archive_run` None: nothing was found, the ledger has no
    line. `digest` as in `archive_ledger.ArchiveRun`.
    """

    archive_run: int | None
    institution_id: str
    rows: int
    bytes: int
    digest: str
    until: date
    seconds: float


def plan_restore(
    database: Database, institution: Institution, selection: ArchiveSelection
) -> PlannedRestore:
    """What a restore of the selection would bring back."""
    with database.transaction() as connection:
        days = archive.selected_days(connection, institution, selection)
    return PlannedRestore(
        institution.id,
        rows=sum(day.rows for day in days),
        bytes=sum(day.bytes for day in days),
        first=min((day.day for day in days), default=None),
        last=max((day.day for day in days), default=None),
    )


def check_until(institution: Institution, until: date, today: date) -> None:
    """Raise `InvalidSelection` where snapshots restored until this day would expire at once."""
    if until < today:
        raise InvalidSelection(
            f"A restore until {until} would be over before it began ({today} in institution"
            f" {institution.id!r})",
            "Give the last day on which the snapshots are to stay active, today or later",
        )


def restore(
    database: Database,
    institution: Institution,
    selection: ArchiveSelection,
    until: date,
    today: date,
    actor: Actor,
    *,
    batch_rows: int = BATCH_ROWS,
    on_batch: Callable[[Moved], None] | None = None,
) -> Restored:
    """Make the selected snapshots ACTIVE through `until`, whatever the retention says.

    `on_batch` is told of every batch after its commit. Raises `InvalidSelection` where `until` is
    over, and `ArchiveContradicted` where a snapshot with a copy is ACTIVE already.
    """
    started = time.perf_counter()
    check_until(institution, until, today)
    with database.transaction() as connection:
        days = archive.selected_days(connection, institution, selection)
    if not days:
        empty = archive_ledger.digest_text(0, 0)
        seconds = time.perf_counter() - started
        return Restored(None, institution.id, 0, 0, empty, until, seconds)
    with database.transaction() as connection:
        run = archive_ledger.begin(
            connection,
            institution,
            RunKind.RESTORE,
            today=today,
            until=until,
            selection=selection.as_json(),
            started_by=actor.name,
            run_id=actor.run_id,
        )
    _ensure_months(database, institution, days)
    for academic_year, batch in _batches(days, batch_rows):
        move = partial(
            _restore_batch,
            database,
            institution,
            selection,
            batch,
            academic_year=academic_year,
            until=until,
            run=run,
            batch_rows=batch_rows,
        )
        moved = None
        while moved is None or moved.rows == batch_rows:
            try:
                moved = move()
            except psycopg.errors.CheckViolation:
                # The institution was moved into a subtree of its own since its months were made.
                _ensure_months(database, institution, days)
                moved = move()
            if on_batch is not None:
                on_batch(moved)
    with database.transaction() as connection:
        line = archive_ledger.finish(connection, run)
    seconds = time.perf_counter() - started
    return Restored(run, institution.id, line.rows, line.bytes, line.digest, until, seconds)


def _restore_batch(
    database: Database,
    institution: Institution,
    selection: ArchiveSelection,
    batch: Batch,
    *,
    academic_year: str,
    until: date,
    run: int,
    batch_rows: int,
) -> Moved:
    with database.transaction() as connection:
        writers.write_alone(connection, institution)
        moved = archive.restore(
            connection,
            institution,
            selection,
            batch,
            academic_year=academic_year,
            until=until,
            archive_run=run,
            batch_rows=batch_rows,
        )
        if moved.rows:
            raise_versions(connection, institution, [(batch.type, batch.days.first)])
        return moved


def _ensure_months(
    database: Database, institution: Institution, days: Iterable[SelectedDay]
) -> None:
    for months in _months(days):
        snapshot_months.ensure(database, institution, months)


def _months(days: Iterable[SelectedDay]) -> Iterator[DayRange]:
    """The months of these days as ranges without a gap: a leaf is made only where rows will lie."""
    months = sorted({month_start(found.day) for found in days})
    first = last = months[0]
    for month in months[1:]:
        if month != next_month(last):
            yield DayRange(first, last)
            first = month
        last = month
    yield DayRange(first, last)


def _batches(days: Iterable[SelectedDay], batch_rows: int) -> Iterator[tuple[str, Batch]]:
    """Days of one academic year, type and month, as many as a batch holds, at least one."""
    for (year, type, _), group in groupby(
        days, lambda found: (found.academic_year, found.type, month_start(found.day))
    ):
        held: list[SelectedDay] = []
        for found in group:
            if held and sum(day.rows for day in held) + found.rows > batch_rows:
                yield year, Batch(type, DayRange(held[0].day, held[-1].day))
                held = []
            held.append(found)
        yield year, Batch(type, DayRange(held[0].day, held[-1].day))
