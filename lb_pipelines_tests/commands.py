"""`lb` run as a person and a script run it, and the command lines that help and documents show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer.main
from click.testing import Result
from typer.testing import CliRunner

from lb_pipelines.cli import app

Lb = Callable[..., Result]


def run(*arguments: object, input: str | None = None) -> Result:
    """Run `lb` in this process; whatever it refuses, it must not end in a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@cache
def verbs() -> dict[tuple[str, ...], Any]:
    """Every verb's click command by the words that call it."""

    def within(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        if not hasattr(command, "commands"):
            yield words, command
            return
        for name, inner in command.commands.items():
            yield from within((*words, name), inner)

    return dict(within((), typer.main.get_command(app)))


def shown_in_help() -> list[str]:
    """The examples that end the verbs' help."""
    return [
        line
        for command in verbs().values()
        for line in (command.epilog or "").split("\n\n")
        if line.startswith("lb ")
    ]


def shown_in(document: Path) -> list[str]:
    """The command lines of a document: indented, `lb` first; `\\` at the end goes on."""
    text = document.read_text().replace("\\\n", " ")
    return [
        re.split(r"\s{2,}#", line)[0].strip()
        for line in text.splitlines()
        if re.match(r" {4,}lb ", line)
    ]


def sql_shown_in(document: Path) -> list[str]:
    """The statements of a document's indented SQL."""
    blocks = re.findall(r"(?:^ {4}.*\n)+", document.read_text(), re.MULTILINE)
    return [
        statement.strip()
        for block in blocks
        if re.match(r" {4}(--|SELECT|UPDATE) ", block)
        for statement in block.split(";")
        if statement.strip()
    ]


def parsed(line: str) -> dict[str, Any]:
    """What a command line would call its verb with; fails where it is no correct usage."""
    _, *words = shlex.split(line.split(" < ")[0])
    known = verbs()
    length = next(n for n in range(len(words), 0, -1) if tuple(words[:n]) in known)
    command = known[tuple(words[:length])]
    context = command.make_context(command.name, list(words[length:]))
    values: dict[str, Any] = context.params
    return values
