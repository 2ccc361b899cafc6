"""When snapshots move into the archive without a person: as soon as their retention is over.

A tick asks what is due and decides; the runs that it asks for move the rows. One run an institution
and granularity, under a key that names the cutoff, so that nothing is asked for twice: what has
failed is asked for again with the next day's cutoff.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    RunConfig,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.orchestration.archive_checks import settings_evaluation
from lb_pipelines.orchestration.assets.leaderboards import LEADERBOARDS
from lb_pipelines.orchestration.config import LeaderboardsConfig
from lb_pipelines.orchestration.jobs import ARCHIVE_EXPIRED_SNAPSHOTS
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle
from lb_pipelines.orchestration.requests import UNFINISHED
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.retention import planning
from lb_pipelines.retention.planning import DueSweep

RETENTION_SENSOR = "retention_sensor"

INSTITUTION_TAG = "leaderboards/institution"
GRANULARITY_TAG = "leaderboards/granularity"
CUTOFF_TAG = "leaderboards/cutoff"

AT_ONCE = 100
"""Runs that a tick asks for at most, and that may wait to be done: the rest comes when these are
done, so that a thousand institutions do not bury the page of runs, nor the daemon under one tick.
"""
_NAMED = 10


@dataclass
class _Memory:
    """What the sensor keeps from tick to tick: what it has asked for, and whose settings are wrong.

    `asked` is kept while it is due. `wrong` None: no tick has said anything of settings yet.
    """

    asked: set[str] = field(default_factory=set)
    wrong: dict[str, str] | None = None

    @classmethod
    def of_cursor(cls, text: str | None) -> "_Memory":
        """Edited by hand it may be anything: then begin anew, and Dagster drops what is known."""
        try:
            found = json.loads(text or "{}")
            wrong = found.get("wrong")
            return cls(set(found.get("asked", [])), None if wrong is None else dict(wrong))
        except (ValueError, AttributeError, TypeError):
            return cls()

    def as_cursor(self) -> str:
        return json.dumps({"asked": sorted(self.asked), "wrong": self.wrong})


def retention_sensor(
    start_day: date, status: DefaultSensorStatus, now: Clock = utc_now
) -> SensorDefinition:
    """Starts `archive_expired_snapshots` for every institution and granularity that has to."""

    @sensor(
        name=RETENTION_SENSOR,
        job_name=ARCHIVE_EXPIRED_SNAPSHOTS,
        minimum_interval_seconds=60,
        description=(
            "Starts one run for every institution and granularity with snapshots whose retention "
            f"is over, {AT_ONCE} at once at most. What fails is tried again the day after. Whose "
            "settings are wrong is named here and in the check retention_settings of "
            "archived_snapshots; their boards and everybody else's archive go on."
        ),
        default_status=status,
    )
    def _sensor(
        context: SensorEvaluationContext, leaderboard_database: LeaderboardDatabase
    ) -> SensorResult:
        memory = _Memory.of_cursor(context.cursor)
        due = planning.due(leaderboard_database.database, now())
        present = set(context.instance.get_dynamic_partitions(INSTITUTION))
        by_key = {_run_key(one): one for one in due.found}
        memory.asked &= by_key.keys()
        open_ = {key: one for key, one in by_key.items() if key not in memory.asked}
        strangers = [one for one in open_.values() if one.institution.id not in present]
        too_early = [
            one
            for one in open_.values()
            if one.institution.id in present and one.today - ONE_DAY < start_day
        ]
        left_out = {_run_key(one) for one in [*strangers, *too_early]}
        ready = [key for key in open_ if key not in left_out]
        room = max(0, AT_ONCE - _unfinished(context.instance)) if ready else 0
        chosen = ready[:room]
        requests = [_request(key, open_[key]) for key in chosen]

        sentences = []
        if waiting := len(ready) - len(chosen):
            sentences.append(f"{waiting} more wait until runs of retention have ended.")
        if memory.asked:
            sentences.append(f"Asked for already: {_named(sorted(memory.asked))}.")
        if strangers:
            ids = sorted({one.institution.id for one in strangers})
            sentences.append(f"Not among the partitions yet: {_named(ids)}.")
        if too_early:
            ids = sorted({one.institution.id for one in too_early})
            sentences.append(
                f"Yesterday lies before the first partition, {start_day}, at: {_named(ids)}."
            )
        if due.failures:
            errors = [f"{error}." for error in dict.fromkeys(map(str, due.failures.values()))]
            ids = sorted(due.failures)
            sentences.append(f"Not asked: {_named(ids)}. {_named(errors, ' ')}")
        if due.wrong:
            errors = [f"{error}." for _, error in sorted(due.wrong.items())]
            sentences.append(f"Left out, their settings being wrong: {_named(errors, ' ')}")
        said = " ".join(sentences) or "No snapshot's retention is over anywhere."
        if requests and sentences:
            context.log.info(said)

        wrong = {id: str(error) for id, error in due.wrong.items()}
        events = [] if wrong == memory.wrong else [settings_evaluation(due.wrong)]
        cursor = _Memory(memory.asked | set(chosen), wrong).as_cursor()
        if requests:
            return SensorResult(run_requests=requests, cursor=cursor, asset_events=events)
        return SensorResult(skip_reason=SkipReason(said), cursor=cursor, asset_events=events)

    return _sensor


def _run_key(due: DueSweep) -> str:
    return f"{due.institution.id}:{due.granularity}:{due.cutoff}"


def _request(run_key: str, due: DueSweep) -> RunRequest:
    config = LeaderboardsConfig(archive_dry_run=False, archive_granularities=[str(due.granularity)])
    last_closed = DayRange(due.today - ONE_DAY, due.today - ONE_DAY)
    return RunRequest(
        run_key=run_key,
        run_config=RunConfig(ops={LEADERBOARDS: config}),
        tags={
            **Rectangle(last_closed, due.institution.id, due.institution.id).tags,
            INSTITUTION_TAG: due.institution.id,
            GRANULARITY_TAG: str(due.granularity),
            CUTOFF_TAG: str(due.cutoff),
            # After whatever a person starts, and the day's boards before that.
            "dagster/priority": "-1",
        },
    )


def _unfinished(instance: DagsterInstance) -> int:
    """Runs of retention that have yet to end, whoever started them."""
    return instance.get_runs_count(
        RunsFilter(job_name=ARCHIVE_EXPIRED_SNAPSHOTS, statuses=UNFINISHED)
    )


def _named(things: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(things) - _NAMED} more" if len(things) > _NAMED else ""
    return separator.join(things[:_NAMED]) + more
