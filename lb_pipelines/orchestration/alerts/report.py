"""What is told of a failed run: the job, what it covered, which institutions failed and why.

Read from Dagster's record of the run, which holds no student's id; of an error that nobody has
put in words only its kind and first line are passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dagster import DagsterEventType, DagsterInstance, RunRecord

from lb_pipelines.orchestration.failures import FAILED

_LISTED = 50
"""Institutions told by name; of a thousand that fail at once the reason is the same."""


@dataclass(frozen=True)
class FailureReport:
    """One failed run. `institutions`: rows of institution, at, what, remedy; may be empty."""

    run_id: str
    job: str
    url: str
    covers: str | None
    started_at: datetime | None
    ended_at: datetime | None
    message: str
    institutions: tuple[Mapping[str, str], ...]

    @classmethod
    def of(cls, instance: DagsterInstance, record: RunRecord, ui_url: str) -> FailureReport:
        """The report of a run; `ui_url` is where the UI is, without a slash at its end."""
        run = record.dagster_run
        message, institutions = _what_failed(instance, run.run_id)
        return cls(
            run_id=run.run_id,
            job="assets" if run.job_name.startswith("__") else run.job_name,
            url=f"{ui_url}/runs/{run.run_id}",
            covers=run.tags.get("leaderboards/days") or run.tags.get("dagster/partition"),
            started_at=_instant(record.start_time),
            ended_at=_instant(record.end_time),
            message=message,
            institutions=institutions,
        )

    @property
    def title(self) -> str:
        """One line: the job, and how many institutions failed where that is known."""
        who = ""
        if self.institutions:
            ids = [row["institution"] for row in self.institutions]
            who = f": {ids[0]}" if len(ids) == 1 else f": {len(ids)} institutions"
        return f"{self.job} failed{who}"

    @property
    def text(self) -> str:
        """The report for a person."""
        lines = [self.title, ""]
        if self.covers:
            lines.append(f"Days: {self.covers}")
        if self.ended_at:
            lines.append(f"Ended: {self.ended_at:%Y-%m-%d %H:%M:%S} UTC")
        lines += [f"Run: {self.url}", ""]
        for row in self.institutions[:_LISTED]:
            lines.append(f"{row['institution']} (at {row['at']}): {row['what']}. {row['remedy']}")
        if more := self.institutions[_LISTED:]:
            lines.append(f"and {len(more)} more institutions")
        if not self.institutions:
            lines.append(self.message)
        return "\n".join(lines)

    @property
    def as_json(self) -> dict[str, Any]:
        """The report for a program; `text` is what chat services show of a webhook."""
        return {
            "event": "run_failed",
            "text": self.text,
            "runId": self.run_id,
            "runUrl": self.url,
            "job": self.job,
            "covers": self.covers,
            "startedAt": self.started_at and self.started_at.isoformat(),
            "endedAt": self.ended_at and self.ended_at.isoformat(),
            "message": self.message,
            "institutions": [dict(row) for row in self.institutions[:_LISTED]],
            "institutionsFailed": len(self.institutions),
        }


def _what_failed(
    instance: DagsterInstance, run_id: str
) -> tuple[str, tuple[Mapping[str, str], ...]]:
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        if event is None:
            continue
        data = event.step_failure_data
        told = data.user_failure_data
        if told is not None:
            rows: Any = told.metadata[FAILED].value if FAILED in told.metadata else []
            return told.description or "The run failed", tuple(rows)
        if data.error is not None:
            cause = data.error.cause or data.error
            kind = f"{cause.cls_name}: " if cause.cls_name else ""
            first = cause.message.strip().partition("\n")[0]
            return f"{event.step_key}: {first if first.startswith(kind) else kind + first}", ()
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.RUN_FAILURE):
        if entry.dagster_event is not None and entry.dagster_event.message:
            return entry.dagster_event.message.strip().partition("\n")[0], ()
    return "The run failed, and left no word of why", ()


def _instant(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
