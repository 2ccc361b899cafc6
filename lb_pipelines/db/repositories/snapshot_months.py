"""Months ready for an institution's snapshots, also where a purge was killed half way.

A purge takes a leaf out of its tree before it gives it another name. One that is killed between
the two leaves its entry in the ledger and the month without a leaf; whoever needs the month next
hangs the leaf back. The purge stays entered: its next run weighs again whether the month may go.
"""

from __future__ import annotations

from functools import partial

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, month_start
from lb_pipelines.db import partitions
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions import detaching
from lb_pipelines.db.partitions.detaching import DETACH_PATIENCE, Standing
from lb_pipelines.db.partitions.leaves import is_dedicated
from lb_pipelines.db.partitions.patience import PLACEMENT_LOCK, held
from lb_pipelines.db.repositories import purges, writers
from lb_pipelines.db.repositories.purges import PurgeEntry
from lb_pipelines.db.repositories.versions import raise_versions
from lb_pipelines.errors import PartitionDetached


def ensure(database: Database, institution: Institution, days: DayRange) -> None:
    """Have the leaves that snapshots and trends of these days go into.

    Raises `PartitionBusy` where others kept their locks, and `PartitionDetached` where somebody
    took a leaf out that no purge has entered.
    """
    first, last = month_start(days.first), month_start(days.last)
    try:
        partitions.ensure_snapshot_months(database, institution.id, first, last)
    except PartitionDetached:
        _hang_back(database, institution)
        partitions.ensure_snapshot_months(database, institution.id, first, last)


def _hang_back(database: Database, institution: Institution) -> None:
    """Put every leaf back that a killed purge left outside; one at work is waited for."""
    with held(database, PLACEMENT_LOCK):
        with database.transaction() as connection:
            if not is_dedicated(connection, institution.id):
                return
            entries = purges.under_way(connection, institution)
        for entry in entries:
            if entry.state != "DETACHING":
                continue
            leaf = detaching.snapshot_leaf(institution.id, entry.type, entry.month)
            with database.transaction() as connection:
                standing = detaching.standing(connection, leaf.name)
            if standing not in (Standing.PENDING, Standing.ALONE):
                continue
            detaching.detach(database, leaf)
            back = partial(_attach, database=database, institution=institution, entry=entry)
            DETACH_PATIENCE.run(database, leaf.name, back)


def _attach(
    connection: Connection, database: Database, institution: Institution, entry: PurgeEntry
) -> None:
    leaf = detaching.snapshot_leaf(institution.id, entry.type, entry.month)
    with DETACH_PATIENCE.suspended(database, connection):
        writers.write_alone(connection, institution)
    # A renewal that found the leaf gone has renewed the copies alone.
    purges.catch_up(connection, institution, entry.type, entry.month, leaf.name)
    detaching.attach(connection, leaf)
    raise_versions(connection, institution, [(entry.type, entry.month)])
