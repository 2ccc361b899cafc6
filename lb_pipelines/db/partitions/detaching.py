"""Take a leaf of snapshots out of its tree, put it back, let it go: the DDL of purges.

A leaf is detached CONCURRENTLY, so that readers and writers of its branch wait for nothing. That
cannot be part of a transaction: PostgreSQL commits half of it first and waits for those who still
read the leaf, and whoever is killed then leaves it pending, which the next `detach` finalizes.
What stands outside a tree waits under `set_aside_name`, so that its month can be made again. A
RANGE branch has no last child to keep: one without leaves takes new months as well.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum

import psycopg.errors
from psycopg import sql

from lb_pipelines.core.partition_key import PartitionKey
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions.names import SCHEMA, Leaf, Root, board_leaf, branch
from lb_pipelines.db.partitions.patience import Patience
from lb_pipelines.errors import PartitionBusy

# Longer than deadlock_timeout: an autovacuum gives way only to one who has waited that long.
DETACH_PATIENCE = Patience(lock_timeout=3.0, tries=10)


class Standing(StrEnum):
    """Where a table of `lb_part` stands."""

    ATTACHED = "attached"
    PENDING = "pending"
    ALONE = "alone"
    ABSENT = "absent"


def snapshot_leaf(institution_id: str, type: BoardType, month: date) -> Leaf:
    """The leaf of an institution's own subtree that holds this partition's snapshots."""
    return board_leaf(institution_id, type, month, Root.SNAPSHOTS)


def set_aside_name(institution_id: str, type: BoardType, month: date) -> str:
    """What a partition's table is called once it is out: 63 characters at most, like all names."""
    return f"{PartitionKey.of(institution_id, type, month)}:purged"


def standing(connection: Connection, name: str) -> Standing:
    """Where the table of this name stands now."""
    found: str = queries.partitions.standing(connection, name=name)
    return Standing(found)


def detach(database: Database, leaf: Leaf, *, patience: Patience = DETACH_PATIENCE) -> Standing:
    """Get a leaf out of its tree, whatever another run has left half done; `ALONE` or `ABSENT`.

    Raises `PartitionBusy` where others read it for longer than the last try waits; what was
    begun then stays begun, and the next call goes on.
    """
    pause = patience.first_pause
    for attempt in range(1, patience.tries + 1):
        try:
            now = _detach_once(database, leaf, patience)
            if now in (Standing.ALONE, Standing.ABSENT):
                return now
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.DeadlockDetected,
            # Another run has got there first, or has only begun.
            psycopg.errors.ObjectNotInPrerequisiteState,
            psycopg.errors.UndefinedTable,
        ) as error:
            if attempt == patience.tries:
                reason = str(error).splitlines()[0]
                raise PartitionBusy(leaf.name, patience.tries, reason) from error
        patience.sleep(pause)
        pause = min(2 * pause, patience.longest_pause)
    raise PartitionBusy(leaf.name, patience.tries, "it was attached again each time")


def finish_pending(connection: Connection, institution_id: str) -> list[str]:
    """Finalize every detach below an institution's subtree that was begun and not ended, in the
    caller's transaction; who drops the subtree would drop those leaves with it. Gives their names.
    """
    finished = []
    for type in BoardType:
        parent = branch(institution_id, type, Root.SNAPSHOTS)
        for (name,) in list(queries.partitions.pending_below(connection, parent=parent)):
            connection.execute(
                sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(
                    sql.Identifier(SCHEMA, parent), sql.Identifier(SCHEMA, name)
                )
            )
            finished.append(name)
    return finished


def attach(connection: Connection, leaf: Leaf) -> None:
    """Hang a leaf that stands alone back into its tree, in the caller's transaction.

    The CHECK that the detach left spares PostgreSQL a look at the rows; it goes, so that the leaf
    is as it was.
    """
    connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES {}").format(
            leaf.parent, leaf.identifier, leaf.bounds
        )
    )
    drop_own_checks(connection, leaf.name)


def drop_own_checks(connection: Connection, name: str) -> None:
    """Drop the CHECKs of a leaf that its tree does not have."""
    for (constraint,) in list(queries.partitions.own_checks(connection, name=name)):
        connection.execute(
            sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                sql.Identifier(SCHEMA, name), sql.Identifier(constraint)
            )
        )


def rename(connection: Connection, name: str, to: str) -> None:
    """Give a table of `lb_part` another name, in the caller's transaction."""
    connection.execute(
        sql.SQL("ALTER TABLE {} RENAME TO {}").format(
            sql.Identifier(SCHEMA, name), sql.Identifier(to)
        )
    )


def create_aside(connection: Connection, name: str) -> None:
    """Make an empty table of snapshots outside every tree, in the caller's transaction."""
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE lb.leaderboard_snapshots INCLUDING ALL)").format(
            sql.Identifier(SCHEMA, name)
        )
    )


def lock(connection: Connection, name: str) -> None:
    """Keep everybody off a table of `lb_part` until the transaction ends."""
    connection.execute(
        sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(SCHEMA, name))
    )


def drop(connection: Connection, name: str) -> None:
    """Drop a table of `lb_part` with its rows, in the caller's transaction.

    Without CASCADE, and never a part of a tree: PostgreSQL would drop that without a word.
    """
    assert standing(connection, name) is Standing.ALONE
    connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(SCHEMA, name)))


def _detach_once(database: Database, leaf: Leaf, patience: Patience) -> Standing:
    """One step towards a leaf that stands alone; gives how it stands after it."""
    with database.autocommit() as connection:
        now = standing(connection, leaf.name)
        if now in (Standing.ALONE, Standing.ABSENT):
            return now
        how = "FINALIZE" if now is Standing.PENDING else "CONCURRENTLY"
        milliseconds = sql.Literal(f"{max(1, round(patience.lock_timeout * 1000))}ms")
        connection.execute(sql.SQL("SET lock_timeout = {}").format(milliseconds))
        try:
            connection.execute(
                sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(
                    leaf.parent, leaf.identifier, sql.SQL(how)
                )
            )
        finally:
            # The connection goes back to others.
            connection.execute("RESET lock_timeout")
        return standing(connection, leaf.name)
