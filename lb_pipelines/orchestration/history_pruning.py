"""`dagster_history_pruning`: Dagster's record of old runs without what nothing stands on any more.

Deleting a run in Dagster deletes its events, and with the last materialization of a partition its
green. So a run goes only when no asset's page leads to it any more; of any other one the log goes,
and the last event of each kind of each partition stays, with how the run and its steps went.
"""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

from dagster import (
    Config,
    DefaultScheduleStatus,
    JobDefinition,
    MetadataValue,
    OpExecutionContext,
    Output,
    RunConfig,
    ScheduleDefinition,
    job,
    op,
)
from pydantic import Field

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import dagster_history
from lb_pipelines.db.repositories.dagster_history import Pruned
from lb_pipelines.orchestration.assets.family import markdown_table
from lb_pipelines.orchestration.dagster_tables import dagster_database
from lb_pipelines.orchestration.jobs import WORK_TAG
from lb_pipelines.orchestration.retention_jobs.shared import (
    DRY_RUN,
    DRY_RUN_SAID,
    refusals_told,
)

HISTORY_PRUNING = "dagster_history_pruning"
PRUNING_SCHEDULE = "dagster_history_pruning_schedule"
_OP = "prune_history"

_SECONDS_BETWEEN_LINES = 10.0
_TICKS_AT_ONCE = 10_000


class PruningConfig(Config):
    """How old what may go is, and whether it goes."""

    dry_run: bool = Field(default=True, description=DRY_RUN)
    runs_older_than_days: int = Field(
        default=90,
        ge=14,
        description="Runs that ended so many days ago: their logs and superseded events.",
    )
    ticks_older_than_days: int = Field(
        default=30, ge=3, description="Ticks of schedules and sensors of so many days ago."
    )
    runs_at_once: int = Field(
        default=20, ge=1, le=1_000, description="Runs a transaction; each is whole."
    )


def dagster_history_pruning_job(now: Clock = utc_now) -> JobDefinition:
    """The job that keeps Dagster's own tables from growing for ever."""

    @op(name=_OP)
    def _prune(context: OpExecutionContext, config: PruningConfig) -> Iterator[Output[None]]:
        started, said = time.perf_counter(), time.monotonic()
        looked_at = 0
        total = Pruned()
        with refusals_told(), dagster_database(context.instance) as database:
            for runs, pruned in _batches(database, config, now()):
                looked_at, total = looked_at + runs, total + pruned
                if time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
                    said = time.monotonic()
                    context.log.info(f"{looked_at:,} old runs so far: {_spoken(total)}")
        would = "Would let go of" if config.dry_run else "Let go of"
        context.log.info(
            f"{would} {_spoken(total)}; {looked_at:,} runs looked at in "
            f"{time.perf_counter() - started:.1f} s"
        )
        if config.dry_run:
            context.log.info(DRY_RUN_SAID)
        yield Output(
            None,
            metadata={
                "plan" if config.dry_run else "done": MetadataValue.md(_table(total)),
                "old_runs": looked_at,
                "events": total.events,
                "check_verdicts": total.checks,
                "runs": total.runs,
                "ticks": total.ticks,
                "bytes": total.bytes,
                **({"what_next": DRY_RUN_SAID} if config.dry_run else {}),
            },
        )

    @job(
        name=HISTORY_PRUNING,
        description=(
            "Lets go of Dagster's own history of long ended runs: their logs, events that a later "
            "one has superseded, runs that no asset's page leads to any more, and old ticks. "
            "Never of a run at work, nor of the last materialization, plan, observation or "
            "verdict of a partition: what is green stays green. Only shows what it would let go "
            "of, until dry_run is set to false."
        ),
        tags={WORK_TAG: "maintenance"},
    )
    def _dagster_history_pruning() -> None:
        _prune()

    return _dagster_history_pruning


def dagster_history_pruning_schedule(status: DefaultScheduleStatus) -> ScheduleDefinition:
    """Prunes every night."""
    return ScheduleDefinition(
        name=PRUNING_SCHEDULE,
        job_name=HISTORY_PRUNING,
        cron_schedule="50 3 * * *",
        run_config=RunConfig(ops={_OP: PruningConfig(dry_run=False)}),
        description=(
            "Every night: logs and superseded events of runs that ended 90 days ago, ticks of 30."
        ),
        default_status=status,
    )


def _batches(
    database: Database, config: PruningConfig, now: datetime
) -> Iterator[tuple[int, Pruned]]:
    """What went with each transaction, and how many old runs it looked at."""
    place = 0
    before = now - timedelta(days=config.runs_older_than_days)
    while True:
        with database.transaction() as connection:
            old = dagster_history.old_runs(connection, before, place, config.runs_at_once)
            if old is None:
                break
            pruned = dagster_history.prune_runs(connection, old.run_ids, dry_run=config.dry_run)
        place = old.place
        yield len(old.run_ids), pruned
    before = now - timedelta(days=config.ticks_older_than_days)
    at_once = 2**31 if config.dry_run else _TICKS_AT_ONCE
    while True:
        with database.transaction() as connection:
            pruned = dagster_history.prune_ticks(
                connection, before, at_once, dry_run=config.dry_run
            )
        yield 0, pruned
        if pruned.ticks < at_once:
            return


def _spoken(pruned: Pruned) -> str:
    return (
        f"{pruned.events:,} events, {pruned.checks:,} check verdicts, {pruned.runs:,} runs, "
        f"{pruned.ticks:,} ticks, {pruned.bytes:,} bytes"
    )


def _table(pruned: Pruned) -> str:
    return markdown_table(
        [
            {"what": what, "number": f"{number:,}"}
            for what, number in (
                ("events", pruned.events),
                ("check verdicts", pruned.checks),
                ("whole runs", pruned.runs),
                ("ticks", pruned.ticks),
                ("bytes", pruned.bytes),
            )
        ]
    )
