"""`lb archive`: what has expired moves to the archive; the archive is read and verified.

Exports and imports of the archive are verbs of this group too, in `exports`; the way back to live
is `lb restore`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from lb_pipelines.cli.access import chosen, database_opened, find, today_of
from lb_pipelines.cli.options import (
    AcademicYears,
    By,
    Execute,
    FirstDay,
    Granularities,
    InstitutionId,
    InstitutionIds,
    LastDay,
    References,
    Terms,
    Types,
    actor,
    after_place,
    day,
    day_option,
    day_range,
    granularities_of,
    selection,
)
from lb_pipelines.cli.telling import (
    REFUSED,
    AsJson,
    errors,
    errors_told,
    examples,
    failures_as_json,
    listing,
    plain,
    say,
    size,
    tell_failures,
)
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.retention import PlannedSweep
from lb_pipelines.db.each_institution import WRITE_LOCK_TIMEOUT, ask_each, with_short_waits
from lb_pipelines.db.repositories import archive as repository
from lb_pipelines.db.repositories import archive_ledger
from lb_pipelines.db.repositories.archive import ArchivedSnapshot, Moved
from lb_pipelines.db.repositories.archive_ledger import ArchiveRun
from lb_pipelines.retention import planning, sweeping, verifying
from lb_pipelines.retention.sweeping import Swept
from lb_pipelines.retention.verifying import ArchiveVerdict
from lb_pipelines.sources.progress import shown

app = typer.Typer(
    help="Snapshots past their retention: plan, archive, list, verify, export.",
    no_args_is_help=True,
)


@app.command(
    epilog=examples(
        "lb archive plan",
        "lb archive plan --institution inst_101 --granularity daily",
        "lb archive plan --today 2027-01-01 --json",
    )
)
def plan(
    institution_ids: InstitutionIds = None,
    granularities: Granularities = None,
    today: Annotated[
        datetime | None,
        day_option("--today", "As if it were this day; each institution's own by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what has expired and would be archived, and what stays because it is held or restored.

    Nothing is moved.
    """
    with errors_told(as_json), database_opened() as database:

        def planned(institution: Institution) -> list[PlannedSweep]:
            return planning.plan(
                with_short_waits(database),
                institution,
                day(today) or today_of(institution),
                granularities_of(granularities),
            )

        answers, failures = ask_each(chosen(database, institution_ids), planned)
    lines = [line for of_one in answers.values() for line in of_one]
    say(
        {"dryRun": True, "plan": lines, "refused": failures_as_json(failures)},
        as_json,
        *_plan_shown(lines),
    )
    tell_failures(failures, as_json)


@app.command(
    epilog=examples(
        "lb archive run",
        "lb archive run --execute",
        "lb archive run --institution inst_101 --granularity daily --granularity weekly --execute",
    )
)
def run(
    institution_ids: InstitutionIds = None,
    granularities: Granularities = None,
    execute: Execute = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Archive what has expired as of today, each institution by its own calendar and retention.

    In batches that are committed each: stopped at any moment, run it again. Without --execute this
    is `lb archive plan`.
    """
    if not execute:
        plan(institution_ids, granularities, None, as_json)
        if not as_json:
            say({}, False, "Nothing was moved: add --execute to archive it.")
        return
    who = actor(by)
    with errors_told(as_json), database_opened() as database, shown(errors(as_json)) as progress:

        def swept(institution: Institution) -> list[Swept]:
            today = today_of(institution)
            patient = database.with_timeouts(lock=WRITE_LOCK_TIMEOUT)
            done = []
            for line in planning.plan(patient, institution, today, granularities_of(granularities)):
                moved = 0

                def count(batch: Moved, line: PlannedSweep = line) -> None:
                    nonlocal moved
                    moved += batch.rows
                    progress(f"{line.institution_id} {line.granularity}", moved, line.rows)

                if line.rows:
                    done.append(
                        sweeping.sweep(
                            patient, institution, line.granularity, today, who, on_batch=count
                        )
                    )
            return done

        answers, failures = ask_each(chosen(database, institution_ids), swept)
    lines = [line for of_one in answers.values() for line in of_one]
    left = sum(line.left for line in lines)
    say(
        {"dryRun": False, "sweeps": lines, "refused": failures_as_json(failures)},
        as_json,
        listing(
            "Archived",
            "Run, Institution, Granularity, Before, Rows, Size, Seconds, Digest",
            (
                (
                    line.archive_run,
                    line.institution_id,
                    line.granularity,
                    line.cutoff,
                    line.rows,
                    size(line.bytes),
                    f"{line.seconds:.1f}",
                    line.digest,
                )
                for line in lines
            ),
        )
        if lines
        else "Nothing had expired.",
        *([f"{left:,} rows were being written by others: run it again."] if left else []),
    )
    tell_failures(failures, as_json)


@app.command(
    "list",
    epilog=examples(
        "lb archive list --institution inst_101 --year 2023-2024 --type CLASS",
        "lb archive list --institution inst_101 --reference class_7 --granularity weekly "
        "--from 2024-01-01 --to 2024-03-31",
        "lb archive list --institution inst_101 --limit 1000 --after ID --entries --json",
    ),
)
def list_snapshots(
    institution_id: InstitutionId,
    types: Types = None,
    granularities: Granularities = None,
    references: References = None,
    first_day: FirstDay = None,
    last_day: LastDay = None,
    academic_years: AcademicYears = None,
    terms: Terms = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Snapshots a page.")] = 50,
    after: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The next page: the last id of the page before."),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
    entries: Annotated[
        bool, typer.Option("--entries", help="With the entries and statistics; for --json.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read the archive of an institution, the newest day first, page by page."""
    with errors_told(as_json), database_opened() as database:
        chosen_ones = selection(
            types, granularities, references, first_day, last_day, academic_years, terms
        )
        institution = find(database, institution_id)
        with database.transaction(snapshot=True) as connection:
            if count:
                rows = repository.count(connection, institution, chosen_ones)
            else:
                found = repository.read(
                    connection,
                    institution,
                    chosen_ones,
                    limit=limit + 1,
                    after=after_place(after),
                )
    if count:
        say({"rows": rows}, as_json, f"{rows:,} snapshots")
        return
    page, more = found[:limit], len(found) > limit
    last = page[-1].original_id if more else None
    say(
        {"snapshots": [_told(row, entries=entries) for row in page], "next": last},
        as_json,
        listing(
            f"Archive of {institution_id}",
            "Day, Type, Board, Granularity, Year, Term, Ranked, Revision, Run",
            (
                (
                    row.snapshot_date,
                    row.type,
                    row.reference_id,
                    row.granularity,
                    row.academic_year,
                    row.term_id,
                    row.metadata.get("ranked"),
                    row.revision,
                    row.archive_run,
                )
                for row in page
            ),
        )
        if page
        else "Nothing of this is in the archive.",
        *([f"More: --after '{last}'"] if more else []),
    )


@app.command(epilog=examples("lb archive runs", "lb archive runs --institution inst_101 --limit 5"))
def runs(
    institution_ids: InstitutionIds = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Runs an institution.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The ledger of sweeps, restores and imports: who moved what, when, with which digest."""
    with errors_told(as_json), database_opened() as database:

        def latest(institution: Institution) -> list[ArchiveRun]:
            with with_short_waits(database).transaction() as connection:
                return archive_ledger.latest(connection, institution, at_most=limit)

        answers, failures = ask_each(chosen(database, institution_ids), latest)
    found = [(id, line) for id, lines in answers.items() for line in lines]
    say(
        {
            "runs": [{"institutionId": id, **plain(line)} for id, line in found],
            "refused": failures_as_json(failures),
        },
        as_json,
        listing(
            "Runs of the archive",
            "Run, Institution, Kind, Granularity, Today, Before, Until, Rows, Size, Started, "
            "Finished, By, Dagster run, Digest",
            (
                (
                    line.archive_run,
                    id,
                    line.kind,
                    line.granularity,
                    line.today,
                    line.cutoff,
                    line.active_until,
                    line.rows,
                    size(line.bytes),
                    f"{line.started_at:%Y-%m-%d %H:%M}",
                    line.finished_at and f"{line.finished_at:%Y-%m-%d %H:%M}",
                    line.started_by,
                    line.run_id and line.run_id[:8],
                    line.digest,
                )
                for id, line in found
            ),
        ),
    )
    tell_failures(failures, as_json)


@app.command(
    epilog=examples(
        "lb archive verify",
        "lb archive verify --institution inst_101 --from 2024-01-01 --to 2024-01-31",
    )
)
def verify(
    institution_ids: InstitutionIds = None,
    first_day: FirstDay = None,
    last_day: LastDay = None,
    as_json: AsJson = False,
) -> None:
    """Compare originals and copies row by row; exit code 1 where they contradict each other.

    Every original that is marked ARCHIVED has one copy with an equal hash, nothing ACTIVE has one,
    and a copy without an original was purged or imported.
    """
    with errors_told(as_json):
        days = day_range(first_day, last_day)
    with errors_told(as_json), database_opened() as database:

        def verified(institution: Institution) -> ArchiveVerdict:
            return verifying.verify(with_short_waits(database), institution, days)

        verdicts, failures = ask_each(chosen(database, institution_ids), verified)
    say(
        {
            "verdicts": [
                {"institutionId": id, "wrong": verdict.wrong, **plain(verdict)}
                for id, verdict in verdicts.items()
            ],
            "refused": failures_as_json(failures),
        },
        as_json,
        listing(
            "Archive against originals",
            "Institution, Originals, Copies, Missing, Differing, Active, Doubled, Unexplained, "
            "Example",
            ((id, *vars(verdict).values()) for id, verdict in verdicts.items()),
        ),
    )
    tell_failures(failures, as_json)
    if any(verdict.wrong for verdict in verdicts.values()):
        if not as_json:
            errors(False).print(
                "[bold red]The archive contradicts itself[/]: see the counts above.\n"
                "Stop the sweeps (retention_sensor) and compare the rows of the example, as "
                "docs/retention.md shows."
            )
        raise typer.Exit(REFUSED)


def _plan_shown(lines: list[PlannedSweep]) -> list[Any]:
    total = sum(line.rows for line in lines)
    weight = size(sum(line.bytes for line in lines))
    return [
        listing(
            "Expired",
            "Institution, Granularity, Before, Rows, Size, From, To, Held, Restored",
            (
                (
                    line.institution_id,
                    line.granularity,
                    line.cutoff,
                    line.rows,
                    size(line.bytes),
                    line.first,
                    line.last,
                    line.held,
                    line.restored,
                )
                for line in lines
            ),
        ),
        f"{total:,} snapshots ({weight}) would be archived.",
    ]


def _told(row: ArchivedSnapshot, *, entries: bool) -> dict[str, Any]:
    told: dict[str, Any] = plain(row)
    metadata = told.pop("metadata")
    del told["distribution"]
    if not entries:
        del told["entries"]
        return told | {"ranked": metadata.get("ranked")}
    return told | {"metadata": metadata}
