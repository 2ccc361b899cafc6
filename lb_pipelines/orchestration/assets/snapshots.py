"""`class_snapshots`, `subject_snapshots`, `campus_snapshots`: the boards as of a day.

One factory for the three types.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dagster import MultiPartitionsDefinition

from lb_pipelines.core import distribution
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import glances
from lb_pipelines.db.repositories.glances import BoardGlance
from lb_pipelines.insight import inline, series
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import DayResult
from lb_pipelines.orchestration.assets.archive import ARCHIVE
from lb_pipelines.orchestration.assets.family import (
    BOARD_NUMBERS,
    BOARDS_SHOW,
    SUBTREES,
    BoardProduct,
    LeaderboardAsset,
    Metadata,
    boards_shown,
    leaderboard_spec,
)

_BARS = 24


def board_snapshots(type: BoardType, partitions: MultiPartitionsDefinition) -> LeaderboardAsset:
    """The asset of all boards of one type."""
    thing = type.lower()
    spec = leaderboard_spec(
        snapshots.asset_name(type),
        partitions=partitions,
        group="snapshots",
        deps=[aggregates.ASSET],
        description=(
            f"The leaderboards of every {thing} as of the end of a day, daily, weekly, monthly, "
            "term and all-time, one row each: the top N, and statistics and the packed "
            "distribution over all who are ranked, from which anybody's exact rank follows. The "
            "past does not change behind anybody's back: a board depends only on events up to its "
            "day, so made again, alone or with others and in any order, it is the same row, and "
            "what is archived stays as it was. No partition is green before its rows are "
            "committed, and an institution that fails takes down nothing but its own partitions."
        ),
        table="lb.leaderboard_snapshots",
        columns={
            "id": ("text", "Institution, type, reference, granularity and date in one word"),
            "institution_id": ("text", "The institution"),
            "type": ("text", f"{type}"),
            "reference_id": ("text", f"The {thing} whose students are ranked"),
            "time_granularity": ("text", "daily, weekly, monthly, term or all-time"),
            "snapshot_date": ("date", "The day on which the window ends"),
            "period_start": ("date", "The day on which the window begins"),
            "entries": ("jsonb", "Top N: rank, studentId, points, previousRank"),
            "metadata": ("jsonb", "Statistics over all who are ranked, and provenance"),
            "distribution": ("bytea", "Distinct points and counts of all who are ranked, packed"),
            "content_hash": ("bytea", "BLAKE2b-128; equal content, equal hash"),
            "status": ("text", "ACTIVE or ARCHIVED"),
            "active_until": ("date", "Restored from the archive until this day; null: not"),
            "created_at": ("timestamptz", "When the row was written"),
            "partition_key": ("text", "`{INSTITUTION_ID}_{TYPE}_{YYYY-MM}`"),
        },
        key=("institution_id", "type", "reference_id", "time_granularity", "snapshot_date"),
        nullable={"active_until"},
        rules=[f"PARTITION BY {SUBTREES}"],
        see={"trends": trends.asset_name(type), "archive": ARCHIVE, "made_from": aggregates.ASSET},
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
        shows=BOARDS_SHOW,
        numbers={**BOARD_NUMBERS, "ranked": 0, "ranked_today": 0},
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
    largest = glances.largest_snapshots(connection, institution, type, result.day)
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
        for board in largest
    ]
    return boards_shown(type, institution, result, rows, _chart(largest))


def _chart(largest: Sequence[BoardGlance]) -> str:
    """Students by points on the largest board: of the term, or of all time where there is none."""
    board = next((b for b in reversed(largest) if b.granularity == Granularity.TERM), None)
    board = board or next(iter(largest[::-1]), None)
    if board is None:
        return "Nobody is ranked on this day."
    points = series.histogram(distribution.unpack(board.distribution), _BARS)
    return inline.distribution(
        points,
        f"**{inline.plain(board.name)}**, {board.granularity}: students by points, "
        f"{board.ranked:,} ranked, median {points.median:,.1f}",
    )
