"""How every verb speaks: text and tables for people, one JSON object for scripts, errors for both.

Nothing else of `cli` prints. What goes wrong is told on stderr as thing and remedy, without
traceback; progress goes there too, and only where a person looks on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lb_pipelines.errors import DatabaseUnavailable, ImportRefused, LeaderboardError
from lb_pipelines.sources.report import ImportReport

REFUSED, LEFT_OUT = 1, 3

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


def failures_as_json(failures: Mapping[str, LeaderboardError]) -> list[dict[str, Any]]:
    """The institutions that a verb over several could not serve, as plain values."""
    return [{"institutionId": id, **error_as_json(error)} for id, error in failures.items()]


def tell_failures(failures: Mapping[str, LeaderboardError], as_json: bool) -> None:
    """Say what went wrong, unless it was part of the JSON, and exit with 1 if anything did."""
    if not as_json:
        for error in failures.values():
            tell_error(error)
    if failures:
        raise typer.Exit(REFUSED)


def plain(value: object) -> Any:
    """A result of the rooms as JSON has it: dataclasses as objects with camelCase names."""
    if is_dataclass(value) and not isinstance(value, type):
        return {camel(field.name): plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, Path) else value


def camel(name: str) -> str:
    """A name of Python's as JSON has it."""
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def say(told: Mapping[str, Any], as_json: bool, *texts: Table | str) -> None:
    """Print the object, or the tables and texts that say the same."""
    if as_json:
        typer.echo(json.dumps(plain(told)))
        return
    console = people()
    for text in texts:
        console.print(text, markup=False)


def people() -> Console:
    """Where people read what was asked for."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # For a pipe or a file: nothing is folded that could be searched for.
    return console


def listing(title: str, columns: str, rows: Iterable[Sequence[object]]) -> Table:
    """A table of values: numbers to the right with thousands, dates whole, None as nothing.

    `columns` are the names, separated by commas. A number that is written otherwise comes as Text.
    """
    names = columns.split(", ")
    shown = [list(row) for row in rows]
    # An id may hold what rich takes for its markup.
    made = Table(title=Text(title, style="table.title"), title_justify="left")
    for position, name in enumerate(names):
        values = [row[position] for row in shown if row[position] is not None]
        numeric = any(isinstance(value, int | float | Text) for value in values)
        made.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=all(isinstance(value, int | float | date) for value in values),
            overflow="fold",
        )
    for row in shown:
        made.add_row(*map(_cell, row))
    return made


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}")
    if isinstance(value, float):
        return Text(f"{value:,.1f}")
    return Text("" if value is None else str(value))


def size(count: int) -> str:
    """Bytes as people say them."""
    amount = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def examples(*lines: str) -> str:
    """The end of a verb's help: command lines to learn from."""
    return "\n\n".join(("Examples:", *lines))


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
