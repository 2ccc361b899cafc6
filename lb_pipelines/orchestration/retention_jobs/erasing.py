"""`erase_student`: a pseudonym in place of a student, wherever boards or events name them.

The student is given by key: Dagster keeps a run's config, and an id in it would outlive the
erasure.
"""

from collections.abc import Mapping

from dagster import Config, JobDefinition, OpExecutionContext, job, op
from pydantic import Field

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.periods import local_day
from lb_pipelines.orchestration.config import INSTITUTION_FIELD
from lb_pipelines.orchestration.jobs import RETENTION, WORK_TAG
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.retention_jobs.shared import (
    DRY_RUN,
    actor_of,
    institution_of,
    refusals_told,
    tell,
)
from lb_pipelines.retention import erasing

ERASE_STUDENT = "erase_student"


class EraseConfig(Config):
    """Which student of which institution, at whose request and why."""

    institution: str = Field(description=INSTITUTION_FIELD)
    student_key: int = Field(
        description="lb.students.student_key. Never the id: Dagster keeps what is written here."
    )
    reason: str = Field(description="Why, without naming the student.")
    requested_by: str = Field(description="At whose request, without naming the student.")
    forget_missing: bool = Field(
        default=False,
        description="Exports whose files are gone: take them as gone for good.",
    )
    dry_run: bool = Field(default=True, description=DRY_RUN)


def erase_student_job(now: Clock = utc_now) -> JobDefinition:
    """The job that erases one student."""

    @op(name="erase")
    def _erase(
        context: OpExecutionContext,
        config: EraseConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> None:
        database = leaderboard_database.database
        with refusals_told():
            institution = institution_of(database, config.institution)
            today = local_day(now(), institution.zone)
            who = f"{institution.id}: the student of key {config.student_key}"
            if config.dry_run:
                plan = erasing.plan_erasure(database, institution, config.student_key, today)
                tell(
                    context,
                    f"{who} would be erased",
                    [
                        f"Legal hold {hold.number} ({hold.placed_by}) stands against it"
                        for hold in plan.holds
                    ],
                    table=[
                        *_rows(plan.counts),
                        {"what": "exports to rewrite", "rows": f"{len(plan.exports):,}"},
                        {"what": "legal holds against it", "rows": f"{len(plan.holds):,}"},
                    ],
                    dry_run=True,
                )
                return
            erased = erasing.erase(
                database,
                institution,
                config.student_key,
                reason=config.reason,
                today=today,
                actor=actor_of(context, config.requested_by),
                forget_missing=config.forget_missing,
            )
            for left in erased.files.left:
                context.log.warning(
                    f"Export {left.export} in {left.directory} still names the student: "
                    f"{left.reason}. The nightly purge tries again."
                )
            tell(
                context,
                f"{who} was erased, erasure {erased.erasure} in the ledger",
                table=[
                    *_rows(erased.counts),
                    {"what": "exports rewritten", "rows": f"{erased.files.rewritten:,}"},
                    {"what": "exports left to rewrite", "rows": f"{len(erased.files.left):,}"},
                ],
            )

    @job(
        name=ERASE_STUDENT,
        description=(
            "Puts a pseudonym in the place of a student in events, boards, trends, archive and "
            "exports; points and ranks of everybody else stay as they are. Needs the student's "
            "key, a reason and who asked; the ledger does not name the student. Only shows what "
            "it would rewrite, until dry_run is set to false."
        ),
        tags={WORK_TAG: RETENTION},
    )
    def _erase_student() -> None:
        _erase()

    return _erase_student


def _rows(counts: Mapping[str, int]) -> list[dict[str, str]]:
    return [{"what": table, "rows": f"{count:,}"} for table, count in counts.items()]
