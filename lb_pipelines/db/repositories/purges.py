"""Purges in the database: partitions held against the archive, rows set aside, the ledger.

What stands alone is spoken of by its table's name in `lb_part`. Nothing here decides; see
`lb_pipelines.retention.purging`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg import sql

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import (
    ONE_DAY,
    academic_years_around,
    local_day,
    month_start,
    next_month,
)
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.partitions.names import SCHEMA


@dataclass(frozen=True)
class PartitionOfOriginals:
    """A partition that holds archived originals, by the live table alone."""

    type: BoardType
    month: date
    rows: int
    bytes: int
    active: int


@dataclass(frozen=True)
class Tally:
    """A partition's originals against their copies in the archive.

    `unequal` archived ones have no equal copy; `last_archived` is the institution's own day.
    """

    rows: int
    bytes: int
    active: int
    unequal: int
    last_archived: date | None
    digest_high: int
    digest_low: int


@dataclass(frozen=True)
class PurgeEntry:
    """A purge as `lb.purges` has it, with its export's directory and manifest."""

    purge: int
    type: BoardType
    month: date
    state: str
    relation: str
    rows: int
    bytes: int
    digest_high: int
    digest_low: int
    drop_after: date
    export: int | None
    export_directory: str | None
    manifest_sha256: str | None
    started_at: datetime
    detached_at: datetime | None
    dropped_at: datetime | None
    started_by: str
    run_id: str | None


def partitions(connection: Connection, institution: Institution) -> list[PartitionOfOriginals]:
    """Every partition of the institution with archived originals, by month and type."""
    rows = queries.purges.partitions(connection, institution_id=institution.id)
    return [PartitionOfOriginals(BoardType(type), *rest) for type, *rest in rows]


def tally(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    month: date,
    relation: str | None = None,
) -> Tally:
    """Hold a partition against the archive: in the tree, or in a table that stands alone."""
    row = connection.execute(
        _in(queries.purges.tally, relation), _which(institution, type, month)
    ).fetchone()
    assert row is not None
    count, size, active, unequal, last_archived, *digests = row
    last_day = None if last_archived is None else local_day(last_archived, institution.zone)
    return Tally(count, size, active, unequal, last_day, *digests)


def unaccounted(connection: Connection, institution: Institution, purge: PurgeEntry) -> int:
    """How many originals set aside neither the archive nor a live snapshot stands for."""
    which = {**_which(institution, purge.type, purge.month), "detached_at": purge.detached_at}
    row = connection.execute(_in(queries.purges.unaccounted, purge.relation), which).fetchone()
    assert row is not None
    found: int = row[0]
    return found


def catch_up(
    connection: Connection, institution: Institution, type: BoardType, month: date, relation: str
) -> None:
    """Make archived originals in a leaf that stands outside its tree say what their copies were
    renewed to meanwhile. Run while nobody else writes the institution.
    """
    which = _which(institution, type, month)
    for statement in (queries.purges.catch_up, queries.purges.remove_gone):
        connection.execute(_in(statement, relation), which)


def set_aside(
    connection: Connection, institution: Institution, type: BoardType, month: date, relation: str
) -> int:
    """Move a partition's rows out of the tree into a table that stands alone; how many."""
    statement = _in(queries.purges.set_aside, relation, _columns(connection))
    return connection.execute(statement, _which(institution, type, month)).rowcount


def put_back(connection: Connection, relation: str) -> int:
    """Copy the rows of a table that stands alone into the tree, where none like them is there."""
    return connection.execute(_in(queries.purges.put_back, relation, _columns(connection))).rowcount


def enter(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    month: date,
    relation: str,
    tally: Tally,
    drop_after: date,
    started_by: str,
    run_id: str | None,
) -> int:
    """Say in the ledger that this partition is being detached; gives the purge's number."""
    number: int = queries.purges.enter(
        connection,
        institution_key=institution.key,
        type=type,
        month=month,
        relation=relation,
        rows=tally.rows,
        bytes=tally.bytes,
        high=tally.digest_high,
        low=tally.digest_low,
        drop_after=drop_after,
        started_by=started_by,
        run_id=run_id,
    )
    return number


def set_detached(connection: Connection, purge: int, tally: Tally, drop_after: date) -> None:
    """It stands alone, with these rows, until after that day."""
    queries.purges.set_detached(
        connection,
        purge=purge,
        rows=tally.rows,
        bytes=tally.bytes,
        high=tally.digest_high,
        low=tally.digest_low,
        drop_after=drop_after,
    )


def set_export(connection: Connection, purge: int, export: int) -> None:
    """Its rows lie in this export."""
    queries.purges.set_export(connection, purge=purge, export=export)


def set_kept(connection: Connection, purge: int) -> None:
    """It is not let go."""
    queries.purges.set_kept(connection, purge=purge)


def set_dropped(connection: Connection, purge: int) -> None:
    """Its table is no more."""
    queries.purges.set_dropped(connection, purge=purge)


def retally(connection: Connection, purge: PurgeEntry) -> None:
    """Enter what its table now holds, after rows set aside were changed on purpose (erasure)."""
    connection.execute(_in(queries.purges.retally, purge.relation), {"purge": purge.purge})


def lock_key(institution: Institution) -> str:
    """The named lock (`partitions.patience.held`) of whoever detaches and drops, or must not meet
    a table that is half detached.
    """
    return f"lb_pipelines:purge:{institution.id}"


def under_way(connection: Connection, institution: Institution) -> list[PurgeEntry]:
    """The purges of the institution that are neither dropped nor kept, the oldest first."""
    return _entries(connection, institution, under_way=True)


def every(connection: Connection, institution: Institution) -> list[PurgeEntry]:
    """All purges of the institution, the oldest first."""
    return _entries(connection, institution, under_way=False)


def _entries(
    connection: Connection, institution: Institution, *, under_way: bool
) -> list[PurgeEntry]:
    rows = queries.purges.of_institution(
        connection, institution_key=institution.key, under_way=under_way
    )
    return [PurgeEntry(number, BoardType(type), *rest) for number, type, *rest in rows]


def _which(institution: Institution, type: BoardType, month: date) -> Mapping[str, Any]:
    return {
        "institution_id": institution.id,
        "institution_key": institution.key,
        "type": type,
        "first": month_start(month),
        "last": next_month(month) - ONE_DAY,
        "years": academic_years_around(month),
    }


def _in(query: Any, relation: str | None, columns: sql.Composable | None = None) -> sql.Composed:
    table = (
        sql.Identifier("lb", "leaderboard_snapshots")
        if relation is None
        else sql.Identifier(SCHEMA, relation)
    )
    return sql.SQL(queries.text(query)).format(relation=table, columns=columns or sql.SQL(""))


def _columns(connection: Connection) -> sql.Composable:
    names = queries.partitions.written_columns(connection, root="lb.leaderboard_snapshots")
    return sql.SQL(", ").join(sql.Identifier(name) for (name,) in names)
