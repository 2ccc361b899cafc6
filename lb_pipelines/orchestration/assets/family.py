"""What every family of assets says of itself, and the few words that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from dagster import (
    AssetKey,
    AssetSpec,
    MetadataValue,
    MultiPartitionsDefinition,
    TableColumn,
    TableColumnConstraints,
    TableConstraints,
    TableSchema,
)

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.partition_key import PartitionKey
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.writing import Product
from lb_pipelines.orchestration.config import LeaderboardsConfig

KINDS = {"postgres", "python", "numpy"}

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Order:
    """What a run is to do with an institution's days: who writes, and what the launchpad said.

    `today` is the institution's own.
    """

    provenance: Provenance
    today: date
    config: LeaderboardsConfig = field(default_factory=LeaderboardsConfig)


def outcome(result: DayResult) -> str:
    """What became of a day, in words."""
    if result.superseded:
        return "another run has written a later state of the events, nothing written"
    return f"{result.rows:,} rows, {result.written:,} new or changed"


def no_remarks(result: DayResult) -> Sequence[str]:
    """Nothing to warn of."""
    return ()


Materialize = Callable[[Database, Institution, DayRange, Order], Iterator[DayResult]]
MakeProduct = Callable[[Order], Product]
Show = Callable[[Connection, Institution, DayResult], Metadata]


@dataclass(frozen=True)
class BoardProduct:
    """An asset that is made of ranked boards."""

    of: MakeProduct


@dataclass(frozen=True)
class LeaderboardAsset:
    """One asset: what Dagster is told of it, what makes it, and what a person sees of a day.

    `making` makes its days by itself, or says what product of boards it is: products of an
    institution are made together, in one pass.
    `show` may read a few rows; it is asked once a partition, so it has to be cheap; `shows` are the
    keys that it gives. `numbers` are the names of `DayResult.numbers`, each with what it is on a
    day that has none. `outcome` says in words what became of a day, `remarks` what a person should
    be warned of.
    """

    spec: AssetSpec
    making: Materialize | BoardProduct
    show: Show
    shows: Sequence[str]
    numbers: Mapping[str, int | None]
    outcome: Callable[[DayResult], str] = outcome
    remarks: Callable[[DayResult], Sequence[str]] = no_remarks

    @property
    def name(self) -> str:
        """The asset's name, the same in `DayResult.asset` and `lb.materialized_days`."""
        return self.spec.key.to_user_string()


def leaderboard_spec(
    name: str,
    *,
    partitions: MultiPartitionsDefinition,
    group: str,
    description: str,
    table: str,
    columns: Mapping[str, tuple[str, str]],
    key: Sequence[str],
    nullable: AbstractSet[str] = frozenset(),
    rules: Sequence[str] = (),
    deps: Sequence[str] = (),
    see: Mapping[str, str],
    kinds: AbstractSet[str] = KINDS,
) -> AssetSpec:
    """An asset over day x institution that is rows of `table`.

    `columns`: name to type and meaning; `key` is the primary key, `rules` what else holds of the
    table. `see`: what a person may want to see next, to the asset that shows it.
    """
    return AssetSpec(
        name,
        deps=list(deps),
        description=description,
        group_name=group,
        kinds=set(kinds),
        # The rows are written by the asset itself, and each day is recorded as soon as it is
        # committed: the output that stands for the whole asset is never produced.
        skippable=True,
        partitions_def=partitions,
        metadata={
            "dagster/table_name": table,
            "dagster/column_schema": TableSchema(
                columns=[
                    TableColumn(
                        column,
                        type=type,
                        description=meaning,
                        constraints=TableColumnConstraints(
                            nullable=column in nullable,
                            other=["primary key"] if column in key else [],
                        ),
                    )
                    for column, (type, meaning) in columns.items()
                ],
                constraints=TableConstraints(other=[f"PRIMARY KEY ({', '.join(key)})", *rules]),
            ),
            **{what: MetadataValue.asset(AssetKey(asset)) for what, asset in see.items()},
        },
    )


BOARDS_SHOW = ("partition_key", "chart", "largest_boards")
BOARD_NUMBERS: Mapping[str, int | None] = {
    **{f"{granularity.replace('-', '_')}_boards": 0 for granularity in Granularity},
    "archived_kept": 0,
    "archived_differing": 0,
    "archived_renewed": 0,
}
SUBTREES = "LIST (institution_id), then LIST (type), then RANGE (snapshot_date) by month"


def boards_shown(
    type: BoardType,
    institution: Institution,
    result: DayResult,
    rows: Sequence[Mapping[str, str]],
    chart: str,
) -> Metadata:
    """What a person sees of a day's boards: the key they lie under, and `rows` as a table.

    The keys are `BOARDS_SHOW`; `chart` is Markdown.
    """
    return {
        "partition_key": str(PartitionKey.of(institution.id, type, result.day)),
        "chart": MetadataValue.md(chart),
        "largest_boards": MetadataValue.md(markdown_table(rows)),
    }


def markdown_table(
    rows: Sequence[Mapping[str, str]], nothing: str = "No boards on this day."
) -> str:
    """Rows as a Markdown table with the columns of all of them; `nothing` where there are none."""
    if not rows:
        return nothing
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [
        [" ".join(row.get(column, "").replace("|", "\\|").split()) for column in columns]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
