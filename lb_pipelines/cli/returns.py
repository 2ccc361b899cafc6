"""`lb restore` and `lb rematerialize`: archived boards live again, or made anew where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated

import typer

from lb_pipelines.cli.access import database_opened, find, today_of
from lb_pipelines.cli.options import (
    AcademicYears,
    By,
    Execute,
    FirstDay,
    Granularities,
    InstitutionId,
    LastDay,
    References,
    Terms,
    Types,
    actor,
    day_option,
    selection,
)
from lb_pipelines.cli.telling import AsJson, errors, errors_told, examples, listing, say, size
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import archive, holds
from lb_pipelines.db.repositories.archive import Moved
from lb_pipelines.errors import InvalidSelection, UnderLegalHold
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.retention import restoring
from lb_pipelines.sources.progress import shown

RESTORE_EXAMPLES = examples(
    "lb restore --institution inst_101 --year 2023-2024 --type CLASS --until 2026-12-31",
    "lb restore --institution inst_101 --reference class_7 --from 2024-01-01 --to 2024-01-31 "
    "--until 2026-12-31 --execute",
)
REMATERIALIZE_EXAMPLES = examples(
    "lb rematerialize --institution inst_101 --from 2024-01-10 --to 2024-01-12 --archived",
    "lb rematerialize --institution inst_101 --type CLASS --from 2024-01-10 --to 2024-01-12 "
    "--archived --execute",
)


def restore(
    institution_id: InstitutionId,
    until: Annotated[
        datetime, day_option("--until", "The last day on which they stay active; then they expire.")
    ],
    types: Types = None,
    granularities: Granularities = None,
    references: References = None,
    first_day: FirstDay = None,
    last_day: LastDay = None,
    academic_years: AcademicYears = None,
    terms: Terms = None,
    execute: Execute = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Bring archived snapshots back to live until a day, whatever the retention says.

    Without --execute it is only shown how many there are.
    """
    who = actor(by)
    last_active = until.date()
    with errors_told(as_json), database_opened() as database, shown(errors(as_json)) as progress:
        chosen = selection(
            types, granularities, references, first_day, last_day, academic_years, terms
        )
        institution = find(database, institution_id)
        today = today_of(institution)
        restoring.check_until(institution, last_active, today)
        planned = restoring.plan_restore(database, institution, chosen)
        if execute:
            moved = 0

            def count(batch: Moved) -> None:
                nonlocal moved
                moved += batch.rows
                progress(f"{institution_id} restored", moved, planned.rows)

            done = restoring.restore(
                database, institution, chosen, last_active, today, who, on_batch=count
            )
    if not execute:
        days = f", {planned.first} to {planned.last}" if planned.rows else ""
        say(
            {"dryRun": True, "plan": planned},
            as_json,
            f"{planned.rows:,} snapshots ({size(planned.bytes)}{days}) of institution "
            f"{institution_id} would be active again through {last_active}.",
            "Nothing was moved: add --execute to restore them.",
        )
        return
    number = "" if done.archive_run is None else f" (run {done.archive_run})"
    say(
        {"dryRun": False, "restored": done},
        as_json,
        f"{done.rows:,} snapshots ({size(done.bytes)}) of institution {institution_id} are active "
        f"through {done.until}{number}, digest {done.digest}",
    )


def rematerialize(
    institution_id: InstitutionId,
    first_day: Annotated[datetime, day_option("--from", "First day.")],
    last_day: Annotated[datetime, day_option("--to", "Last day; it must be over.")],
    types: Types = None,
    archived: Annotated[
        bool,
        typer.Option("--archived", help="Archived boards too; without this they stay as they are."),
    ] = False,
    execute: Execute = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Make boards of past days anew from the events: aggregates, snapshots and trends.

    With --archived the archive's copies are renewed too, each that changes with a revision; the
    ledger keeps the hash that it had. A legal hold forbids it.
    """
    who = actor(by)
    board_types = list(dict.fromkeys(types or BoardType))
    with errors_told(as_json), database_opened() as database, shown(errors(as_json)) as progress:
        institution = find(database, institution_id).validate()
        days = _days_over(institution, first_day.date(), last_day.date())
        if archived:
            _refuse_held(database, institution, board_types, days)
        if not execute:
            found = _archived(database, institution, board_types, days)
        else:
            lines: dict[str, _MadeAnew] = {}
            provenance = Provenance(f"lb rematerialize by {who.name}")
            for done in _each(database, institution, board_types, days, provenance, archived):
                line = lines.setdefault(done.asset, _MadeAnew(done.asset))
                line.add(done)
                progress(done.asset, line.days, len(days))
    if not execute:
        _say_planned(institution, days, found, archived, as_json)
        return
    say(
        {"dryRun": False, "institutionId": institution_id, "assets": list(lines.values())},
        as_json,
        listing(
            f"Made anew: institution {institution_id}, {days.first} to {days.last}",
            "Asset, Days, Rows, Written, Archived kept, Of them differing, Archived renewed",
            (tuple(vars(line).values()) for line in lines.values()),
        ),
    )


@dataclass
class _MadeAnew:
    """What became of all days of one asset."""

    asset: str
    days: int = 0
    rows: int = 0
    written: int = 0
    archived_kept: int = 0
    archived_differing: int = 0
    archived_renewed: int = 0

    def add(self, day: DayResult) -> None:
        self.days += 1
        for name in list(vars(self))[2:]:
            setattr(self, name, getattr(self, name) + getattr(day, name))


def _days_over(institution: Institution, first: date, last: date) -> DayRange:
    days = DayRange(first, last)
    closed = today_of(institution) - ONE_DAY
    if last > closed:
        raise InvalidSelection(
            f"The day {last} is not over in institution {institution.id!r}",
            f"Give {closed} or an earlier day as the last",
        )
    return days


def _refuse_held(
    database: Database, institution: Institution, types: list[BoardType], days: DayRange
) -> None:
    """Refuse as a whole what the first day under a hold would refuse in its midst."""
    with database.transaction() as connection:
        in_force = holds.in_force(connection, institution, today_of(institution))
    for type in types:
        for hold in in_force:
            for day in days:
                if hold.covers(type, day):
                    thing = f"Institution {institution.id!r}: the archived {type} boards of {day}"
                    raise UnderLegalHold(thing, hold.number, hold.placed_by, hold.reason)


def _archived(
    database: Database, institution: Institution, types: list[BoardType], days: DayRange
) -> dict[BoardType, int]:
    with database.transaction() as connection:
        return {
            type: archive.count(
                connection,
                institution,
                ArchiveSelection(types=(type,), first_day=days.first, last_day=days.last),
            )
            for type in types
        }


def _each(
    database: Database,
    institution: Institution,
    types: list[BoardType],
    days: DayRange,
    provenance: Provenance,
    archived: bool,
) -> Iterator[DayResult]:
    yield from aggregates.materialize(database, institution, days, provenance)
    for type in types:
        yield from snapshots.materialize(
            database,
            institution,
            type,
            days,
            provenance,
            rematerialize_archived=archived,
            today=today_of(institution),
        )
        yield from trends.materialize(database, institution, type, days, provenance)


def _say_planned(
    institution: Institution,
    days: DayRange,
    archived_rows: dict[BoardType, int],
    archived: bool,
    as_json: bool,
) -> None:
    fate = "would be renewed" if archived else "would stay as they are (see --archived)"
    say(
        {
            "dryRun": True,
            "institutionId": institution.id,
            "firstDay": days.first,
            "lastDay": days.last,
            "archivedRows": archived_rows,
            "renewed": archived,
        },
        as_json,
        f"{len(days):,} days of institution {institution.id} would be made anew.",
        *(f"{type}: {rows:,} archived snapshots {fate}." for type, rows in archived_rows.items()),
        "Nothing was written: add --execute to do it.",
    )
