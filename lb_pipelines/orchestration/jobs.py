"""What can be started as a whole: selections of the assets, and work on the database itself.

When a job starts without a person lies in `schedules` and `sensors`.
"""

from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetSelection,
    Config,
    Failure,
    JobDefinition,
    MetadataValue,
    OpExecutionContext,
    define_asset_job,
    job,
    op,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import partitions
from lb_pipelines.db.partitions import MaintenanceReport
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.orchestration.archive_checks import SETTINGS
from lb_pipelines.orchestration.assets.archive import ARCHIVE
from lb_pipelines.orchestration.checks import ON_TIME
from lb_pipelines.orchestration.config import MOVES_TAG
from lb_pipelines.orchestration.failures import failures_table
from lb_pipelines.orchestration.resources import LeaderboardDatabase

AGGREGATES = [aggregates.ASSET]
SNAPSHOTS = [snapshots.asset_name(type) for type in BoardType]
TRENDS = [trends.asset_name(type) for type in BoardType]
DAILY_ASSETS = [*AGGREGATES, *SNAPSHOTS, *TRENDS]

DAILY_LEADERBOARDS = "daily_leaderboards"
REWARD_PROCESSING = "reward_processing"
ARCHIVE_EXPIRED_SNAPSHOTS = "archive_expired_snapshots"
PARTITION_MAINTENANCE = "partition_maintenance"

WORK_TAG = "leaderboards/work"
RETENTION = "retention"


def daily_leaderboards_job() -> UnresolvedAssetJobDefinition:
    """Everything of a day: what the daily schedule and the late events start."""
    return define_asset_job(
        DAILY_LEADERBOARDS,
        selection=_without_others(AssetSelection.assets(*DAILY_ASSETS)),
        description=(
            "Aggregates, snapshots and trends of any days and institutions. The daily schedule "
            "starts it after each institution's midnight, the late-events sensor for days whose "
            "events have changed; past days are best materialized from the catalog, for a backfill "
            "from there can be re-executed from failure."
        ),
        tags={WORK_TAG: "daily"},
    )


def reward_processing_job() -> UnresolvedAssetJobDefinition:
    """The order of the work that rewards wait for: points in, boards out, old boards away."""
    return define_asset_job(
        REWARD_PROCESSING,
        selection=_without_others(AssetSelection.assets(*AGGREGATES, *SNAPSHOTS, ARCHIVE)),
        description=(
            "What rewards are handed out by: point aggregates, then the snapshots of every board, "
            "for any days and institutions; then what has expired by the day after goes into the "
            "archive. Trends are left to daily_leaderboards."
        ),
        tags={WORK_TAG: "rewards", **MOVES_TAG},
    )


def archive_expired_snapshots_job() -> UnresolvedAssetJobDefinition:
    """The archive alone: what the retention sensor starts."""
    return define_asset_job(
        ARCHIVE_EXPIRED_SNAPSHOTS,
        selection=_without_others(AssetSelection.assets(ARCHIVE)),
        description=(
            "Moves snapshots whose retention is over into the archive, as of the day after a "
            "partition. The retention sensor starts it where something has expired; started by "
            "hand it only shows its plan, until archive_dry_run is set to false."
        ),
        tags={WORK_TAG: RETENTION},
    )


def _without_others(selection: AssetSelection) -> AssetSelection:
    """Without the checks that are not about the partitions of a run: everyone's settings, and
    whether everyone's days are there in time.
    """
    return selection - AssetSelection.checks(
        AssetCheckKey(AssetKey(ARCHIVE), SETTINGS),
        *(AssetCheckKey(AssetKey(asset), ON_TIME) for asset in DAILY_ASSETS),
    )


class MaintenanceConfig(Config):
    """What a run of partition maintenance may do."""

    dry_run: bool = Field(
        default=True, description="Only show what would be done. The schedule says false."
    )
    months_ahead: int = Field(
        default=partitions.MONTHS_AHEAD,
        ge=0,
        le=24,
        description="How many months after the current one get their leaves.",
    )
    leaf_budget: int = Field(
        default=partitions.LEAF_BUDGET,
        ge=0,
        description="Leaves up to which institutions have a subtree of their own.",
    )


def partition_maintenance_job(leaf_budget: int, now: Clock = utc_now) -> JobDefinition:
    """Months of tables ahead of time, and each institution in its own or the shared subtree."""

    @op(name="maintain_partitions")
    def _maintain(
        context: OpExecutionContext,
        config: MaintenanceConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> None:
        report = partitions.maintain(
            leaderboard_database.database,
            now().date(),
            months_ahead=config.months_ahead,
            budget=config.leaf_budget,
            dry_run=config.dry_run,
        )
        for line in _spoken(report):
            context.log.info(line)
        if report.failures:
            raise _failure(report)

    @job(
        name=PARTITION_MAINTENANCE,
        description=(
            "Makes the tables of the coming months and moves institutions into or out of the "
            "shared subtree as the budget of leaves demands. Started by hand it only shows its "
            "plan, until dry_run is set to false."
        ),
        tags={WORK_TAG: "maintenance"},
        config={"ops": {"maintain_partitions": {"config": {"leaf_budget": leaf_budget}}}},
    )
    def _partition_maintenance() -> None:
        _maintain()

    return _partition_maintenance


def _spoken(report: MaintenanceReport) -> list[str]:
    """What a run did, or would do, a line a thing."""
    if report.skipped or report.plan is None:
        return ["Another run of partition maintenance is at work; nothing was done."]
    would = "would be " if report.dry_run else ""
    lines = [f"{report.leaves} leaves now, of a budget of {report.plan.budget}"]
    lines += [f"{would}moved: {move}" for move in report.plan.moves]
    lines += [
        f"{would}made for {owner}: {', '.join(leaf.name for leaf in leaves)}"
        for owner, leaves in report.plan.missing.items()
    ]
    if len(lines) == 1:
        lines.append("Nothing to do: all months are there and every institution in its place.")
    if report.dry_run:
        lines.append("This was a dry run; set dry_run to false to do it.")
    return lines


def _failure(report: MaintenanceReport) -> Failure:
    return Failure(
        f"Partition maintenance failed for {', '.join(report.failures)}; the rest is done. "
        + "; ".join(map(str, report.failures.values())),
        metadata={"failed": MetadataValue.md(failures_table(report.failures, "for"))},
    )
