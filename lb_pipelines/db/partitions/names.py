"""How the partitions of `lb` are called and where each hangs: pure, one place for all names.

Snapshots and trends are LIST (institution) -> LIST (type) -> RANGE (month). A subtree belongs to
one institution or is `shared` (the DEFAULT); no name can meet another, because an institution id
holds no ':' and a leaf's type and month are read from the right. The archive is LIST (academic
year); no institution's id begins like its leaves. The longest has 63 characters,
what PostgreSQL allows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from psycopg import sql

from lb_pipelines.core.partition_key import PartitionKey
from lb_pipelines.core.periods import DayRange, month_start, next_month
from lb_pipelines.core.words import RESERVED_INSTITUTION_PREFIX, BoardType

SHARED = "shared"
SCHEMA = "lb_part"


class Root(StrEnum):
    """The two roots whose leaves the budget counts."""

    SNAPSHOTS = "leaderboard_snapshots"
    TRENDS = "leaderboard_trends"

    @property
    def suffix(self) -> str:
        """What the names below this root end with."""
        return ":trends" if self is Root.TRENDS else ""


LEAVES_PER_MONTH = len(Root) * len(BoardType)
"""Leaves that one month of one subtree takes: each type, snapshots and trends."""


@dataclass(frozen=True)
class Leaf:
    """A leaf to be: its name, its parent and its bounds (`FOR VALUES` ...), ready for the DDL.

    `wide_columns` are those worth a better compression where the server has one; `is_of_events`: it
    enters changes of events in the ledger of inputs.
    """

    name: str
    parent: sql.Identifier
    bounds: sql.Composed
    wide_columns: tuple[str, ...] = ()
    is_of_events: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        """The leaf's qualified name."""
        return sql.Identifier(SCHEMA, self.name)


_WIDE = {
    Root.SNAPSHOTS: ("entries", "metadata", "distribution"),
    Root.TRENDS: ("movement", "students", "metadata"),
}


def top(owner: str, root: Root) -> str:
    """The name of a subtree's top; `owner` is an institution id or `SHARED`."""
    return f"{owner}:all{root.suffix}"


def owner_of(top_name: str) -> str:
    """Whose subtree this top is: an institution id or `SHARED`."""
    return top_name.partition(":")[0]


def month_of(leaf_name: str) -> date:
    """The month of a leaf below one of the roots."""
    return date.fromisoformat(f"{leaf_name.partition(':')[0][-7:]}-01")


def branch(owner: str, type: BoardType, root: Root) -> str:
    """The name of a subtree's branch of one type."""
    return f"{owner}:{type}{root.suffix}"


def board_leaf(owner: str, type: BoardType, month: date, root: Root) -> Leaf:
    """The leaf that holds the owner's boards of one type in one month."""
    first = month_start(month)
    return Leaf(
        name=f"{PartitionKey(owner, type, first)}{root.suffix}",
        parent=sql.Identifier(SCHEMA, branch(owner, type, root)),
        bounds=_range(first.isoformat(), next_month(first).isoformat()),
        wide_columns=_WIDE[root],
    )


def board_leaves(owner: str, months: Iterable[date]) -> list[Leaf]:
    """All leaves that these months of a subtree need, of both roots."""
    return [
        board_leaf(owner, type, month, root)
        for month in months
        for root in Root
        for type in BoardType
    ]


def event_leaf(month: date) -> Leaf:
    """The leaf that holds the point events of one month of UTC."""
    first = month_start(month)
    return Leaf(
        name=f"student_points_{first.isoformat()[:7]}",
        parent=sql.Identifier("lb", "student_points"),
        bounds=_range(
            f"{first.isoformat()} 00:00:00+00", f"{next_month(first).isoformat()} 00:00:00+00"
        ),
        is_of_events=True,
    )


def archive_leaf(academic_year: str) -> Leaf:
    """The leaf that holds all archived snapshots of one academic year, such as `2023-2024`."""
    return Leaf(
        name=f"{RESERVED_INSTITUTION_PREFIX}{academic_year}",
        parent=sql.Identifier("lb", "archived_leaderboard_snapshots"),
        bounds=sql.SQL("IN ({})").format(sql.Literal(academic_year)),
        wide_columns=_WIDE[Root.SNAPSHOTS],
    )


def _range(lower: str, upper: str) -> sql.Composed:
    return sql.SQL("FROM ({}) TO ({})").format(sql.Literal(lower), sql.Literal(upper))


def months_between(first_month: date, last_month: date) -> list[date]:
    """The first days of the months from one to the other, both included, by any day in them.

    Raises `InvalidPartition` where they run backwards.
    """
    span = DayRange(month_start(first_month), month_start(last_month))
    months = [span.first]
    while months[-1] < span.last:
        months.append(next_month(months[-1]))
    return months
