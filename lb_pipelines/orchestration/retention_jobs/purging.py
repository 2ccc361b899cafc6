"""`purge_snapshots`: originals of whole partitions let go, and files that erasures left behind.

For the institutions whose settings turn purging on; one that fails does not stop the others.
"""

from collections.abc import Sequence
from pathlib import Path

from dagster import (
    Config,
    DefaultScheduleStatus,
    Failure,
    JobDefinition,
    MetadataValue,
    OpExecutionContext,
    RunConfig,
    ScheduleDefinition,
    job,
    op,
)
from pydantic import Field

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import local_day
from lb_pipelines.core.retention import RetentionPolicy
from lb_pipelines.db.each_institution import WRITE_LOCK_TIMEOUT, ask_each, with_short_waits
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import LeaderboardError
from lb_pipelines.orchestration.failures import failures_table
from lb_pipelines.orchestration.jobs import RETENTION, WORK_TAG
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.retention_jobs.shared import (
    DRY_RUN,
    WHO,
    actor_of,
    institution_of,
    refusals_told,
    tell,
)
from lb_pipelines.retention import erasing, purging
from lb_pipelines.retention.purging import PlannedPurge, Purged

PURGE_SNAPSHOTS = "purge_snapshots"
PURGE_SCHEDULE = "purge_schedule"
_OP = "purge"


class PurgeConfig(Config):
    """Whose partitions may go."""

    institution: str | None = Field(
        default=None,
        description="Only this institution; unset: all whose settings turn purging on.",
    )
    export_directory: str | None = Field(
        default=None,
        description="Where partitions are exported before they go; unset: exports in LB_HOME.",
    )
    requested_by: str = Field(default="Dagster", description=WHO)
    dry_run: bool = Field(default=True, description=f"{DRY_RUN} The schedule says false.")


def purge_snapshots_job(export_root: Path, now: Clock = utc_now) -> JobDefinition:
    """The job that purges where the settings say so, and finishes what erasures left."""

    @op(name=_OP)
    def _purge(
        context: OpExecutionContext,
        config: PurgeConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> None:
        database = leaderboard_database.database
        root = Path(config.export_directory or export_root)
        planned: list[PlannedPurge] = []
        purged: list[tuple[Institution, Purged]] = []
        chosen = None
        with refusals_told():
            if config.institution is not None:
                chosen = institution_of(database, config.institution)

        def purge(institution: Institution) -> None:
            if RetentionPolicy.of(institution).purge_grace is None:
                if chosen:
                    context.log.info(f"{institution.id}: its settings turn purging off")
                return
            today = local_day(now(), institution.zone)
            planned.extend(purging.plan_purges(with_short_waits(database), institution, today))
            if config.dry_run:
                return
            done = purging.purge(
                database.with_timeouts(lock=WRITE_LOCK_TIMEOUT),
                institution,
                today,
                actor_of(context, config.requested_by),
                root,
                on_step=context.log.info,
            )
            purged.extend((institution, one) for one in done)

        _, failed = ask_each([chosen] if chosen else _active(database), purge)
        for error in failed.values():
            context.log.error(str(error))
        if config.dry_run:
            _tell_plan(context, planned)
        else:
            _tell_done(context, purged)
            with refusals_told():
                _finish_erasures(context, database, chosen)
        if failed:
            raise _failure(failed)

    @job(
        name=PURGE_SNAPSHOTS,
        description=(
            "Lets originals of whole partitions go that have long been archived, for institutions "
            "whose settings say so: exported and detached first, dropped after the grace. Then "
            "finishes exports that erasures left to be rewritten. Only shows its plan, until "
            "dry_run is set to false."
        ),
        tags={WORK_TAG: RETENTION},
    )
    def _purge_snapshots() -> None:
        _purge()

    return _purge_snapshots


def purge_schedule(status: DefaultScheduleStatus) -> ScheduleDefinition:
    """Purges every night where settings turn it on."""
    return ScheduleDefinition(
        name=PURGE_SCHEDULE,
        job_name=PURGE_SNAPSHOTS,
        cron_schedule="20 2 * * *",
        run_config=RunConfig(ops={_OP: PurgeConfig(dry_run=False)}),
        description=(
            "Every night: partitions whose originals may go, for institutions whose settings turn "
            "purging on, and the files that erasures left to be rewritten."
        ),
        default_status=status,
    )


def _active(database: Database) -> list[Institution]:
    with database.transaction() as connection:
        return institutions.active(connection)


def _tell_plan(context: OpExecutionContext, planned: Sequence[PlannedPurge]) -> None:
    ready = [one for one in planned if one.waits_for is None]
    tell(
        context,
        f"{len(ready)} partitions would go on now, {len(planned) - len(ready)} wait",
        [
            f"{one.partition_key}: {one.phase} of {one.rows:,} rows, "
            + (f"waits for {one.waits_for}" if one.waits_for else "now")
            for one in planned
        ],
        table=[
            {
                "partition": one.partition_key,
                "phase": one.phase,
                "rows": f"{one.rows:,}",
                "bytes": f"{one.bytes:,}",
                "waits for": one.waits_for or "",
            }
            for one in planned
        ],
        numbers={"rows_to_purge": sum(one.rows for one in ready)},
        dry_run=True,
    )


def _tell_done(context: OpExecutionContext, purged: Sequence[tuple[Institution, Purged]]) -> None:
    tell(
        context,
        f"{len(purged)} partitions went on",
        [
            f"{one.partition_key}: {one.state}, {one.rows:,} rows"
            + (f"; {one.reason}" if one.reason else "")
            for _, one in purged
        ],
        table=[
            {
                "partition": one.partition_key,
                "state": one.state,
                "rows": f"{one.rows:,}",
                "bytes": f"{one.bytes:,}",
                "digest": f"`{one.digest}`",
                "export": one.export_directory or "",
                "why": one.reason or "",
                "ledger": str(one.purge),
            }
            for _, one in purged
        ],
        numbers={"rows_purged": sum(one.rows for _, one in purged)},
    )


def _finish_erasures(
    context: OpExecutionContext, database: Database, institution: Institution | None
) -> None:
    files = erasing.finish_erasures(database, institution)
    if files.rewritten or files.forgotten:
        context.log.info(
            f"{files.rewritten} exports were rewritten without erased students, "
            f"{files.forgotten} are gone"
        )
    for left in files.left:
        context.log.warning(
            f"Export {left.export} in {left.directory} still names an erased student: {left.reason}"
        )


def _failure(failed: dict[str, LeaderboardError]) -> Failure:
    return Failure(
        f"Purging failed for {', '.join(failed)}; the others are done. "
        + "; ".join(map(str, failed.values())),
        metadata={"failed_institutions": MetadataValue.md(failures_table(failed))},
        allow_retries=False,
    )
