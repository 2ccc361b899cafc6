"""Options that several verbs share, so that the same thing is typed the same way everywhere.

Only their syntax: days, months, granularities and types are refused here by typer (exit code 2)
when they cannot be read; whether what was typed can be meant is said by the rooms (exit code 1).
"""

from __future__ import annotations

import getpass
from datetime import date, datetime
from typing import Annotated

import typer

from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.repositories.archive import Place
from lb_pipelines.errors import InvalidSelection
from lb_pipelines.retention.actor import Actor

_DAY, _MONTH = "%Y-%m-%d", "%Y-%m"
_FIRST_YEAR, _LAST_YEAR = 1970, 2999


def _of_a_board(value: datetime | None) -> datetime | None:
    """A day that a board can be of; calendars end, and arithmetic near their ends fails."""
    if value is not None and not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise typer.BadParameter(f"a day of the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return value


def board_day_option(name: str, help: str) -> typer.models.OptionInfo:
    """An option that takes a day that a board can be of."""
    made: typer.models.OptionInfo = typer.Option(
        name, formats=[_DAY], callback=_of_a_board, help=help
    )
    return made


InstitutionId = Annotated[
    str, typer.Option("--institution", metavar="ID", help="The institution's id.")
]
InstitutionIds = Annotated[
    list[str] | None,
    typer.Option(
        "--institution",
        metavar="ID",
        help="Only this one; may be repeated. All that are active by default.",
    ),
]
Granularities = Annotated[
    list[Granularity] | None,
    typer.Option("--granularity", help="Only this one; may be repeated. All by default."),
]
Types = Annotated[
    list[BoardType] | None,
    typer.Option(
        "--type", case_sensitive=False, help="Only this one; may be repeated. All by default."
    ),
]
References = Annotated[
    list[str] | None,
    typer.Option("--reference", metavar="ID", help="Only boards of this class, subject or campus."),
]
AcademicYears = Annotated[
    list[str] | None,
    typer.Option("--year", metavar="2023-2024", help="Only this academic year; may be repeated."),
]
Terms = Annotated[
    list[str] | None, typer.Option("--term", metavar="ID", help="Only this term; may be repeated.")
]
Type = Annotated[
    BoardType, typer.Option("--type", case_sensitive=False, help="What the board ranks within.")
]
Reference = Annotated[
    str,
    typer.Option("--reference", metavar="ID", help="The class, subject or campus, by its id."),
]
OneGranularity = Annotated[
    Granularity, typer.Option("--granularity", help="How far the board looks back from its day.")
]
StudentId = Annotated[str, typer.Option("--student", metavar="ID", help="The student's id.")]
Day = Annotated[
    datetime | None,
    board_day_option("--day", "As of this day; the last one made by default."),
]
SeriesFirst = Annotated[
    datetime | None,
    board_day_option("--from", "First day; a year before the last one by default."),
]
SeriesLast = Annotated[
    datetime | None,
    board_day_option("--to", "Last day; the last one made by default."),
]
EveryDay = Annotated[
    bool,
    typer.Option("--every-day", help="Every day, not only the last one of each period."),
]
Names = Annotated[bool, typer.Option("--names", help="With the students' names, as they are now.")]
FirstDay = Annotated[
    datetime | None,
    typer.Option("--from", formats=[_DAY], help="First day; since ever by default."),
]
LastDay = Annotated[
    datetime | None, typer.Option("--to", formats=[_DAY], help="Last day; the latest by default.")
]
FirstMonth = Annotated[
    datetime | None,
    typer.Option("--from", formats=[_MONTH], help="First month; since ever by default."),
]
LastMonth = Annotated[
    datetime | None,
    typer.Option("--to", formats=[_MONTH], help="Last month; without end by default."),
]
Execute = Annotated[
    bool, typer.Option("--execute", help="Do it; without this it is only shown what would be done.")
]
By = Annotated[
    str | None,
    typer.Option(
        "--by", metavar="NAME", help="Who does it, for the ledger; the system's user by default."
    ),
]


def granularities_of(given: list[Granularity] | None) -> tuple[Granularity, ...]:
    """The granularities asked for, each once, in the domain's order; all where none is named."""
    return tuple(granularity for granularity in Granularity if not given or granularity in given)


def selection(
    types: list[BoardType] | None,
    granularities: list[Granularity] | None,
    references: list[str] | None,
    first_day: datetime | None,
    last_day: datetime | None,
    academic_years: list[str] | None,
    terms: list[str] | None,
) -> ArchiveSelection:
    """Which archived snapshots were asked for; raises `InvalidSelection`."""
    return ArchiveSelection(
        types=tuple(types or ()),
        granularities=tuple(granularities or ()),
        reference_ids=tuple(references or ()),
        first_day=day(first_day),
        last_day=day(last_day),
        academic_years=tuple(academic_years or ()),
        term_ids=tuple(terms or ()),
    )


def day_option(name: str, help: str) -> typer.models.OptionInfo:
    """An option that takes one day."""
    made: typer.models.OptionInfo = typer.Option(name, formats=[_DAY], help=help)
    return made


def day(given: datetime | None) -> date | None:
    """What typer has read as the start of a day or month, as the day that is meant."""
    return given.date() if given is not None else None


def day_range(first: datetime | None, last: datetime | None) -> DayRange | None:
    """The days asked for, None where all are; raises `InvalidPartition` if they run backwards."""
    if first is None or last is None:
        if first is last:
            return None
        raise typer.BadParameter("give both or neither", param_hint="--from / --to")
    return DayRange(first.date(), last.date())


def after_place(original_id: str | None) -> Place | None:
    """Where a page ended, told by the id of its last snapshot; raises `InvalidSelection`."""
    if original_id is None:
        return None
    try:
        return Place(date.fromisoformat(original_id[-10:]), original_id)
    except ValueError:
        raise InvalidSelection(
            f"{original_id!r} is no id of an archived snapshot",
            "Give the id of the last row of the page before",
        ) from None


def actor(by: str | None) -> Actor:
    """Who works at this command line: whom `--by` names, else the system's user."""
    try:
        name = getpass.getuser() if by is None else by.strip()
    except (OSError, KeyError):
        name = ""
    if not name:
        raise typer.BadParameter("name who does it, for the ledger", param_hint="--by")
    return Actor(name)
