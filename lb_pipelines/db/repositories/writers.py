"""Who may write an institution's boards and archive at the same time.

Days and sweeps write beside each other: row locks keep them apart. What moves rows back, renews
the archive, places a hold, purges or erases writes alone. Each takes its lock before any row, as
the first statement of its transaction, so that nobody waits in a circle.
"""

from __future__ import annotations

from lb_pipelines.core.institution import Institution
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


def write_beside_others(connection: Connection, institution: Institution) -> None:
    """Wait for whoever writes alone, and keep them out until the transaction ends."""
    queries.writers.write_beside_others(connection, institution_key=institution.key)


def write_alone(connection: Connection, institution: Institution) -> None:
    """Wait for all who write, and keep them out until the transaction ends."""
    queries.writers.write_alone(connection, institution_key=institution.key)


def erasures(connection: Connection, institution: Institution) -> int:
    """How many students have been erased: ids read before another one are not to be written."""
    found: int = queries.writers.erasures(connection, institution_key=institution.key)
    return found
