"""`institution_insight`: a week in pictures, for whoever would rather look than read.

A week x institution of its own, not metadata of the daily assets: four pictures take as long as an
institution's whole day of boards and a hundred times the bytes of its figures, and nobody looks at
them every day. The schedule draws them on Mondays; a person draws any other week by hand.
"""

import base64
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta

from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    BackfillPolicy,
    BetaWarning,
    DefaultScheduleStatus,
    DimensionPartitionMapping,
    Failure,
    IdentityPartitionMapping,
    MetadataValue,
    MultiPartitionKey,
    MultiPartitionMapping,
    MultiPartitionsDefinition,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    TimeWindowPartitionMapping,
    WeeklyPartitionsDefinition,
    define_asset_job,
    multi_asset,
    schedule,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from lb_pipelines.core.periods import week_start
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.each_institution import name_institution, with_short_waits
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import DatabaseUnavailable, LeaderboardError
from lb_pipelines.insight import inline, portraits
from lb_pipelines.insight.portraits import Portrait
from lb_pipelines.materialize import snapshots, trends
from lb_pipelines.orchestration.failures import failures_table
from lb_pipelines.orchestration.partitions import (
    DAY,
    EARLIEST_ZONE,
    INSTITUTION,
    RANGE_END_TAG,
    RANGE_START_TAG,
    institution_partitions,
    keys_of_run,
)
from lb_pipelines.orchestration.resources import LeaderboardDatabase

INSIGHT = "institution_insight"
WEEKLY_INSIGHT = "weekly_insight"
INSIGHT_SCHEDULE = "weekly_insight_schedule"
WEEK = "week"
_SIX_DAYS = timedelta(days=6)
# Sunday is over everywhere at Monday noon UTC; the boards have had four hours.
_MONDAYS = "0 16 * * 1"
_DPI = 90


def insight_partitions(start_day: date) -> MultiPartitionsDefinition:
    """Week (by its Monday) x institution; the first week begins on or after `start_day`."""
    first = week_start(start_day + _SIX_DAYS)
    weeks = WeeklyPartitionsDefinition(
        start_date=first.isoformat(), day_offset=1, timezone=EARLIEST_ZONE
    )
    return MultiPartitionsDefinition({WEEK: weeks, INSTITUTION: institution_partitions})


def insight_key(week: date, institution_id: str) -> MultiPartitionKey:
    """The key of the week that begins on a Monday."""
    return MultiPartitionKey({WEEK: week.isoformat(), INSTITUTION: institution_id})


def institution_insight(start_day: date, owners: Sequence[str] = ()) -> AssetsDefinition:
    """The asset; every partition of a run is drawn by itself, and one that fails is named."""
    spec = AssetSpec(
        INSIGHT,
        deps=[
            AssetDep(
                snapshots.asset_name(BoardType.CLASS),
                partition_mapping=_days_of_the_week(),
            )
        ],
        description=(
            "A week of an institution in four pictures: which classes take part, and of its "
            "largest class how the top 10 came to be there, how points are spread, and how many "
            "take part. A class that has fallen silent, an import that stopped, or a leader out "
            "of nowhere is seen here before somebody asks. Students appear by rank and points "
            "alone, so that nothing here outlives an erasure; `lb insight` draws any other board."
        ),
        group_name="insight",
        owners=list(owners),
        kinds={"postgres", "python", "matplotlib"},
        skippable=True,
        partitions_def=insight_partitions(start_day),
        metadata={
            "boards": MetadataValue.asset(AssetKey(snapshots.asset_name(BoardType.CLASS))),
            "trends": MetadataValue.asset(AssetKey(trends.asset_name(BoardType.CLASS))),
        },
    )

    @multi_asset(
        name=INSIGHT, specs=[spec], backfill_policy=BackfillPolicy.single_run(), can_subset=True
    )
    def _insight(
        context: AssetExecutionContext, leaderboard_database: LeaderboardDatabase
    ) -> Iterator[AssetMaterialization]:
        database = with_short_waits(leaderboard_database.database)
        failed: dict[str, LeaderboardError] = {}
        weeks = _weeks(keys_of_run(context))
        for institution_id, mondays in weeks.items():
            for monday in mondays:
                try:
                    with name_institution(institution_id):
                        drawn = _drawn(database, institution_id, monday)
                except DatabaseUnavailable:
                    raise
                except LeaderboardError as error:
                    failed[f"{institution_id} {monday}"] = error
                    context.log.error(f"{institution_id}, week of {monday}: {error}")
                else:
                    yield drawn
        if failed:
            raise _failure(failed, sum(map(len, weeks.values())))

    return _insight


def _days_of_the_week() -> MultiPartitionMapping:
    with warnings.catch_warnings():
        # That the class is in beta is no news to whoever starts the project.
        warnings.simplefilter("ignore", BetaWarning)
        return MultiPartitionMapping(
            {
                DAY: DimensionPartitionMapping(WEEK, TimeWindowPartitionMapping()),
                INSTITUTION: DimensionPartitionMapping(INSTITUTION, IdentityPartitionMapping()),
            }
        )


def weekly_insight_job() -> UnresolvedAssetJobDefinition:
    """What draws the pictures of the week that is over."""
    return define_asset_job(
        WEEKLY_INSIGHT,
        selection=AssetSelection.assets(INSIGHT),
        description="Draws the pictures of a week, of any weeks and institutions.",
        tags={"leaderboards/work": "insight"},
    )


def weekly_insight_schedule(start_day: date, status: DefaultScheduleStatus) -> ScheduleDefinition:
    """Every Monday: the week before, of all institutions in one run."""

    @schedule(
        name=INSIGHT_SCHEDULE,
        job_name=WEEKLY_INSIGHT,
        cron_schedule=_MONDAYS,
        description="Every Monday: the pictures of the week that is over, of all institutions.",
        default_status=status,
    )
    def _schedule(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        monday = _last_week(context.scheduled_execution_time)
        order = context.instance.get_dynamic_partitions(INSTITUTION)
        if not order or monday < start_day:
            return SkipReason("There are no institutions yet." if not order else "Before the start")
        return RunRequest(
            run_key=monday.isoformat(),
            tags={
                RANGE_START_TAG: insight_key(monday, order[0]),
                RANGE_END_TAG: insight_key(monday, order[-1]),
            },
        )

    return _schedule


def _last_week(now: datetime) -> date:
    return week_start(now.date()) - timedelta(days=7)


def _weeks(keys: Iterable[str]) -> dict[str, list[date]]:
    """Partition keys as Mondays by institution, ascending."""
    weeks: dict[str, list[date]] = defaultdict(list)
    for key in keys:
        # Dagster orders dimensions by name: institution, then week.
        institution_id, monday = key.split("|")
        weeks[institution_id].append(date.fromisoformat(monday))
    return {institution_id: sorted(mondays) for institution_id, mondays in weeks.items()}


def _drawn(database: Database, institution_id: str, monday: date) -> AssetMaterialization:
    started = time.perf_counter()
    day = monday + _SIX_DAYS
    with database.transaction(snapshot=True) as connection:
        institution = institutions.find_active(connection, institution_id)
    week = portraits.of_week(database, institution, day)
    shown = {picture.name: _shown(picture) for picture in week.portraits}
    key = insight_key(monday, institution_id)
    return AssetMaterialization(
        asset_key=INSIGHT,
        partition=key,
        tags={f"dagster/partition/{name}": part for name, part in key.keys_by_dimension.items()},
        description=f"{INSIGHT} of {institution_id}, {monday} to {day}",
        metadata={
            **{name: MetadataValue.md(text) for name, text in shown.items()},
            "largest_class": week.largest or MetadataValue.null(),
            "pictures": sum(picture.draw is not None for picture in week.portraits),
            "bytes": sum(map(len, shown.values())),
            "seconds": round(time.perf_counter() - started, 4),
        },
    )


def _shown(portrait: Portrait) -> str:
    """The picture in Markdown, below what it shows in words; or the words alone."""
    sentence = inline.plain(portrait.sentence, 400)
    drawn = portrait.png(_DPI)
    if drawn is None:
        return sentence
    encoded = base64.b64encode(drawn).decode()
    return f"{sentence}\n\n![{portrait.name}](data:image/png;base64,{encoded})"


def _failure(failed: Mapping[str, LeaderboardError], of: int) -> Failure:
    return Failure(
        f"{len(failed)} of {of} weeks could not be drawn. "
        + "; ".join(f"{week}: {error}" for week, error in failed.items()),
        metadata={"failed": MetadataValue.md(failures_table(failed, "week"))},
        allow_retries=False,
    )
