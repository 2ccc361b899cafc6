"""Is everything there? What institutions lack, by the database's ledger and Dagster's record.

The two can disagree: days can be made without Dagster (the past that a pass needs, `lb
rematerialize`), and Dagster keeps its green when rows are lost. Neither is taken for the truth
here: what disagrees is a finding of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, contiguous_ranges, local_day
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import aggregates as events
from lb_pipelines.db.repositories import completeness, input_changes, ledger
from lb_pipelines.db.repositories.dagster_record import DagsterRecord
from lb_pipelines.materialize import aggregates, snapshots, trends

ASSETS: tuple[str, ...] = (
    aggregates.ASSET,
    *(snapshots.asset_name(type) for type in BoardType),
    *(trends.asset_name(type) for type in BoardType),
)
"""What every day of an institution has; the archive follows other rules (`lb archive plan`)."""


class State(StrEnum):
    """What can be wrong with a day of an asset."""

    MISSING = "missing"
    """Over, and in no ledger."""
    STALE = "stale"
    """There, but older than a change of what it is computed from."""
    FAILED = "failed"
    """The last run that was to make it failed, whether an older one had made it or not."""
    NOT_IN_DAGSTER = "not in Dagster"
    """There, but not green: made without Dagster, or its record is gone."""
    NOT_IN_DATABASE = "not in the database"
    """Green, but the ledger does not have it."""
    STALE_IN_ARCHIVE = "stale in the archive"
    """There and current, but its archived rows say something else, until a run renews them."""


@dataclass(frozen=True)
class Finding:
    """Days of some assets of an institution in the same state; `run_id`: the run that failed."""

    institution_id: str
    state: State
    assets: tuple[str, ...]
    days: tuple[DayRange, ...]
    run_id: str | None = None

    @property
    def partitions(self) -> int:
        """How many (asset, day) it is about."""
        return len(self.assets) * sum(len(part) for part in self.days)


@dataclass(frozen=True)
class Completeness:
    """What was examined, and what was found: nothing, where everything is there.

    `days` None: nothing is over since the first event. `made`: partitions that the ledger has. A
    partition is in one state at most, so `expected` is their sum and what is right.
    """

    institution_id: str
    days: DayRange | None
    expected: int
    made: int
    findings: tuple[Finding, ...]


def look(
    database: Database,
    institution: Institution,
    last_closed: date,
    record: DagsterRecord | None,
    *,
    first: date,
    last: date | None = None,
) -> Completeness:
    """Compare an institution's days with what should be there.

    From `first` or the day of the first event on, whichever is later, through `last` or
    `last_closed`. `record` None: Dagster's record cannot be read.
    """
    with database.transaction(snapshot=True) as connection:
        began = events.first_event(connection, institution)
        begin = max(first, local_day(began, institution.zone)) if began else None
        end = min(last or last_closed, last_closed)
        if begin is None or begin > end:
            return Completeness(institution.id, None, 0, 0, ())
        days = DayRange(begin, end)
        made = _sets(completeness.made(connection, institution, days))
        stale = _sets(
            input_changes.find_stale_days(connection, [institution]).get(institution.id, {})
        )
        archived = _sets(ledger.find_archived_differing(connection, institution, days))
    found: dict[tuple[State, str, str | None], set[date]] = defaultdict(set)
    expected = set(days)
    for asset in ASSETS:
        there = made.get(asset, set())
        green = there
        # Each day is taken into the first state that it is in.
        left = set(expected)

        def take(
            state: State, of: set[date], run_id: str | None = None, left: set[date] = left
        ) -> None:
            found[state, asset, run_id] |= of & left  # noqa: B023
            left -= of

        if record is not None:
            green = _days(record.green.get((asset, institution.id), ()))
            for run_id, part in record.failed.get((asset, institution.id), ()):
                take(State.FAILED, set(part), run_id)
        take(State.NOT_IN_DATABASE, green - there)
        take(State.MISSING, expected - there)
        take(State.STALE, stale.get(asset, set()))
        take(State.NOT_IN_DAGSTER, there - green)
        take(State.STALE_IN_ARCHIVE, archived.get(asset, set()))
    return Completeness(
        institution.id,
        days,
        len(expected) * len(ASSETS),
        sum(len(made.get(asset, ())) for asset in ASSETS),
        _condensed(institution.id, found),
    )


def _condensed(
    institution_id: str, found: dict[tuple[State, str, str | None], set[date]]
) -> tuple[Finding, ...]:
    """Assets that lack the same days together, days as ranges; in the order of `State`."""
    together: dict[tuple[State, str | None, tuple[DayRange, ...]], list[str]] = defaultdict(list)
    for (state, asset, run_id), days in found.items():
        if days:
            together[state, run_id, tuple(contiguous_ranges(days))].append(asset)
    order = list(State)
    return tuple(
        Finding(institution_id, state, tuple(assets), days, run_id)
        for (state, run_id, days), assets in sorted(
            together.items(), key=lambda item: (order.index(item[0][0]), item[0][2][0].first)
        )
    )


def _sets(ranges: Mapping[str, Iterable[DayRange]]) -> dict[str, set[date]]:
    return {asset: _days(found) for asset, found in ranges.items()}


def _days(ranges: Iterable[DayRange]) -> set[date]:
    return {day for part in ranges for day in part}


def spoken(days: Sequence[DayRange], at_most: int = 6) -> str:
    """Ranges of days as a person writes them, the first few of many."""
    parts = [
        str(part.first) if part.last < part.first + ONE_DAY else f"{part.first} to {part.last}"
        for part in days[:at_most]
    ]
    more = days[at_most:]
    return ", ".join(parts) + (f" and {len(more)} more ranges" if more else "")
