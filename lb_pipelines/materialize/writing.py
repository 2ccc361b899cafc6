"""Writing a pass: one transaction per (institution, day), each yielded after its commit.

What snapshots and trends share on the way out. The ledger is claimed first, which locks the day;
a day that already stands from a later state of the events is left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial

import psycopg

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, month_start
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import partitions
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import ledger
from lb_pipelines.db.repositories.boards import Columns
from lb_pipelines.materialize import passes
from lb_pipelines.materialize.passes import DayOfBoards, Pass
from lb_pipelines.materialize.results import DayResult, Provenance

Replace = Callable[[Connection, Institution, BoardType, date, Columns], int]


@dataclass(frozen=True)
class PreparedDay:
    """A day's rows, ready to be written: `columns` gives binary fields, `numbers` are for plots."""

    source: DayOfBoards
    rows: int
    numbers: Mapping[str, int | float]
    columns: Callable[[], Columns]


def write(
    database: Database,
    asset: str,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    provenance: Provenance,
    prepare: Callable[[Pass], Iterable[PreparedDay]],
    replace: Replace,
) -> Iterator[DayResult]:
    """Open a pass, prepare its days one by one and replace each in the table."""
    _ensure_months(database, institution, days)
    with passes.opened(database, institution, type, days, provenance) as opened:
        started = time.perf_counter()
        for prepared in prepare(opened):
            day = prepared.source.day
            write_day = partial(
                _write_day, database, asset, institution, type, prepared, provenance, replace
            )
            try:
                written = write_day()
            except psycopg.errors.CheckViolation:
                # The institution was moved into a subtree of its own since its months were made.
                _ensure_months(database, institution, days)
                written = write_day()
            now = time.perf_counter()
            yield DayResult(
                institution.id,
                asset,
                day,
                rows=prepared.rows,
                written=written or 0,
                seconds=now - started,
                numbers=dict(prepared.numbers),
                superseded=written is None,
            )
            started = now


def _write_day(
    database: Database,
    asset: str,
    institution: Institution,
    type: BoardType,
    prepared: PreparedDay,
    provenance: Provenance,
    replace: Replace,
) -> int | None:
    """Rows written; None where a later state of the events already stands."""
    with database.transaction() as connection:
        claimed = ledger.claim(
            connection,
            institution,
            asset,
            prepared.source.day,
            through_revision=prepared.source.through_revision,
            boards=prepared.rows,
            run_id=provenance.run_id,
            code_version=provenance.code_version,
        )
        if not claimed:
            return None
        return replace(connection, institution, type, prepared.source.day, prepared.columns())


def _ensure_months(database: Database, institution: Institution, days: DayRange) -> None:
    partitions.ensure_snapshot_months(
        database, institution.id, month_start(days.first), month_start(days.last)
    )


def boards_by_granularity(rows: Mapping[Granularity, object]) -> dict[str, int | float]:
    """How many boards each granularity has, for plots: `daily_boards`, ..., `all_time_boards`."""
    return {
        f"{granularity.replace('-', '_')}_boards": len(rows[granularity])  # type: ignore[arg-type]
        if granularity in rows
        else 0
        for granularity in Granularity
    }


def provenance_json(source: DayOfBoards, provenance: Provenance) -> bytes:
    """Where a row comes from: run, code, and the state of the events."""
    return json.dumps(
        {
            "runId": provenance.run_id,
            "codeVersion": provenance.code_version,
            "watermark": source.watermark and source.watermark.isoformat(),
            "throughRevision": source.through_revision,
        }
    ).encode()
