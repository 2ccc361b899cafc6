"""How DDL waits: a short `lock_timeout`, then a pause, then another try; and the named locks.

A statement that queues for a strong lock makes everybody behind it wait, so none here waits
longer than `Patience.lock_timeout`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import psycopg.errors
from psycopg import sql

from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.errors import PartitionBusy

T = TypeVar("T")

PLACEMENT_LOCK = "lb_pipelines:placement"
"""Held while an institution moves into or out of the shared subtree, or first gets its own."""
MAINTENANCE_LOCK = "lb_pipelines:maintenance"
"""Held for a whole maintenance run."""

# Somebody else holds a lock, or changed the same part of the tree first: the next try sees it.
_PASSING = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateTable,
)


@dataclass(frozen=True)
class Patience:
    """How long one try waits for locks, how many tries there are, and the pauses between them.

    The pauses double from `first_pause` to `longest_pause` (seconds). `sleep` is an argument so
    that a test can act in a pause instead of waiting through it.
    """

    lock_timeout: float = 0.5
    tries: int = 10
    first_pause: float = 0.1
    longest_pause: float = 5.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if self.tries < 1 or self.lock_timeout <= 0:
            raise ValueError("Patience needs one try at least and a lock_timeout above 0")

    def run(self, database: Database, name: str, work: Callable[[Connection], T]) -> T:
        """Do `work` in one transaction; after the last try raise `PartitionBusy` naming `name`."""
        pause = self.first_pause
        for attempt in range(1, self.tries + 1):
            try:
                with database.transaction() as connection:
                    set_lock_timeout(connection, self.lock_timeout)
                    return work(connection)
            except _PASSING as error:
                if attempt == self.tries:
                    raise PartitionBusy(name, self.tries, str(error).splitlines()[0]) from error
            self.sleep(pause)
            pause = min(2 * pause, self.longest_pause)
        raise AssertionError("unreachable")

    @contextmanager
    def suspended(self, database: Database, connection: Connection) -> Iterator[None]:
        """Within the block others who write are waited for as long as `database` says, by default
        however long they take; a short wait is for tables.
        """
        set_lock_timeout(connection, database.lock_timeout)
        yield
        set_lock_timeout(connection, self.lock_timeout)


def set_lock_timeout(connection: Connection, seconds: float | None) -> None:
    """Let no statement of this transaction wait longer than this for a lock; None: for ever."""
    milliseconds = sql.Literal("0" if seconds is None else f"{max(1, round(seconds * 1000))}ms")
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(milliseconds))


@contextmanager
def held(database: Database, key: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a named lock of the whole database; gives False where `wait` is off and it is taken.

    The lock belongs to a connection, so a process that is killed lets go of it.
    """
    with database.autocommit() as guard:
        if wait:
            queries.partitions.lock(guard, key=key)
        elif not queries.partitions.try_lock(guard, key=key):
            yield False
            return
        try:
            yield True
        finally:
            queries.partitions.unlock(guard, key=key)
