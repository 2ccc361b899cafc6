"""What a materialization says on its page: the same keys and types on every day of an asset.

Dagster plots a key over partitions where every materialization has it as a number, so what a day
lacks is said as 0 or null, never left out. What only serves the eye may fail: the day stands, the
log is warned, and its keys are null.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC

from dagster import MetadataValue

import lb_pipelines
from lb_pipelines.core.institution import Institution
from lb_pipelines.db.engine import Database
from lb_pipelines.materialize.results import DayResult
from lb_pipelines.orchestration.assets.family import LeaderboardAsset, Metadata


def day_metadata(
    asset: LeaderboardAsset,
    database: Database,
    institution: Institution,
    result: DayResult,
    warn: Callable[[str], object],
) -> Metadata:
    """The metadata of one materialization: figures, where they come from, and what is to be seen.

    `warn` is told what could not be shown.
    """
    numbers = {**asset.numbers, **result.numbers}
    return {
        # What is to be seen first: the page shows them in this order.
        "dagster/partition_row_count": result.rows,
        **_shown(asset, database, institution, result, warn),
        "written": result.written,
        "seconds": round(float(result.seconds), 4),
        **{
            name: MetadataValue.null() if value is None else value
            for name, value in numbers.items()
        },
        "superseded_by_later_state": result.superseded,
        **_provenance(result),
        "code_version": lb_pipelines.__version__,
    }


def _provenance(result: DayResult) -> Metadata:
    """The state of the events: none that a later revision or watermark saw is in the rows.

    Nothing for an asset that is not made from events.
    """
    if result.through_revision is None:
        return {}
    watermark = result.watermark
    return {
        "through_revision": result.through_revision,
        "watermark": MetadataValue.null()
        if watermark is None
        else MetadataValue.timestamp(watermark.astimezone(UTC)),
    }


def _shown(
    asset: LeaderboardAsset,
    database: Database,
    institution: Institution,
    result: DayResult,
    warn: Callable[[str], object],
) -> Metadata:
    nothing = dict.fromkeys(asset.shows, MetadataValue.null())
    try:
        with database.transaction() as connection:
            return {**nothing, **asset.show(connection, institution, result)}
    except Exception as error:
        warn(
            f"{result.asset} of {result.institution_id} on {result.day} is written, but its page "
            f"lacks {', '.join(asset.shows)}: {type(error).__name__}: {error}"
        )
        return nothing
