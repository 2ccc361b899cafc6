"""What sweeps would move: exactly, for one institution; and in a glance whether any has to.

Nothing is moved here. The arithmetic lies in `core.retention`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from lb_pipelines.core import retention
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import local_day
from lb_pipelines.core.retention import Hold, PlannedSweep, RetentionPolicy
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.each_institution import (
    TICK_STATEMENT_TIMEOUT,
    ask_each,
    name_institution,
    with_short_waits,
)
from lb_pipelines.db.engine import Database
from lb_pipelines.db.partitions.names import SHARED
from lb_pipelines.db.repositories import holds, institutions
from lb_pipelines.db.repositories import retention as repository
from lb_pipelines.db.repositories.retention import Probe
from lb_pipelines.errors import InstitutionLocked, LeaderboardError, UnreadableInstitution


@dataclass(frozen=True)
class DueSweep:
    """A granularity of an institution with something expired; `today` is the institution's day."""

    institution: Institution
    granularity: Granularity
    today: date
    cutoff: date


@dataclass(frozen=True)
class Due:
    """What is due anywhere, and by institution id whose settings cannot be used (`wrong`) and what
    could not be asked (`failures`), above all because of another session's locks.
    """

    found: list[DueSweep] = field(default_factory=list)
    wrong: dict[str, LeaderboardError] = field(default_factory=dict)
    failures: dict[str, LeaderboardError] = field(default_factory=dict)


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
    what lies under a hold is neither found nor looked at. An institution that cannot be asked stops
    no other.
    """
    database = with_short_waits(database, TICK_STATEMENT_TIMEOUT)
    with database.transaction(snapshot=True) as connection:
        held: dict[str, list[Hold]] = defaultdict(list)
        for entry in holds.every(connection):
            held[entry.institution_id].append(entry.hold)
        active = institutions.active(connection)
        known, wrong = ask_each(active, lambda one: _Known.of(one, now, held[one.id]))
        dedicated = repository.dedicated(connection, known)
    together: dict[tuple[Granularity, tuple[BoardType, ...]], list[Probe]] = defaultdict(list)
    for id, one in known.items():
        if id not in dedicated:
            for probe in one.probes:
                together[probe.granularity, probe.types].append(probe)
    found, failures = _probe_shared(database, together)

    def probe_own(institution: Institution) -> set[Granularity]:
        by_types: dict[tuple[BoardType, ...], list[Probe]] = defaultdict(list)
        for probe in known[institution.id].probes:
            by_types[probe.types].append(probe)
        due: set[Granularity] = set()
        # One transaction each: locks on the leaves of all institutions would be held together.
        with database.transaction() as connection:
            for probes in by_types.values():
                due |= repository.due_in_own(connection, probes)
        return due

    answers, unanswered = ask_each(
        (one.institution for id, one in known.items() if id in dedicated), probe_own
    )
    found |= {(id, granularity) for id, due in answers.items() for granularity in due}
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
        failures | unanswered,
    )


def _probe_shared(
    database: Database, together: Mapping[tuple[Granularity, tuple[BoardType, ...]], list[Probe]]
) -> tuple[set[tuple[str, Granularity]], dict[str, LeaderboardError]]:
    """What is due in the shared subtree, whose partitions its institutions have in common: where
    one cannot be read, none of those asked about can be answered for.
    """
    found: set[tuple[str, Granularity]] = set()
    failures: dict[str, LeaderboardError] = {}
    for (granularity, _), probes in together.items():
        try:
            with name_institution(SHARED), database.transaction() as connection:
                due = repository.due_in_shared(connection, probes)
        except (InstitutionLocked, UnreadableInstitution) as error:
            failures |= {probe.institution_id: error for probe in probes}
        else:
            found.update((id, granularity) for id in due)
    return found, failures


@dataclass(frozen=True)
class _Known:
    """An institution, its day and policy, and what is to be asked of its snapshots."""

    institution: Institution
    today: date
    policy: RetentionPolicy
    probes: tuple[Probe, ...]

    @classmethod
    def of(cls, institution: Institution, now: datetime, held: list[Hold]) -> _Known:
        today = local_day(now, institution.zone)
        policy = RetentionPolicy.of(institution)
        in_force = [hold for hold in held if hold.in_force(today)]
        return cls(institution, today, policy, tuple(_probes(institution, today, policy, in_force)))


def _probes(
    institution: Institution, today: date, policy: RetentionPolicy, in_force: Collection[Hold]
) -> Iterator[Probe]:
    """One of all types for each granularity; where holds tell types apart, one of each type."""
    alike = all(hold.type is None for hold in in_force)
    for types in [tuple(BoardType)] if alike else [(type,) for type in BoardType]:
        for granularity in Granularity:
            cutoff = policy.cutoff(granularity, today)
            for first, before in retention.free_spans(types[0], cutoff, in_force):
                yield Probe(institution.id, granularity, types, first, before, today)
