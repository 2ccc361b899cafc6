"""Snapshots into the archive and back, one batch a statement; and the archive as it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, academic_year, academic_years_around
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.errors import ArchiveContradicted


@dataclass(frozen=True)
class ArchivedSnapshot:
    """One snapshot of the archive, as it was materialized last."""

    original_id: str
    type: BoardType
    reference_id: str
    granularity: Granularity
    snapshot_date: date
    period_start: date
    academic_year: str
    term_id: str | None
    revision: int
    archive_run: int
    archived_at: datetime
    created_at: datetime
    content_hash: bytes
    entries: list[dict[str, Any]]
    metadata: dict[str, Any]
    distribution: bytes


@dataclass(frozen=True)
class Place:
    """What of a page's last row the next page begins after; an `ArchivedSnapshot` is one too."""

    snapshot_date: date
    original_id: str


@dataclass(frozen=True)
class SelectedDay:
    """How much of a selection lies in one academic year, type and day."""

    academic_year: str
    type: BoardType
    day: date
    rows: int
    bytes: int


@dataclass(frozen=True)
class Batch:
    """What one statement moves at most: rows of one type on days of one month, so of one leaf."""

    type: BoardType
    days: DayRange


@dataclass(frozen=True)
class Moved:
    """Rows that one statement has moved, and their bytes as stored."""

    rows: int
    bytes: int


def sweep(
    connection: Connection,
    institution: Institution,
    granularity: Granularity,
    batch: Batch,
    *,
    cutoff: date,
    today: date,
    archive_run: int,
    batch_rows: int,
) -> Moved:
    """Archive up to `batch_rows` expired snapshots that nobody else is writing.

    Raises `ArchiveContradicted` where one of these days has an ACTIVE snapshot with a copy that
    stands in another academic year; the copy in the right year is a `UniqueViolation`.
    """
    year = academic_year(batch.days.first, institution.academic_year_start_month)
    others = [other for other in academic_years_around(batch.days.first) if other != year]
    refuse_contradiction(connection, institution, batch, granularity, others)
    queries.archive.let_a_batch_fit_in_memory(connection)
    return Moved(
        *queries.archive.sweep(
            connection,
            institution_id=institution.id,
            institution_key=institution.key,
            type=batch.type,
            granularity=granularity,
            first=batch.days.first,
            last=batch.days.last,
            cutoff=cutoff,
            today=today,
            academic_year=year,
            archive_run=archive_run,
            batch_rows=batch_rows,
        )
    )


def refuse_contradiction(
    connection: Connection,
    institution: Institution,
    batch: Batch,
    granularity: Granularity | None = None,
    academic_years: list[str] | None = None,
) -> None:
    """Raise `ArchiveContradicted` where a snapshot of these days is ACTIVE and has a copy.

    Only copies of these academic years are looked at, of all that the days can lie in unless given.
    """
    found = queries.archive.active_with_copy(
        connection,
        institution_id=institution.id,
        type=batch.type,
        granularity=granularity,
        first=batch.days.first,
        last=batch.days.last,
        academic_years=academic_years or academic_years_around(batch.days.first),
    )
    if found is not None:
        raise ArchiveContradicted(found)


def restore(
    connection: Connection,
    institution: Institution,
    selection: ArchiveSelection,
    batch: Batch,
    *,
    academic_year: str,
    until: date,
    archive_run: int,
    batch_rows: int,
) -> Moved:
    """Make up to `batch_rows` snapshots of a selection ACTIVE again, and take their copies away.

    Raises `ArchiveContradicted` where one is ACTIVE already.
    """
    queries.archive.let_a_batch_fit_in_memory(connection)
    rows, bytes, contradicted = queries.archive.restore(
        connection,
        institution_id=institution.id,
        type=batch.type,
        first=batch.days.first,
        last=batch.days.last,
        academic_year=academic_year,
        granularities=list(selection.granularities) or None,
        references=list(selection.reference_ids) or None,
        term_ids=list(selection.term_ids) or None,
        until=until,
        archive_run=archive_run,
        batch_rows=batch_rows,
    )
    if contradicted is not None:
        raise ArchiveContradicted(contradicted)
    return Moved(rows, bytes)


def selected_days(
    connection: Connection, institution: Institution, selection: ArchiveSelection
) -> list[SelectedDay]:
    """How much of a selection there is, by academic year, type and day."""
    rows = queries.archive.selected_days(connection, **_which(institution, selection))
    return [SelectedDay(year, BoardType(type), *rest) for year, type, *rest in rows]


def count(connection: Connection, institution: Institution, selection: ArchiveSelection) -> int:
    """How many archived snapshots a selection has."""
    return sum(day.rows for day in selected_days(connection, institution, selection))


def read(
    connection: Connection,
    institution: Institution,
    selection: ArchiveSelection,
    *,
    limit: int = 100,
    after: ArchivedSnapshot | Place | None = None,
) -> list[ArchivedSnapshot]:
    """A page of archived snapshots, the newest day first; `after`: the last row of the page before.

    Only the leaves of academic years that can hold the selection are touched.
    """
    rows = queries.archive.page(
        connection,
        **_which(institution, selection),
        after_day=after and after.snapshot_date,
        after_id=after and after.original_id,
        page_rows=limit,
    )
    return [
        ArchivedSnapshot(id, BoardType(type), reference, Granularity(granularity), *rest)
        for id, type, reference, granularity, *rest in rows
    ]


def _which(institution: Institution, selection: ArchiveSelection) -> Mapping[str, Any]:
    return {
        "institution_id": institution.id,
        "types": list(selection.types) or None,
        "granularities": list(selection.granularities) or None,
        "references": list(selection.reference_ids) or None,
        "first_day": selection.first_day,
        "last_day": selection.last_day,
        "first_year": selection.first_year,
        "last_year": selection.last_year,
        "academic_years": list(selection.academic_years) or None,
        "term_ids": list(selection.term_ids) or None,
    }
