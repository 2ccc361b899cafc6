"""When work starts because something has changed: institutions that come and go, late events.

A tick reads and decides; what it wants done, Dagster does. What starts by the clock lies in
`schedules`.
"""

import json
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile

from dagster import (
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
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions, progress
from lb_pipelines.errors import LeaderboardError
from lb_pipelines.materialize.staleness import EVER, stale_ranges, undisturbed
from lb_pipelines.orchestration import requests
from lb_pipelines.orchestration.jobs import DAILY_LEADERBOARDS
from lb_pipelines.orchestration.partitions import (
    INSTITUTION,
    Rectangle,
    institution_partitions,
    neighbour_order,
    scattered,
)
from lb_pipelines.orchestration.resources import LeaderboardDatabase

INSTITUTIONS_SENSOR = "institutions_sensor"
LATE_EVENTS_SENSOR = "late_events_sensor"

# An event becomes visible when its transaction commits, which may be long after its updated_at.
_SLACK = timedelta(hours=6)
# Dagster gives a tick 60 seconds; institutions not reached in these come first in the next tick.
_SECONDS_A_TICK = 30.0


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
            active = {i.id: i for i in institutions.every(connection) if i.status == "ACTIVE"}
        order = context.instance.get_dynamic_partitions(INSTITUTION)
        present = set(order)
        offsets = {id: _offset(institution, now()) for id, institution in active.items()}
        new = neighbour_order((id, at) for id, at in offsets.items() if id not in present)
        gone = sorted(present - active.keys())
        if not new and not gone:
            if scattered(order, offsets) and not requests.at_work(context.instance, order):
                return _side_by_side(order, neighbour_order(offsets.items()))
            return SkipReason(f"The {len(active)} active institutions are the partitions.")
        return SensorResult(
            skip_reason=SkipReason(
                f"New: {', '.join(new) or 'none'}; gone: {', '.join(gone) or 'none'}."
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
    """Starts `daily_leaderboards` for days whose events have changed, and all that build on them.

    The cursor holds for each institution up to when its events were found to agree with its
    boards; it goes on only then, so that nothing is lost with a run that fails.
    """

    @sensor(
        name=LATE_EVENTS_SENSOR,
        job_name=DAILY_LEADERBOARDS,
        minimum_interval_seconds=60,
        description=(
            "Looks for events that came, changed or were voided after their day was materialized, "
            "and starts one run an institution for that day and every materialized day after it."
        ),
        default_status=status,
    )
    def _sensor(
        context: SensorEvaluationContext, leaderboard_database: LeaderboardDatabase
    ) -> SensorResult:
        database = leaderboard_database.database
        with database.transaction() as connection:
            active = {i.id: i for i in institutions.every(connection) if i.status == "ACTIVE"}
        order = context.instance.get_dynamic_partitions(INSTITUTION)
        working = requests.at_work(context.instance, order)
        agreed = _read_cursor(context.cursor)
        agreed = {id: instant for id, instant in agreed.items() if id in active}
        asked: list[RunRequest] = []
        waiting: list[str] = []
        unusable: list[str] = []
        deadline = time.monotonic() + _SECONDS_A_TICK
        started = now()
        usable: list[tuple[Institution, datetime]] = []
        for id in sorted(set(order) & active.keys(), key=lambda id: (agreed.get(id, EVER), id)):
            since = max(agreed.get(id, EVER), EVER + _SLACK) - _SLACK
            try:
                usable.append((active[id].validate(), since))
            except LeaderboardError as error:
                # Its runs say the same and fail; the others are still looked at.
                unusable.append(str(error))
        known = [(institution, since) for institution, since in usable if institution.id in agreed]
        current = undisturbed(database, known)
        agreed |= dict.fromkeys(current, started)
        looked_at = len(current)
        for institution, since in usable:
            id = institution.id
            if id in current:
                continue
            if time.monotonic() > deadline:
                break
            started = now()
            looked_at += 1
            stale = stale_ranges(database, institution, since)
            partitions = _from_day(stale, start_day)
            if not stale:
                agreed[id] = started
            elif any(working[id, day] for days in partitions for day in days):
                waiting.append(id)
            else:
                asked += [_request(database, institution, days, started) for days in partitions]
        cursor = json.dumps({id: instant.isoformat() for id, instant in sorted(agreed.items())})
        if asked:
            return SensorResult(run_requests=asked, cursor=cursor)
        sentences = [f"Looked at {looked_at} of {len(active)} institutions: no day is stale."]
        if waiting:
            sentences = [f"A run is queued or at work for the stale days of {', '.join(waiting)}."]
        if unusable:
            sentences.append(f"Left out: {'; '.join(unusable)}")
        return SensorResult(skip_reason=SkipReason(" ".join(sentences)), cursor=cursor)

    return _sensor


def _offset(institution: Institution, instant: datetime) -> timedelta:
    """Where the institution's midnight lies; UTC's for one whose zone is wrong."""
    try:
        return instant.astimezone(institution.zone).utcoffset() or timedelta()
    except LeaderboardError:
        return timedelta()


def _read_cursor(text: str | None) -> dict[str, datetime]:
    try:
        found = json.loads(text or "{}")
        return {str(id): datetime.fromisoformat(instant) for id, instant in found.items()}
    except (ValueError, AttributeError, TypeError):
        # Somebody edited it by hand: begin anew, which finds everything.
        return {}


def _from_day(ranges: list[DayRange], start_day: date) -> list[DayRange]:
    """The ranges in partitions; the first stands for all days before it."""
    return contiguous_ranges(max(day, start_day) for days in ranges for day in days)


def _request(
    database: Database, institution: Institution, days: DayRange, instant: datetime
) -> RunRequest:
    rectangle = Rectangle(days, institution.id, institution.id)
    with database.transaction() as connection:
        written = progress.last_written(connection, institution, days)
    # As long as nothing was written to these days they are the same request, at most once a day:
    # a run that failed is not started every minute, and not forgotten either.
    state = written.isoformat() if written else "never"
    return RunRequest(
        run_key=f"{rectangle} written {state} asked {instant.astimezone(UTC).date()}",
        tags={**rectangle.tags, "leaderboards/institution": institution.id},
    )
