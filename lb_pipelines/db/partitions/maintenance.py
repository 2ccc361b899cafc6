"""Partition maintenance: the one run that keeps leaves ahead and institutions in their places.

It plans first (`MaintenancePlan` is what a dry run shows), then carries out: months of events,
moves, months of boards. What fails for one institution does not stop the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from lb_pipelines.core.periods import month_start, next_month
from lb_pipelines.db import queries
from lb_pipelines.db.each_institution import name_institution
from lb_pipelines.db.engine import LEAF_BUDGET, Database
from lb_pipelines.db.partitions.leaves import (
    LEAF_PATIENCE,
    MONTHS_AHEAD,
    attached,
    count_leaves,
    create_missing,
)
from lb_pipelines.db.partitions.moves import MOVE_PATIENCE, demote, leaf_months, promote
from lb_pipelines.db.partitions.names import (
    SHARED,
    Leaf,
    board_leaves,
    event_leaf,
)
from lb_pipelines.db.partitions.patience import MAINTENANCE_LOCK, Patience, held
from lb_pipelines.db.partitions.placement import Direction, Holding, Move, plan_placement
from lb_pipelines.errors import LeaderboardError


@dataclass(frozen=True)
class MaintenancePlan:
    """What a run would do: the moves, and the leaves missing for the coming months after them."""

    leaves: int
    budget: int
    moves: tuple[Move, ...]
    missing: dict[str, tuple[Leaf, ...]]
    """By owner: an institution id, `shared`, or `student_points` for the months of events."""


@dataclass
class MaintenanceReport:
    """What a run did. `skipped`: another run was at work, so this one did nothing."""

    skipped: bool = False
    dry_run: bool = False
    plan: MaintenancePlan | None = None
    made: list[str] = field(default_factory=list)
    moved: dict[str, int] = field(default_factory=dict)
    """Rows carried, by institution."""
    failures: dict[str, LeaderboardError] = field(default_factory=dict)
    """By owner; the others went through."""
    leaves: int = 0


EVENTS = "student_points"


def maintain(
    database: Database,
    today: date,
    *,
    months_ahead: int = MONTHS_AHEAD,
    budget: int = LEAF_BUDGET,
    dry_run: bool = False,
    leaf_patience: Patience = LEAF_PATIENCE,
    move_patience: Patience = MOVE_PATIENCE,
) -> MaintenanceReport:
    """Make the months from the current one to `months_ahead` later for everybody active, and move
    institutions into or out of `shared` as the budget of leaves demands.

    One run at a time: a second says `skipped` and does nothing. `dry_run` plans only.
    """
    with held(database, MAINTENANCE_LOCK, wait=False) as alone:
        if not alone:
            return MaintenanceReport(skipped=True, dry_run=dry_run)
        plan = plan_maintenance(database, today, months_ahead=months_ahead, budget=budget)
        report = MaintenanceReport(dry_run=dry_run, plan=plan, leaves=plan.leaves)
        if not dry_run:
            _carry_out(
                database,
                plan,
                report,
                leaf_patience,
                move_patience,
            )
        return report


def plan_maintenance(
    database: Database,
    today: date,
    *,
    months_ahead: int = MONTHS_AHEAD,
    budget: int = LEAF_BUDGET,
) -> MaintenancePlan:
    """Read the institutions and the catalog, and say what there is to do."""
    coming = months_ahead_of(today, months_ahead)
    with database.transaction(snapshot=True) as connection:
        leaves = count_leaves(connection)
        months = leaf_months(connection)
        rows = list(queries.partitions.institutions_by_size(connection))
        shared = sorted(months.get(SHARED, set()))
        filled: dict[str, set[date]] = {}
        for institution_id, month in queries.partitions.shared_months_with_rows(
            connection, institution_ids=[id for id, _, _ in rows], months=shared
        ):
            filled.setdefault(institution_id, set()).add(month)
        holdings = [
            Holding(
                id,
                size,
                dedicated=id in months,
                months=frozenset(months.get(id) or filled.get(id) or ()),
                active=active,
            )
            for id, active, size in rows
        ]
        moves = plan_placement(holdings, budget, coming=coming, shared_months=shared)
        wanted = _wanted(holdings, moves, coming)
        known = attached(connection, [leaf.name for group in wanted.values() for leaf in group])
    missing = {
        owner: tuple(leaf for leaf in group if leaf.name not in known)
        for owner, group in wanted.items()
    }
    return MaintenancePlan(
        leaves=leaves,
        budget=budget,
        moves=tuple(moves),
        missing={owner: group for owner, group in missing.items() if group},
    )


def months_ahead_of(today: date, months_ahead: int) -> list[date]:
    """The month of `today` and those after it, by their first days."""
    months = [month_start(today)]
    for _ in range(months_ahead):
        months.append(next_month(months[-1]))
    return months


def _wanted(
    holdings: list[Holding], moves: list[Move], coming: list[date]
) -> dict[str, list[Leaf]]:
    """The leaves of the coming months, by owner, once the moves are done."""
    dedicated = {h.institution_id for h in holdings if h.dedicated}
    for move in moves:
        if move.direction is Direction.PROMOTE:
            dedicated.add(move.institution_id)
        else:
            dedicated.discard(move.institution_id)
    owners = {
        h.institution_id if h.institution_id in dedicated else SHARED for h in holdings if h.active
    }
    wanted = {EVENTS: [event_leaf(month) for month in coming]}
    return wanted | {owner: board_leaves(owner, coming) for owner in sorted(owners)}


def _carry_out(
    database: Database,
    plan: MaintenancePlan,
    report: MaintenanceReport,
    leaf_patience: Patience,
    move_patience: Patience,
) -> None:
    for move in plan.moves:
        act = promote if move.direction is Direction.PROMOTE else demote
        try:
            with name_institution(move.institution_id):
                report.moved[move.institution_id] = act(
                    database, move.institution_id, patience=move_patience
                )
        except LeaderboardError as error:
            report.failures[move.institution_id] = error
    for owner, leaves in plan.missing.items():
        if owner in report.failures:
            continue  # Its move failed, so these leaves would have no tree to hang in.
        try:
            with name_institution(owner):
                report.made += create_missing(database, list(leaves), leaf_patience)
        except LeaderboardError as error:
            report.failures[owner] = error
    with database.transaction() as connection:
        report.leaves = count_leaves(connection)
