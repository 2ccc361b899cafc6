"""`lb insight`: the pictures of a board or of an institution's week, as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lb_pipelines.cli.access import desk_opened
from lb_pipelines.cli.options import Day, InstitutionId, Names, Type
from lb_pipelines.cli.telling import AsJson, errors_told, examples, say, size
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.repositories import institutions
from lb_pipelines.errors import ExportRefused
from lb_pipelines.insight import portraits

EXAMPLES = examples(
    "lb insight pictures --institution inst_101",
    "lb insight pictures --institution inst_101 --reference class_7 --day 2026-03-08",
    "lb insight pictures --institution inst_101 --type CAMPUS --reference main --names --force",
)


def insight(
    directory: Annotated[Path, typer.Argument(help="Where the files go; made if need be.")],
    institution_id: InstitutionId,
    reference_id: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="ID",
            help="Of this class, subject or campus; by default of the largest class, and of how "
            "all classes take part.",
        ),
    ] = None,
    type: Type = BoardType.CLASS,
    day: Day = None,
    names: Names = False,
    force: Annotated[
        bool, typer.Option("--force", help="Put them in the place of files that are there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Draw a term up to a day: the top 10's movement, points and participation, as PNG files.

    Students are lines with a rank and points, nobody's id or name; --names labels the lines with
    names as they are now, or ids where there is none. Erasing a student does not reach these files.
    """
    if reference_id is None and type is not BoardType.CLASS:
        raise typer.BadParameter(f"name a {type.lower()}", param_hint="--reference")
    with errors_told(as_json), desk_opened() as desk:
        wanted = day.date() if day else desk.last_day(institution_id, [type])
        with desk.database.transaction() as connection:
            institution = institutions.find_active(connection, institution_id)
        if reference_id is None:
            week = portraits.of_week(desk.database, institution, wanted, names=names)
            drawn, subject = week.portraits, institution_id
        else:
            drawn = portraits.of_board(
                desk.database, institution, type, reference_id, wanted, names=names
            )
            subject = f"{institution_id}-{reference_id}"
        told = [_written(portrait, directory, f"{subject}-{wanted}", force) for portrait in drawn]
    say(
        {"institutionId": institution_id, "day": str(wanted), "pictures": told},
        as_json,
        *map(_spoken, told),
    )


def _written(
    portrait: portraits.Portrait, directory: Path, subject: str, force: bool
) -> dict[str, Any]:
    """What was drawn where; `file` None where there was nothing to draw."""
    picture = portrait.png()
    told = {"picture": portrait.name, "shows": portrait.sentence, "file": None, "bytes": 0}
    if picture is None:
        return told
    # An id may hold what no file's name can.
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in subject)
    file = directory.absolute() / f"{safe}-{portrait.name}.png"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with file.open("wb" if force else "xb") as out:
            out.write(picture)
    except FileExistsError:
        raise ExportRefused(
            f"{str(file)!r} is there already", "Name another directory, or replace it with --force"
        ) from None
    except OSError as error:
        raise ExportRefused(
            f"{str(file)!r} cannot be written: {error.strerror or error}",
            "Name a directory that you may write to",
        ) from error
    return told | {"file": str(file), "bytes": len(picture)}


def _spoken(told: dict[str, Any]) -> str:
    where = f"  {told['file']} ({size(told['bytes'])})" if told["file"] else "  no picture"
    return f"{told['shows']}\n{where}"
