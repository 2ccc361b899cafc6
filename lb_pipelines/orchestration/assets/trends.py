"""`class_trends`, `subject_trends`, `campus_trends`: every board against its baseline.

One factory for the three types.
"""

from __future__ import annotations

from functools import partial

from dagster import MultiPartitionsDefinition

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import glances
from lb_pipelines.materialize import snapshots, trends
from lb_pipelines.materialize.results import DayResult
from lb_pipelines.orchestration.assets.family import (
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
            "against the snapshot of the day before (daily), the last Sunday (weekly), the last "
            "day of the month before (monthly) or seven days before (term and all-time). Ranked "
            "students, mean and median with their change, entrants, leavers, climbers and "
            "fallers, the share of the top N that stayed and how long the leader has led. Every "
            "entry has its exact previous rank, also where it was outside the top N then."
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
            "rank_correlation": ("double precision", "Kendall's tau between the two boards"),
            "leader_id": ("text", "The student of rank 1"),
            "leader_since": ("date", "First day of the unbroken row on which they led"),
            "leader_days": ("integer", "... and its length"),
            "movement": ("jsonb", "top3, entrants, leavers, climbers, fallers"),
            "students": ("jsonb", "For every entry: rank, previousRank, rankChange, pointsChange"),
            "partition_key": ("text", "`{INSTITUTION_ID}_{TYPE}_{YYYY-MM}`"),
        },
    )
    return LeaderboardAsset(
        spec,
        BoardProduct(lambda order: trends.product(type, order.provenance)),
        partial(_show, type),
    )


def _show(
    type: BoardType, connection: Connection, institution: Institution, result: DayResult
) -> Metadata:
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
        for trend in glances.largest_trends(connection, institution, type, result.day)
    ]
    return boards_shown(type, institution, result, rows)
