"""Move an institution's rows out of the shared subtree (promote) or into it (demote).

A move is one transaction over both roots, so it is there whole or not at all. It locks the roots
against everybody from the start: a statement that had already chosen a subtree by the old bounds
and only then waited would look for its rows where they no longer are. Others therefore wait while
rows move; nobody sees half of it, and nothing that was written before or is written after is lost.
"""

from __future__ import annotations

from datetime import date
from functools import partial

from psycopg import sql

from lb_pipelines.core.words import validate_institution_id
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions.detaching import finish_pending
from lb_pipelines.db.partitions.leaves import (
    attach_top,
    create,
    create_missing,
    grow,
    is_dedicated,
)
from lb_pipelines.db.partitions.names import (
    SCHEMA,
    SHARED,
    Root,
    board_leaves,
    month_of,
    owner_of,
    top,
)
from lb_pipelines.db.partitions.patience import PLACEMENT_LOCK, Patience, held, set_lock_timeout

# Shorter than deadlock_timeout (1 s): where a transaction holds one root and asks for the other,
# the move gives up first, not the transaction. Many tries, because days are written for seconds.
MOVE_PATIENCE = Patience(lock_timeout=0.5, tries=30)
# Longer than deadlock_timeout: with both roots held nobody but an autovacuum can be on a leaf, and
# it gives way only to one who has waited that long.
_LEAF_LOCK_TIMEOUT = 3.0


def promote(database: Database, institution_id: str, *, patience: Patience = MOVE_PATIENCE) -> int:
    """Give an institution a subtree of its own, with all its rows; returns how many moved.

    Does nothing where it has one. Raises `PartitionBusy` after the last try.
    """
    validate_institution_id(institution_id)
    with held(database, PLACEMENT_LOCK):
        work = partial(_promote, institution_id=institution_id)
        return patience.run(database, top(institution_id, Root.SNAPSHOTS), work)


def demote(database: Database, institution_id: str, *, patience: Patience = MOVE_PATIENCE) -> int:
    """Move all rows of an institution into the shared subtree and drop its own; returns how many.

    Does nothing where it has none. Raises `PartitionBusy` after the last try.
    """
    validate_institution_id(institution_id)
    with held(database, PLACEMENT_LOCK):
        with database.transaction() as connection:
            months = leaf_months(connection).get(institution_id, set())
        # Ahead of the transaction, so that it holds its locks for the rows alone.
        create_missing(database, board_leaves(SHARED, sorted(months)), patience)
        work = partial(_demote, institution_id=institution_id)
        return patience.run(database, top(institution_id, Root.SNAPSHOTS), work)


def leaf_months(connection: Connection) -> dict[str, set[date]]:
    """The months for which each subtree has leaves, by its owner."""
    months: dict[str, set[date]] = {}
    for top_name, leaf_name in queries.partitions.leaves(connection):
        months.setdefault(owner_of(top_name), set()).add(month_of(leaf_name))
    return months


def _promote(connection: Connection, institution_id: str) -> int:
    _lock_roots(connection)
    if is_dedicated(connection, institution_id):
        return 0
    _lock_subtrees(connection, SHARED)
    shared = sorted(leaf_months(connection).get(SHARED, set()))
    found = queries.partitions.shared_months_with_rows(
        connection, institution_ids=[institution_id], months=shared
    )
    filled = [month for _, month in found]
    # Later ones and gaps too: a writer that was promised a month must find it after the move.
    months = [month for month in shared if filled and month >= filled[0]]
    for root in Root:
        grow(connection, institution_id, root)
    lz4 = bool(queries.partitions.offers_lz4(connection))
    for leaf in board_leaves(institution_id, months):
        create(connection, leaf, lz4=lz4)
    rows = 0
    for root in Root:
        whole = sql.Identifier(SCHEMA, top(institution_id, root))
        # Equal to the bounds to come, so that ATTACH need not read the rows again.
        connection.execute(
            sql.SQL(
                "ALTER TABLE {} ADD CONSTRAINT bounds_to_come CHECK (institution_id = {})"
            ).format(whole, sql.Literal(institution_id))
        )
        rows += _carry(
            connection,
            root,
            "WITH carried AS (DELETE FROM {source} WHERE institution_id = {id} RETURNING {columns})"
            " INSERT INTO {target} ({columns}) SELECT {columns} FROM carried",
            source=top(SHARED, root),
            target=top(institution_id, root),
            institution_id=institution_id,
        )
        attach_top(connection, institution_id, root)
        connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT bounds_to_come").format(whole))
    return rows


def _demote(connection: Connection, institution_id: str) -> int:
    _lock_roots(connection)
    if not is_dedicated(connection, institution_id):
        return 0
    _lock_subtrees(connection, institution_id)
    # A purge that was killed; its next run finds the leaf standing alone and goes on.
    finish_pending(connection, institution_id)
    months = leaf_months(connection).get(institution_id, set())
    lz4 = bool(queries.partitions.offers_lz4(connection))
    for leaf in board_leaves(SHARED, sorted(months)):
        create(connection, leaf, lz4=lz4)
    rows = 0
    for root in Root:
        whole = sql.Identifier(SCHEMA, top(institution_id, root))
        connection.execute(
            sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(sql.Identifier("lb", root), whole)
        )
        rows += _carry(
            connection,
            root,
            "INSERT INTO {target} ({columns}) SELECT {columns} FROM {source}"
            " WHERE institution_id = {id}",
            source=top(institution_id, root),
            target=top(SHARED, root),
            institution_id=institution_id,
        )
        connection.execute(sql.SQL("DROP TABLE {}").format(whole))
    return rows


def _lock_roots(connection: Connection) -> None:
    for root in Root:
        connection.execute(
            sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(
                sql.Identifier("lb", root)
            )
        )
    set_lock_timeout(connection, _LEAF_LOCK_TIMEOUT)


def _lock_subtrees(connection: Connection, owner: str) -> None:
    """Lock a subtree of both roots down to its leaves."""
    for root in Root:
        connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(
                sql.Identifier(SCHEMA, top(owner, root))
            )
        )


def _carry(
    connection: Connection,
    root: Root,
    statement: str,
    *,
    source: str,
    target: str,
    institution_id: str,
) -> int:
    """Run the statement that carries the rows of one root; returns how many."""
    names = queries.partitions.written_columns(connection, root=f"lb.{root}")
    columns = sql.SQL(", ").join(sql.Identifier(name) for (name,) in names)
    cursor = connection.execute(
        sql.SQL(statement).format(
            source=sql.Identifier(SCHEMA, source),
            target=sql.Identifier(SCHEMA, target),
            columns=columns,
            id=sql.Literal(institution_id),
        )
    )
    return cursor.rowcount
