"""`legal_hold`: what nobody may archive, purge, renew or erase until it is released."""

from dagster import Config, JobDefinition, OpExecutionContext, job, op
from pydantic import Field

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import local_day
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.repositories import holds
from lb_pipelines.errors import InvalidHold
from lb_pipelines.orchestration.config import INSTITUTION_FIELD
from lb_pipelines.orchestration.jobs import RETENTION, WORK_TAG
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.retention_jobs.shared import (
    actor_of,
    day_if_given,
    institution_of,
    month_if_given,
    refusals_told,
    tell,
)
from lb_pipelines.retention import holding

LEGAL_HOLD = "legal_hold"


class LegalHoldConfig(Config):
    """A hold to be placed, or the number of one to be released."""

    institution: str = Field(description=INSTITUTION_FIELD)
    requested_by: str = Field(description="Who places or releases it, for the ledger.")
    release: int | None = Field(
        default=None, description="The number of the hold to release; unset: one is placed."
    )
    reason: str = Field(default="", description="Why one is placed: a case, an audit, a request.")
    type: str | None = Field(
        default=None, description=f"Only boards of this type: {', '.join(BoardType)}."
    )
    first_month: str | None = Field(default=None, description="From this month on, like 2024-09.")
    last_month: str | None = Field(default=None, description="Through this month.")
    until: str | None = Field(
        default=None, description="Its last day in force; unset: until it is released."
    )


def legal_hold_job(now: Clock = utc_now) -> JobDefinition:
    """The job that places a legal hold, or releases one."""

    @op(name="hold")
    def _hold(
        context: OpExecutionContext,
        config: LegalHoldConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> None:
        database = leaderboard_database.database
        with refusals_told():
            institution = institution_of(database, config.institution)
            actor = actor_of(context, config.requested_by)
            if config.release is not None:
                holding.release(database, institution, config.release, actor)
                said = f"{institution.id}: legal hold {config.release} was released"
            else:
                number = holding.place(
                    database,
                    institution,
                    type=_type(config.type),
                    first_month=month_if_given("first_month", config.first_month),
                    last_month=month_if_given("last_month", config.last_month),
                    until=day_if_given("until", config.until),
                    reason=config.reason,
                    today=local_day(now(), institution.zone),
                    actor=actor,
                )
                said = f"{institution.id}: legal hold {number} was placed"
            tell(context, said, table=_every(leaderboard_database, institution))

    @job(
        name=LEGAL_HOLD,
        description=(
            "Places a legal hold on an institution, on one type of its boards or on some months, "
            "with who and why; or releases one. What is held is neither archived nor purged, "
            "renewed or erased. The run shows all holds of the institution."
        ),
        tags={WORK_TAG: RETENTION},
    )
    def _legal_hold() -> None:
        _hold()

    return _legal_hold


def _type(word: str | None) -> BoardType | None:
    if not word:
        return None
    if word not in list(BoardType):
        raise InvalidHold(
            f"{word!r} is no type of boards", f"Give one of {', '.join(BoardType)}, or none for all"
        )
    return BoardType(word)


def _every(resource: LeaderboardDatabase, institution: Institution) -> list[dict[str, str]]:
    with resource.database.transaction() as connection:
        entries = holds.every(connection, institution)
    return [
        {
            "hold": str(entry.hold.number),
            "type": entry.hold.type or "all",
            "from": f"{entry.hold.first_month:%Y-%m}" if entry.hold.first_month else "",
            "to": f"{entry.hold.last_month:%Y-%m}" if entry.hold.last_month else "",
            "until": str(entry.hold.until or ""),
            "placed": f"{entry.placed_at:%Y-%m-%d} by {entry.hold.placed_by}",
            "reason": entry.hold.reason,
            "released": f"{entry.released_at:%Y-%m-%d} by {entry.released_by}"
            if entry.released_at
            else "",
        }
        for entry in entries
    ]
