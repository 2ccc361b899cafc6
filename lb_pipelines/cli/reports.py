"""An import's report for people: what was read, written and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lb_pipelines.cli.telling import errors, errors_told, table
from lb_pipelines.errors import ImportRefused
from lb_pipelines.sources.report import SHOWN, ImportReport


@contextmanager
def import_errors_told(as_json: bool, report_file: Path | None = None) -> Iterator[None]:
    """As `errors_told`; the rows that an import was refused for are shown and written too."""
    with errors_told(as_json):
        try:
            yield
        except ImportRefused as error:
            if isinstance(error.report, ImportReport):
                if report_file is not None:
                    write_refusals(error.report, report_file)
                if not as_json:
                    _tell_refusals(error.report)
            raise


def write_refusals(report: ImportReport, path: Path) -> None:
    """Write every refused row to a CSV; raises `ImportRefused` where the file cannot be made."""
    try:
        report.write_refusals(path)
    except OSError as error:
        raise ImportRefused(
            f"The report could not be written to {path}: {error.strerror}",
            "Give --report a file in a directory that can be written to",
        ) from error


def tell_report(report: ImportReport, as_json: bool) -> None:
    """What was read, written and refused, as tables or as JSON."""
    if as_json:
        typer.echo(json.dumps(report.as_json()))
        return
    console = Console(highlight=False)
    if report.read:
        published = any(read.published is not None for read in report.read.values())
        made = table("Read", "rows", *(["published"] if published else []), "refused")
        for name, read in report.read.items():
            known = [f"{read.published:,}"] if read.published is not None else []
            made.add_row(name, f"{read.rows:,}", *known, f"{read.refused:,}")
        console.print(made)
    made = table("Written", "new", "changed", "unchanged", "moved")
    for name, written in report.written.items():
        made.add_row(name, *(f"{count:,}" for count in vars(written).values()))
    console.print(made)
    for note in report.notes:
        console.print(note, markup=False)
    events = report.written.get("student_points")
    count = events.inserted + events.changed + events.unchanged if events else 0
    rate = f", {count / report.seconds:,.0f} events/s" if count and report.seconds else ""
    console.print(f"{report.seconds:.1f} s{rate}")
    if report.refused_rows:
        _tell_refusals(report)


def _tell_refusals(report: ImportReport) -> None:
    console = errors(False)
    made = Table("File", "Line", "Column", "Value", "Reason", title="Refused", title_justify="left")
    for refusal in report.first_refusals():
        value = refusal["value"]
        cells = (
            refusal["file"],
            str(refusal["line"]),
            refusal["column"],
            "" if value is None else repr(value[:60]) + ("..." if len(value) > 60 else ""),
            refusal["reason"],
        )
        made.add_row(*map(Text, cells))
    console.print(made)
    more = report.refusals.num_rows - SHOWN
    if more > 0:
        console.print(f"and {more:,} more; --report FILE writes all of them")
