"""`lb missing` and `lb preview`: is everything there, and what a backfill would touch.

What the jobs `missing_partitions` and `backfill_preview` say in Dagster's UI, said here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import typer

from lb_pipelines.cli.access import chosen, database_opened
from lb_pipelines.cli.options import InstitutionIds, board_day_option, day
from lb_pipelines.cli.telling import (
    AsJson,
    errors_told,
    examples,
    failures_as_json,
    listing,
    plain,
    say,
    size,
    tell_failures,
)
from lb_pipelines.clock import utc_now
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import dagster_record
from lb_pipelines.settings import Settings, dagster_storage_url

MISSING_EXAMPLES = examples(
    "lb missing",
    "lb missing --institution inst_101 --from 2024-01-01 --json",
)
PREVIEW_EXAMPLES = examples(
    "lb preview --from 2024-01-01 --to 2024-01-31",
    "lb preview --asset class_snapshots --institution inst_101 --from 2024-01-01 --to 2024-01-31",
)


def missing(
    institution_ids: InstitutionIds = None,
    first: Annotated[
        datetime | None,
        board_day_option("--from", "First day; each one's first event by default."),
    ] = None,
    last: Annotated[
        datetime | None, board_day_option("--to", "Last day; the last one over by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which days are missing, stale or failed, and where Dagster's record disagrees.

    Failed are days whose last run failed, by Dagster; "not in Dagster" are there without being
    green, "not in the database" are green without being there.
    """
    with errors_told(as_json), database_opened() as database:
        # Dagster takes a second to load, which no other verb needs.
        from lb_pipelines.materialize.completeness import spoken
        from lb_pipelines.orchestration import reports

        with _record(database) as record_in:
            answers, failures = reports.look_everywhere(
                database,
                record_in,
                chosen(database, institution_ids),
                utc_now(),
                start_day=Settings.from_env().start_day,
                first=day(first),
                last=day(last),
            )
        found = list(answers.values())
        totals = reports.totals(found)
        sources = "the database and Dagster" if record_in else "the database alone"
        expected = sum(one.expected for one in found)
        told = ", ".join(f"{number:,} {state}" for state, number in totals.items() if number)
        say(
            {
                "expected": expected,
                "totals": totals,
                "dagster": record_in is not None,
                "institutions": [
                    {
                        **plain(one),
                        "findings": [
                            {**plain(finding), "partitions": finding.partitions}
                            for finding in one.findings
                        ],
                    }
                    for one in found
                ],
                "refused": failures_as_json(failures),
            },
            as_json,
            *(
                [
                    listing(
                        "Missing, stale and failed days",
                        "Institution, State, Assets, Days, Partitions, Run",
                        (
                            (
                                one.institution_id,
                                finding.state,
                                reports.assets_spoken(finding.assets),
                                spoken(finding.days),
                                finding.partitions,
                                finding.run_id,
                            )
                            for one in found
                            for finding in one.findings
                        ),
                    )
                ]
                if told
                else []
            ),
            f"{expected:,} partitions expected, by {sources}: {told or 'all there'}.",
        )
        tell_failures(failures, as_json)


def preview(
    first: Annotated[datetime, board_day_option("--from", "The first day.")],
    last: Annotated[datetime, board_day_option("--to", "The last day.")],
    assets: Annotated[
        list[str] | None,
        typer.Option("--asset", metavar="NAME", help="Only this one; may be repeated."),
    ] = None,
    institution_ids: InstitutionIds = None,
    as_json: AsJson = False,
) -> None:
    """Show what a backfill would touch: partitions, rows, bytes, time, and what is archived.

    The time is that of the same partitions the last times, one after the other; rows and bytes
    those of the same days or the nearest. Nothing is started.
    """
    with errors_told(as_json), database_opened() as database:
        from lb_pipelines.orchestration import reports
        from lb_pipelines.orchestration.report_jobs import preview_spoken
        from lb_pipelines.orchestration.run_log import duration

        with _record(database) as record_in:
            answers, failures = reports.preview_everywhere(
                database,
                record_in,
                chosen(database, institution_ids),
                assets or [],
                DayRange(first.date(), last.date()),
                utc_now(),
            )
        found = list(answers.values())
        every = [asset for one in found for asset in one.assets]
        notes = [
            f"{one.institution_id}: {one.to_aggregate:,} earlier days are aggregated first"
            for one in found
            if one.to_aggregate
        ] + [
            f"{one.institution_id}: {one.not_over:,} of these days are not over there yet"
            for one in found
            if one.not_over
        ]
        say(
            {"institutions": found, "refused": failures_as_json(failures)},
            as_json,
            listing(
                "A backfill would make",
                "Institution, Asset, Partitions, Made already, Rows, Size, Time, Archived, Held",
                (
                    (
                        one.institution_id,
                        one.asset,
                        one.partitions,
                        one.made,
                        "no basis" if one.rows is None else one.rows,
                        "no basis" if one.bytes is None else size(one.bytes),
                        "no basis" if one.seconds is None else duration(one.seconds),
                        one.archived,
                        one.held,
                    )
                    for one in every
                ),
            ),
            f"{preview_spoken(every)}.",
            *notes,
        )
        tell_failures(failures, as_json)


@contextmanager
def _record(database: Database) -> Iterator[Database | None]:
    """Where Dagster keeps its record by the project's dagster.yaml; None where it is not."""
    record_in = Database(dagster_storage_url(database.url.render_as_string(hide_password=False)))
    try:
        with record_in.transaction() as connection:
            there = dagster_record.is_there(connection)
        yield record_in if there else None
    finally:
        record_in.close()
