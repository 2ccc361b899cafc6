"""Make leaves: months of events and boards, years of the archive, and a first own subtree.

A leaf is created as a table of its own and attached in the same short transaction: CREATE ...
PARTITION OF locks the parent against everybody (ACCESS EXCLUSIVE), ATTACH only against other DDL
(SHARE UPDATE EXCLUSIVE), and a process that is killed leaves nothing half made.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from functools import partial

import psycopg.errors
from psycopg import sql

from lb_pipelines.core.words import BoardType, validate_institution_id
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions.names import (
    LEAVES_PER_MONTH,
    SCHEMA,
    SHARED,
    Leaf,
    Root,
    archive_leaf,
    board_leaves,
    branch,
    event_leaf,
    months_between,
    top,
)
from lb_pipelines.db.partitions.patience import PLACEMENT_LOCK, Patience, held
from lb_pipelines.errors import PartitionBusy, PartitionDetached

MONTHS_AHEAD = 2
"""How many months after the current one maintenance keeps ready."""

LEAF_PATIENCE = Patience()


def ensure_event_months(
    database: Database, first_month: date, last_month: date, *, patience: Patience = LEAF_PATIENCE
) -> list[str]:
    """Make the leaves of `student_points` for these months of UTC; returns the names made.

    Any day of a month stands for it. Does nothing, after one query, where all exist.
    """
    leaves = [event_leaf(month) for month in months_between(first_month, last_month)]
    return create_missing(database, leaves, patience)


def ensure_archive_years(
    database: Database, academic_years: Iterable[str], *, patience: Patience = LEAF_PATIENCE
) -> list[str]:
    """Make the leaves of the archive for these academic years; returns the names made.

    Does nothing, after one query, where all exist.
    """
    leaves = [archive_leaf(year) for year in sorted(set(academic_years))]
    return create_missing(database, leaves, patience)


def ensure_snapshot_months(
    database: Database,
    institution_id: str,
    first_month: date,
    last_month: date,
    *,
    budget: int | None = None,
    patience: Patience = LEAF_PATIENCE,
) -> list[str]:
    """Make the leaves that an institution's snapshots and trends of these months go into.

    An institution without rows gets a subtree of its own if the budget holds the leaves that it
    needs now and in the coming months; else, and for one that lies in `shared`, the shared leaves
    are made. `budget` is the database's unless given. Returns the names made; does nothing, after
    one query, where a dedicated institution has all.
    """
    validate_institution_id(institution_id)
    budget = database.leaf_budget if budget is None else budget
    months = months_between(first_month, last_month)
    for _ in range(patience.tries - 1):
        with suppress(psycopg.errors.UndefinedTable):
            return _ensure(database, institution_id, months, budget, patience)
        # The institution was moved between the look at its tree and the work on it: look again.
    return _ensure(database, institution_id, months, budget, patience)


def _ensure(
    database: Database, institution_id: str, months: list[date], budget: int, patience: Patience
) -> list[str]:
    own = board_leaves(institution_id, months)
    tops = [top(institution_id, root) for root in Root]
    with database.transaction() as connection:
        known = attached(connection, [*tops, *(leaf.name for leaf in own)])
    if not known.issuperset(tops):
        made = _settle(database, institution_id, months, budget, patience)
        if made is not None:
            return made
        return create_missing(database, board_leaves(SHARED, months), patience)
    return create_missing(database, own, patience, known=known)


def _settle(
    database: Database, institution_id: str, months: list[date], budget: int, patience: Patience
) -> list[str] | None:
    """Give a new institution its own subtree and these months; None if it belongs in `shared`."""
    needed = LEAVES_PER_MONTH * max(len(months), 1 + MONTHS_AHEAD)
    if not _may_settle(database, institution_id, budget - needed):
        return None
    # Leaves count only once they exist: the lock is held until they do, so that institutions
    # that arrive together cannot all take the same room.
    with held(database, PLACEMENT_LOCK):
        if not _may_settle(database, institution_id, budget - needed):
            return None
        name = top(institution_id, Root.SNAPSHOTS)
        try:
            patience.run(database, name, partial(plant, institution_id=institution_id))
        except PartitionBusy:
            # Somebody works in `shared` for long. Better there than not at all: a later
            # maintenance can still take it out.
            return None
        return create_missing(database, board_leaves(institution_id, months), patience)


def _may_settle(database: Database, institution_id: str, room_up_to: int) -> bool:
    with database.transaction() as connection:
        if is_dedicated(connection, institution_id):
            return True
        return count_leaves(connection) <= room_up_to and not (
            queries.partitions.has_rows(connection, institution_id=institution_id)
        )


def count_leaves(connection: Connection) -> int:
    """The leaves that count against the budget: those of snapshots and trends, `shared` too."""
    return sum(1 for _ in queries.partitions.leaves(connection))


def is_dedicated(connection: Connection, institution_id: str) -> bool:
    """Whether the institution has a subtree of its own."""
    return bool(attached(connection, [top(institution_id, Root.SNAPSHOTS)]))


def attached(connection: Connection, names: Iterable[str]) -> set[str]:
    """Those of these names in `lb_part` that hang in a tree now."""
    rows = queries.partitions.attached(connection, names=list(names))
    return {name for (name,) in rows}


def create_missing(
    database: Database,
    leaves: list[Leaf],
    patience: Patience,
    *,
    known: set[str] | None = None,
) -> list[str]:
    """Make those of the leaves that do not exist, each in its own transaction; returns their names.

    Raises `PartitionBusy` naming the leaf that could not be made; those before it stay, and
    another call goes on from there.
    """
    with database.transaction() as connection:
        if known is None:
            known = attached(connection, (leaf.name for leaf in leaves))
        missing = [leaf for leaf in leaves if leaf.name not in known]
        if not missing:
            return []
        lz4 = bool(queries.partitions.offers_lz4(connection))
    return [
        leaf.name
        for leaf in missing
        if patience.run(database, leaf.name, partial(create, leaf=leaf, lz4=lz4))
    ]


def create(connection: Connection, leaf: Leaf, *, lz4: bool) -> bool:
    """Make one leaf and attach it, in the caller's transaction; False if it is there already."""
    queries.partitions.lock_for_transaction(connection, key=f"{SCHEMA}.{leaf.name}")
    if leaf.name in attached(connection, [leaf.name]):
        return False
    if queries.partitions.relation_exists(connection, name=leaf.name):
        raise PartitionDetached(leaf.name)
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(leaf.identifier, leaf.parent)
    )
    if lz4 and leaf.wide_columns:
        columns = sql.SQL(", ").join(
            sql.SQL("ALTER {} SET COMPRESSION lz4").format(sql.Identifier(column))
            for column in leaf.wide_columns
        )
        connection.execute(sql.SQL("ALTER TABLE {} {}").format(leaf.identifier, columns))
    if leaf.is_of_events:
        queries.partitions.watch_events(connection, relation=leaf.identifier.as_string(connection))
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES {}").format(
            leaf.parent, leaf.identifier, leaf.bounds
        )
    )
    return True


def plant(connection: Connection, institution_id: str) -> None:
    """Give an institution without rows a subtree without months, in the caller's transaction.

    Does nothing where it has one.
    """
    if is_dedicated(connection, institution_id):
        return
    for root in Root:
        grow(connection, institution_id, root)
    for root in Root:
        attach_top(connection, institution_id, root)


def grow(connection: Connection, institution_id: str, root: Root) -> None:
    """Make an institution's subtree of one root, still standing alone."""
    whole = sql.Identifier(SCHEMA, top(institution_id, root))
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL) PARTITION BY LIST (type)").format(
            whole, sql.Identifier("lb", root)
        )
    )
    for type in BoardType:
        part = sql.Identifier(SCHEMA, branch(institution_id, type, root))
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} PARTITION OF {} FOR VALUES IN ({})"
                " PARTITION BY RANGE (snapshot_date)"
            ).format(part, whole, sql.Literal(str(type)))
        )


def attach_top(connection: Connection, institution_id: str, root: Root) -> None:
    """Hang a subtree that stands alone into its root; PostgreSQL reads all of `shared` to see
    that none of the institution's rows is left there."""
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES IN ({})").format(
            sql.Identifier("lb", root),
            sql.Identifier(SCHEMA, top(institution_id, root)),
            sql.Literal(institution_id),
        )
    )
