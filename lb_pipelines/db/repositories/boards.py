"""Writing the rows of one (institution, type, day): snapshots and trends, each as a whole.

A day is replaced, never appended to: what is new comes in, what changed is rewritten, what is no
longer there goes, and an equal row is not touched. The first time, COPY goes straight into the
table; later through a temporary table and statements over it. What is in the archive stays as it
is, unless `revisions` is told to renew it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import academic_years_around
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import bulk, queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import revisions
from lb_pipelines.db.repositories.revisions import Renewal

Columns = Sequence[Iterable[bytes | None]]


@dataclass(frozen=True)
class Replaced:
    """How many rows were new or changed, and what became of those in the archive.

    `archived_kept` stayed as they were, `archived_differing` of these although the new rows say
    something else; `archived_renewed` are among those written.
    """

    written: int
    archived_kept: int = 0
    archived_differing: int = 0
    archived_renewed: int = 0


@dataclass(frozen=True)
class Leader:
    """Who leads a board as of a day, and the first day of the streak on which they have led."""

    student_id: str
    since: date


def replace_snapshots(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    day: date,
    columns: Columns,
    *,
    renewal: Renewal | None = None,
) -> Replaced:
    """Make the day's snapshots these rows. Those in the archive stay as they are, whether their
    originals still stand or not; with `renewal` they are made anew too.

    `columns` in the order of `copy_in` in snapshots.sql, as binary fields. A renewal demands that
    nobody else writes the institution; raises `UnderLegalHold` where a hold forbids it.
    """
    table = queries.snapshots
    which = {"institution_id": institution.id, "type": type.value, "day": day}
    archive = {**which, "academic_years": academic_years_around(day)}
    live, archived = table.any_of_day(connection, **archive)
    if not live and not archived:
        return Replaced(_copy_in(connection, table, columns))
    _stage(connection, table, columns)
    kept = differing = renewed = 0
    if archived:
        kept, differing = table.archived_of_day(connection, **archive)
        if renewal and differing:
            revisions.renew(connection, institution, type, day, renewal)
            kept, differing, renewed = kept - differing, 0, differing
    written = renewed + table.remove_vanished(connection, **which)
    if archived:
        table.leave_archived(connection, **archive)
    written += table.upsert(connection, **which)
    return Replaced(written, kept, differing, renewed)


def replace_trends(
    connection: Connection, institution: Institution, type: BoardType, day: date, columns: Columns
) -> Replaced:
    """Make the day's trends these rows: `columns` in the order of `copy_in` in trends.sql, as
    binary fields.
    """
    table = queries.trends
    which = {"institution_id": institution.id, "type": type.value, "day": day}
    if not table.any_of_day(connection, **which):
        return Replaced(_copy_in(connection, table, columns))
    _stage(connection, table, columns)
    return Replaced(table.remove_vanished(connection, **which) + table.upsert(connection, **which))


def leaders(
    connection: Connection, institution: Institution, type: BoardType, day: date
) -> dict[tuple[str, str], Leader]:
    """The leader of every board in the day's trends, by (reference id, granularity)."""
    rows = queries.trends.leaders(
        connection, institution_id=institution.id, type=type.value, day=day
    )
    return {(reference, granularity): Leader(*rest) for reference, granularity, *rest in rows}


def _copy_in(connection: Connection, table: Any, columns: Columns) -> int:
    """Straight into the table, where the day has no row yet; gives how many."""
    first = _Counted(columns[0])
    bulk.write_rows(connection, queries.text(table.copy_in), [first, *columns[1:]])
    return first.seen


def _stage(connection: Connection, table: Any, columns: Columns) -> None:
    """Into the temporary table; what compares it with others comes next."""
    table.prepare_stage(connection)
    bulk.write_rows(connection, queries.text(table.copy_to_stage), columns)
    queries.joins.by_hash(connection)


class _Counted:
    """An iterable that remembers how many elements went through it."""

    def __init__(self, values: Iterable[bytes | None]) -> None:
        self._values = values
        self.seen = 0

    def __iter__(self) -> Iterator[bytes | None]:
        for value in self._values:
            self.seen += 1
            yield value
