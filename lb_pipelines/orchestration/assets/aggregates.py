"""`point_aggregates`: an institution's point events of a day, summed once for all boards."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from dagster import MetadataValue, MultiPartitionsDefinition

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, contiguous_ranges
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import glances, input_changes
from lb_pipelines.insight import inline
from lb_pipelines.materialize import aggregates, snapshots
from lb_pipelines.materialize.results import DayResult
from lb_pipelines.orchestration.assets.family import (
    LeaderboardAsset,
    Metadata,
    Order,
    leaderboard_spec,
)

_SHOWN_BEFORE = timedelta(days=27)


def point_aggregates(partitions: MultiPartitionsDefinition, start_day: date) -> LeaderboardAsset:
    """The asset that all others build upon; its first partition is `start_day`."""

    def materialize(
        database: Database, institution: Institution, days: DayRange, order: Order
    ) -> Iterator[DayResult]:
        if start_day in days:
            # All-time boards hold days that have no partition. Those that were never aggregated
            # are when needed; those that have changed since are with the first partition.
            with database.transaction() as connection:
                stale = input_changes.find_stale_aggregates(connection, institution, start_day)
            for earlier in contiguous_ranges(day for day in stale if day < start_day):
                for _ in aggregates.materialize(database, institution, earlier, order.provenance):
                    pass
        yield from aggregates.materialize(database, institution, days, order.provenance)

    spec = leaderboard_spec(
        aggregates.ASSET,
        partitions=partitions,
        group="aggregates",
        description=(
            "Every point event counts once: a row per institution and local day holds the sum of "
            "points of each student in each class, subject and campus, over the ACTIVE events of "
            "`lb.student_points` (`lb.point_aggregate_cells` shows the arrays as rows). No late, "
            "changed or voided event gets lost: it gives its day a new revision, by which "
            "everything built on an older one is known to be stale, while a day whose events are "
            "as they were is not written again. The first partition stands for all days before it."
        ),
        table="lb.point_aggregates",
        columns={
            "institution_key": ("integer", "The institution"),
            "day": ("date", "Local day, in the institution's zone"),
            "revision": ("bigint", "Raised whenever the content of the day changes"),
            "source_rows": ("bigint", "Events of the day, VOIDED included"),
            "watermark": ("timestamptz", "Latest updated_at among the events read"),
            "materialized_at": ("timestamptz", "When the events were last read"),
            "run_id": ("text", "The run that read them"),
            "content_hash": ("bytea", "BLAKE2b-128; equal content, equal hash"),
            "cells": ("integer", "Length of each of the arrays below"),
            "students": ("integer[]", "Student of each cell"),
            "classes": ("integer[]", "Class of each cell; 0: none"),
            "subjects": ("integer[]", "Subject of each cell; 0: none"),
            "campuses": ("integer[]", "Campus of each cell; 0: none"),
            "points": ("bigint[]", "Sum of the amounts"),
            "events": ("integer[]", "Number of ACTIVE events"),
        },
        key=("institution_key", "day"),
        nullable={"watermark", "run_id"},
        see={
            "class_boards": snapshots.asset_name(BoardType.CLASS),
            "subject_boards": snapshots.asset_name(BoardType.SUBJECT),
            "campus_boards": snapshots.asset_name(BoardType.CAMPUS),
        },
    )
    return LeaderboardAsset(
        spec,
        materialize,
        _show,
        shows=("through_revision", "watermark", "chart"),
        numbers=dict.fromkeys(("events", "voided_events", "points", "students"), 0),
    )


def _show(connection: Connection, institution: Institution, result: DayResult) -> Metadata:
    # The cells are arrays of keys: a person is shown whether the day is like the days before it.
    days = DayRange(max(result.day, date.min + _SHOWN_BEFORE) - _SHOWN_BEFORE, result.day)
    recent = glances.recent_aggregates(connection, institution, days)
    counts = [recent[day].source_rows if day in recent else 0 for day in days]
    own = recent.get(result.day)
    return {
        "chart": MetadataValue.md(
            inline.bars(
                counts,
                f"{days.first:%-d %b}",
                f"{days.last:%-d %b}",
                f"Events by day, {len(days)} days up to {result.day}; on this day {counts[-1]:,}",
            )
        ),
        **(
            {
                "through_revision": own.revision,
                "watermark": MetadataValue.null()
                if own.watermark is None
                else MetadataValue.timestamp(own.watermark),
            }
            if own
            else {}
        ),
    }
