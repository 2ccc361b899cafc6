"""`class_trends`, `subject_trends`, `campus_trends`: every board against its baseline.

One factory for the three types.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dagster import MultiPartitionsDefinition

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import glances
from lb_pipelines.db.repositories.glances import TrendGlance
from lb_pipelines.insight import inline
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


def board_trends(type: BoardType, partitions: MultiPartitionsDefinition) -> LeaderboardAsset:
    """The asset of all trends of one type."""
    thing = type.lower()
    spec = leaderboard_spec(
        trends.asset_name(type),
        partitions=partitions,
        group="trends",
        deps=[snapshots.asset_name(type)],
        description=(
            f"What has moved on the leaderboards of every {thing}: one row per board and day, "
            "against the day before (daily), the last Sunday (weekly), the last day of the month "
            "before (monthly) or seven days before (term and all-time). Every entry has its exact "
            "previous rank, also where it was outside the top N then (what has no past is null, "
            "never 0); the biggest climbers and fallers and Spearman's rho are over all who are "
            "ranked on both days, Kendall's tau-b is over the entries. All comes from the events, "
            "the days that a leader has led too, so that it changes nothing here which other days "
            "or snapshots were made."
        ),
        table="lb.leaderboard_trends",
        columns={
            "institution_id": ("text", "The institution"),
            "type": ("text", f"{type}"),
            "reference_id": ("text", f"The {thing} whose students are ranked"),
            "time_granularity": ("text", "daily, weekly, monthly, term or all-time"),
            "snapshot_date": ("date", "The day of the board"),
            "baseline_date": ("date", "The day it is compared with"),
            "ranked": ("integer", "Students ranked"),
            "ranked_change": ("integer", "... and how many more than on the baseline"),
            "mean": ("double precision", "Mean points of all who are ranked"),
            "mean_change": ("double precision", "... and its change; null without a baseline"),
            "median": ("double precision", "Median points of all who are ranked"),
            "median_change": ("double precision", "... and its change; null without a baseline"),
            "retained_share": ("double precision", "Share of the baseline's top N still in it"),
            "rank_correlation": (
                "double precision",
                "Kendall's tau-b over the entries (top N) that were ranked then",
            ),
            "spearman_rho": (
                "double precision",
                "Spearman's rho over all students who are ranked both then and now",
            ),
            "leader_id": ("text", "The student of rank 1"),
            "leader_since": (
                "date",
                "First day of the streak of calendar days on which they have led, by the events",
            ),
            "leader_days": ("integer", "... and its length"),
            "movement": (
                "jsonb",
                "top3; entrants and leavers of the top N; the biggest climbers and fallers of "
                "all who are ranked both then and now",
            ),
            "students": ("jsonb", "For every entry: rank, previousRank, rankChange, pointsChange"),
            "metadata": ("jsonb", "Provenance: run, code, and state of the events"),
            "content_hash": ("bytea", "BLAKE2b-128; equal content, equal hash"),
            "created_at": ("timestamptz", "When the row was written"),
            "partition_key": ("text", "`{INSTITUTION_ID}_{TYPE}_{YYYY-MM}`"),
        },
        key=("institution_id", "type", "reference_id", "time_granularity", "snapshot_date"),
        nullable={
            "mean_change",
            "median_change",
            "retained_share",
            "rank_correlation",
            "spearman_rho",
        },
        rules=[f"PARTITION BY {SUBTREES}"],
        see={
            "boards": snapshots.asset_name(type),
            "archive": ARCHIVE,
            "made_from": aggregates.ASSET,
        },
    )
    return LeaderboardAsset(
        spec,
        BoardProduct(lambda order: trends.product(type, order.provenance)),
        partial(_show, type),
        shows=BOARDS_SHOW,
        numbers={
            **BOARD_NUMBERS,
            "retained_share": None,
            "rank_correlation": None,
            "spearman_rho": None,
        },
    )


def _show(
    type: BoardType, connection: Connection, institution: Institution, result: DayResult
) -> Metadata:
    largest = glances.largest_trends(connection, institution, type, result.day)
    rows = [
        {
            "largest board": trend.name,
            "window": trend.granularity,
            "against": trend.baseline.isoformat(),
            "ranked": f"{trend.ranked:,} ({trend.ranked_change:+,})",
            # No id: an erasure does not reach Dagster's event log.
            "leader": f"{trend.leader_points:,} points, {trend.leader_days:,} days",
            "stayed": "" if trend.retained_share is None else f"{trend.retained_share:.0%}",
        }
        for trend in largest
    ]
    return boards_shown(type, institution, result, rows, _chart(largest))


def _chart(largest: Sequence[TrendGlance]) -> str:
    """Where the first ten of the largest board of the week came from."""
    trend = next((t for t in largest if t.granularity == Granularity.WEEKLY), None)
    trend = trend or next(iter(largest[::-1]), None)
    if trend is None:
        return "Nobody is ranked on this day."
    return inline.slopes(
        list(zip(trend.previous_ranks, trend.ranks, strict=True)),
        f"**{inline.plain(trend.name)}**, {trend.granularity}: ranks of the first "
        f"{len(trend.ranks)} on {trend.baseline} and now; green climbed, orange fell",
    )
