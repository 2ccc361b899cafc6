"""What runs have been asked to do: so that schedules and sensors ask for nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from lb_pipelines.orchestration.partitions import Rectangle

Coverage = Counter[tuple[str, date]]

_UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def at_work(instance: DagsterInstance, order: Sequence[str]) -> Coverage:
    """(institution, day) to the number of runs, of whatever origin, that have yet to end."""
    return _coverage(instance, RunsFilter(statuses=_UNFINISHED), order)


def asked_by_schedule(
    instance: DagsterInstance, schedule: str, since: datetime, order: Sequence[str]
) -> Coverage:
    """(institution, day) to how often this schedule has asked for it."""
    asked = RunsFilter(tags={"dagster/schedule_name": schedule}, created_after=since)
    return _coverage(instance, asked, order)


def _coverage(instance: DagsterInstance, runs: RunsFilter, order: Sequence[str]) -> Coverage:
    rectangles: Iterable[Rectangle | None] = (
        Rectangle.of_run(run.tags) for run in instance.get_runs(filters=runs)
    )
    return Counter(
        (institution_id, day)
        for rectangle in rectangles
        if rectangle is not None
        for institution_id in rectangle.institutions(order)
        for day in rectangle.days
    )
