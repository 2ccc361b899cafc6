"""`archived_snapshots`: what has left the live boards for the archive, day by day of the calendar.

Partition (D, institution): what had expired as of the day after D has been archived. A run that is
told to move nothing shows its plan instead, and leaves the partition as it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from dagster import MetadataValue, MultiPartitionsDefinition

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, contiguous_ranges
from lb_pipelines.core.retention import PlannedSweep
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import archive_ledger
from lb_pipelines.insight import inline
from lb_pipelines.materialize import snapshots
from lb_pipelines.materialize.results import DayResult
from lb_pipelines.orchestration.assets.family import (
    LeaderboardAsset,
    Metadata,
    Order,
    leaderboard_spec,
    markdown_table,
)
from lb_pipelines.retention import planning, sweeping
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.sweeping import Swept

ARCHIVE = "archived_snapshots"


@dataclass(frozen=True)
class ArchivedDay(DayResult):
    """A day's sweeps: what each moved, and on which snapshots' days."""

    swept: tuple[Swept, ...] = ()
    moved_days: tuple[DayRange, ...] = ()


def archived_snapshots(partitions: MultiPartitionsDefinition) -> LeaderboardAsset:
    """The asset that stands for the archive and its ledger."""
    spec = leaderboard_spec(
        ARCHIVE,
        partitions=partitions,
        group="archive",
        kinds={"postgres", "python"},
        deps=[snapshots.asset_name(type) for type in BoardType],
        description=(
            "Copies of the leaderboards whose retention is over: a day is green when everything "
            "that had expired as of the day after it, by the institution's own "
            "`metadata.leaderboardRetention` (30, 90, 365, 730 and 1095 days unless it says "
            "otherwise), has been copied here and marked ARCHIVED where it was, in one statement. "
            "Nothing gets lost on the way: restored snapshots stay until their day, no sweep "
            "passes a legal hold, and `lb.archive_runs` is the ledger of what moved, when, and by "
            "which run. Nothing moves by accident: started by hand a run only shows its plan, "
            "until `archive_dry_run` is set to false."
        ),
        table="lb.archived_leaderboard_snapshots",
        columns={
            "original_id": ("text", "The snapshot's id: what it was called when it was live"),
            "institution_id": ("text", "The institution"),
            "type": ("text", "CLASS, SUBJECT or CAMPUS"),
            "reference_id": ("text", "The class, subject or campus whose students are ranked"),
            "time_granularity": ("text", "daily, weekly, monthly, term or all-time"),
            "snapshot_date": ("date", "The day on which the window ends"),
            "period_start": ("date", "The day on which the window begins"),
            "academic_year": ("text", "`2023-2024`, by the institution's own start month"),
            "term_id": ("text", "A class's own term, else the term that held the day; null: none"),
            "revision": ("integer", "Raised when it was materialized again on purpose"),
            "archived_at": ("timestamptz", "When it came here"),
            "archive_run": ("bigint", "The sweep or import in lb.archive_runs that brought it"),
            "content_hash": ("bytea", "Equal to that of the original"),
            "entries": ("jsonb", "Top N: rank, studentId, points, previousRank"),
            "metadata": ("jsonb", "Statistics over all who are ranked, and provenance"),
            "distribution": ("bytea", "Distinct points and counts of all who are ranked, packed"),
            "created_at": ("timestamptz", "When the snapshot was written"),
            "partition_key": ("text", "`{INSTITUTION_ID}_{TYPE}_{YYYY-MM}`"),
        },
        key=("institution_id", "original_id", "academic_year"),
        nullable={"term_id"},
        rules=["PARTITION BY LIST (academic_year)"],
        see={f"{type.lower()}_boards": snapshots.asset_name(type) for type in BoardType},
    )
    return LeaderboardAsset(
        spec,
        _sweep,
        _show,
        shows=("chart", "archived"),
        numbers=dict.fromkeys(("archived_bytes", "left_to_others", *map(str, Granularity)), 0),
        outcome=_outcome,
        remarks=_remarks,
    )


def plan(
    database: Database, institution: Institution, days: DayRange, order: Order
) -> list[PlannedSweep]:
    """What `materialize` of the last day would move, which is what all of them would."""
    return planning.plan(database, institution, days.last + ONE_DAY, order.config.granularities)


def plan_shown(lines: Sequence[PlannedSweep]) -> Metadata:
    """A plan as the run's page and the asset's page show it."""
    table = [
        {
            "institution": line.institution_id,
            "granularity": line.granularity,
            "cutoff": str(line.cutoff),
            "rows": f"{line.rows:,}",
            "bytes": f"{line.bytes:,}",
            "from": str(line.first or ""),
            "to": str(line.last or ""),
            "held": f"{line.held:,}",
            "restored": f"{line.restored:,}",
        }
        for line in lines
    ]
    return {
        "plan": MetadataValue.md(markdown_table(table)),
        "rows_to_archive": sum(line.rows for line in lines),
        "bytes_to_archive": sum(line.bytes for line in lines),
        "held": sum(line.held for line in lines),
        "restored": sum(line.restored for line in lines),
        "what_next": "Nothing was moved. Set archive_dry_run to false on the launchpad to do it.",
    }


def plan_spoken(line: PlannedSweep) -> str:
    """A line of a plan for the log."""
    kept = [
        f"{rows:,} {why}"
        for rows, why in ((line.held, "under a legal hold"), (line.restored, "restored"))
        if rows
    ]
    stays = f"; {' and '.join(kept)} would stay" if kept else ""
    return (
        f"{line.institution_id} {line.granularity} before {line.cutoff}: {line.rows:,} rows, "
        f"{line.bytes:,} bytes would be archived{stays}"
    )


def _sweep(
    database: Database, institution: Institution, days: DayRange, order: Order
) -> Iterator[ArchivedDay]:
    actor = Actor("Dagster", order.provenance.run_id)
    started = time.perf_counter()
    for day in days:
        today = day + ONE_DAY
        due = [
            line
            for line in planning.plan(database, institution, today, order.config.granularities)
            if line.rows
        ]
        swept = [
            sweeping.sweep(database, institution, line.granularity, today, actor) for line in due
        ]
        with database.transaction() as connection:
            totals = archive_ledger.totals_of(connection, institution, today)
        finished = time.perf_counter()
        yield ArchivedDay(
            institution_id=institution.id,
            asset=ARCHIVE,
            day=day,
            rows=sum(total.rows for total in totals.values()),
            written=sum(one.rows for one in swept),
            seconds=finished - started,
            numbers={
                "archived_bytes": sum(total.bytes for total in totals.values()),
                "left_to_others": sum(one.left for one in swept),
                **{str(g): totals[g].rows for g in Granularity if g in totals},
            },
            swept=tuple(swept),
            moved_days=tuple(_days_of(due)),
        )
        started = finished


def _days_of(lines: Iterable[PlannedSweep]) -> list[DayRange]:
    days: list[date] = []
    for line in lines:
        if line.first is not None and line.last is not None:
            days += DayRange(line.first, line.last)
    return contiguous_ranges(days)


def _outcome(result: DayResult) -> str:
    return f"{result.rows:,} rows archived as of the day after, {result.written:,} by this run"


def _remarks(result: DayResult) -> list[str]:
    assert isinstance(result, ArchivedDay)
    return [
        f"{result.institution_id} {one.granularity} before {one.cutoff}: {one.left:,} expired rows "
        "were left, because others are writing them; the next sweep takes them"
        for one in result.swept
        if one.left
    ]


def _show(connection: Connection, institution: Institution, result: DayResult) -> Metadata:
    assert isinstance(result, ArchivedDay)
    now = {one.granularity: one for one in result.swept}
    rows = []
    totals = archive_ledger.totals_of(connection, institution, result.day + ONE_DAY)
    for granularity in [granularity for granularity in Granularity if granularity in totals]:
        total, mine = totals[granularity], now.get(granularity)
        rows.append(
            {
                "granularity": str(granularity),
                "cutoff": str(total.cutoff),
                "archived": f"{total.rows:,}",
                "bytes": f"{total.bytes:,}",
                "sweeps": f"{total.runs:,}",
                "by this run": f"{mine.rows:,}" if mine else "0",
                "ledger": str(mine.archive_run) if mine else "",
                # Last, for it is the one that may be cut off.
                "digest": f"`{total.digest}`",
            }
        )
    counts = [
        totals[granularity].rows if granularity in totals else 0 for granularity in Granularity
    ]
    return {
        "chart": MetadataValue.md(
            inline.bars(
                counts,
                Granularity.DAILY,
                Granularity.ALL_TIME,
                f"Archived as of the day after, by granularity: {sum(counts):,} snapshots",
            )
        ),
        "archived": MetadataValue.md(markdown_table(rows, "Nothing had expired.")),
    }
