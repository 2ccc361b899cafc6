"""What sweeps would move: exactly, for one institution; and in a glance whether any has to.

Nothing is moved here. The arithmetic lies in `core.retention`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date, datetime

from lb_pipelines.core import retention
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.retention import PlannedSweep, RetentionPolicy
from lb_pipelines.core.words import Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import holds
from lb_pipelines.db.repositories import retention as repository
from lb_pipelines.errors import LeaderboardError


@dataclass(frozen=True)
class DueSweep:
    """A granularity of an institution with something expired; `today` is the institution's day."""

    institution: Institution
    granularity: Granularity
    today: date
    cutoff: date


@dataclass(frozen=True)
class Due:
    """What is due anywhere, and by institution id whose settings cannot be used."""

    found: list[DueSweep] = field(default_factory=list)
    wrong: dict[str, LeaderboardError] = field(default_factory=dict)


def plan(
    database: Database,
    institution: Institution,
    today: date,
    granularities: Collection[Granularity] = tuple(Granularity),
) -> list[PlannedSweep]:
    """What a sweep of each granularity would move today, and what it would leave held or restored.

    Raises `InvalidSetting`.
    """
    policy = RetentionPolicy.of(institution)
    with database.transaction(snapshot=True) as connection:
        found = [
            holding
            for granularity in granularities
            for holding in repository.holdings(
                connection, institution, granularity, policy.cutoff(granularity, today)
            )
        ]
        in_force = holds.in_force(connection, institution, today)
    return retention.plan_sweeps(institution, today, found, in_force, granularities)


def due(database: Database, now: datetime) -> Due:
    """Every granularity of every active institution with something to sweep, by one probe each."""
    raise NotImplementedError
