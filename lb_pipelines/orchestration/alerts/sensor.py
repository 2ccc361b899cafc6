"""`failure_alerts_sensor`: every failed run is told to every receiver, once.

Dagster's own sensors of failed runs go past a run whose alert could not be delivered; this one
keeps it until it is. What was delivered stands as a tag on the run, written at once, so that a tick
that is cut short sends nothing again but the one report that was on its way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dagster import (
    DagsterEventType,
    DagsterInstance,
    DefaultSensorStatus,
    RunRecord,
    RunsFilter,
    RunStatusChangeRecordsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.orchestration.alerts.delivery import Channel, NotDelivered
from lb_pipelines.orchestration.alerts.report import FailureReport

ALERTS_SENSOR = "failure_alerts_sensor"
ALERTED_TAG = "leaderboards/alerted_by_"
"""With a channel's name; its value is the run's id, for a re-run begins with its run's tags."""

# Dagster gives a tick 60 seconds.
_SECONDS_A_TICK = 30.0
_RUNS_A_TICK = 100
_KEPT = 1_000
"""Reports that wait for a receiver at most; the oldest are given up first, and counted."""
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)


@dataclass
class _Memory:
    """From tick to tick: the last failure looked at, what waits by channel, closed channels."""

    after: int = 0
    waiting: dict[str, list[str]] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    def of_cursor(cls, text: str | None) -> _Memory | None:
        """None where there is none, or somebody has edited it: then begin anew, with now."""
        try:
            found = json.loads(text or "")
            return cls(
                int(found["after"]),
                {name: [str(id) for id in ids] for name, ids in found["waiting"].items()},
                {name: int(tries) for name, tries in found["tries"].items()},
                {name: datetime.fromisoformat(at) for name, at in found["notBefore"].items()},
            )
        except (ValueError, KeyError, AttributeError, TypeError):
            return None

    def as_cursor(self) -> str:
        return json.dumps(
            {
                "after": self.after,
                "waiting": self.waiting,
                "tries": self.tries,
                "notBefore": {name: at.isoformat() for name, at in self.not_before.items()},
            }
        )

    def closed(self, channel: str, now: datetime) -> None:
        """The receiver did not take a report: wait, each time twice as long."""
        tries = self.tries.get(channel, 0)
        self.tries[channel] = tries + 1
        self.not_before[channel] = now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries, 10))

    def open(self, channel: str) -> None:
        self.tries.pop(channel, None)
        self.not_before.pop(channel, None)


def failure_alerts_sensor(
    channels: Mapping[str, Channel], ui_url: str, status: DefaultSensorStatus, now: Clock = utc_now
) -> SensorDefinition:
    """Tells of failed runs by `channels`; `ui_url` is where a report's link leads."""

    @sensor(
        name=ALERTS_SENSOR,
        minimum_interval_seconds=30,
        description=(
            f"Tells of every failed run by {' and '.join(channels)}: which institutions failed "
            "and why, with a link. Once a run; a receiver out of reach is tried again until it "
            "takes the report. A run that Dagster tries again is told of when the last try fails."
        ),
        default_status=status,
    )
    def _sensor(context: SensorEvaluationContext) -> SensorResult:
        instance = context.instance
        memory = _Memory.of_cursor(context.cursor)
        if memory is None:
            memory = _Memory(after=_latest(instance))
            said = "Tells of runs that fail from now on."
            return SensorResult(skip_reason=SkipReason(said), cursor=memory.as_cursor())
        memory.waiting = {name: memory.waiting.get(name, []) for name in channels}
        given_up = _note_new(instance, memory, _location(context))
        deadline = time.monotonic() + _SECONDS_A_TICK
        sent: dict[str, int] = {}
        troubles = []
        for name, channel in channels.items():
            if memory.waiting[name] and memory.not_before.get(name, now()) > now():
                troubles.append(f"{name} is tried again at {memory.not_before[name]:%H:%M:%S} UTC")
                continue
            for run_id in list(memory.waiting[name]):
                if time.monotonic() > deadline:
                    break
                record = instance.get_run_record_by_id(run_id)
                if record is not None and _may_heal(record):
                    continue
                # At its end again where it stays, so that it does not stand in others' way.
                memory.waiting[name].remove(run_id)
                if record is None or _settled(record, name):
                    continue
                try:
                    channel.send(FailureReport.of(instance, record, ui_url))
                except NotDelivered as error:
                    memory.waiting[name].append(run_id)
                    memory.closed(name, now())
                    troubles.append(f"{name}: {error}")
                    context.log.warning(f"{name}: {error}; run {run_id} is told of later")
                    break
                instance.add_run_tags(run_id, {ALERTED_TAG + name: run_id})
                memory.open(name)
                sent[name] = sent.get(name, 0) + 1
        if given_up:
            troubles.append(f"given up, as {_KEPT} wait already: {given_up}")
        said = "; ".join([*(f"{count} by {name}" for name, count in sent.items()), *troubles])
        return SensorResult(
            skip_reason=SkipReason(said or "No run has failed."), cursor=memory.as_cursor()
        )

    return _sensor


def _latest(instance: DagsterInstance) -> int:
    found = instance.fetch_run_status_changes(DagsterEventType.RUN_FAILURE, limit=1).records
    return found[0].storage_id if found else 0


def _note_new(instance: DagsterInstance, memory: _Memory, location: str | None) -> int:
    """Let new failures wait for every channel; how many older ones had to give way."""
    found = instance.fetch_run_status_changes(
        RunStatusChangeRecordsFilter(DagsterEventType.RUN_FAILURE, after_storage_id=memory.after),
        limit=_RUNS_A_TICK,
        ascending=True,
    ).records
    if not found:
        return 0
    memory.after = found[-1].storage_id
    ids = list(dict.fromkeys(record.event_log_entry.run_id for record in found))
    ours = {
        run.run_id
        for run in instance.get_runs(filters=RunsFilter(run_ids=ids))
        if run.remote_job_origin is None
        or location is None
        or run.remote_job_origin.location_name == location
    }
    given_up = 0
    for name, waiting in memory.waiting.items():
        waiting += [id for id in ids if id in ours and id not in waiting]
        given_up = max(given_up, len(waiting) - _KEPT)
        memory.waiting[name] = waiting[-_KEPT:]
    return max(0, given_up)


def _location(context: SensorEvaluationContext) -> str | None:
    origin = context.code_location_origin
    return None if origin is None else origin.location_name


def _may_heal(record: RunRecord) -> bool:
    """Whether Dagster is about to try the run again, so that nobody knows yet how it ends."""
    tags = record.dagster_run.tags
    return tags.get("dagster/will_retry") == "true" and "dagster/auto_retry_run_id" not in tags


def _settled(record: RunRecord, channel: str) -> bool:
    """Whether the run is told of already, or another run goes on with it and will be."""
    run = record.dagster_run
    return (
        run.tags.get(ALERTED_TAG + channel) == run.run_id
        or run.tags.get("dagster/will_retry") == "true"
    )
