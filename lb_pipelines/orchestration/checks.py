"""What must be true of every snapshot, asked of the rows themselves after they were written.

One check an asset, per partition. It is evaluated by the op that makes the assets, on the days it
has just written: a step of its own would be skipped with the op's outputs. There it looks at a
sample, for it must not cost more than it is worth; run alone, from an asset's Checks page, it looks
at every board of the partitions chosen. A verdict does not stop the work.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetCheckSpec,
    MultiPartitionsDefinition,
    PreviewWarning,
)

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import verification
from lb_pipelines.materialize.snapshots import asset_name
from lb_pipelines.orchestration.partitions import partition_key

SAMPLE = 100
"""Boards of a day that are looked at after it was written; a board of 100 entries takes 0.1 ms."""


@dataclass(frozen=True)
class SnapshotCheck:
    """A check of the boards of one type."""

    type: BoardType
    spec: AssetCheckSpec


def snapshot_checks(partitions: MultiPartitionsDefinition) -> list[SnapshotCheck]:
    """One check for each snapshot asset."""
    with warnings.catch_warnings():
        # Checks per partition are what the pages of the assets are built around here; that the
        # parameter is in preview is known, and no news to whoever starts the project.
        warnings.simplefilter("ignore", PreviewWarning)
        return [SnapshotCheck(type, _spec(type, partitions)) for type in BoardType]


def _spec(type: BoardType, partitions: MultiPartitionsDefinition) -> AssetCheckSpec:
    return AssetCheckSpec(
        "ranks_agree_with_points",
        asset=asset_name(type),
        description=(
            "On every board of the day: as many entries as N and the ranked students allow, no "
            "student twice, points from high to low, the first with rank 1, ranks that follow "
            "from the points by the institution's method, and a sum that fits the entries. After "
            f"a materialization up to {SAMPLE} boards a day, drawn anew each day; run alone, all."
        ),
        partitions_def=partitions,
    )


def evaluate(
    check: SnapshotCheck,
    database: Database,
    institution: Institution,
    days: DayRange,
    *,
    at_most: int | None = None,
) -> Iterator[AssetCheckEvaluation]:
    """The check's verdict on every day of a range, by so many boards a day; None: by all."""
    with database.transaction() as connection:
        verdicts = verification.wrong_boards(
            connection, institution, check.type, days, at_most=at_most
        )
    for day, verdict in verdicts.items():
        key = partition_key(day, institution.id)
        yield AssetCheckEvaluation(
            asset_key=check.spec.asset_key,
            check_name=check.spec.name,
            partition=key,
            passed=not verdict.wrong,
            severity=AssetCheckSeverity.ERROR,
            description=None
            if not verdict.wrong
            else f"{verdict.wrong} of {verdict.looked_at} boards are wrong, for example "
            f"{verdict.example}. Materialize the day again; if it stays, the code is wrong.",
            metadata={
                "boards": verdict.boards,
                "looked_at": verdict.looked_at,
                "wrong": verdict.wrong,
            },
        )
