"""What sweeps would move: exactly, for one institution; and in a glance whether any has to.

Nothing is moved here. The arithmetic lies in `core.retention`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime

from lb_pipelines.core import retention
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import local_day
from lb_pipelines.core.retention import Hold, PlannedSweep, RetentionPolicy
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import holds, institutions
from lb_pipelines.db.repositories import retention as repository
from lb_pipelines.db.repositories.retention import Probe
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
    """Every granularity of every active institution with something to sweep, by probes alone.

    A probe stops at the first snapshot found. Held days are left out of it beforehand, so that
    what lies under a hold is neither found nor looked at. Settings that cannot be used stop the
    institution that has them, no other.
    """
    known: dict[str, _Known] = {}
    wrong: dict[str, LeaderboardError] = {}
    with database.transaction(snapshot=True) as connection:
        held: dict[str, list[Hold]] = defaultdict(list)
        for entry in holds.every(connection):
            held[entry.institution_id].append(entry.hold)
        for institution in institutions.every(connection):
            if institution.status != "ACTIVE":
                continue
            try:
                known[institution.id] = _Known.of(institution, now, held[institution.id])
            except LeaderboardError as error:
                wrong[institution.id] = error
        dedicated = repository.dedicated(connection, known)
    found: set[tuple[str, Granularity]] = set()
    together: dict[tuple[Granularity, tuple[BoardType, ...]], list[Probe]] = defaultdict(list)
    alone: dict[tuple[str, tuple[BoardType, ...]], list[Probe]] = defaultdict(list)
    for id, one in known.items():
        for probe in one.probes():
            if id in dedicated:
                alone[id, probe.types].append(probe)
            else:
                together[probe.granularity, probe.types].append(probe)
    with database.transaction() as connection:
        for (granularity, _), probes in together.items():
            found.update((id, granularity) for id in repository.due_in_shared(connection, probes))
    for (id, _), probes in alone.items():
        # One transaction each: locks on the leaves of all institutions would be held together.
        with database.transaction() as connection:
            found.update((id, g) for g in repository.due_in_own(connection, probes))
    return Due(
        [
            DueSweep(
                one.institution, granularity, one.today, one.policy.cutoff(granularity, one.today)
            )
            for id, one in known.items()
            for granularity in Granularity
            if (id, granularity) in found
        ],
        wrong,
    )


@dataclass(frozen=True)
class _Known:
    """What the probes of an institution follow from."""

    institution: Institution
    today: date
    policy: RetentionPolicy
    in_force: list[Hold]

    @classmethod
    def of(cls, institution: Institution, now: datetime, held: list[Hold]) -> _Known:
        today = local_day(now, institution.zone)
        in_force = [hold for hold in held if hold.in_force(today)]
        return cls(institution, today, RetentionPolicy.of(institution), in_force)

    def probes(self) -> Iterator[Probe]:
        """One of all types for each granularity; where holds tell types apart, one of each type."""
        alike = all(hold.type is None for hold in self.in_force)
        for types in [tuple(BoardType)] if alike else [(type,) for type in BoardType]:
            for granularity in Granularity:
                cutoff = self.policy.cutoff(granularity, self.today)
                for first, before in retention.free_spans(types[0], cutoff, self.in_force):
                    yield Probe(self.institution.id, granularity, types, first, before, self.today)
