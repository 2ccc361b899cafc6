"""The one place that composes everything; a test can swap any resource.

Which server, which start day, which budget: `Settings` says, read once here. Nothing is connected
to by building.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import (
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Definitions,
    RetryPolicy,
    in_process_executor,
)

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.orchestration.alerts.delivery import channels
from lb_pipelines.orchestration.alerts.sensor import failure_alerts_sensor
from lb_pipelines.orchestration.archive_checks import retention_settings_check
from lb_pipelines.orchestration.assets.leaderboards import RETRIES, leaderboards
from lb_pipelines.orchestration.freshness import freshness_sensor, on_time_checks
from lb_pipelines.orchestration.history_pruning import (
    dagster_history_pruning_job,
    dagster_history_pruning_schedule,
)
from lb_pipelines.orchestration.insight import (
    institution_insight,
    weekly_insight_job,
    weekly_insight_schedule,
)
from lb_pipelines.orchestration.jobs import (
    archive_expired_snapshots_job,
    daily_leaderboards_job,
    partition_maintenance_job,
    reward_processing_job,
)
from lb_pipelines.orchestration.report_jobs import backfill_preview_job, missing_partitions_job
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.retention_jobs.erasing import erase_student_job
from lb_pipelines.orchestration.retention_jobs.exports import export_archive_job, import_archive_job
from lb_pipelines.orchestration.retention_jobs.holding import legal_hold_job
from lb_pipelines.orchestration.retention_jobs.purging import purge_schedule, purge_snapshots_job
from lb_pipelines.orchestration.retention_jobs.restoring import restore_snapshots_job
from lb_pipelines.orchestration.retention_sensor import retention_sensor
from lb_pipelines.orchestration.schedules import (
    daily_leaderboards_schedule,
    partition_maintenance_schedule,
)
from lb_pipelines.orchestration.sensors import institutions_sensor, late_events_sensor
from lb_pipelines.settings import Settings


def build_defs(
    *,
    settings: Settings | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
    now: Clock = utc_now,
    retries: RetryPolicy = RETRIES,
) -> Definitions:
    """All assets, checks, jobs, schedules, sensors and resources of the project."""
    settings = settings or Settings.from_env()
    running = DefaultScheduleStatus.RUNNING
    sensing = DefaultSensorStatus.RUNNING
    told_by = channels(settings.alerts)
    return Definitions(
        assets=[
            leaderboards(settings.start_day, now, retries, settings.owners),
            institution_insight(settings.start_day, settings.owners),
        ],
        asset_checks=[retention_settings_check(), on_time_checks(settings.start_day, now)],
        jobs=[
            daily_leaderboards_job(),
            reward_processing_job(),
            weekly_insight_job(),
            archive_expired_snapshots_job(),
            restore_snapshots_job(now),
            purge_snapshots_job(settings.home / "exports", now),
            export_archive_job(),
            import_archive_job(now),
            legal_hold_job(now),
            erase_student_job(now),
            partition_maintenance_job(settings.leaf_budget, now),
            dagster_history_pruning_job(now),
            missing_partitions_job(settings.start_day, now),
            backfill_preview_job(now),
        ],
        schedules=[
            daily_leaderboards_schedule(settings.start_day, running),
            weekly_insight_schedule(settings.start_day, running),
            partition_maintenance_schedule(settings.leaf_budget, running),
            purge_schedule(running),
            dagster_history_pruning_schedule(running),
        ],
        sensors=[
            institutions_sensor(sensing, now),
            late_events_sensor(settings.start_day, sensing, now),
            retention_sensor(settings.start_day, sensing, now),
            # Not there where nobody is to be told.
            *([failure_alerts_sensor(told_by, settings.ui_url, sensing, now)] if told_by else []),
            freshness_sensor(settings.start_day, sensing, now),
        ],
        resources={"leaderboard_database": LeaderboardDatabase(), **(resource_overrides or {})},
        # The speed is in the code: a process a step would cost more than the step.
        executor=in_process_executor,
    )
