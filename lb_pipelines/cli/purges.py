"""`lb purge`: originals of whole partitions, long archived, let go in two phases.

Nothing is purged of an institution that has not set `metadata.leaderboardPurge`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from lb_pipelines.cli.access import chosen, database_opened, today_of
from lb_pipelines.cli.options import By, Execute, InstitutionIds, actor, day, day_option
from lb_pipelines.cli.telling import (
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
from lb_pipelines.core.retention import RetentionPolicy
from lb_pipelines.db.each_institution import WRITE_LOCK_TIMEOUT, ask_each, with_short_waits
from lb_pipelines.retention import purging
from lb_pipelines.retention.purging import PlannedPurge, Purged
from lb_pipelines.settings import Settings

app = typer.Typer(
    help="Originals of whole partitions, long archived: detached, exported, then dropped.",
    no_args_is_help=True,
)


@app.command(epilog=examples("lb purge plan", "lb purge plan --institution inst_101"))
def plan(
    institution_ids: InstitutionIds = None,
    today: Annotated[
        datetime | None,
        day_option("--today", "As if it were this day; each institution's own by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show each partition with archived originals: what happens to it next, or what it waits for.

    Of institutions that purge, or of those named. Nothing is detached or dropped.
    """
    with errors_told(as_json), database_opened() as database:

        def planned(institution: Institution) -> list[PlannedPurge]:
            if not institution_ids and RetentionPolicy.of(institution).purge_grace is None:
                return []
            return purging.plan_purges(
                with_short_waits(database), institution, day(today) or today_of(institution)
            )

        answers, failures = ask_each(chosen(database, institution_ids), planned)
    lines = [line for of_one in answers.values() for line in of_one]
    say(
        {"dryRun": True, "plan": lines, "refused": failures_as_json(failures)},
        as_json,
        listing(
            "Purge",
            "Partition, Institution, Next, Rows, Size, Waits for",
            (
                (
                    line.partition_key,
                    line.institution_id,
                    line.phase,
                    line.rows,
                    size(line.bytes),
                    line.waits_for or "nothing: it can go now",
                )
                for line in lines
            ),
        )
        if lines
        else "No institution that purges has archived originals in its partitions.",
    )
    tell_failures(failures, as_json)


@app.command(
    epilog=examples(
        "lb purge run", "lb purge run --institution inst_101 --execute --exports /backup"
    )
)
def run(
    institution_ids: InstitutionIds = None,
    exports: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where exports go before a drop; LB_EXPORT_DIR by default."
        ),
    ] = None,
    execute: Execute = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Detach what has been archived for the grace, and drop what has been detached for it.

    A partition goes only with every original archived, an equal hash and no legal hold on it; its
    rows are exported first, and stay in the archive. Without --execute this is `lb purge plan`.
    """
    if not execute:
        plan(institution_ids, None, as_json)
        if not as_json:
            say({}, False, "Nothing was detached or dropped: add --execute to do it.")
        return
    who = actor(by)
    with errors_told(as_json), database_opened() as database:
        root = (exports or Settings.from_env().export_dir).absolute()
        console = errors(as_json)

        def purged(institution: Institution) -> list[tuple[str, Purged]]:
            done = purging.purge(
                database.with_timeouts(lock=WRITE_LOCK_TIMEOUT),
                institution,
                today_of(institution),
                who,
                root,
                on_step=lambda step: console.print(step, markup=False),
            )
            return [(institution.id, line) for line in done]

        answers, failures = ask_each(chosen(database, institution_ids), purged)
    lines = [line for of_one in answers.values() for line in of_one]
    say(
        {
            "dryRun": False,
            "purges": [{"institutionId": id, **plain(line)} for id, line in lines],
            "refused": failures_as_json(failures),
        },
        as_json,
        listing(
            "Purged",
            "Purge, Institution, Partition, State, Rows, Size, Digest, Export, Reason",
            (
                (
                    line.purge,
                    id,
                    line.partition_key,
                    line.state,
                    line.rows,
                    size(line.bytes),
                    line.digest,
                    line.export_directory,
                    line.reason,
                )
                for id, line in lines
            ),
        )
        if lines
        else "Nothing could go.",
    )
    tell_failures(failures, as_json)
