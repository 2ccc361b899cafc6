"""`point_aggregates`: an institution's point events of a day, summed once for all boards."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from dagster import MultiPartitionsDefinition

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, contiguous_ranges
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import ledger
from lb_pipelines.materialize import aggregates
from lb_pipelines.materialize.results import DayResult
from lb_pipelines.materialize.staleness import EVER
from lb_pipelines.orchestration.assets.family import (
    LeaderboardAsset,
    Metadata,
    Order,
    leaderboard_spec,
)


def point_aggregates(partitions: MultiPartitionsDefinition, start_day: date) -> LeaderboardAsset:
    """The asset that all others build upon; its first partition is `start_day`."""

    def materialize(
        database: Database, institution: Institution, days: DayRange, order: Order
    ) -> Iterator[DayResult]:
        if start_day in days:
            # All-time boards hold days that have no partition. Those that were never aggregated
            # are when needed; those that have changed since are with the first partition.
            with database.transaction(snapshot=True) as connection:
                changed = ledger.changed_days(connection, institution, EVER)
            for earlier in contiguous_ranges(day for day in changed if day < start_day):
                for _ in aggregates.materialize(database, institution, earlier, order.provenance):
                    pass
        yield from aggregates.materialize(database, institution, days, order.provenance)

    spec = leaderboard_spec(
        aggregates.ASSET,
        partitions=partitions,
        group="aggregates",
        description=(
            "The sum of points of each student in each class, subject and campus on one local "
            "day, over the ACTIVE events of `lb.student_points`. One row per institution and day "
            "holds the cells as arrays; `lb.point_aggregate_cells` shows them as rows. A day whose "
            "events have not changed keeps its revision, so materializing it again writes nothing. "
            "The first partition stands for the days before it as well."
        ),
        table="lb.point_aggregates",
        columns={
            "institution_key": ("integer", "The institution"),
            "day": ("date", "Local day, in the institution's zone"),
            "revision": ("bigint", "Raised whenever the content of the day changes"),
            "source_rows": ("bigint", "Events of the day, VOIDED included"),
            "watermark": ("timestamptz", "Latest updated_at among the events read"),
            "cells": ("integer", "Length of each of the arrays below"),
            "students": ("integer[]", "Student of each cell"),
            "classes": ("integer[]", "Class of each cell; 0: none"),
            "subjects": ("integer[]", "Subject of each cell; 0: none"),
            "campuses": ("integer[]", "Campus of each cell; 0: none"),
            "points": ("bigint[]", "Sum of the amounts"),
            "events": ("integer[]", "Number of ACTIVE events"),
        },
    )
    return LeaderboardAsset(spec, materialize, _show)


def _show(connection: Connection, institution: Institution, result: DayResult) -> Metadata:
    # The cells are arrays of keys: nothing that a person would read.
    return {}
