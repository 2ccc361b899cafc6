"""Institutions that a run could not finish: where, why, whether to try again, how it is told.

What is told of a database's error is its kind and first line: its details quote rows, and a
student's id in Dagster's event log would outlive the erasure.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from dagster import Failure, MetadataValue

from lb_pipelines.db.transient import is_transient
from lb_pipelines.errors import LeaderboardError
from lb_pipelines.orchestration.assets.family import markdown_table

FAILED = "failed"
"""Key of the metadata of a failed step that lists who failed, for programs (`alerts`)."""


@dataclass(frozen=True)
class Failed:
    """An institution that could not be finished: where, and why."""

    institution_id: str
    where: str
    error: Exception

    @property
    def transient(self) -> bool:
        """Whether trying again can help: a lost connection or race heals, bad data does not."""
        return is_transient(self.error)

    @property
    def reason(self) -> str:
        """What is wrong and, where a person can do something about it, what."""
        if isinstance(self.error, LeaderboardError):
            return str(self.error)
        return f"{type(self.error).__name__}: {_first_line(self.error)}".strip(" :")

    @property
    def told(self) -> str:
        """For the log: where and why, with where in the code unless a person is to blame."""
        message = f"{self.institution_id} failed at {self.where}: {self.reason}"
        if isinstance(self.error, LeaderboardError):
            return message
        return f"{message}\n{''.join(traceback.format_tb(self.error.__traceback__))}Traceback ends"

    @property
    def as_row(self) -> Mapping[str, str]:
        """A line of the table on the run's page and of an alert."""
        if isinstance(self.error, LeaderboardError):
            what, remedy = self.error.thing, self.error.remedy
        else:
            what = self.reason
            remedy = "Run it again" if self.transient else "See the traceback in the log"
        return {
            "institution": self.institution_id,
            "at": self.where,
            "what": what,
            "remedy": remedy,
        }


def failure(failed: Sequence[Failed], of: int) -> Failure:
    """The end of a run of `of` institutions in which these failed, after all tries."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in failed:
        by_reason[one.reason].append(f"{one.institution_id} (at {one.where})")
    reasons = "; ".join(f"{', '.join(who)}: {reason}" for reason, who in by_reason.items())
    rows = [one.as_row for one in failed]
    return Failure(
        description=f"{len(failed)} of {of} institutions failed. {reasons}",
        metadata={
            "failed_institutions": MetadataValue.md(markdown_table(rows)),
            FAILED: MetadataValue.json([dict(row) for row in rows]),
            "what_next": "What is green is done. Re-execute this run from failure, or materialize "
            "its missing and failed partitions: only those that failed are done.",
        },
        # Whoever can be helped by it has been tried again within the run.
        allow_retries=False,
    )


def failures_table(failures: Mapping[str, LeaderboardError], what: str = "institution") -> str:
    """What could not be done for whom, with the remedy, as a table; `what` they are."""
    return markdown_table(
        [
            {what: name, "what": error.thing, "remedy": error.remedy}
            for name, error in failures.items()
        ],
        "None.",
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error).strip().partition("\n")[0]
