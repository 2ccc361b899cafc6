"""Is everything there? What institutions lack, by the database's ledger and Dagster's record.

The two can disagree: days can be made without Dagster (the past that a pass needs, `lb
rematerialize`), and Dagster keeps its green when rows are lost. Neither is taken for the truth
here: what disagrees is a finding of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, contiguous_ranges, local_day
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import aggregates as events
from lb_pipelines.db.repositories import completeness, input_changes, ledger
from lb_pipelines.db.repositories.activity import read_activity
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

    `days` None: no day is expected. `made`: partitions that the ledger has. A partition is in one
    state at most, so `expected` is their sum and what is right.
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
    `last_closed`. Days after the institution has ended (`core.activity`) are expected only where
    they are there, in the ledger or in Dagster's record. `record` None: Dagster's record cannot
    be read.
    """
    with database.transaction(snapshot=True) as connection:
        first_event = events.first_event(connection, institution)
        if first_event is None:
            return Completeness(institution.id, None, 0, 0, ())
        begin = max(first, local_day(first_event, institution.zone))
        end = min(last or last_closed, last_closed)
        if begin > end:
            return Completeness(institution.id, None, 0, 0, ())
        activity = read_activity(connection, [institution])[institution.id]
        days = DayRange(begin, end)
        made = _sets(completeness.made(connection, institution, days))
        stale = _sets(
            input_changes.find_stale_days(connection, [institution]).get(institution.id, {})
        )
        archived = _sets(ledger.find_archived_differing(connection, institution, days))
    active_through = activity.last_expected_day(institution.zone)
    active_days = {day for day in days if day <= active_through}
    found: dict[tuple[State, str, str | None], set[date]] = {}
    expected: dict[str, set[date]] = {}
    for asset in ASSETS:
        there = made.get(asset, set())
        place = (asset, institution.id)
        green = there if record is None else _days(record.green.get(place, ())) & set(days)
        failed = [] if record is None else record.failed.get(place, [])
        # What is there after the institution has ended is examined like any other day.
        expected[asset] = active_days | there | green
        suspects: list[tuple[State, str | None, set[date]]] = [
            *((State.FAILED, run_id, set(part)) for run_id, part in failed),
            (State.NOT_IN_DATABASE, None, green - there),
            (State.MISSING, None, expected[asset] - there),
            (State.STALE, None, stale.get(asset, set())),
            (State.NOT_IN_DAGSTER, None, there - green),
            (State.STALE_IN_ARCHIVE, None, archived.get(asset, set())),
        ]
        for state, run_id, of_state in _first_states(expected[asset], suspects):
            found.setdefault((state, asset, run_id), set()).update(of_state)
    examined = set().union(*expected.values())
    return Completeness(
        institution.id,
        DayRange(min(examined), max(examined)) if examined else None,
        sum(map(len, expected.values())),
        sum(map(len, made.values())),
        _condensed(institution.id, found),
    )


def _first_states(
    expected: Set[date], suspects: Iterable[tuple[State, str | None, Set[date]]]
) -> Iterator[tuple[State, str | None, Set[date]]]:
    """Each expected day under the first of the states that it is in, and no other."""
    left = set(expected)
    for state, run_id, days in suspects:
        yield state, run_id, left & days
        left -= days


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
