"""`lb erase`: a student gives way to a pseudonym, live, archived and exported.

What is printed never names the student; the id can be read from standard input, so that it stays
out of the shell's history.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lb_pipelines.cli.access import database_opened, find, today_of
from lb_pipelines.cli.options import By, Execute, InstitutionId, actor
from lb_pipelines.cli.telling import (
    LEFT_OUT,
    AsJson,
    errors,
    errors_told,
    examples,
    listing,
    plain,
    say,
)
from lb_pipelines.retention import erasing
from lb_pipelines.retention.erasing import FinishedFiles
from lb_pipelines.sources.progress import shown

app = typer.Typer(
    help="Erase a student: a pseudonym everywhere, ranks of all others as they were.",
    no_args_is_help=True,
)

ForgetMissing = Annotated[
    bool,
    typer.Option(
        "--forget-missing", help="Exports whose directory is gone for good count as erased."
    ),
]


@app.command(
    epilog=examples(
        "lb erase student --institution inst_101 --student s_4711 --reason 'Request of 2026-03-02'",
        "lb erase student --institution inst_101 --student - --reason 'Request of 2026-03-02' "
        "--execute < id.txt",
    )
)
def student(
    institution_id: InstitutionId,
    reason: Annotated[str, typer.Option(help="Why, for the ledger; without naming the student.")],
    student_id: Annotated[
        str | None,
        typer.Option("--student", metavar="ID", help="The id; `-`: read it from standard input."),
    ] = None,
    student_key: Annotated[
        int | None,
        typer.Option("--student-key", min=1, help="The student_key of lb.students instead."),
    ] = None,
    forget_missing: ForgetMissing = False,
    execute: Execute = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Put a pseudonym in place of a student's id in every table and every export.

    Sums and ranks of all others stay as they are; there is no way back. Without --execute it is
    only shown how many rows say the id.
    """
    if (student_id is None) == (student_key is None):
        raise typer.BadParameter("give one of them", param_hint="--student / --student-key")
    who = actor(by)
    whom: str | int
    if student_id is not None:
        whom = sys.stdin.readline().rstrip("\r\n") if student_id == "-" else student_id
    else:
        assert student_key is not None
        whom = student_key
    with errors_told(as_json), database_opened() as database, shown(errors(as_json)) as progress:
        institution = find(database, institution_id)
        today = today_of(institution)
        if not execute:
            planned = erasing.plan_erasure(database, institution, whom, today)
        else:
            done = erasing.erase(
                database,
                institution,
                whom,
                reason=reason,
                today=today,
                actor=who,
                forget_missing=forget_missing,
                on_step=lambda step, rows: progress(step, rows, None),
            )
    if not execute:
        say(
            {"dryRun": True, "plan": planned},
            as_json,
            listing("Would be rewritten", "Table, Rows", planned.counts.items()),
            f"{len(planned.exports):,} exports would be rewritten.",
            *(
                f"Legal hold {hold.number} ({hold.placed_by}: {hold.reason}) forbids it."
                for hold in planned.holds
            ),
            "Nothing was erased: add --execute to do it. There is no way back.",
        )
        return
    say(
        {"dryRun": False, "erased": done},
        as_json,
        listing(f"Erasure {done.erasure}", "Table, Rows", done.counts.items()),
        _files_told(done.files),
    )
    _tell_left(done.files, as_json)


@app.command(epilog=examples("lb erase finish", "lb erase finish --institution inst_101"))
def finish(
    institution_id: Annotated[
        str | None,
        typer.Option("--institution", metavar="ID", help="Only this one; all by default."),
    ] = None,
    forget_missing: ForgetMissing = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite the exports that erasures could not reach when they were made.

    Exit code 3 where some still cannot be reached.
    """
    with errors_told(as_json), database_opened() as database:
        institution = find(database, institution_id) if institution_id is not None else None
        files = erasing.finish_erasures(database, institution, forget_missing=forget_missing)
    say(plain(files), as_json, _files_told(files))
    _tell_left(files, as_json)


def _files_told(files: FinishedFiles) -> str:
    return (
        f"Exports: {files.rewritten:,} rewritten, {files.forgotten:,} forgotten, "
        f"{len(files.left):,} left."
    )


def _tell_left(files: FinishedFiles, as_json: bool) -> None:
    if not files.left:
        return
    if not as_json:
        console = errors(False)
        for left in files.left:
            console.print(
                f"Export {left.export} in {left.directory} still says the id: {left.reason}",
                markup=False,
                soft_wrap=True,
            )
        console.print("Run `lb erase finish` when it can be reached", markup=False)
    raise typer.Exit(LEFT_OUT)
