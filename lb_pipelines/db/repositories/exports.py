"""Exports in the database: rows out in batches, rows of an export in, the ledger of exports.

Rows come and go in the order of `retention.export_files.SCHEMA`; JSON goes as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, academic_years_around, next_month
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.partitions.names import SCHEMA

Row = Sequence[Any]


@dataclass(frozen=True)
class ExportEntry:
    """An export as `lb.exports` has it."""

    export: int
    directory: str
    selection: Mapping[str, Any]
    rows: int
    manifest_sha256: str
    exported_at: datetime
    started_by: str
    run_id: str | None


def now(connection: Connection) -> datetime:
    """The database's clock, at the start of the transaction."""
    instant: datetime = queries.exports.now(connection)
    return instant


def parts(
    connection: Connection, institution: Institution, selection: ArchiveSelection
) -> list[tuple[str, BoardType]]:
    """The academic years and types that a selection has rows of."""
    rows = queries.exports.archived_parts(
        connection,
        **_which(institution, selection),
        types=list(selection.types) or None,
        years=list(selection.academic_years) or None,
        first_year=selection.first_year,
        last_year=selection.last_year,
    )
    return [(year, BoardType(type)) for year, type in rows]


def archived(
    connection: Connection,
    institution: Institution,
    selection: ArchiveSelection,
    academic_year: str,
    type: BoardType,
    batch_rows: int,
) -> Iterator[list[Row]]:
    """The rows of one part of a selection, so many at a time."""
    which = {**_which(institution, selection), "academic_year": academic_year, "type": type}
    return _batches(connection, sql.SQL(queries.text(queries.exports.archived)), which, batch_rows)


def set_aside(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    month: date,
    relation: str,
    academic_year: str,
    batch_rows: int,
) -> Iterator[list[Row]]:
    """The rows of a purge's table, so many at a time."""
    statement = sql.SQL(queries.text(queries.exports.set_aside)).format(
        relation=sql.Identifier(SCHEMA, relation)
    )
    which = {
        "institution_id": institution.id,
        "type": type,
        "first": month,
        "last": next_month(month) - ONE_DAY,
        "years": academic_years_around(month),
        "academic_year": academic_year,
    }
    return _batches(connection, statement, which, batch_rows)


def enter(
    connection: Connection,
    institution: Institution,
    *,
    directory: str,
    selection: Mapping[str, Any],
    rows: int,
    manifest_sha256: str,
    started_by: str,
    run_id: str | None,
) -> int:
    """Enter an export in the ledger, so that an erasure finds it; gives its number."""
    number: int = queries.exports.enter(
        connection,
        institution_key=institution.key,
        directory=directory,
        selection=Jsonb(dict(selection)),
        rows=rows,
        manifest_sha256=manifest_sha256,
        started_by=started_by,
        run_id=run_id,
    )
    return number


def every(connection: Connection, institution: Institution) -> list[ExportEntry]:
    """All exports of the institution, the oldest first."""
    rows = queries.exports.of_institution(connection, institution_key=institution.key)
    return [ExportEntry(*row) for row in rows]


def stage(connection: Connection, rows: Iterable[Row]) -> None:
    """Bring the rows of an export into a temporary table of this transaction."""
    queries.exports.prepare_stage(connection)
    with (
        connection.cursor() as cursor,
        cursor.copy(queries.text(queries.exports.copy_to_stage)) as copy,
    ):
        for row in rows:
            copy.write_row(row)
    queries.exports.analyze_stage(connection)


def doubled(connection: Connection) -> list[str]:
    """Snapshots that are staged more than once."""
    return [id for (id,) in queries.exports.doubled(connection)]


def differing(connection: Connection, institution: Institution) -> list[str]:
    """Staged snapshots that the archive holds with other content."""
    rows = queries.exports.differing(connection, institution_id=institution.id)
    return [id for (id,) in rows]


def in_the_way(connection: Connection, institution: Institution) -> list[str]:
    """Staged snapshots that are live, ACTIVE or with other content."""
    rows = queries.exports.in_the_way(connection, institution_id=institution.id)
    return [id for (id,) in rows]


def merge(connection: Connection, institution: Institution, archive_run: int) -> None:
    """Bring what is staged and not there yet into the archive, counted in the ledger."""
    queries.exports.merge(connection, institution_id=institution.id, archive_run=archive_run)


def staged_months(connection: Connection) -> list[tuple[BoardType, date]]:
    """The types and months of what is staged."""
    return [(BoardType(type), month) for type, month in queries.exports.staged_months(connection)]


def suppressions(connection: Connection, institution: Institution) -> tuple[bytes, set[bytes]]:
    """The institution's salt, and what it makes of the ids of erased students."""
    rows = queries.exports.suppressions(connection, institution_key=institution.key)
    salt: bytes = queries.exports.erasure_salt(connection, institution_key=institution.key)
    return salt, {suppression for (suppression,) in rows}


def _which(institution: Institution, selection: ArchiveSelection) -> Mapping[str, Any]:
    return {
        "institution_id": institution.id,
        "granularities": list(selection.granularities) or None,
        "references": list(selection.reference_ids) or None,
        "first_day": selection.first_day,
        "last_day": selection.last_day,
        "terms": list(selection.term_ids) or None,
    }


def _batches(
    connection: Connection, statement: sql.Composable, which: Mapping[str, Any], batch_rows: int
) -> Iterator[list[Row]]:
    # On the server, so that a whole archive never lies in memory.
    with connection.cursor(name="export") as cursor:
        cursor.execute(statement, which)  # type: ignore[arg-type]
        while rows := cursor.fetchmany(batch_rows):
            yield list(rows)
