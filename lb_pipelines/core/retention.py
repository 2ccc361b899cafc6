"""Retention arithmetic: how long a snapshot stays ACTIVE, what a hold covers, what has expired.

Pure: policies are read out of an institution's `metadata` here, and here alone; today is an
argument, the institution's own day. SQL repeats `expired` where it moves rows, and a property test
holds the two together. What is done about it lies in `lb_pipelines.retention`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from lb_pipelines.core.institution import Institution, type_is_not_whole
from lb_pipelines.core.periods import month_start, next_month
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.errors import InvalidSetting

RETENTION_KEY = "leaderboardRetention"
PURGE_KEY = "leaderboardPurge"
DEFAULT_RETENTION: Mapping[Granularity, int] = dict(
    zip(Granularity, (30, 90, 365, 730, 1095), strict=True)
)
LONGEST = 36_500
"""Days; a hundred years, so that arithmetic with dates cannot leave the calendar."""


@dataclass(frozen=True)
class RetentionPolicy:
    """Days that a snapshot of each granularity stays ACTIVE, and the grace of purges.

    `purge_grace` in days: how long a partition must have been archived before its originals are
    detached, and how long they stay detached before they are dropped; None: nothing is purged.
    """

    days: Mapping[Granularity, int]
    purge_grace: int | None = None

    @classmethod
    def of(cls, institution: Institution) -> RetentionPolicy:
        """The policy that `metadata` sets; a value given is final, the default applies elsewhere.

        Raises `InvalidSetting` naming institution, key and value.
        """
        days = dict(DEFAULT_RETENTION)
        overrides = institution.setting(RETENTION_KEY, {})
        if not isinstance(overrides, Mapping):
            raise InvalidSetting(
                institution.id, RETENTION_KEY, overrides, '{"daily": 45, ...}, days by granularity'
            )
        for granularity, value in overrides.items():
            path = f"{RETENTION_KEY}.{granularity}"
            if granularity not in list(Granularity):
                raise InvalidSetting(
                    institution.id, path, value, f"one of {', '.join(Granularity)} as the last part"
                )
            days[Granularity(granularity)] = _whole_days(institution, path, value)
        return cls(days, _purge_grace(institution))

    def cutoff(self, granularity: Granularity, today: date) -> date:
        """Snapshots of days before this one have expired."""
        return today - timedelta(days=self.days[granularity])


def expired(snapshot_date: date, cutoff: date, active_until: date | None, today: date) -> bool:
    """Whether an ACTIVE snapshot has expired; a restored one not before its own day is over."""
    return snapshot_date < cutoff and (active_until is None or active_until < today)


@dataclass(frozen=True)
class Hold:
    """A legal hold in force or not: what it covers, by whom and why. None: without that bound."""

    number: int
    type: BoardType | None
    first_month: date | None
    last_month: date | None
    until: date | None
    released: bool
    placed_by: str
    reason: str

    def in_force(self, today: date) -> bool:
        """Whether it holds on this day; `until` is its last."""
        return not self.released and (self.until is None or today <= self.until)

    def covers(self, type: BoardType, snapshot_date: date) -> bool:
        """Whether snapshots of this type and day lie within it."""
        month = month_start(snapshot_date)
        return (
            (self.type is None or self.type == type)
            and (self.first_month is None or self.first_month <= month)
            and (self.last_month is None or month <= self.last_month)
        )


def free_spans(type: BoardType, cutoff: date, in_force: Iterable[Hold]) -> list[tuple[date, date]]:
    """The days before the cutoff on which no hold covers this type: [first, before), ascending.

    The earliest span begins on the calendar's first day.
    """
    held = sorted(
        (
            hold.first_month or date.min,
            date.max if hold.last_month is None else next_month(hold.last_month),
        )
        for hold in in_force
        if hold.type is None or hold.type == type
    )
    spans = []
    position = date.min
    for first, after in held:
        if position < min(first, cutoff):
            spans.append((position, min(first, cutoff)))
        position = max(position, after)
    if position < cutoff:
        spans.append((position, cutoff))
    return spans


@dataclass(frozen=True)
class Holding:
    """ACTIVE rows of one type, granularity and day, as the planner is told of them."""

    type: BoardType
    granularity: Granularity
    snapshot_date: date
    active_until: date | None
    rows: int
    bytes: int


@dataclass(frozen=True)
class PlannedSweep:
    """What a sweep of one granularity would move, and what it would leave in spite of its age.

    `held` rows lie under a legal hold, `restored` ones stay ACTIVE until a day of their own.
    """

    institution_id: str
    granularity: Granularity
    cutoff: date
    rows: int
    bytes: int
    first: date | None
    last: date | None
    held: int
    restored: int


def plan_sweeps(
    institution: Institution,
    today: date,
    holdings: Iterable[Holding],
    holds: Iterable[Hold],
    granularities: Collection[Granularity] = tuple(Granularity),
) -> list[PlannedSweep]:
    """One line a granularity, those with nothing to do included; raises `InvalidSetting`."""
    policy = RetentionPolicy.of(institution)
    in_force = [hold for hold in holds if hold.in_force(today)]
    old: dict[Granularity, list[Holding]] = defaultdict(list)
    for holding in holdings:
        if holding.snapshot_date < policy.cutoff(holding.granularity, today):
            old[holding.granularity].append(holding)
    lines = []
    for granularity in Granularity:
        if granularity not in granularities:
            continue
        cutoff = policy.cutoff(granularity, today)
        held = [h for h in old[granularity] if _held(h, in_force)]
        free = [h for h in old[granularity] if not _held(h, in_force)]
        due = [h for h in free if expired(h.snapshot_date, cutoff, h.active_until, today)]
        rows = sum(h.rows for h in due)
        lines.append(
            PlannedSweep(
                institution.id,
                granularity,
                cutoff,
                rows=rows,
                bytes=sum(h.bytes for h in due),
                first=min((h.snapshot_date for h in due), default=None),
                last=max((h.snapshot_date for h in due), default=None),
                held=sum(h.rows for h in held),
                restored=sum(h.rows for h in free) - rows,
            )
        )
    return lines


def _held(holding: Holding, in_force: Iterable[Hold]) -> bool:
    return any(hold.covers(holding.type, holding.snapshot_date) for hold in in_force)


def _purge_grace(institution: Institution) -> int | None:
    value = institution.setting(PURGE_KEY, None)
    if value is None:
        return None
    expected = '{"graceDays": 30}, or leave it out to purge nothing'
    if not isinstance(value, Mapping) or set(value) != {"graceDays"}:
        raise InvalidSetting(institution.id, PURGE_KEY, value, expected)
    return _whole_days(institution, f"{PURGE_KEY}.graceDays", value["graceDays"])


def _whole_days(institution: Institution, path: str, value: object) -> int:
    if type_is_not_whole(value) or not 1 <= value <= LONGEST:  # type: ignore[operator]
        raise InvalidSetting(
            institution.id, path, value, f"a whole number of days from 1 to {LONGEST}"
        )
    assert isinstance(value, int)
    return value
