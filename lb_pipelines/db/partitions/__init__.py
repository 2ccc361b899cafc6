"""Partitions: leaves ahead of time, and who has a subtree of its own.

Pure: `names` (how everything is called), `placement` (who should be dedicated). Execution:
`patience` (locks and tries), `leaves` (months), `moves` (into and out of `shared`),
`maintenance` (all of it, regularly). Rows are none of this package's business, except that a
move carries them along.
"""

from lb_pipelines.db.engine import LEAF_BUDGET
from lb_pipelines.db.partitions.leaves import (
    MONTHS_AHEAD,
    ensure_archive_years,
    ensure_event_months,
    ensure_snapshot_months,
)
from lb_pipelines.db.partitions.maintenance import MaintenancePlan, MaintenanceReport, maintain
from lb_pipelines.db.partitions.moves import demote, promote
from lb_pipelines.db.partitions.patience import Patience
from lb_pipelines.db.partitions.placement import Holding, Move, plan_placement

__all__ = [
    "LEAF_BUDGET",
    "MONTHS_AHEAD",
    "Holding",
    "MaintenancePlan",
    "MaintenanceReport",
    "Move",
    "Patience",
    "demote",
    "ensure_archive_years",
    "ensure_event_months",
    "ensure_snapshot_months",
    "maintain",
    "plan_placement",
    "promote",
]
