"""What runs have been asked to do: so that schedules and sensors ask for nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from lb_pipelines.orchestration.jobs import ARCHIVE_EXPIRED_SNAPSHOTS
from lb_pipelines.orchestration.partitions import Rectangle

Coverage = Counter[tuple[str, date]]

UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def makes_boards(run: DagsterRun) -> bool:
    """Whether a run over partitions is about their boards; else it only archives old ones."""
    return run.job_name != ARCHIVE_EXPIRED_SNAPSHOTS


def at_work(instance: DagsterInstance, order: Sequence[str]) -> Coverage:
    """(institution, day) to the number of runs for its boards that have yet to end, whoever
    started them.
    """
    return _coverage(instance, RunsFilter(statuses=UNFINISHED), order)


def asked_by_schedule(
    instance: DagsterInstance, schedule: str, since: datetime, order: Sequence[str]
) -> Coverage:
    """(institution, day) to how often this schedule has asked for it."""
    asked = RunsFilter(tags={"dagster/schedule_name": schedule}, created_after=since)
    return _coverage(instance, asked, order)


def _coverage(instance: DagsterInstance, runs: RunsFilter, order: Sequence[str]) -> Coverage:
    rectangles: Iterable[Rectangle | None] = (
        Rectangle.of_run(run.tags) for run in instance.get_runs(filters=runs) if makes_boards(run)
    )
    return Counter(
        (institution_id, day)
        for rectangle in rectangles
        if rectangle is not None
        for institution_id in rectangle.institutions(order)
        for day in rectangle.days
    )
