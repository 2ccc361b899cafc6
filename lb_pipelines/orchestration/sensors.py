"""When work starts because something has changed: institutions that come and go, late events.

A tick reads and decides; what it wants done, Dagster does. What starts by the clock lies in
`schedules`.
"""

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import takewhile

from dagster import (
    AssetKey,
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, contiguous_ranges
from lb_pipelines.db.each_institution import (
    TICK_STATEMENT_TIMEOUT,
    ask_each,
    with_short_waits,
)
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions, progress
from lb_pipelines.db.repositories.input_changes import StaleDays
from lb_pipelines.materialize import staleness
from lb_pipelines.orchestration import requests
from lb_pipelines.orchestration.jobs import AGGREGATES, DAILY_ASSETS, DAILY_LEADERBOARDS
from lb_pipelines.orchestration.partitions import (
    INSTITUTION,
    Rectangle,
    find_utc_offsets,
    institution_partitions,
    neighbour_order,
    scattered,
)
from lb_pipelines.orchestration.resources import LeaderboardDatabase

INSTITUTIONS_SENSOR = "institutions_sensor"
LATE_EVENTS_SENSOR = "late_events_sensor"

# Dagster gives a tick 60 seconds; institutions not reached in these come first in the next tick.
_SECONDS_PER_TICK = 30.0


def institutions_sensor(status: DefaultSensorStatus, now: Clock = utc_now) -> SensorDefinition:
    """Keeps the institution dimension equal to the active institutions."""

    @sensor(
        name=INSTITUTIONS_SENSOR,
        minimum_interval_seconds=30,
        description=(
            "Gives every active institution its partitions and takes them from those that are "
            "no longer active. What was materialized stays in the database. Institutions whose "
            "midnight is the same are kept side by side, so that they share a run."
        ),
        default_status=status,
    )
    def _sensor(
        context: SensorEvaluationContext, leaderboard_database: LeaderboardDatabase
    ) -> SensorResult | SkipReason:
        with leaderboard_database.database.transaction() as connection:
            active = institutions.active(connection)
        order = context.instance.get_dynamic_partitions(INSTITUTION)
        present = set(order)
        offsets, failures = find_utc_offsets(active, now())
        new = neighbour_order((id, at) for id, at in offsets.items() if id not in present)
        gone = sorted(present - offsets.keys())
        unusable = "".join(f" Placed as if in UTC: {error}." for error in failures.values())
        if not new and not gone:
            if scattered(order, offsets) and not requests.at_work(context.instance, order):
                return _side_by_side(order, neighbour_order(offsets.items()))
            return SkipReason(
                f"The {len(active)} active institutions are the partitions.{unusable}"
            )
        return SensorResult(
            skip_reason=SkipReason(
                f"New: {', '.join(new) or 'none'}; gone: {', '.join(gone) or 'none'}.{unusable}"
            ),
            dynamic_partitions_requests=[
                *([institution_partitions.build_add_request(new)] if new else []),
                *([institution_partitions.build_delete_request(gone)] if gone else []),
            ],
        )

    return _sensor


def _side_by_side(order: Sequence[str], wanted: Sequence[str]) -> SensorResult:
    """Let institutions leave, from the first that is not where it should be; the next tick finds
    them new and lets them join in their order, for Dagster takes no key out and in at once.

    Only while no run is queued or at work, for a run over a range of institutions takes those that
    lie in it when it begins. What was materialized stays, as with every partition that leaves.
    """
    right = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(order, wanted, strict=True))
    )
    return SensorResult(
        skip_reason=SkipReason(
            f"{len(wanted) - right} institutions leave, and join again with the next tick: so that "
            "those with the same midnight lie side by side and share a run."
        ),
        dynamic_partitions_requests=[
            institution_partitions.build_delete_request(list(order[right:])),
        ],
    )


def late_events_sensor(
    start_day: date, status: DefaultSensorStatus, now: Clock = utc_now
) -> SensorDefinition:
    """Starts `daily_leaderboards` for days that are older than a change of what they come from.

    The cursor is the institution that the last tick came to; what is to be done stands in the
    database alone, so nothing is lost with a tick or a run that fails.
    """

    @sensor(
        name=LATE_EVENTS_SENSOR,
        job_name=DAILY_LEADERBOARDS,
        minimum_interval_seconds=60,
        description=(
            "Looks for changes of events, zones, terms, classes, enrollments, limits and rank "
            "methods that can touch materialized days, and starts one run per institution and "
            "range of stale days, of the assets that the changes can touch."
        ),
        default_status=status,
    )
    def _sensor(
        context: SensorEvaluationContext, leaderboard_database: LeaderboardDatabase
    ) -> SensorResult:
        database = with_short_waits(leaderboard_database.database, TICK_STATEMENT_TIMEOUT)
        with database.transaction() as connection:
            active = {
                institution.id: institution for institution in institutions.active(connection)
            }
        order = context.instance.get_dynamic_partitions(INSTITUTION)
        coverage = requests.at_work(context.instance, order)
        usable, unusable = ask_each(
            (active[id] for id in order if id in active), Institution.validate
        )
        changed = staleness.find_changed(database, usable.values())
        # Where the last tick stopped for want of time, this one goes on.
        last = context.cursor or ""
        queue = sorted(changed, key=lambda id: (id <= last, id))
        deadline = time.monotonic() + _SECONDS_PER_TICK

        def check(institution: Institution) -> list[RunRequest] | None:
            """The runs that it needs; None while another run works on its stale days."""
            stale = staleness.find_stale_days(database, institution)
            ranges = _find_partitions(stale, start_day)
            if not stale:
                staleness.settle(database, institution, now())
            elif any(coverage[institution.id, day] for days in ranges for day in days):
                return None
            return [
                _request(database, institution, days, stale, start_day, now()) for days in ranges
            ]

        in_time = takewhile(lambda _: time.monotonic() <= deadline, queue)
        checked, failures = ask_each((usable[id] for id in in_time), check)
        examined = queue[: len(checked) + len(failures)]
        requested = [request for of_one in checked.values() for request in of_one or ()]
        waiting = [id for id, of_one in checked.items() if of_one is None]
        sentences = [] if requested else [f"{len(usable)} institutions: no day is stale."]
        if waiting:
            sentences = [
                f"A run is queued or in progress for the stale days of {', '.join(waiting)}."
            ]
        if unusable or failures:
            left_out = map(str, [*unusable.values(), *failures.values()])
            sentences.append(f"Left out: {'; '.join(left_out)}")
        said = " ".join(sentences)
        if requested and said:
            context.log.info(said)
        return SensorResult(
            run_requests=requested,
            skip_reason=None if requested else SkipReason(said),
            cursor="" if len(examined) == len(queue) else (examined or [last])[-1],
        )

    return _sensor


def _find_partitions(stale: StaleDays, start_day: date) -> list[DayRange]:
    """The stale days as partitions; the first one stands for aggregates of all days before it."""
    return contiguous_ranges(
        max(day, start_day)
        for asset, ranges in stale.items()
        for days in ranges
        for day in days
        if day >= start_day or asset == AGGREGATES[0]
    )


def _request(
    database: Database,
    institution: Institution,
    days: DayRange,
    stale: StaleDays,
    start_day: date,
    instant: datetime,
) -> RunRequest:
    rectangle = Rectangle(days, institution.id, institution.id)
    partitions = {
        asset: _find_partitions({asset: stale.get(asset, ())}, start_day) for asset in DAILY_ASSETS
    }
    assets = [asset for asset, of in partitions.items() if any(part.first in days for part in of)]
    with database.transaction() as connection:
        written = progress.last_written(connection, institution, days)
    # As long as nothing was written to these days they are the same request, at most once a day:
    # a run that failed is not started every minute, and not forgotten either.
    state = written.isoformat() if written else "never"
    return RunRequest(
        run_key=f"{rectangle} written {state} asked {instant.astimezone(UTC).date()}",
        tags={**rectangle.tags, "leaderboards/institution": institution.id},
        asset_selection=None if assets == DAILY_ASSETS else [AssetKey(asset) for asset in assets],
    )
