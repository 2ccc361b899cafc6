"""What all of these jobs share: fields of their config, and how they tell of what they did."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

from dagster import AssetObservation, Config, Failure, MetadataValue, OpExecutionContext
from pydantic import Field

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import InvalidSelection, LeaderboardError
from lb_pipelines.orchestration.assets.archive import ARCHIVE
from lb_pipelines.orchestration.assets.family import markdown_table
from lb_pipelines.orchestration.config import INSTITUTION_FIELD
from lb_pipelines.retention.actor import Actor

WHO = "Who has this done, for the ledger."
DRY_RUN = "Only show what would be done, and do nothing."
DRY_RUN_SAID = "This was a dry run; set dry_run to false to do it."


class SelectionConfig(Config):
    """Which archived snapshots; a field left empty selects all."""

    institution: str = Field(description=INSTITUTION_FIELD)
    types: list[str] = Field(
        default=[], description=f"Types of boards: {', '.join(BoardType)}. None given: all."
    )
    granularities: list[str] = Field(
        default=[], description=f"Granularities: {', '.join(Granularity)}. None given: all."
    )
    reference_ids: list[str] = Field(
        default=[], description="Ids of classes, subjects or campuses. None given: all."
    )
    first_day: str | None = Field(default=None, description="From this day on, like 2024-09-01.")
    last_day: str | None = Field(default=None, description="Through this day.")
    academic_years: list[str] = Field(
        default=[], description="Academic years, like 2023-2024. None given: all."
    )
    term_ids: list[str] = Field(default=[], description="Ids of terms. None given: all.")

    @property
    def selection(self) -> ArchiveSelection:
        """What is selected; raises `InvalidSelection`."""
        return ArchiveSelection(
            types=tuple(self.types),  # type: ignore[arg-type]
            granularities=tuple(self.granularities),  # type: ignore[arg-type]
            reference_ids=tuple(self.reference_ids),
            first_day=day_if_given("first_day", self.first_day),
            last_day=day_if_given("last_day", self.last_day),
            academic_years=tuple(self.academic_years),
            term_ids=tuple(self.term_ids),
        )


def day(field: str, text: str) -> date:
    """A day from the launchpad; raises `InvalidSelection`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidSelection(f"{field} is {text!r}", "Write a day as 2024-09-01") from None


def day_if_given(field: str, text: str | None) -> date | None:
    """A day from a field that may be left empty; raises `InvalidSelection`."""
    return day(field, text) if text else None


def month_if_given(field: str, text: str | None) -> date | None:
    """A month from a field that may be left empty, as its first day; raises `InvalidSelection`."""
    try:
        return date.fromisoformat(f"{text}-01") if text else None
    except ValueError:
        raise InvalidSelection(f"{field} is {text!r}", "Write a month as 2024-09") from None


def institution_of(database: Database, institution_id: str) -> Institution:
    """The institution, whatever its status: retention goes on for one that has left."""
    with database.transaction() as connection:
        return institutions.find(connection, institution_id)


def actor_of(context: OpExecutionContext, name: str) -> Actor:
    """Who does it, as the ledgers have it."""
    return Actor(name, context.run_id)


@contextmanager
def refusals_told() -> Iterator[None]:
    """End the run with what is wrong and its remedy, where a person can do something about it."""
    try:
        yield
    except LeaderboardError as error:
        raise Failure(
            str(error),
            metadata={"what": error.thing, "remedy": error.remedy},
            allow_retries=False,
        ) from None


def tell(
    context: OpExecutionContext,
    said: str,
    lines: Sequence[str] = (),
    *,
    table: Sequence[Mapping[str, str]] = (),
    numbers: Mapping[str, int] | None = None,
    dry_run: bool = False,
) -> None:
    """Say it in the run's log, and as an observation on the run's and the asset's page."""
    for line in [said, *lines]:
        context.log.info(line)
    metadata: dict[str, Any] = {
        "plan" if dry_run else "done": MetadataValue.md(markdown_table(table, "Nothing.")),
        **(numbers or {}),
    }
    if dry_run:
        context.log.info(DRY_RUN_SAID)
        metadata["what_next"] = DRY_RUN_SAID
    context.log_event(AssetObservation(asset_key=ARCHIVE, description=said, metadata=metadata))
