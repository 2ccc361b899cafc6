"""Who may write an institution's boards and archive at the same time.

Days and sweeps write beside each other: row locks keep them apart. What moves rows back, renews
the archive, places a hold, purges or erases writes alone. Each takes its lock before any row, as
the first statement of its transaction, so that nobody waits in a circle.

Above that, one run at a time works through an institution: not for the rows' sake, which the locks
above keep apart, but because a second one would only wait for them or do the same again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from lb_pipelines.core.institution import Institution
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection, Database


def write_beside_others(connection: Connection, institution: Institution) -> None:
    """Wait for whoever writes alone, and keep them out until the transaction ends."""
    queries.writers.write_beside_others(connection, institution_key=institution.key)


def write_alone(connection: Connection, institution: Institution) -> None:
    """Wait for all who write, and keep them out until the transaction ends."""
    queries.writers.write_alone(connection, institution_key=institution.key)


def try_write_alone(connection: Connection, institution: Institution) -> bool:
    """Keep all who write out until the transaction ends; False, at once, where somebody does."""
    locked: bool = queries.writers.try_write_alone(connection, institution_key=institution.key)
    return locked


def erasures(connection: Connection, institution: Institution) -> int:
    """How many students have been erased: ids read before another one are not to be written."""
    found: int = queries.writers.erasures(connection, institution_key=institution.key)
    return found


@contextmanager
def one_run(database: Database, institution: Institution) -> Iterator[bool]:
    """Whether this is the one run that works through the institution while the block lasts.

    The lock is a connection's: it goes with a run that is killed. Where the connection alone is
    lost the run goes on without; another one may then work beside it.
    """
    with database.autocommit() as connection:
        mine: bool = queries.writers.begin_run(connection, institution_key=institution.key)
        try:
            yield mine
        finally:
            if mine:
                with suppress(psycopg.OperationalError):
                    queries.writers.end_run(connection, institution_key=institution.key)
