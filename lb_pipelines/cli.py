"""`lb`: what a person types. Parses, calls, prints; the work is in the rooms.

Exit codes: 0 done; 1 refused, with the thing and the remedy on stderr; 2 wrong usage; 3 done, but
rows were refused and left out. With --json one object goes to stdout, also for an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lb_pipelines.db import queries
from lb_pipelines.db.engine import Database
from lb_pipelines.db.migrate import upgrade
from lb_pipelines.errors import DatabaseUnavailable, ImportRefused, LeaderboardError
from lb_pipelines.settings import Settings
from lb_pipelines.sources import district, oulad, plain
from lb_pipelines.sources.progress import shown
from lb_pipelines.sources.report import SHOWN, ImportReport

app = typer.Typer(
    help="Leaderboards for education.", no_args_is_help=True, pretty_exceptions_enable=False
)
import_app = typer.Typer(help="Bring point events in.", no_args_is_help=True)
app.add_typer(import_app, name="import")

REFUSED, WITH_REFUSALS = 1, 3

_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
_defaults = district.District(end_day=date.min)


@app.command()
def migrate(as_json: _AsJson = False) -> None:
    """Bring the database to the schema of this version."""
    with _errors_told(as_json), _database(migrated=False) as database:
        upgrade(database)
    _say({"migrated": True}, as_json, "The schema is up to date.")


@import_app.command("oulad")
def import_oulad(
    directory: Annotated[Path, typer.Argument(help="The seven tables as .csv or .parquet.")],
    points: Annotated[
        oulad.Points, typer.Option(help="Which points to import.")
    ] = oulad.Points.BOTH,
    as_json: _AsJson = False,
) -> None:
    """Import the Open University Learning Analytics Dataset."""
    with _errors_told(as_json), _database() as database, shown(_errors(as_json)) as progress:
        report = oulad.import_directory(database, directory, points=points, progress=progress)
    _tell(report, as_json)


@import_app.command("csv")
def import_csv(
    directory: Annotated[Path, typer.Argument(help="Files as docs/import-format.md has them.")],
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Import the other rows if some are refused.")
    ] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write every refused row to this CSV.")
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Import CSV or Parquet files in the plain format: all of them or, by default, nothing."""
    with _errors_told(as_json, report_file):
        with _database() as database, shown(_errors(as_json)) as progress:
            report = plain.import_directory(
                database, directory, skip_refused=skip_refused, progress=progress
            )
        if report_file is not None:
            _write_refusals(report, report_file)
    _tell(report, as_json)
    if report.refused_rows:
        raise typer.Exit(WITH_REFUSALS)


@app.command()
def generate(
    institutions: Annotated[int, typer.Option(min=1)] = _defaults.institutions,
    students: Annotated[int, typer.Option(min=1)] = _defaults.students,
    classes: Annotated[int, typer.Option(min=1, help="At one time.")] = _defaults.classes,
    subjects: Annotated[int, typer.Option(min=1)] = _defaults.subjects,
    campuses: Annotated[int, typer.Option(min=1)] = _defaults.campuses,
    days: Annotated[int, typer.Option(min=1)] = _defaults.days,
    events_per_day: Annotated[
        int, typer.Option(min=0, help="Of a school day, in all institutions.")
    ] = _defaults.events_per_day,
    classes_per_student: Annotated[int, typer.Option(min=1)] = _defaults.classes_per_student,
    terms_per_year: Annotated[
        int, typer.Option(min=0, max=12, help="0: one term over all days.")
    ] = _defaults.terms_per_year,
    seed: Annotated[int, typer.Option(min=0)] = _defaults.seed,
    end_day: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Last day with events; yesterday by default."),
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Invent a district: institutions, classes, students and their point events."""
    spec = district.District(
        end_day=end_day.date() if end_day else district.last_day_over(datetime.now(UTC)),
        institutions=institutions,
        students=students,
        classes=classes,
        subjects=subjects,
        campuses=campuses,
        days=days,
        events_per_day=events_per_day,
        classes_per_student=classes_per_student,
        terms_per_year=terms_per_year,
        seed=seed,
    )
    with _errors_told(as_json), _database() as database, shown(_errors(as_json)) as progress:
        report = district.generate(database, spec, progress=progress)
    _tell(report, as_json)


@contextmanager
def _database(*, migrated: bool = True) -> Iterator[Database]:
    """The database of the settings, with its server running meanwhile; `migrated` demands lb."""
    with Settings.from_env().server() as url:
        database = Database(url)
        try:
            if migrated:
                _require_schema(database)
            yield database
        finally:
            database.close()


def _require_schema(database: Database) -> None:
    with database.transaction() as connection:
        if not queries.imports.has_schema(connection):
            raise DatabaseUnavailable(
                f"Database {database.url.database!r} has no schema lb", "Run `lb migrate` first"
            )


@contextmanager
def _errors_told(as_json: bool, report_file: Path | None = None) -> Iterator[None]:
    """Print a typed error as thing and remedy, without traceback, and exit with 1."""
    try:
        try:
            yield
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(
                f"The database gave up: {str(error).strip()}",
                "See that the server runs, then start again: what was not finished left no trace",
            ) from error
    except LeaderboardError as error:
        report = error.report if isinstance(error, ImportRefused) else None
        if isinstance(report, ImportReport):
            if report_file is not None:
                _write_refusals(report, report_file)
            if not as_json:
                _tell_refusals(report)
        if as_json:
            told: dict[str, Any] = {
                "error": type(error).__name__,
                "thing": error.thing,
                "remedy": error.remedy,
            }
            if isinstance(report, ImportReport):
                told["report"] = report.as_json()
            typer.echo(json.dumps(told))
        else:
            console = _errors(False)
            console.print(f"[bold red]{type(error).__name__}[/]: ", end="")
            console.print(error.thing, markup=False, highlight=False, soft_wrap=True)
            console.print(error.remedy, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(REFUSED) from None


def _write_refusals(report: ImportReport, path: Path) -> None:
    try:
        report.write_refusals(path)
    except OSError as error:
        raise ImportRefused(
            f"The report could not be written to {path}: {error.strerror}",
            "Give --report a file in a directory that can be written to",
        ) from error


def _say(told: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(told) if as_json else text)


def _tell(report: ImportReport, as_json: bool) -> None:
    """What was read, written and refused, as tables or as JSON."""
    if as_json:
        typer.echo(json.dumps(report.as_json()))
        return
    console = Console(highlight=False)
    if report.read:
        published = any(read.published is not None for read in report.read.values())
        table = _table("Read", "rows", *(["published"] if published else []), "refused")
        for name, read in report.read.items():
            known = [f"{read.published:,}"] if read.published is not None else []
            table.add_row(name, f"{read.rows:,}", *known, f"{read.refused:,}")
        console.print(table)
    table = _table("Written", "new", "changed", "unchanged", "moved")
    for name, written in report.written.items():
        table.add_row(name, *(f"{count:,}" for count in vars(written).values()))
    console.print(table)
    for note in report.notes:
        console.print(note, markup=False)
    events = report.written.get("student_points")
    count = events.inserted + events.changed + events.unchanged if events else 0
    rate = f", {count / report.seconds:,.0f} events/s" if count and report.seconds else ""
    console.print(f"{report.seconds:.1f} s{rate}")
    if report.refused_rows:
        _tell_refusals(report)


def _tell_refusals(report: ImportReport) -> None:
    console = _errors(False)
    table = Table(
        "File", "Line", "Column", "Value", "Reason", title="Refused", title_justify="left"
    )
    for refusal in report.first_refusals():
        value = refusal["value"]
        cells = (
            refusal["file"],
            str(refusal["line"]),
            refusal["column"],
            "" if value is None else repr(value[:60]),
            refusal["reason"],
        )
        table.add_row(*map(Text, cells))
    console.print(table)
    more = report.refusals.num_rows - SHOWN
    if more > 0:
        console.print(f"and {more:,} more; --report FILE writes all of them")


def _table(title: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _errors(as_json: bool) -> Console:
    """Where errors and progress go; progress only where a person looks on."""
    return Console(stderr=True, highlight=False, quiet=as_json)


if __name__ == "__main__":
    app()
