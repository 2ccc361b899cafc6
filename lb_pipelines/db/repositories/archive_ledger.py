"""The ledger of sweeps, restores and imports: who moved what, when, with which digest.

A run's counts and digest grow in the statements that move its rows; here it is begun, finished and
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from psycopg.types.json import Jsonb

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.words import Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


class RunKind(StrEnum):
    """What a run does."""

    SWEEP = "SWEEP"
    RESTORE = "RESTORE"
    IMPORT = "IMPORT"


@dataclass(frozen=True)
class ArchiveRun:
    """One line of the ledger; `finished_at` None: at work or killed, its counts hold all the same.

    `digest`: XOR over the rows moved of the first 128 bits of SHA-256(original id, content hash),
    in hexadecimal, so that the same rows give the same digest in whatever order.
    """

    archive_run: int
    kind: RunKind
    granularity: Granularity | None
    today: date
    cutoff: date | None
    active_until: date | None
    selection: dict[str, Any]
    rows: int
    bytes: int
    digest: str
    started_at: datetime
    finished_at: datetime | None
    started_by: str
    run_id: str | None


@dataclass(frozen=True)
class SweptOfDay:
    """What all sweeps of a granularity as of one day have moved together."""

    granularity: Granularity
    cutoff: date
    runs: int
    rows: int
    bytes: int
    digest: str


def begin(
    connection: Connection,
    institution: Institution,
    kind: RunKind,
    *,
    today: date,
    started_by: str,
    run_id: str | None,
    granularity: Granularity | None = None,
    cutoff: date | None = None,
    until: date | None = None,
    selection: Mapping[str, Any] | None = None,
) -> int:
    """Enter a run that is about to begin; gives its number."""
    number: int = queries.archive_ledger.begin(
        connection,
        institution_key=institution.key,
        kind=kind,
        granularity=granularity,
        today=today,
        cutoff=cutoff,
        until=until,
        selection=Jsonb(dict(selection or {})),
        started_by=started_by,
        run_id=run_id,
    )
    return number


def finish(connection: Connection, archive_run: int) -> ArchiveRun:
    """Enter that a run is over; gives its line."""
    queries.archive_ledger.finish(connection, archive_run=archive_run)
    return _run(queries.archive_ledger.find(connection, archive_run=archive_run))


def latest(
    connection: Connection, institution: Institution, *, at_most: int = 100
) -> list[ArchiveRun]:
    """The institution's runs, the latest first."""
    rows = queries.archive_ledger.latest(
        connection, institution_key=institution.key, at_most=at_most
    )
    return [_run(row) for row in rows]


def totals_of(
    connection: Connection, institution: Institution, today: date
) -> dict[Granularity, SweptOfDay]:
    """What sweeps as of this day have moved, by granularity; those without a sweep are absent."""
    rows = queries.archive_ledger.totals(connection, institution_key=institution.key, today=today)
    return {
        Granularity(granularity): SweptOfDay(
            Granularity(granularity), cutoff, runs, moved, bytes, digest_text(high, low)
        )
        for granularity, cutoff, runs, moved, bytes, high, low in rows
    }


def digest_text(high: int, low: int) -> str:
    """A digest's two halves, as the database keeps them, in hexadecimal."""
    return f"{high % 2**64:016x}{low % 2**64:016x}"


def _run(row: tuple[Any, ...]) -> ArchiveRun:
    (number, kind, granularity, today, cutoff, until, selection, moved, bytes, high, low, *rest) = (
        row
    )
    return ArchiveRun(
        number,
        RunKind(kind),
        None if granularity is None else Granularity(granularity),
        today,
        cutoff,
        until,
        selection,
        moved,
        bytes,
        digest_text(high, low),
        *rest,
    )
