"""The op that makes all assets of boards: composed of the families, one order of work for all.

It goes institution by institution, and for each through aggregates, then through snapshots and
trends together, a contiguous range of days in one pass; then through the archive, whose failures
are its own. One op rather than one a family, because Dagster skips everything behind a step that
fails: here an institution that fails takes down nothing but itself.

Every (asset, institution, day) is recorded as a materialization once it is committed, so that a
run that is killed keeps what it has done. The op's outputs are never produced: at its end Dagster
would record one more materialization for every partition of the run, those that failed included.
Instead a run with a failed institution ends as failed, and Dagster shows as failed precisely the
partitions that were planned and not recorded.
"""

import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import date

import psycopg
from dagster import (
    AssetCheckEvaluation,
    AssetExecutionContext,
    AssetMaterialization,
    AssetObservation,
    AssetsDefinition,
    BackfillPolicy,
    Backoff,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    Failure,
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
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import DatabaseUnavailable, InvalidPartition, LeaderboardError
from lb_pipelines.materialize import writing
from lb_pipelines.materialize.results import DayResult, Provenance
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
    markdown_table,
)
from lb_pipelines.orchestration.assets.pages import day_metadata
from lb_pipelines.orchestration.assets.snapshots import board_snapshots
from lb_pipelines.orchestration.assets.trends import board_trends
from lb_pipelines.orchestration.checks import SAMPLE, SnapshotCheck, evaluate, snapshot_checks
from lb_pipelines.orchestration.clock import Clock, utc_now
from lb_pipelines.orchestration.config import LeaderboardsConfig
from lb_pipelines.orchestration.partitions import (
    days_by_institution,
    leaderboard_partitions,
    partition_key,
    split_key,
)
from lb_pipelines.orchestration.resources import LeaderboardDatabase

LEADERBOARDS = "leaderboards"

# A lost connection or a lost race heals by itself; bad data does not (see `Failed.transient`).
RETRIES = RetryPolicy(max_retries=2, delay=10, backoff=Backoff.EXPONENTIAL, jitter=Jitter.FULL)
_RESUME_TAGS = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry")

Event = AssetMaterialization | AssetObservation | AssetCheckEvaluation | Output[None]


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
    checks = snapshot_checks(leaderboard_partitions(start_day))
    completeness = archive_check(leaderboard_partitions(start_day))

    @multi_asset(
        name=LEADERBOARDS,
        specs=[asset.spec for asset in families],
        check_specs=[*(check.spec for check in checks), completeness.spec],
        can_subset=True,
        backfill_policy=BackfillPolicy.single_run(),
        retry_policy=retries,
    )
    def _leaderboards(
        context: AssetExecutionContext,
        config: LeaderboardsConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> Iterator[Event]:
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
        )
        yield from work.run(days_by_institution(context.partition_keys))

    return _leaderboards


@dataclass(frozen=True)
class Failed:
    """An institution that could not be finished: where, and why."""

    institution_id: str
    where: str
    error: Exception

    @property
    def transient(self) -> bool:
        """Whether trying again can help."""
        return isinstance(self.error, psycopg.OperationalError | DatabaseUnavailable)

    @property
    def reason(self) -> str:
        """What is wrong and, where a person can do something about it, what."""
        if isinstance(self.error, LeaderboardError):
            return str(self.error)
        return f"{type(self.error).__name__}: {self.error}".strip()


@dataclass
class _Work:
    """One execution of the op."""

    context: AssetExecutionContext
    config: LeaderboardsConfig
    database: Database
    assets: Sequence[LeaderboardAsset]
    archive: LeaderboardAsset | None
    checks: Sequence[SnapshotCheck]
    completeness: ArchiveCheck | None
    now: Clock
    # Where the institution at hand has got to, for the report should it fail.
    _where: str = ""
    # (asset, partition key) that need not be done again.
    _kept: AbstractSet[tuple[str, str]] = frozenset()

    def run(self, days: Mapping[str, Sequence[DayRange]]) -> Iterator[Event]:
        """Work through all institutions; at the end raise `Failure` naming those that failed."""
        yield from self._keep()
        failed = []
        for institution_id, ranges in days.items():
            try:
                yield from self._institution(institution_id, ranges)
            except Exception as error:
                failed.append(self._note(Failed(institution_id, self._where, error)))
        if failed:
            raise _failure(failed, len(days))
        # The outputs of checks record nothing, but Dagster would report them as missing.
        specs = [check.spec for check in self.checks]
        for spec in [*specs, self.completeness.spec] if self.completeness else specs:
            yield Output(None, output_name=spec.get_python_identifier())

    def _institution(self, institution_id: str, ranges: Sequence[DayRange]) -> Iterator[Event]:
        self._where = "its settings"
        started, partitions, rows, written = time.perf_counter(), 0, 0, 0
        with self.database.transaction() as connection:
            institution = institutions.find_active(connection, institution_id)
        today = local_day(self.now(), institution.zone)
        order = Order(Provenance(run_id=self.context.run.run_id), today, self.config)
        over, not_over = _split_by_closing(ranges, today - ONE_DAY)
        for days in over:
            for asset, result in self._made(institution, days, order):
                partitions, rows = partitions + 1, rows + result.rows
                written += result.written
                yield self._seen(asset, institution, result)
            for check in self.checks:
                self._where = f"the check of {check.spec.asset_key.to_user_string()}"
                yield from evaluate(
                    check,
                    self.database,
                    self.context.instance,
                    institution,
                    days,
                    at_most=SAMPLE if self._makes(check) else None,
                )
        if partitions:
            seconds = time.perf_counter() - started
            self.context.log.info(
                f"{institution_id}: {_spoken(over)}, {partitions} partitions, {rows:,} rows"
                f" ({written:,} new or changed) in {seconds:.1f} s"
            )
        for days in over:
            yield from self._archive(institution, days, order)
        if not_over:
            self._where = _spoken(not_over)
            raise InvalidPartition(
                f"{_spoken(not_over)} is not over yet at {institution_id} ({institution.zone})",
                "Materialize it after midnight there; the daily schedule does",
            )

    def _archive(self, institution: Institution, days: DayRange, order: Order) -> Iterator[Event]:
        """Sweep, or show what a sweep would do; and see that originals and copies agree."""
        if self.archive is not None and not self.config.moves(self.context.run.tags):
            self._where = f"the plan of {ARCHIVE}"
            lines = archive.plan(self.database, institution, days, order)
            for line in lines:
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
                    yield from evaluate_moved(
                        self.completeness, self.database, self.context.instance, institution, result
                    )
        elif self.completeness is not None:
            self._where = f"the check of {ARCHIVE}"
            yield from evaluate_all(
                self.completeness, self.database, self.context.instance, institution, days
            )

    def _made(
        self, institution: Institution, days: DayRange, order: Order
    ) -> Iterator[tuple[LeaderboardAsset, DayResult]]:
        """What the selected assets make of these days: what boards are made of, then all boards."""
        together: dict[tuple[DayRange, ...], list[LeaderboardAsset]] = defaultdict(list)
        for asset in self.assets:
            if isinstance(asset.making, BoardProduct):
                together[tuple(self._wanted(asset, institution, days))].append(asset)
            else:
                for result in self._asset(asset, institution, days, order):
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
        self, asset: LeaderboardAsset, institution: Institution, days: DayRange
    ) -> list[DayRange]:
        """The days of an asset that are still to be made."""
        return contiguous_ranges(
            day for day in days if (asset.name, _key(day, institution)) not in self._kept
        )

    def _makes(self, check: SnapshotCheck) -> bool:
        return any(asset.spec.key == check.spec.asset_key for asset in self.assets)

    def _seen(
        self, asset: LeaderboardAsset, institution: Institution, result: DayResult
    ) -> AssetMaterialization:
        metadata = day_metadata(asset, self.database, institution, result, self.context.log.warning)
        for remark in asset.remarks(result):
            self.context.log.warning(remark)
        return _materialization(
            asset.name, result.day, institution.id, asset.outcome(result), metadata
        )

    def _keep(self) -> Iterator[AssetMaterialization]:
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
        wanted = set(self.context.partition_keys)
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

    def _note(self, failed: Failed) -> Failed:
        message = f"{failed.institution_id} failed at {failed.where}: {failed.reason}"
        if not isinstance(failed.error, LeaderboardError):
            message += "\n" + "".join(traceback.format_exception(failed.error))
        self.context.log.error(message)
        return failed


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
    return recorded


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


def _failure(failed: Sequence[Failed], of: int) -> Failure:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in failed:
        by_reason[one.reason].append(f"{one.institution_id} (at {one.where})")
    reasons = "; ".join(f"{', '.join(who)}: {reason}" for reason, who in by_reason.items())
    table = markdown_table(
        [
            {
                "institution": one.institution_id,
                "at": one.where,
                "what": one.error.thing if isinstance(one.error, LeaderboardError) else one.reason,
                "remedy": one.error.remedy
                if isinstance(one.error, LeaderboardError)
                else "See the traceback in the log",
            }
            for one in failed
        ]
    )
    return Failure(
        description=f"{len(failed)} of {of} institutions failed. {reasons}",
        metadata={
            "failed_institutions": MetadataValue.md(table),
            "what_next": "What is green is done. Re-execute this run from failure, or materialize "
            "its missing and failed partitions: only those that failed are done.",
        },
        allow_retries=any(one.transient for one in failed),
    )
