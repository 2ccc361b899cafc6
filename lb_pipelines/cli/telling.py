"""How every verb speaks: text and tables for people, one JSON object for scripts, errors for both.

Nothing else of `cli` prints. What goes wrong is told on stderr as thing and remedy, without
traceback; progress goes there too, and only where a person looks on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.table import Table

from lb_pipelines.errors import DatabaseUnavailable, ImportRefused, LeaderboardError
from lb_pipelines.sources.report import ImportReport

REFUSED, WITH_REFUSALS = 1, 3

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@contextmanager
def errors_told(as_json: bool) -> Iterator[None]:
    """Print a typed error as thing and remedy, without traceback, and exit with 1."""
    try:
        try:
            yield
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(
                f"The database gave up: {str(error).strip()}",
                "See that the server runs, then start again: what was committed stays, "
                "what was not left no trace",
            ) from error
    except LeaderboardError as error:
        if as_json:
            typer.echo(json.dumps(error_as_json(error)))
        else:
            tell_error(error)
        raise typer.Exit(REFUSED) from None


def error_as_json(error: LeaderboardError) -> dict[str, Any]:
    """An error as scripts get it: its type's name, the thing and the remedy."""
    told: dict[str, Any] = {
        "error": type(error).__name__,
        "thing": error.thing,
        "remedy": error.remedy,
    }
    if isinstance(error, ImportRefused) and isinstance(error.report, ImportReport):
        told["report"] = error.report.as_json()
    return told


def tell_error(error: LeaderboardError) -> None:
    """The thing and the remedy on stderr."""
    console = errors(False)
    console.print(f"[bold red]{type(error).__name__}[/]: ", end="")
    console.print(error.thing, markup=False, highlight=False, soft_wrap=True)
    console.print(error.remedy, markup=False, highlight=False, soft_wrap=True)


def say(told: dict[str, Any], as_json: bool, text: str) -> None:
    """Print the object, or the text that says the same."""
    typer.echo(json.dumps(told) if as_json else text)


def table(title: str, *numbers: str) -> Table:
    """A table whose rows have a name and numbers."""
    made = Table(title=title, title_justify="left")
    made.add_column("")
    for name in numbers:
        made.add_column(name, justify="right")
    return made


def errors(as_json: bool) -> Console:
    """Where errors and progress go; progress only where a person looks on."""
    return Console(stderr=True, highlight=False, quiet=as_json)
