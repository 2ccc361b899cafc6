"""`lb hold`: place, release and list legal holds, which no sweep, purge or erasure passes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from lb_pipelines.cli.access import chosen, database_opened, find, today_of
from lb_pipelines.cli.options import (
    By,
    FirstMonth,
    InstitutionId,
    InstitutionIds,
    LastMonth,
    actor,
    day,
    day_option,
)
from lb_pipelines.cli.telling import (
    AsJson,
    errors_told,
    examples,
    failures_as_json,
    listing,
    plain,
    say,
    tell_failures,
)
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.each_institution import ask_each, with_short_waits
from lb_pipelines.db.repositories import holds as ledger
from lb_pipelines.retention import holding

app = typer.Typer(
    help="Legal holds: what nobody may archive, purge or erase until it is released.",
    no_args_is_help=True,
)


@app.command(
    epilog=examples(
        "lb hold place --institution inst_101 --reason 'Case 17/2026'",
        "lb hold place --institution inst_101 --type CLASS --from 2024-01 --to 2024-06 "
        "--until 2027-12-31 --reason 'Audit of the spring term'",
    )
)
def place(
    institution_id: InstitutionId,
    reason: Annotated[str, typer.Option(help="Why: a case, an audit, a request.")],
    type: Annotated[
        BoardType | None,
        typer.Option(case_sensitive=False, help="Only these boards; all by default."),
    ] = None,
    first_month: FirstMonth = None,
    last_month: LastMonth = None,
    until: Annotated[
        datetime | None,
        day_option("--until", "Its last day in force; without it, until it is released."),
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Place a hold on all of an institution, or on one type of boards, or on some months."""
    who = actor(by)
    with errors_told(as_json), database_opened() as database:
        institution = find(database, institution_id)
        number = holding.place(
            database,
            institution,
            type=type,
            first_month=day(first_month),
            last_month=day(last_month),
            until=day(until),
            reason=reason,
            today=today_of(institution),
            actor=who,
        )
    say(
        {"hold": number, "institutionId": institution_id},
        as_json,
        f"Hold {number} is in force. `lb hold release {number} --institution {institution_id}` "
        "ends it.",
    )


@app.command(epilog=examples("lb hold release 3 --institution inst_101"))
def release(
    hold: Annotated[int, typer.Argument(min=1, help="Its number, as `lb hold list` shows it.")],
    institution_id: InstitutionId,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """End a hold; it stays in the ledger with who released it and when."""
    who = actor(by)
    with errors_told(as_json), database_opened() as database:
        holding.release(database, find(database, institution_id), hold, who)
    say({"released": hold, "institutionId": institution_id}, as_json, f"Hold {hold} is released.")


@app.command("list", epilog=examples("lb hold list", "lb hold list --institution inst_101 --every"))
def list_holds(
    institution_ids: InstitutionIds = None,
    every: Annotated[bool, typer.Option("--every", help="Also holds that are over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the holds in force: what they cover, until when, by whom and why."""

    def entries(institution: Institution) -> list[ledger.HoldEntry]:
        today = today_of(institution)
        with with_short_waits(database).transaction() as connection:
            found = ledger.every(connection, institution)
        return [entry for entry in found if every or entry.hold.in_force(today)]

    with errors_told(as_json), database_opened() as database:
        answers, failures = ask_each(chosen(database, institution_ids), entries)
    found = [entry for of_one in answers.values() for entry in of_one]
    say(
        {"holds": [_told(entry) for entry in found], "refused": failures_as_json(failures)},
        as_json,
        listing(
            "Legal holds",
            "Hold, Institution, Type, Months, Until, Placed, By, Reason, Released",
            (
                (
                    entry.hold.number,
                    entry.institution_id,
                    entry.hold.type or "all",
                    _months(entry),
                    entry.hold.until,
                    entry.placed_at.date(),
                    entry.hold.placed_by,
                    entry.hold.reason,
                    entry.released_at and f"{entry.released_at:%Y-%m-%d} by {entry.released_by}",
                )
                for entry in found
            ),
        ),
    )
    tell_failures(failures, as_json)


def _told(entry: ledger.HoldEntry) -> dict[str, object]:
    told: dict[str, object] = plain(entry)
    hold = told.pop("hold")
    assert isinstance(hold, dict)
    return {"hold": hold.pop("number"), **told, **hold}


def _months(entry: ledger.HoldEntry) -> str:
    first, last = entry.hold.first_month, entry.hold.last_month
    if first is None and last is None:
        return "all"
    if first is None or last is None:
        return f"from {first:%Y-%m}" if first else f"until {last:%Y-%m}"
    return f"{first:%Y-%m} to {last:%Y-%m}"
