"""What a run does for one institution: aggregates, all snapshots, all trends, checks, the archive.

Its events come out as they happen; who records them, tries again or goes on to the next institution
is the run's business (`leaderboards`). Several institutions are at work at once, each in a thread:
so nothing here speaks to Dagster, what is to be said in the run's log comes out as `Said`.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
)

from lb_pipelines.clock import Clock
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, contiguous_ranges, local_day
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions, writers
from lb_pipelines.errors import InvalidPartition, WrongBoards
from lb_pipelines.materialize import aggregates, writing
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.verifying import EventSums
from lb_pipelines.orchestration.archive_checks import ArchiveCheck, evaluate_all, evaluate_moved
from lb_pipelines.orchestration.assets import archive
from lb_pipelines.orchestration.assets.archive import ARCHIVE, ArchivedDay
from lb_pipelines.orchestration.assets.family import (
    BoardProduct,
    LeaderboardAsset,
    Metadata,
    Order,
)
from lb_pipelines.orchestration.assets.pages import day_metadata
from lb_pipelines.orchestration.checks import PartitionCheck, blocks, evaluate
from lb_pipelines.orchestration.config import LeaderboardsConfig
from lb_pipelines.orchestration.partitions import partition_key, split_key
from lb_pipelines.orchestration.recording import Recordable

_REMARKS = 10
"""What an institution's partitions are remarked on is told of this many; more are counted."""


@dataclass(frozen=True)
class Said:
    """A line for the run's log; `level` as in `logging`."""

    level: int
    text: str


Event = Recordable | Said


class AtWork(Exception):
    """Another run works on the institution."""


@dataclass
class InstitutionWork:
    """One institution's part of a run: these days of these assets.

    `kept`: (asset, partition key) that need not be done again; what is done joins them. `moves`:
    the archive's sweep is meant, not only its plan. `where` says what is being done, for the report
    should it fail; `done` what was done once all of it is.
    """

    institution_id: str
    ranges: Sequence[DayRange]
    run_id: str
    config: LeaderboardsConfig
    database: Database
    assets: Sequence[LeaderboardAsset]
    archive: LeaderboardAsset | None
    moves: bool
    checks: Sequence[PartitionCheck]
    completeness: ArchiveCheck | None
    now: Clock
    kept: set[tuple[str, str]]
    where: str = "its settings"
    done: str = ""
    _remarks: list[str] = field(default_factory=list)

    def events(self) -> Iterator[Event]:
        """Do the work; raises `AtWork` where another run does, and whatever goes wrong."""
        with self.database.transaction() as connection:
            institution = institutions.find_active(connection, self.institution_id)
        with writers.one_run(self.database, institution) as mine:
            if not mine:
                raise AtWork
            yield from self._days(institution, self.ranges)

    def _days(self, institution: Institution, ranges: Sequence[DayRange]) -> Iterator[Event]:
        started, partitions, rows, written = time.perf_counter(), 0, 0, 0
        today = local_day(self.now(), institution.zone)
        order = Order(Provenance(run_id=self.run_id), today, self.config)
        over, not_over = _split_by_closing(ranges, today - ONE_DAY)
        wrong = _WrongDays()
        for days in over:
            events = EventSums(self.database, institution, days)
            for _, phase in groupby(self.assets, key=lambda asset: asset.spec.group_name):
                parts = [(asset, list(wrong.spared(asset, days))) for asset in phase]
                for asset, result in self._made(parts, institution, order):
                    partitions, rows = partitions + 1, rows + result.rows
                    written += result.written
                    yield self._seen(asset, institution, result)
                for asset, of_asset in parts:
                    for part in of_asset:
                        for verdict in self._verdicts(asset.spec.key, institution, part, events):
                            wrong.note(verdict)
                            yield verdict
            made = {asset.spec.key for asset in self.assets}
            for key in dict.fromkeys(check.spec.asset_key for check in self.checks):
                if key not in made:
                    yield from self._verdicts(key, institution, days, events, made=False)
        for days in over:
            for part in wrong.spared(self.archive, days):
                yield from self._archive(institution, part, order)
        for remark in self._remarks[:_REMARKS]:
            yield Said(logging.WARNING, remark)
        if more := self._remarks[_REMARKS:]:
            yield Said(logging.WARNING, f"{institution.id}: {len(more):,} more days like these")
        if wrong:
            self.where = "its checks"
            raise WrongBoards(str(wrong))
        if not_over:
            self.where = _spoken(not_over)
            raise InvalidPartition(
                f"{_spoken(not_over)} is not over yet at {institution.id} ({institution.zone})",
                "Materialize it after midnight there; the daily schedule does",
            )
        seconds = time.perf_counter() - started
        self.done = (
            f"{_spoken(over)}, {partitions:,} partitions, {rows:,} rows"
            f" ({written:,} new or changed) in {seconds:.1f} s"
        )

    def _archive(self, institution: Institution, days: DayRange, order: Order) -> Iterator[Event]:
        """Sweep, or show what a sweep would do; and see that originals and copies agree."""
        if self.archive is not None and not self.moves:
            self.where = f"the plan of {ARCHIVE}"
            lines = archive.plan(self.database, institution, days, order)
            for line in lines:
                if line.rows or line.held or line.restored:
                    yield Said(logging.INFO, archive.plan_spoken(line))
            yield AssetObservation(
                asset_key=ARCHIVE,
                partition=partition_key(days.last, institution.id),
                description=f"{ARCHIVE} of {institution.id} on {days.last}: dry run",
                metadata=archive.plan_shown(lines),
            )
        elif self.archive is not None:
            for result in self._asset(self.archive, institution, days, order):
                assert isinstance(result, ArchivedDay)
                yield self._seen(self.archive, institution, result)
                if self.completeness is not None:
                    self.where = f"the check of {ARCHIVE}"
                    yield from evaluate_moved(self.completeness, self.database, institution, result)
        elif self.completeness is not None:
            self.where = f"the check of {ARCHIVE}"
            yield from evaluate_all(self.completeness, self.database, institution, days)

    def _made(
        self,
        parts: Sequence[tuple[LeaderboardAsset, Sequence[DayRange]]],
        institution: Institution,
        order: Order,
    ) -> Iterator[tuple[LeaderboardAsset, DayResult]]:
        """What these assets make of these days, boards of equal days in one pass."""
        together: dict[tuple[DayRange, ...], list[LeaderboardAsset]] = defaultdict(list)
        for asset, of_asset in parts:
            if isinstance(asset.making, BoardProduct):
                days = (day for part in of_asset for day in part)
                together[tuple(self._wanted(asset, institution, days))].append(asset)
            else:
                for part in of_asset:
                    for result in self._asset(asset, institution, part, order):
                        yield asset, result
        for ranges, assets in together.items():
            for part in ranges:
                yield from self._boards(assets, institution, part, order)

    def _boards(
        self,
        assets: Sequence[LeaderboardAsset],
        institution: Institution,
        part: DayRange,
        order: Order,
    ) -> Iterator[tuple[LeaderboardAsset, DayResult]]:
        products = [
            asset.making.of(order) for asset in assets if isinstance(asset.making, BoardProduct)
        ]
        coming = ((asset, day) for day in part for asset in assets)
        asset, day = next(coming)
        self.where = f"{asset.name} of {day}"
        for result in writing.write(self.database, institution, products, part, order.provenance):
            yield asset, result
            asset, day = next(coming, (asset, day))
            self.where = f"{asset.name} of {day}"

    def _asset(
        self, asset: LeaderboardAsset, institution: Institution, days: DayRange, order: Order
    ) -> Iterator[DayResult]:
        assert not isinstance(asset.making, BoardProduct)
        for part in self._wanted(asset, institution, days):
            self.where = f"{asset.name} of {part.first}"
            for result in asset.making(self.database, institution, part, order):
                yield result
                self.where = f"{asset.name} of {min(result.day + ONE_DAY, part.last)}"

    def _wanted(
        self, asset: LeaderboardAsset, institution: Institution, days: Iterable[date]
    ) -> list[DayRange]:
        """The days of an asset that are still to be made."""
        return contiguous_ranges(
            day for day in days if (asset.name, _key(day, institution)) not in self.kept
        )

    def _verdicts(
        self,
        asset: AssetKey,
        institution: Institution,
        days: DayRange,
        events: EventSums,
        *,
        made: bool = True,
    ) -> Iterator[AssetCheckEvaluation]:
        """What the checks of an asset that are asked for say of some days."""
        self.where = f"the checks of {asset.to_user_string()} of {_spoken([days])}"
        yield from evaluate(
            [check for check in self.checks if check.spec.asset_key == asset],
            self.database,
            institution,
            days,
            events,
            made=made,
        )

    def _seen(
        self, asset: LeaderboardAsset, institution: Institution, result: DayResult
    ) -> AssetMaterialization:
        metadata = day_metadata(asset, self.database, institution, result, self._remarks.append)
        self._remarks += asset.remarks(result)
        self.kept.add((asset.name, _key(result.day, institution)))
        return materialization(
            asset.name, result.day, institution.id, asset.outcome(result), metadata
        )


class _WrongDays:
    """The days of an institution that blocking checks have found wrong, and what that holds up."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, date], list[str]] = defaultdict(list)
        self._held: dict[AssetKey, set[date]] = defaultdict(set)

    def __bool__(self) -> bool:
        return bool(self._names)

    def __str__(self) -> str:
        return "; ".join(
            f"{asset} of {day} ({', '.join(names)})" for (asset, day), names in self._names.items()
        )

    def note(self, verdict: AssetCheckEvaluation) -> None:
        """Remember the day of a verdict that blocks."""
        if blocks(verdict):
            day, _ = split_key(str(verdict.partition))
            self._names[verdict.asset_key.to_user_string(), day].append(verdict.check_name)
            self._held[verdict.asset_key].add(day)

    def spared(self, asset: LeaderboardAsset | None, days: DayRange) -> list[DayRange]:
        """Of these days those of which the asset may be made; what it may not holds up in turn
        what depends on it.
        """
        if asset is None or not self._names:
            return [days]
        held: set[date] = set()
        for dep in asset.spec.deps:
            on = self._held[dep.asset_key]
            # Every window from a wrong day of aggregates on holds it.
            later = on and dep.asset_key == AssetKey(aggregates.ASSET)
            held |= {day for day in days if day >= min(on)} if later else on
        self._held[asset.spec.key] |= held
        return contiguous_ranges(day for day in days if day not in held)


def materialization(
    asset: str, day: date, institution_id: str, outcome: str, metadata: Metadata
) -> AssetMaterialization:
    """A day of an asset as Dagster is told of it; `outcome`: what became of it, in words."""
    key = partition_key(day, institution_id)
    return AssetMaterialization(
        asset_key=asset,
        partition=key,
        # As Dagster itself tags the materializations of two dimensions.
        tags={f"dagster/partition/{name}": part for name, part in key.keys_by_dimension.items()},
        # What the run's log shows; Dagster's own words would name neither day nor institution.
        description=f"{asset} of {institution_id} on {day}: {outcome}",
        metadata=metadata,
    )


def _split_by_closing(
    ranges: Sequence[DayRange], last_closed: date
) -> tuple[list[DayRange], list[DayRange]]:
    """Ranges of days that are over, and of days that are not."""
    days = [day for days in ranges for day in days]
    return (
        contiguous_ranges(day for day in days if day <= last_closed),
        contiguous_ranges(day for day in days if day > last_closed),
    )


def _key(day: date, institution: Institution) -> str:
    return str(partition_key(day, institution.id))


def _spoken(ranges: Sequence[DayRange]) -> str:
    """Ranges of days as a person writes them."""
    return ", ".join(
        str(days.first) if len(days) == 1 else f"{days.first} to {days.last}" for days in ranges
    )
