"""What has expired, and whether the archive and the originals agree: read, nothing moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, academic_years_around, month_start
from lb_pipelines.core.retention import Holding
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.partitions.leaves import attached
from lb_pipelines.db.partitions.names import Root, owner_of, top


@dataclass(frozen=True)
class DueDay:
    """How many snapshots of one type and day a sweep would move."""

    type: BoardType
    day: date
    rows: int


@dataclass(frozen=True)
class Probe:
    """A question: has the institution an expired snapshot of one of the types on [first, before)?

    `today` is the institution's day, on which restored snapshots still stay ACTIVE.
    """

    institution_id: str
    granularity: Granularity
    types: tuple[BoardType, ...]
    first: date
    before: date
    today: date


@dataclass(frozen=True)
class Comparison:
    """What originals and copies of days of one month say of each other (see `ArchiveVerdict`)."""

    originals: int
    copies: int
    missing: int
    differing: int
    active_with_copy: int
    doubled: int
    unexplained: int
    example: str | None


def holdings(
    connection: Connection, institution: Institution, granularity: Granularity, cutoff: date
) -> list[Holding]:
    """ACTIVE snapshots older than a cutoff, by type, day and until when they were restored."""
    rows = queries.retention.holdings(
        connection, institution_id=institution.id, granularity=granularity, cutoff=cutoff
    )
    return [
        Holding(BoardType(type), granularity, day, until, count, bytes)
        for type, day, until, count, bytes in rows
    ]


def due_days(
    connection: Connection,
    institution: Institution,
    granularity: Granularity,
    cutoff: date,
    today: date,
) -> list[DueDay]:
    """Where a sweep has something to do, by type and day."""
    rows = queries.retention.due_days(
        connection,
        institution_id=institution.id,
        institution_key=institution.key,
        granularity=granularity,
        cutoff=cutoff,
        today=today,
    )
    return [DueDay(BoardType(type), day, count) for type, day, count in rows]


def dedicated(connection: Connection, institution_ids: Iterable[str]) -> set[str]:
    """Those of the institutions that have a subtree of their own."""
    tops = attached(connection, [top(id, Root.SNAPSHOTS) for id in institution_ids])
    return {owner_of(name) for name in tops}


def due_in_shared(connection: Connection, probes: Sequence[Probe]) -> set[str]:
    """The institutions of the shared subtree for which one of the probes finds something.

    All probes are of the same granularity and types.
    """
    rows = queries.retention.due_in_shared(
        connection,
        granularity=probes[0].granularity,
        types=list(probes[0].types),
        latest=max(probe.before for probe in probes),
        ids=[probe.institution_id for probe in probes],
        firsts=[probe.first for probe in probes],
        befores=[probe.before for probe in probes],
        todays=[probe.today for probe in probes],
    )
    return {id for (id,) in rows}


def due_in_own(connection: Connection, probes: Sequence[Probe]) -> set[Granularity]:
    """The granularities for which one of the probes finds something.

    All probes are of the same types and institution, which has a subtree of its own.
    """
    rows = queries.retention.due_in_own(
        connection,
        institution_id=probes[0].institution_id,
        types=list(probes[0].types),
        latest=max(probe.before for probe in probes),
        granularities=[probe.granularity for probe in probes],
        firsts=[probe.first for probe in probes],
        befores=[probe.before for probe in probes],
        today=probes[0].today,
    )
    return {Granularity(granularity) for (granularity,) in rows}


def span_of(connection: Connection, institution: Institution) -> DayRange | None:
    """From the first day with an original or a copy to the last; None: there is no such day."""
    first, last = queries.retention.first_and_last_day(connection, institution_id=institution.id)
    return None if first is None else DayRange(first, last)


def compare(connection: Connection, institution: Institution, days: DayRange) -> Comparison:
    """Compare originals and copies of days of one month."""
    return Comparison(
        *queries.retention.compare(
            connection,
            institution_id=institution.id,
            institution_key=institution.key,
            month=month_start(days.first),
            first=days.first,
            last=days.last,
            academic_years=academic_years_around(days.first),
        )
    )
