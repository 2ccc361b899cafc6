"""The op that makes all assets of boards: composed of the families, one order of work for all.

It goes institution by institution, and for each through aggregates, all snapshots and all trends,
a contiguous range of days in one pass; then through the archive, whose failures are its own. One
op rather than one a family, because Dagster skips everything behind a step that fails: here an
institution that fails takes down nothing but itself.

One run at a time works on an institution: where another one does, the others come first. What a
lost connection or a lost race has ended is tried again after all others, bad data is not.

Every (asset, institution, day) is recorded as a materialization soon after it is committed
(`recording`), so that a run that is killed keeps what it has done. The op's outputs are never
produced: at its end Dagster would record one more materialization for every partition of the run,
those that failed included. Instead a run with a failed institution ends as failed, and Dagster
shows as failed precisely the partitions that were planned and not recorded.

A day that a blocking check finds wrong is recorded too, for it is there; what depends on it is not
made, and its institution counts as failed. A wrong day of aggregates holds up all days after it.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import groupby

from dagster import (
    AssetCheckEvaluation,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetsDefinition,
    BackfillPolicy,
    Backoff,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    Jitter,
    MetadataValue,
    Output,
    RetryPolicy,
    multi_asset,
)

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, contiguous_ranges, local_day
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions, writers
from lb_pipelines.errors import InvalidPartition, WrongBoards
from lb_pipelines.materialize import aggregates, writing
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.verifying import EventSums
from lb_pipelines.orchestration.archive_checks import (
    ArchiveCheck,
    archive_check,
    evaluate_all,
    evaluate_moved,
)
from lb_pipelines.orchestration.assets import archive
from lb_pipelines.orchestration.assets.aggregates import point_aggregates
from lb_pipelines.orchestration.assets.archive import ARCHIVE, ArchivedDay, archived_snapshots
from lb_pipelines.orchestration.assets.family import (
    BoardProduct,
    LeaderboardAsset,
    Metadata,
    Order,
)
from lb_pipelines.orchestration.assets.pages import day_metadata
from lb_pipelines.orchestration.assets.snapshots import board_snapshots
from lb_pipelines.orchestration.assets.trends import board_trends
from lb_pipelines.orchestration.checks import (
    PartitionCheck,
    blocks,
    evaluate,
    partition_checks,
)
from lb_pipelines.orchestration.clock import Clock, utc_now
from lb_pipelines.orchestration.config import LeaderboardsConfig
from lb_pipelines.orchestration.failures import Failed, failure
from lb_pipelines.orchestration.freshness import with_policy
from lb_pipelines.orchestration.partitions import (
    days_by_institution,
    keys_of_run,
    leaderboard_partitions,
    partition_key,
    split_key,
)
from lb_pipelines.orchestration.recording import Recordable, recorded
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.run_log import RunLog

LEADERBOARDS = "leaderboards"

# About a minute in all, which is what a server takes that is started anew. The tries are the run's
# own, by institution (`Failed.transient`): Dagster would try those with bad data again as well.
RETRIES = RetryPolicy(max_retries=3, delay=5, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
_RESUME_TAGS = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry")
_SECONDS_BETWEEN_LOOKS = 1.0
_REMARKS = 10
"""What an institution's partitions are remarked on is told of this many; more are counted."""

Event = Recordable | Output[None]


def leaderboard_families(start_day: date, owners: Sequence[str] = ()) -> list[LeaderboardAsset]:
    """All assets in the order in which they are made; `start_day` is their first partition."""
    partitions = leaderboard_partitions(start_day)
    families = [
        point_aggregates(partitions, start_day),
        *(board_snapshots(type, partitions) for type in BoardType),
        *(board_trends(type, partitions) for type in BoardType),
        archived_snapshots(partitions),
    ]
    return [
        replace(asset, spec=asset.spec.replace_attributes(owners=list(owners)))
        for asset in families
    ]


def leaderboards(
    start_day: date,
    now: Clock = utc_now,
    retries: RetryPolicy = RETRIES,
    owners: Sequence[str] = (),
) -> AssetsDefinition:
    """The eight assets and their checks as one op, any subset of which can be selected."""
    families = leaderboard_families(start_day, owners)
    checks = partition_checks(leaderboard_partitions(start_day))
    completeness = archive_check(leaderboard_partitions(start_day))

    @multi_asset(
        name=LEADERBOARDS,
        specs=[with_policy(asset.spec) for asset in families],
        check_specs=[*(check.spec for check in checks), completeness.spec],
        can_subset=True,
        backfill_policy=BackfillPolicy.single_run(),
    )
    def _leaderboards(
        context: AssetExecutionContext,
        config: LeaderboardsConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> Iterator[Output[None]]:
        selected = [a for a in families if a.spec.key in context.selected_asset_keys]
        work = _Work(
            context=context,
            config=config,
            database=leaderboard_database.database,
            assets=[asset for asset in selected if asset.name != ARCHIVE],
            archive=next((asset for asset in selected if asset.name == ARCHIVE), None),
            checks=[c for c in checks if c.spec.key in context.selected_asset_check_keys],
            completeness=completeness
            if completeness.spec.key in context.selected_asset_check_keys
            else None,
            now=now,
            retries=retries,
        )
        yield from recorded(context, work.run(keys_of_run(context)))

    return _leaderboards


class _AtWork(Exception):
    """Another run works on the institution."""


@dataclass
class _Work:
    """One execution of the op."""

    context: AssetExecutionContext
    config: LeaderboardsConfig
    database: Database
    assets: Sequence[LeaderboardAsset]
    archive: LeaderboardAsset | None
    checks: Sequence[PartitionCheck]
    completeness: ArchiveCheck | None
    now: Clock
    retries: RetryPolicy
    sleep: Callable[[float], None] = time.sleep
    # Where the institution at hand has got to, for the report should it fail.
    _where: str = ""
    # (asset, partition key) that need not be done again.
    _kept: set[tuple[str, str]] = field(default_factory=set)
    _remarks: list[str] = field(default_factory=list)
    _log: RunLog = field(init=False)

    def run(self, keys: Sequence[str]) -> Iterator[Event]:
        """Work through all institutions; at the end raise `Failure` naming those that failed."""
        yield from self._keep(set(keys))
        days = days_by_institution(keys)
        self._tag(days)
        self._log = RunLog(self.context.log.info, self._left(days))
        failed: dict[str, Failed] = {}
        wanted: Mapping[str, Sequence[DayRange]] = days
        for attempt in range(1, self.retries.max_retries + 2):
            failed |= yield from self._each(wanted)
            wanted = {id: days[id] for id, one in failed.items() if one.transient}
            if not wanted or attempt > self.retries.max_retries:
                break
            pause = max(0.0, float(self.retries.calculate_delay(attempt)))
            self._log.again(self._left(wanted), pause)
            self.sleep(pause)
            failed = {id: one for id, one in failed.items() if id not in wanted}
        if failed:
            raise failure([failed[id] for id in days if id in failed], len(days))
        # The outputs of checks record nothing, but Dagster would report them as missing.
        specs = [check.spec for check in self.checks]
        for spec in [*specs, self.completeness.spec] if self.completeness else specs:
            yield Output(None, output_name=spec.get_python_identifier())

    def _each(
        self, days: Mapping[str, Sequence[DayRange]]
    ) -> Generator[Event, None, dict[str, Failed]]:
        """Work through institutions once, each when no other run does; those that failed."""
        failed = {}
        waiting, passed_over = deque(days), 0
        while waiting:
            id = waiting.popleft()
            try:
                yield from self._institution(id, days[id])
            except _AtWork:
                self._log.waits(id)
                waiting.append(id)
                passed_over += 1
                if passed_over >= len(waiting):
                    self.sleep(_SECONDS_BETWEEN_LOOKS)
                    passed_over = 0
                continue
            except Exception as error:
                failed[id] = Failed(id, self._where, error)
                (self.context.log.warning if failed[id].transient else self.context.log.error)(
                    failed[id].told
                )
                self._log.ends(id, "failed")
            passed_over = 0
        return failed

    def _institution(self, institution_id: str, ranges: Sequence[DayRange]) -> Iterator[Event]:
        self._where = "its settings"
        with self.database.transaction() as connection:
            institution = institutions.find_active(connection, institution_id)
        with writers.one_run(self.database, institution) as mine:
            if not mine:
                raise _AtWork
            yield from self._days(institution, ranges)

    def _days(self, institution: Institution, ranges: Sequence[DayRange]) -> Iterator[Event]:
        started, partitions, rows, written = time.perf_counter(), 0, 0, 0
        self._remarks = []
        today = local_day(self.now(), institution.zone)
        order = Order(Provenance(run_id=self.context.run.run_id), today, self.config)
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
                    self._log.did(institution.id, f"{asset.name} of {result.day}")
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
            self.context.log.warning(remark)
        if more := self._remarks[_REMARKS:]:
            self.context.log.warning(f"{institution.id}: {len(more):,} more days like these")
        if wrong:
            self._where = "its checks"
            raise WrongBoards(str(wrong))
        if not_over:
            self._where = _spoken(not_over)
            raise InvalidPartition(
                f"{_spoken(not_over)} is not over yet at {institution.id} ({institution.zone})",
                "Materialize it after midnight there; the daily schedule does",
            )
        seconds = time.perf_counter() - started
        self._log.ends(
            institution.id,
            f"{_spoken(over)}, {partitions:,} partitions, {rows:,} rows"
            f" ({written:,} new or changed) in {seconds:.1f} s",
        )

    def _archive(self, institution: Institution, days: DayRange, order: Order) -> Iterator[Event]:
        """Sweep, or show what a sweep would do; and see that originals and copies agree."""
        if self.archive is not None and not self.config.moves(self.context.run.tags):
            self._where = f"the plan of {ARCHIVE}"
            lines = archive.plan(self.database, institution, days, order)
            for line in lines:
                if line.rows or line.held or line.restored:
                    self.context.log.info(archive.plan_spoken(line))
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
                    self._where = f"the check of {ARCHIVE}"
                    yield from evaluate_moved(self.completeness, self.database, institution, result)
        elif self.completeness is not None:
            self._where = f"the check of {ARCHIVE}"
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
        self._where = f"{asset.name} of {day}"
        for result in writing.write(self.database, institution, products, part, order.provenance):
            yield asset, result
            asset, day = next(coming, (asset, day))
            self._where = f"{asset.name} of {day}"

    def _asset(
        self, asset: LeaderboardAsset, institution: Institution, days: DayRange, order: Order
    ) -> Iterator[DayResult]:
        assert not isinstance(asset.making, BoardProduct)
        for part in self._wanted(asset, institution, days):
            self._where = f"{asset.name} of {part.first}"
            for result in asset.making(self.database, institution, part, order):
                yield result
                self._where = f"{asset.name} of {min(result.day + ONE_DAY, part.last)}"

    def _wanted(
        self, asset: LeaderboardAsset, institution: Institution, days: Iterable[date]
    ) -> list[DayRange]:
        """The days of an asset that are still to be made."""
        return contiguous_ranges(
            day for day in days if (asset.name, _key(day, institution)) not in self._kept
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
        self._where = f"the checks of {asset.to_user_string()} of {_spoken([days])}"
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
        self._kept.add((asset.name, _key(result.day, institution)))
        return _materialization(
            asset.name, result.day, institution.id, asset.outcome(result), metadata
        )

    def _keep(self, wanted: AbstractSet[str]) -> Iterator[AssetMaterialization]:
        """Find what need not be done, because an earlier try of this run has recorded it, or a
        run that this one resumes ("re-execute from failure").

        Dagster's own record decides, not the database's: a day that was committed by a run
        killed before it could record it is done again, which writes nothing, and recorded.
        What another run has done is recorded in this one too, else Dagster would show it as
        failed should this run fail again.
        """
        recorded = _recorded_by(self.context.instance, self.context.run.run_id)
        earlier: dict[tuple[str, str], Metadata] = {}
        for run_id in _resumed_runs(self.context):
            earlier |= _recorded_by(self.context.instance, run_id)
        selected = {asset.name for asset in self.assets}
        again = {
            (name, key): metadata
            for (name, key), metadata in earlier.items()
            if name in selected and key in wanted and (name, key) not in recorded
        }
        self._kept = {*recorded, *again}
        for (name, key), metadata in again.items():
            day, institution_id = split_key(key)
            yield _materialization(
                name, day, institution_id, "kept from the run resumed here", metadata
            )
        if again:
            self.context.log.info(
                f"Kept {len(again)} partitions that the run resumed here had already materialized"
            )

    def _left(self, days: Mapping[str, Sequence[DayRange]]) -> dict[str, int]:
        """Partitions by institution that have yet to be done; the archive's are not counted."""
        return {
            id: sum(
                (asset.name, str(partition_key(day, id))) not in self._kept
                for asset in self.assets
                for part in ranges
                for day in part
            )
            for id, ranges in days.items()
        }

    def _tag(self, days: Mapping[str, Sequence[DayRange]]) -> None:
        """Say on the page of runs what the run is about; the queue reads the first one too."""
        every = [
            day for ranges in days.values() for part in ranges for day in (part.first, part.last)
        ]
        if not every:
            return
        tags = {
            "leaderboards/institutions": str(len(days)),
            "leaderboards/days": f"{min(every)}..{max(every)}",
        }
        if len(days) == 1:
            tags["leaderboards/institution"] = next(iter(days))
        self.context.instance.add_run_tags(self.context.run.run_id, tags)


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


def _recorded_by(instance: DagsterInstance, run_id: str) -> dict[tuple[str, str], Metadata]:
    """(asset, partition key) to metadata of what a run has recorded."""
    recorded: dict[tuple[str, str], Metadata] = {}
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION):
        event = entry.asset_materialization
        if event is not None and event.partition is not None:
            metadata = {**event.metadata, "kept_from_run": MetadataValue.dagster_run(run_id)}
            if "kept_from_run" in event.metadata:
                metadata["kept_from_run"] = event.metadata["kept_from_run"]
            recorded[event.asset_key.to_user_string(), str(event.partition)] = metadata
    if recorded:
        for found_wrong in _found_wrong_by(instance, run_id):
            recorded.pop(found_wrong, None)
    return recorded


def _found_wrong_by(instance: DagsterInstance, run_id: str) -> Iterator[tuple[str, str]]:
    """(asset, partition key) of what a blocking check of a run has found wrong at last."""
    verdicts: dict[tuple[AssetKey, str, str], AssetCheckEvaluation] = {}
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
        assert entry.dagster_event is not None
        verdict = entry.dagster_event.asset_check_evaluation_data
        verdicts[verdict.asset_key, verdict.check_name, str(verdict.partition)] = verdict
    for (asset, _, key), verdict in verdicts.items():
        if blocks(verdict):
            yield asset.to_user_string(), key


def _resumed_runs(context: AssetExecutionContext) -> Iterator[str]:
    """The runs that this one goes on from, back to the first that started afresh."""
    run: DagsterRun | None = context.run
    while run is not None and any(run.tags.get(tag) == "true" for tag in _RESUME_TAGS):
        parent = run.get_parent_run_id()
        if parent is None:
            return
        yield parent
        run = context.instance.get_run_by_id(parent)


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


def _materialization(
    asset: str, day: date, institution_id: str, outcome: str, metadata: Metadata
) -> AssetMaterialization:
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
