"""The op that makes all assets of boards: composed of the families, one order of work for all.

It goes through the institutions, two at a time, and for each through aggregates, all snapshots and
all trends, a contiguous range of days in one pass; then through the archive, whose failures are its
own (`institution_work`). One op rather than one a family, because Dagster skips everything behind a
step that fails: here an institution that fails takes down nothing but itself.

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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import date

from dagster import (
    AssetCheckEvaluation,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
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

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.concurrently import Yielded, side_by_side
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.each_institution import WRITE_LOCK_TIMEOUT
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.db.transient import is_transient
from lb_pipelines.orchestration.archive_checks import (
    ArchiveCheck,
    archive_check,
)
from lb_pipelines.orchestration.assets.aggregates import point_aggregates
from lb_pipelines.orchestration.assets.archive import ARCHIVE, archived_snapshots
from lb_pipelines.orchestration.assets.family import (
    LeaderboardAsset,
    Metadata,
)
from lb_pipelines.orchestration.assets.institution_work import (
    AtWork,
    InstitutionWork,
    Said,
    materialization,
)
from lb_pipelines.orchestration.assets.snapshots import board_snapshots
from lb_pipelines.orchestration.assets.trends import board_trends
from lb_pipelines.orchestration.checks import (
    PartitionCheck,
    blocks,
    partition_checks,
)
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
INSTITUTIONS_AT_ONCE = 2
"""While PostgreSQL takes the rows of one institution, another one's boards are ranked."""

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
    # (asset, partition key) that need not be done again.
    _kept: set[tuple[str, str]] = field(default_factory=set)
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
        waiting: Sequence[str] = list(days)
        students = self._sizes(waiting)
        while waiting:
            work = {id: self._institution(id, days[id]) for id in waiting}
            at_work = []
            for done in side_by_side(
                {id: one.events for id, one in work.items()}, INSTITUTIONS_AT_ONCE, students
            ):
                id, one = done.name, work[done.name]
                if isinstance(done, Yielded):
                    yield from self._told(id, done.value)
                elif done.error is None:
                    self._log.ends(id, one.done)
                elif isinstance(done.error, AtWork):
                    self._log.waits(id)
                    at_work.append(id)
                else:
                    failed[id] = Failed(id, one.where, done.error)
                    (self.context.log.warning if failed[id].transient else self.context.log.error)(
                        failed[id].told
                    )
                    self._log.ends(id, "failed")
            if at_work == waiting:
                self.sleep(_SECONDS_BETWEEN_LOOKS)
            waiting = at_work
        return failed

    def _sizes(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Students of each institution; none where that cannot be asked just now."""
        try:
            with self.database.transaction() as connection:
                return institutions.sizes(connection, ids)
        except Exception as error:
            if not is_transient(error):
                raise
            # Each institution meets the same, and is tried again.
            return {}

    def _institution(self, id: str, ranges: Sequence[DayRange]) -> InstitutionWork:
        return InstitutionWork(
            institution_id=id,
            ranges=ranges,
            run_id=self.context.run.run_id,
            config=self.config,
            # Somebody else's hung session is not to keep the run from its end.
            database=self.database.with_timeouts(lock=WRITE_LOCK_TIMEOUT),
            assets=self.assets,
            archive=self.archive,
            moves=self.config.moves(self.context.run.tags),
            checks=self.checks,
            completeness=self.completeness,
            now=self.now,
            kept=self._kept,
        )

    def _told(self, id: str, event: Recordable | Said) -> Iterator[Event]:
        """What is for Dagster's record; what is for the log is said."""
        if isinstance(event, Said):
            self.context.log.log(event.level, event.text)
            return
        yield event
        if isinstance(event, AssetMaterialization) and event.asset_key != AssetKey(ARCHIVE):
            day, _ = split_key(str(event.partition))
            self._log.did(id, f"{event.asset_key.to_user_string()} of {day}")

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
            yield materialization(
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
