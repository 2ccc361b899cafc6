"""The jobs that only look: `missing_partitions` and `backfill_preview`, their fields and tables.

They write nothing but what they found, to the page of their run and, in numbers that Dagster plots,
to the pages of the assets.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date

from dagster import (
    AssetObservation,
    Config,
    DagsterInstance,
    JobDefinition,
    MetadataValue,
    OpExecutionContext,
    Output,
    job,
    op,
)
from pydantic import Field

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import DagsterElsewhere, InvalidSelection, LeaderboardError
from lb_pipelines.materialize.completeness import ASSETS, Completeness, State, spoken
from lb_pipelines.materialize.preview import Preview, PreviewedAsset
from lb_pipelines.orchestration.assets.family import markdown_table
from lb_pipelines.orchestration.dagster_tables import dagster_database
from lb_pipelines.orchestration.failures import failures_table
from lb_pipelines.orchestration.jobs import WORK_TAG
from lb_pipelines.orchestration.reports import (
    assets_spoken,
    look_everywhere,
    preview_everywhere,
    totals,
)
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.retention_jobs.shared import day, day_if_given, refusals_told
from lb_pipelines.orchestration.run_log import duration

MISSING_PARTITIONS = "missing_partitions"
BACKFILL_PREVIEW = "backfill_preview"

_ROWS_SHOWN = 200
_EVERY = "Ids of institutions. None given: every active one."


class MissingConfig(Config):
    """Which institutions and days are looked at."""

    institutions: list[str] = Field(default=[], description=_EVERY)
    first_day: str | None = Field(
        default=None, description="From this day on. Not given: from each one's first event."
    )
    last_day: str | None = Field(
        default=None, description="Through this day. Not given: the last one that is over."
    )


class PreviewConfig(Config):
    """The backfill that somebody thinks of."""

    assets: list[str] = Field(
        default=[], description=f"Any of {', '.join(ASSETS)}. None given: all of them."
    )
    institutions: list[str] = Field(default=[], description=_EVERY)
    first_day: str = Field(description="The first day, like 2024-09-01.")
    last_day: str = Field(description="The last day; both belong to it.")


def missing_partitions_job(start_day: date, now: Clock = utc_now) -> JobDefinition:
    """The job that says what is missing, stale or failed, and where two records disagree."""

    @op(name="look_for_missing")
    def _look(
        context: OpExecutionContext,
        config: MissingConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> Iterator[AssetObservation | Output[None]]:
        database = leaderboard_database.database
        with refusals_told(), _record(context, context.instance) as record_in:
            answers, failures = look_everywhere(
                database,
                record_in,
                _chosen(database, config.institutions),
                now(),
                start_day=start_day,
                first=day_if_given("first_day", config.first_day),
                last=day_if_given("last_day", config.last_day),
            )
        found = list(answers.values())
        for error in failures.values():
            context.log.warning(str(error))
        numbers = totals(found)
        rows = [row for one in found for row in finding_rows(one)]
        context.log.info(
            f"{len(found)} institutions, {sum(one.expected for one in found):,} partitions "
            f"expected: " + (", ".join(f"{n:,} {state}" for state, n in numbers.items() if n)
            or "all there, and both records agree")
        )  # fmt: skip
        for asset in ASSETS:
            yield AssetObservation(
                asset_key=asset,
                description="What is missing, over all institutions",
                metadata={_key(s): n for s, n in totals(found, asset).items()},
            )
        yield Output(
            None,
            metadata={
                "findings": MetadataValue.md(
                    markdown_table(rows[:_ROWS_SHOWN], "Everything is there.")
                ),
                **({"rows_not_shown": len(rows) - _ROWS_SHOWN} if len(rows) > _ROWS_SHOWN else {}),
                **{_key(state): number for state, number in numbers.items()},
                **_left_out(failures),
                "read": "the database's ledger and Dagster's record"
                if record_in is not None
                else "the database's ledger alone",
            },
        )

    @job(
        name=MISSING_PARTITIONS,
        description=(
            "Says which days of which institutions are missing, stale or failed, and where the "
            "database and Dagster disagree about it. Writes nothing; `lb missing` says the same."
        ),
        tags={WORK_TAG: "report"},
    )
    def _missing_partitions() -> None:
        _look()

    return _missing_partitions


def backfill_preview_job(now: Clock = utc_now) -> JobDefinition:
    """The job that says what a backfill would touch, and how long it would take."""

    @op(name="preview_backfill")
    def _preview(
        context: OpExecutionContext,
        config: PreviewConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> Iterator[Output[None]]:
        database = leaderboard_database.database
        with refusals_told(), _record(context, context.instance) as record_in:
            days = DayRange(day("first_day", config.first_day), day("last_day", config.last_day))
            answers, failures = preview_everywhere(
                database,
                record_in,
                _chosen(database, config.institutions),
                config.assets,
                days,
                now(),
            )
        found = list(answers.values())
        for error in failures.values():
            context.log.warning(f"Would fail: {error}")
        every = [asset for one in found for asset in one.assets]
        said = preview_spoken(every)
        context.log.info(said)
        rows = [row for one in found for row in preview_rows(one)]
        yield Output(
            None,
            metadata={
                "preview": MetadataValue.md(
                    markdown_table(rows[:_ROWS_SHOWN], "None of these days is over.")
                ),
                **({"rows_not_shown": len(rows) - _ROWS_SHOWN} if len(rows) > _ROWS_SHOWN else {}),
                "in_short": said,
                "partitions": sum(one.partitions for one in every),
                "rows": sum(one.rows or 0 for one in every),
                "bytes": sum(one.bytes or 0 for one in every),
                "seconds": round(sum(one.seconds or 0.0 for one in every), 1),
                "without_basis": sum(one.seconds is None for one in every),
                "archived_rows": sum(one.archived for one in every),
                "held_rows": sum(one.held for one in every),
                "days_to_aggregate_first": sum(one.to_aggregate for one in found),
                "days_not_over": sum(one.not_over for one in found),
                **_left_out(failures),
            },
        )

    @job(
        name=BACKFILL_PREVIEW,
        description=(
            "Says what a backfill of any assets, days and institutions would touch: partitions, "
            "rows, bytes, the time by what the same partitions took, and what of it lies in the "
            "archive or under a hold. Writes nothing; `lb preview` says the same."
        ),
        tags={WORK_TAG: "report"},
    )
    def _backfill_preview() -> None:
        _preview()

    return _backfill_preview


def finding_rows(one: Completeness) -> list[Mapping[str, str]]:
    """What was found at an institution as rows of a table."""
    return [
        {
            "institution": one.institution_id,
            "state": finding.state,
            "assets": assets_spoken(finding.assets),
            "days": spoken(finding.days),
            "partitions": f"{finding.partitions:,}",
            "run": finding.run_id or "",
        }
        for finding in one.findings
    ]


def preview_rows(one: Preview) -> list[Mapping[str, str]]:
    """What a backfill would do at an institution as rows of a table."""
    return [
        {
            "institution": one.institution_id,
            "asset": asset.asset,
            "days": "" if one.days is None else spoken([one.days]),
            "partitions": f"{asset.partitions:,}",
            "made already": f"{asset.made:,}",
            "rows": "no basis" if asset.rows is None else f"{asset.rows:,}",
            "bytes": "no basis" if asset.bytes is None else f"{asset.bytes:,}",
            "time": "no basis" if asset.seconds is None else duration(asset.seconds),
            "archived": f"{asset.archived:,}",
            "held": f"{asset.held:,}",
        }
        for asset in one.assets
    ]


def preview_spoken(assets: Sequence[PreviewedAsset]) -> str:
    """A backfill in a sentence."""
    partitions = sum(one.partitions for one in assets)
    known = [one for one in assets if one.seconds is not None]
    took = sum(one.seconds or 0.0 for one in known)
    said = (
        f"{partitions:,} partitions, of which {sum(one.made for one in assets):,} are made already"
    )
    if known:
        said += f"; about {duration(took)}, one after the other"
    if missing := sum(one.partitions for one in assets if one.seconds is None):
        said += f"; {missing:,} have no basis for an estimate"
    if archived := sum(one.archived for one in assets):
        said += f"; {archived:,} rows are in the archive and would stay as they are"
    if held := sum(one.held for one in assets):
        said += f", {held:,} of them under a legal hold"
    return said


@contextmanager
def _record(context: OpExecutionContext, instance: DagsterInstance) -> Iterator[Database | None]:
    """The database of Dagster's record; None, with a word, where it is no PostgreSQL."""
    with ExitStack() as stack:
        database = None
        try:
            database = stack.enter_context(dagster_database(instance))
        except DagsterElsewhere as error:
            context.log.warning(str(error))
        yield database


def _chosen(database: Database, ids: Sequence[str]) -> list[Institution]:
    with database.transaction() as connection:
        if ids:
            return [institutions.find(connection, id) for id in dict.fromkeys(ids)]
        found = institutions.active(connection)
    if not found:
        raise InvalidSelection("There are no active institutions", "Import one first")
    return found


def _left_out(failures: Mapping[str, LeaderboardError]) -> dict[str, MetadataValue]:
    return {"left_out": MetadataValue.md(failures_table(failures))} if failures else {}


def _key(state: State) -> str:
    return state.replace(" ", "_").lower()
