"""`restore_snapshots`: archived snapshots back to live, until a day that must be given."""

from dagster import JobDefinition, OpExecutionContext, job, op
from pydantic import Field

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.periods import local_day
from lb_pipelines.orchestration.jobs import RETENTION, WORK_TAG
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.retention_jobs.shared import (
    DRY_RUN,
    WHO,
    SelectionConfig,
    actor_of,
    day,
    institution_of,
    refusals_told,
    tell,
)
from lb_pipelines.retention import restoring

RESTORE_SNAPSHOTS = "restore_snapshots"


class RestoreConfig(SelectionConfig):
    """Which archived snapshots are to be active again, and for how long."""

    until: str = Field(
        description="The last day on which they stay active, like 2025-01-31; then they expire."
    )
    requested_by: str = Field(default="Dagster", description=WHO)
    dry_run: bool = Field(default=True, description=DRY_RUN)


def restore_snapshots_job(now: Clock = utc_now) -> JobDefinition:
    """The job that brings a selection back."""

    @op(name="restore")
    def _restore(
        context: OpExecutionContext,
        config: RestoreConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> None:
        database = leaderboard_database.database
        with refusals_told():
            institution = institution_of(database, config.institution)
            selection, until = config.selection, day("until", config.until)
            today = local_day(now(), institution.zone)
            plan = restoring.plan_restore(database, institution, selection)
            row = {
                "institution": institution.id,
                "rows": f"{plan.rows:,}",
                "bytes": f"{plan.bytes:,}",
                "from": str(plan.first or ""),
                "to": str(plan.last or ""),
                "active until": str(until),
            }
            if config.dry_run:
                tell(
                    context,
                    f"{institution.id}: {plan.rows:,} archived snapshots would be active again "
                    f"until {until}",
                    table=[row],
                    numbers={"rows_to_restore": plan.rows, "bytes_to_restore": plan.bytes},
                    dry_run=True,
                )
                return
            restored = restoring.restore(
                database,
                institution,
                selection,
                until,
                today,
                actor_of(context, config.requested_by),
                on_batch=lambda moved: context.log.info(f"{moved.rows:,} rows restored"),
            )
            row |= {
                "rows": f"{restored.rows:,}",
                "bytes": f"{restored.bytes:,}",
                "digest": f"`{restored.digest}`",
                "ledger": str(restored.archive_run or ""),
            }
            tell(
                context,
                f"{institution.id}: {restored.rows:,} archived snapshots are active again until "
                f"{until}",
                table=[row],
                numbers={"rows_restored": restored.rows, "bytes_restored": restored.bytes},
            )

    @job(
        name=RESTORE_SNAPSHOTS,
        description=(
            "Brings archived snapshots back to live, out of expiry through a day that must be "
            "given; then a sweep takes them into the archive again. Only shows what it would "
            "bring back, until dry_run is set to false."
        ),
        tags={WORK_TAG: RETENTION},
    )
    def _restore_snapshots() -> None:
        _restore()

    return _restore_snapshots
