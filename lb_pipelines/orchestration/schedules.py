"""When work starts by the clock: each institution's day after its own midnight, and maintenance.

A tick reads what is there and decides; it writes nothing. What reacts to data lies in `sensors`.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from dagster import (
    DefaultScheduleStatus,
    RunConfig,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)

from lb_pipelines.core.activity import Activity
from lb_pipelines.core.periods import ONE_DAY, DayRange, closed_through, days_between
from lb_pipelines.core.zones import load_zone
from lb_pipelines.db.each_institution import (
    TICK_STATEMENT_TIMEOUT,
    ask_each,
    with_short_waits,
)
from lb_pipelines.db.repositories import institutions, progress
from lb_pipelines.db.repositories.activity import read_activity
from lb_pipelines.orchestration import requests
from lb_pipelines.orchestration.jobs import (
    DAILY_ASSETS,
    DAILY_LEADERBOARDS,
    PARTITION_MAINTENANCE,
    MaintenanceConfig,
)
from lb_pipelines.orchestration.partitions import INSTITUTION, rectangles
from lb_pipelines.orchestration.resources import LeaderboardDatabase

DAILY_SCHEDULE = "daily_leaderboards_schedule"
MAINTENANCE_SCHEDULE = "partition_maintenance_schedule"

CATCH_UP = timedelta(days=7)
"""How many days the schedule makes up for after it stood still; older ones are a backfill."""
ATTEMPTS = 3
"""How often a day that is still not there is asked for: an outage heals, bad data does not."""

# Offsets from UTC are whole quarters of an hour.
_EVERY_QUARTER = "*/15 * * * *"


def daily_leaderboards_schedule(
    start_day: date, status: DefaultScheduleStatus
) -> ScheduleDefinition:
    """Starts `daily_leaderboards` for every institution whose day is over and not there yet."""

    @schedule(
        name=DAILY_SCHEDULE,
        job_name=DAILY_LEADERBOARDS,
        cron_schedule=_EVERY_QUARTER,
        description=(
            "After each institution's own midnight, the day just over; institutions whose midnight "
            f"is the same share a run. Up to {CATCH_UP.days} missed days are made up for. A day "
            f"that fails is asked for {ATTEMPTS} times in all. Institutions without an event or an "
            "open term in the last weeks are left out until there is one again."
        ),
        default_status=status,
    )
    def _schedule(
        context: ScheduleEvaluationContext, leaderboard_database: LeaderboardDatabase
    ) -> list[RunRequest] | SkipReason:
        now = context.scheduled_execution_time
        # Every zone's days that can be due at this instant lie in here.
        window = DayRange((now - CATCH_UP).date() - 2 * ONE_DAY, now.date() + ONE_DAY)
        database = with_short_waits(leaderboard_database.database, TICK_STATEMENT_TIMEOUT)
        with database.transaction(snapshot=True) as connection:
            active = institutions.active(connection)
            activity = read_activity(connection, active)
            complete = progress.complete_days(connection, DAILY_ASSETS, window)
        order = context.instance.get_dynamic_partitions(INSTITUTION)
        asked = requests.asked_by_schedule(
            context.instance, DAILY_SCHEDULE, now - CATCH_UP - 2 * ONE_DAY, order
        )
        working = requests.at_work(context.instance, order)
        # The run of one whose zone is wrong says so and fails.
        zones, _ = ask_each(active, lambda institution: institution.zone)
        missing = {
            institution.id: [
                day
                for day in _closed_days(
                    zones.get(institution.id) or load_zone("UTC"),
                    activity[institution.id],
                    start_day,
                    now,
                )
                if day not in complete.get(institution.id, ())
            ]
            for institution in active
        }
        due = {
            id: [day for day in days if not working[id, day] and asked[id, day] < ATTEMPTS]
            for id, days in missing.items()
        }
        wanted = rectangles(due, order)
        if not wanted:
            return SkipReason(_why_nothing(missing, order, working))
        return [
            RunRequest(
                run_key=str(rectangle),
                # Before backfills, which can wait.
                tags={**rectangle.tags, "dagster/priority": "1"},
            )
            for rectangle in wanted
        ]

    return _schedule


def partition_maintenance_schedule(
    leaf_budget: int, status: DefaultScheduleStatus
) -> ScheduleDefinition:
    """Keeps the tables of the coming months ready."""
    config = MaintenanceConfig(dry_run=False, leaf_budget=leaf_budget)
    return ScheduleDefinition(
        name=MAINTENANCE_SCHEDULE,
        job_name=PARTITION_MAINTENANCE,
        cron_schedule="40 1 * * *",
        run_config=RunConfig(ops={"maintain_partitions": config}),
        description="Every night: the tables of the coming months, and who has a subtree.",
        default_status=status,
    )


def _closed_days(
    zone: ZoneInfo, activity: Activity, start_day: date, now: datetime
) -> Iterator[date]:
    """The days that are over at an institution, expected, and answered for by the schedule."""
    last = closed_through(now, zone)
    first = max(start_day, last - CATCH_UP + ONE_DAY)
    return days_between(first, min(last, activity.last_expected_day(zone)))


def _why_nothing(
    missing: Mapping[str, Sequence[date]], order: Sequence[str], working: requests.Coverage
) -> str:
    """In words, why no run is asked for."""
    if not missing:
        return "There are no active institutions."
    sentences = []
    strangers = [id for id, days in missing.items() if days and id not in order]
    if strangers:
        sentences.append(f"Not among the partitions yet: {', '.join(strangers)}.")
    open_days = [(id, day) for id, days in missing.items() for day in days if id in order]
    for what, chosen in (
        ("Runs are queued or at work for", [pair for pair in open_days if working[pair]]),
        (
            f"Asked for {ATTEMPTS} times without success, so left to a person:",
            [pair for pair in open_days if not working[pair]],
        ),
    ):
        if chosen:
            named = ", ".join(f"{id} {day}" for id, day in chosen[:10])
            more = f" and {len(chosen) - 10} more" if len(chosen) > 10 else ""
            sentences.append(f"{what} {named}{more}.")
    return " ".join(sentences) or (
        f"All {len(missing)} institutions have every day that is over there."
    )
