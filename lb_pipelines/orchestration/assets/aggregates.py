"""`point_aggregates`: an institution's point events of a day, summed once for all boards."""

from __future__ import annotations

from dagster import MultiPartitionsDefinition

from lb_pipelines.core.institution import Institution
from lb_pipelines.db.engine import Connection
from lb_pipelines.materialize import aggregates
from lb_pipelines.materialize.results import DayResult
from lb_pipelines.orchestration.assets.family import LeaderboardAsset, Metadata, leaderboard_spec


def point_aggregates(partitions: MultiPartitionsDefinition) -> LeaderboardAsset:
    """The asset that all others build upon."""
    spec = leaderboard_spec(
        aggregates.ASSET,
        partitions=partitions,
        group="aggregates",
        description=(
            "The sum of points of each student in each class, subject and campus on one local "
            "day, over the ACTIVE events of `lb.student_points`. One row per institution and day "
            "holds the cells as arrays; `lb.point_aggregate_cells` shows them as rows. A day whose "
            "events have not changed keeps its revision, so materializing it again writes nothing."
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
    return LeaderboardAsset(spec, aggregates.materialize, _show)


def _show(connection: Connection, institution: Institution, result: DayResult) -> Metadata:
    # The cells are arrays of keys: nothing that a person would read.
    return {}
