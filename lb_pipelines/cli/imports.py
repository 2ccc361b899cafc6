"""`lb import` and `lb generate`: point events come in, and a report says what became of them."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from lb_pipelines.cli.access import database_opened
from lb_pipelines.cli.reports import import_errors_told, tell_report, write_refusals
from lb_pipelines.cli.telling import LEFT_OUT, AsJson, errors
from lb_pipelines.clock import utc_now
from lb_pipelines.settings import Settings
from lb_pipelines.sources import district, oulad, plain
from lb_pipelines.sources.progress import shown

app = typer.Typer(help="Bring point events in.", no_args_is_help=True)

_defaults = district.District(end_day=date.min)


@app.command("oulad")
def import_oulad(
    directory: Annotated[Path, typer.Argument(help="The seven tables as .csv or .parquet.")],
    points: Annotated[
        oulad.Points, typer.Option(help="Which points to import.")
    ] = oulad.Points.BOTH,
    as_json: AsJson = False,
) -> None:
    """Import the Open University Learning Analytics Dataset."""
    with (
        import_errors_told(as_json),
        database_opened() as database,
        shown(errors(as_json)) as progress,
    ):
        report = oulad.import_directory(database, directory, points=points, progress=progress)
    tell_report(report, as_json)


@app.command("csv")
def import_csv(
    directory: Annotated[Path, typer.Argument(help="Files as docs/import-format.md has them.")],
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Import the other rows if some are refused.")
    ] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write every refused row to this CSV.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import CSV or Parquet files in the plain format: all of them or, by default, nothing."""
    with import_errors_told(as_json, report_file):
        with database_opened() as database, shown(errors(as_json)) as progress:
            report = plain.import_directory(
                database,
                directory,
                today=utc_now().date(),
                skip_refused=skip_refused,
                start_day=Settings.from_env().start_day,
                progress=progress,
            )
        if report_file is not None:
            write_refusals(report, report_file)
    tell_report(report, as_json)
    if report.refused_rows:
        raise typer.Exit(LEFT_OUT)


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
    as_json: AsJson = False,
) -> None:
    """Invent a district: institutions, classes, students and their point events."""
    spec = district.District(
        end_day=end_day.date() if end_day else district.last_day_over(utc_now()),
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
    with (
        import_errors_told(as_json),
        database_opened() as database,
        shown(errors(as_json)) as progress,
    ):
        report = district.generate(database, spec, progress=progress)
    tell_report(report, as_json)
