"""Sweeps: expired snapshots into the archive, batch by batch, each committed.

A sweep knows nothing that it could lose: killed at any moment it is run again and goes on with
what is left. It moves two batches side by side, and two sweeps at once share the work; days that
are being materialized are left to a later try.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import groupby

import psycopg.errors

from lb_pipelines.core.concurrently import Yielded, side_by_side
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, academic_year, month_start
from lb_pipelines.core.retention import RetentionPolicy
from lb_pipelines.core.words import Granularity
from lb_pipelines.db import partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import archive, archive_ledger, writers
from lb_pipelines.db.repositories import retention as repository
from lb_pipelines.db.repositories.archive import Batch, Moved
from lb_pipelines.db.repositories.archive_ledger import RunKind
from lb_pipelines.db.repositories.retention import DueDay
from lb_pipelines.db.repositories.versions import raise_versions
from lb_pipelines.retention.actor import Actor

BATCH_ROWS = 4_000
THREADS = 2
"""How many batches are on their way at once: what a batch costs is the server's processor."""
TRIES = 5
"""How often a sweep asks again for rows that somebody else keeps locked."""
PAUSE = 0.5
"""Seconds between two of these tries."""


@dataclass(frozen=True)
class Swept:
    """What a sweep has moved. `archive_run` None: nothing had expired, and the ledger has no line.

    `left`: rows that had expired but were being written by others to the end. `digest`: of the
    rows moved, in hexadecimal (see `archive_ledger.ArchiveRun`).
    """

    archive_run: int | None
    institution_id: str
    granularity: Granularity
    today: date
    cutoff: date
    rows: int
    bytes: int
    digest: str
    seconds: float
    left: int


def sweep(
    database: Database,
    institution: Institution,
    granularity: Granularity,
    today: date,
    actor: Actor,
    *,
    batch_rows: int = BATCH_ROWS,
    threads: int = THREADS,
    on_batch: Callable[[Moved], None] | None = None,
    tries: int = TRIES,
    sleep: Callable[[float], None] = time.sleep,
) -> Swept:
    """Archive everything of a granularity that has expired by the institution's day `today`.

    `on_batch` is told of every batch after its commit, in this thread, while up to `threads` others
    are on their way. Raises `InvalidSetting`, and `ArchiveContradicted` where an expired snapshot
    has a copy already.
    """
    started = time.perf_counter()
    cutoff = RetentionPolicy.of(institution).cutoff(granularity, today)
    due = _due(database, institution, granularity, cutoff, today)
    if not due:
        empty = archive_ledger.digest_text(0, 0)
        seconds = time.perf_counter() - started
        return Swept(None, institution.id, granularity, today, cutoff, 0, 0, empty, seconds, 0)
    with database.transaction() as connection:
        run = archive_ledger.begin(
            connection,
            institution,
            RunKind.SWEEP,
            granularity=granularity,
            today=today,
            cutoff=cutoff,
            started_by=actor.name,
            run_id=actor.run_id,
        )
    while due:
        _ensure_years(database, institution, due)
        expected, moved = sum(day.rows for day in due), 0
        carry_out = partial(
            _carry_out, database, institution, granularity, cutoff, today, run, batch_rows
        )
        batches = {batch: partial(carry_out, batch) for batch in _batches(due, batch_rows)}
        for done in side_by_side(batches, threads):
            if isinstance(done, Yielded):
                moved += done.value.rows
                if on_batch is not None:
                    on_batch(done.value)
            elif done.error is not None:
                raise done.error
        if moved >= expected:
            due = []
            continue
        due = _due(database, institution, granularity, cutoff, today)
        if due and not moved:
            tries -= 1
            if tries <= 0:
                break
            sleep(PAUSE)
    with database.transaction() as connection:
        line = archive_ledger.finish(connection, run)
    return Swept(
        run,
        institution.id,
        granularity,
        today,
        cutoff,
        line.rows,
        line.bytes,
        line.digest,
        time.perf_counter() - started,
        left=sum(day.rows for day in due),
    )


def _due(
    database: Database,
    institution: Institution,
    granularity: Granularity,
    cutoff: date,
    today: date,
) -> list[DueDay]:
    with database.transaction() as connection:
        return repository.due_days(connection, institution, granularity, cutoff, today)


def _ensure_years(database: Database, institution: Institution, due: Iterable[DueDay]) -> None:
    start_month = institution.academic_year_start_month
    partitions.ensure_archive_years(
        database, {academic_year(found.day, start_month) for found in due}
    )


def _batches(due: Iterable[DueDay], batch_rows: int) -> Iterator[Batch]:
    """Days next to each other of one type and month, as many as a batch holds, at least one."""
    for (type, _), group in groupby(due, lambda found: (found.type, month_start(found.day))):
        days: list[DueDay] = []
        for found in group:
            if days and sum(day.rows for day in days) + found.rows > batch_rows:
                yield Batch(type, DayRange(days[0].day, days[-1].day))
                days = []
            days.append(found)
        yield Batch(type, DayRange(days[0].day, days[-1].day))


def _carry_out(
    database: Database,
    institution: Institution,
    granularity: Granularity,
    cutoff: date,
    today: date,
    run: int,
    batch_rows: int,
    batch: Batch,
) -> Iterator[Moved]:
    """Move a batch's rows in as many statements as they need, each committed."""
    while True:
        try:
            with database.transaction() as connection:
                writers.write_beside_others(connection, institution)
                moved = archive.sweep(
                    connection,
                    institution,
                    granularity,
                    batch,
                    cutoff=cutoff,
                    today=today,
                    archive_run=run,
                    batch_rows=batch_rows,
                )
                if moved.rows:
                    raise_versions(connection, institution, [(batch.type, batch.days.first)])
        except psycopg.errors.UniqueViolation:
            with database.transaction() as connection:
                archive.refuse_contradiction(connection, institution, batch, granularity)
            raise
        yield moved
        if moved.rows < batch_rows:
            return
