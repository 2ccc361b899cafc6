"""Small worlds of archived snapshots for the tests of holds, purges and exports.

Content is real: its hash can be computed again. Days are fixed; so is the day of archiving.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, month_start
from lb_pipelines.core.retention import PURGE_KEY, RETENTION_KEY
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.snapshot_content import rehash
from lb_pipelines.core.words import Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions import ensure_snapshot_months
from lb_pipelines.db.repositories import institutions
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.restoring import restore
from lb_pipelines.retention.sweeping import sweep
from lb_pipelines_tests.partition_rows import add_institution

ID = "inst_9"
SOMEBODY = Actor("somebody", "run-1")
JULY, AUGUST = date(2023, 7, 1), date(2023, 8, 1)
ARCHIVED_ON = date(2024, 3, 1)
GRACE = 10
READY = date(2024, 3, 11)
"""The first day on which what was archived on `ARCHIVED_ON` may be purged."""
BOARDS = ("r1", "r2")

Snapshot = tuple[Any, ...]


def school(database: Database, id: str = ID, *, grace: int | None = GRACE) -> Institution:
    """An institution that keeps snapshots for a day, and purges after `grace` days."""
    add_institution(database, id)
    return settings(database, id, grace=grace)


def settings(
    database: Database, id: str = ID, *, grace: int | None = GRACE, daily: int = 1, term: int = 1
) -> Institution:
    """The institution with other settings."""
    days = dict.fromkeys(map(str, Granularity), 1) | {"daily": daily, "term": term}
    metadata = {RETENTION_KEY: days, **({PURGE_KEY: {"graceDays": grace}} if grace else {})}
    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.institutions SET metadata = %s WHERE id = %s", (json.dumps(metadata), id)
        )
        return institutions.find(connection, id)


def month(first: date, days: int = 3) -> list[date]:
    """The first days of a month."""
    return [first + n * ONE_DAY for n in range(days)]


def add(
    database: Database,
    institution: Institution,
    days: Collection[date],
    *,
    types: Sequence[str] = ("CLASS", "CAMPUS"),
    boards: Sequence[str] = BOARDS,
    shared: bool = False,
    points: int = 10,
) -> None:
    """ACTIVE daily snapshots of these days."""
    for first in {month_start(day) for day in days}:
        ensure_snapshot_months(database, institution.id, first, first, budget=0 if shared else None)
    with database.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO lb.leaderboard_snapshots (institution_id, type, reference_id,"
            " time_granularity, snapshot_date, period_start, content_hash, entries, metadata,"
            " distribution) VALUES (%s, %s, %s, 'daily', %s, %s, %s, %s, %s, %s)",
            [
                row(institution.id, type, board, day, points)
                for type in types
                for board in boards
                for day in days
            ],
        )


def row(id: str, type: str, board: str, day: date, points: int) -> Snapshot:
    """One snapshot with the hash that its content has."""
    entries = [
        {
            "rank": rank,
            "studentId": f"{board}-\u00fc'{rank}",
            "points": points - rank,
            "previousRank": None,
        }
        for rank in range(1, 4)
    ]
    whole = dict.fromkeys(("ranked", "enrolled", "sum", "max", "tiesCut"), points)
    metadata = whole | {"mean": 1.5, "median": 1.0, "p90": 1e16, "provenance": {"runId": "x"}}
    packed = bytes([1, 1, day.day, 2])
    hash = rehash(entries, metadata, packed, day)
    return id, type, board, day, day, hash, json.dumps(entries), json.dumps(metadata), packed


def archive(database: Database, institution: Institution, on: date = ARCHIVED_ON) -> int:
    """Archive all that has expired, as if it had been that day."""
    moved = sweep(database, institution, Granularity.DAILY, on, SOMEBODY).rows
    instant = datetime.fromisoformat(f"{on}T12:00:00+00:00")
    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.archived_leaderboard_snapshots SET archived_at = %s", (instant,)
        )
    return moved


def bring_back(database: Database, institution: Institution, day: date, today: date) -> int:
    """Restore the CLASS snapshots of one day."""
    selection = ArchiveSelection(types=("CLASS",), first_day=day, last_day=day)  # type: ignore[arg-type]
    return restore(database, institution, selection, today + ONE_DAY, today, SOMEBODY).rows


def live(database: Database, id: str = ID) -> list[Snapshot]:
    """All live rows: id, status, hash."""
    return _rows(database, "SELECT id, status, content_hash FROM lb.leaderboard_snapshots", id)


def archived(database: Database, id: str = ID) -> list[Snapshot]:
    """All archived rows, whole but for when and by whom."""
    return _rows(
        database,
        "SELECT original_id, academic_year, term_id, revision, created_at, period_start,"
        " content_hash, entries::text, metadata::text, distribution"
        " FROM lb.archived_leaderboard_snapshots",
        id,
    )


def tables(database: Database, pattern: str) -> set[str]:
    """The tables of `lb_part` like this."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'lb_part'::regnamespace"
            " AND relkind = 'r' AND relname LIKE %s",
            (pattern,),
        ).fetchall()
    return {name for (name,) in rows}


def _rows(database: Database, query: str, id: str) -> list[Snapshot]:
    with database.transaction() as connection:
        return connection.execute(
            f"{query} WHERE institution_id = %s ORDER BY 1",
            (id,),
        ).fetchall()
