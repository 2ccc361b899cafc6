"""`class_snapshots`, `subject_snapshots`, `campus_snapshots`: the boards as of a day.

One factory for the three types.
"""

from __future__ import annotations

from functools import partial

from dagster import MultiPartitionsDefinition

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import glances
from lb_pipelines.materialize import aggregates, snapshots
from lb_pipelines.materialize.results import DayResult
from lb_pipelines.orchestration.assets.family import (
    BoardProduct,
    LeaderboardAsset,
    Metadata,
    boards_shown,
    leaderboard_spec,
)


def board_snapshots(type: BoardType, partitions: MultiPartitionsDefinition) -> LeaderboardAsset:
    """The asset of all boards of one type."""
    thing = type.lower()
    spec = leaderboard_spec(
        snapshots.asset_name(type),
        partitions=partitions,
        group="snapshots",
        deps=[aggregates.ASSET],
        description=(
            f"The leaderboards of every {thing} as of the end of a day: daily, weekly, monthly, "
            "term and all-time, one row each. `entries` is the top N; the statistics and the "
            "packed distribution are over all who are ranked, so that anybody's exact rank can be "
            "told later. A snapshot depends only on events up to its day: any day can be "
            "materialized again at any time and gives the same row; archived rows are not touched."
        ),
        table="lb.leaderboard_snapshots",
        columns={
            "id": ("text", "Deterministic: institution, type, reference, granularity and date"),
            "institution_id": ("text", "The institution"),
            "type": ("text", f"{type}"),
            "reference_id": ("text", f"The {thing} whose students are ranked"),
            "time_granularity": ("text", "daily, weekly, monthly, term or all-time"),
            "snapshot_date": ("date", "The day on which the window ends"),
            "period_start": ("date", "The day on which the window begins"),
            "entries": ("jsonb", "Top N: rank, studentId, points, previousRank"),
            "metadata": ("jsonb", "Statistics over all who are ranked, and provenance"),
            "distribution": ("bytea", "Distinct points and counts of all who are ranked, packed"),
            "status": ("text", "ACTIVE or ARCHIVED"),
            "created_at": ("timestamptz", "When the row was written"),
            "partition_key": ("text", "`{INSTITUTION_ID}_{TYPE}_{YYYY-MM}`"),
        },
    )
    return LeaderboardAsset(
        spec,
        BoardProduct(
            lambda order: snapshots.product(
                type,
                order.provenance,
                rematerialize_archived=order.config.rematerialize_archived,
                today=order.today,
            )
        ),
        partial(_show, type),
        remarks=_remarks,
    )


def _remarks(result: DayResult) -> list[str]:
    if not result.archived_differing:
        return []
    return [
        f"{result.asset} of {result.institution_id} on {result.day}: archived boards stayed as "
        f"they are, {result.archived_kept:,}, though {result.archived_differing:,} of them would "
        "now say something else. Set rematerialize_archived to renew them."
    ]


def _show(
    type: BoardType, connection: Connection, institution: Institution, result: DayResult
) -> Metadata:
    rows = [
        {
            "largest board": board.name,
            "window": board.granularity,
            "ranked": f"{board.ranked:,}",
            **{
                # No ids: an erasure does not reach Dagster's event log.
                place: f"{points:,}"
                for place, points in zip(("1st", "2nd", "3rd"), board.points, strict=False)
            },
        }
        for board in glances.largest_snapshots(connection, institution, type, result.day)
    ]
    return boards_shown(type, institution, result, rows)
