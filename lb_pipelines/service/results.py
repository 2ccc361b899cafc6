"""What the service gives back: frozen values, each a pandas DataFrame in one call.

Days are local days of the institution; points are whole numbers; percentiles go from 0 to 100:
the share of the ranked students who have at most as many points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any, NamedTuple

import pandas as pd

from lb_pipelines.core.words import BoardType, Granularity

_TYPES, _GRANULARITIES = list(BoardType), list(Granularity)


@dataclass(frozen=True)
class BoardKey:
    """Which board: a class, subject or campus of an institution, and how far it looks back."""

    institution_id: str
    type: BoardType
    reference_id: str
    granularity: Granularity

    @property
    def order(self) -> tuple[int, str, int]:
        """Classes, subjects, campuses; by id; the shortest window first."""
        return _TYPES.index(self.type), self.reference_id, _GRANULARITIES.index(self.granularity)

    def __str__(self) -> str:
        return f"{self.institution_id} {self.type} {self.reference_id!r} {self.granularity}"


class Entry(NamedTuple):
    """One line of a board. `previous_rank` on the baseline's day; None: not ranked then."""

    rank: int
    student_id: str
    points: int
    previous_rank: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class Board:
    """A board as of a day: the top N, and statistics over all who are ranked.

    `academic_year` says that it was read from the archive. A board on which nobody is ranked has
    no entries and `ranked` 0; its statistics are None.
    """

    key: BoardKey
    day: date
    period_start: date | None
    entries: tuple[Entry, ...]
    ranked: int
    enrolled: int | None
    sum: int | None
    mean: float | None
    median: float | None
    p90: float | None
    max: int | None
    ties_cut: int
    status: str | None
    academic_year: str | None = None
    provenance: Mapping[str, Any] | None = None

    @classmethod
    def empty(cls, key: BoardKey, day: date) -> Board:
        """A board on which nobody is ranked: it has no row."""
        return cls(key, day, None, (), 0, None, None, None, None, None, None, 0, None)

    def to_pandas(self) -> pd.DataFrame:
        """One row per entry: rank, student_id, points, previous_rank, name."""
        return _entries_frame(self.entries)


@dataclass(frozen=True)
class History:
    """Boards of one key, newest first. `next_before`: the page after this one, None on the last.

    Give it as `before` to go on: rows that arrive meanwhile neither repeat nor hide a board.
    """

    key: BoardKey
    boards: tuple[Board, ...]
    next_before: date | None = None

    def to_pandas(self) -> pd.DataFrame:
        """One row per board and entry, with the board's day and statistics beside."""
        frames = [
            board.to_pandas().assign(
                day=board.day, period_start=board.period_start, ranked=board.ranked, mean=board.mean
            )
            for board in self.boards
            if board.entries
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@dataclass(frozen=True)
class TrendPoint:
    """A board against its baseline, as of one closing day.

    `retained_share`: of the top N then, the share that is in it now. `rank_correlation`: Kendall's
    tau-b over the entries (top N) that were ranked then; `spearman_rho`: Spearman's rho over all
    students who are ranked both then and now. `movement` has the entrants and leavers of the top N,
    and the biggest climbers and fallers of all students who are ranked both then and now.
    `leader_since`: first day of the streak of calendar days on which the leader has led.
    """

    day: date
    baseline_day: date
    ranked: int
    ranked_change: int
    mean: float
    mean_change: float | None
    median: float
    median_change: float | None
    retained_share: float | None
    rank_correlation: float | None
    spearman_rho: float | None
    leader_id: str
    leader_since: date
    movement: Mapping[str, Any]


@dataclass(frozen=True)
class BoardTrends:
    """What has moved on a board over time, newest first."""

    key: BoardKey
    points: tuple[TrendPoint, ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row per closing day."""
        return pd.DataFrame(
            [vars(point) for point in self.points],
            columns=[field.name for field in fields(TrendPoint)],
        )


@dataclass(frozen=True)
class Standing:
    """Where a student stood on a board as of a day; exact, in the top N or far below it.

    Not ranked: `rank`, `points` and `percentile` are None. Changes are against the standing of the
    period before in the same series: `rank_change` is then minus now, so that climbing is
    positive; None where either is missing.
    """

    key: BoardKey
    student_id: str
    day: date
    ranked: int
    rank: int | None
    points: int | None
    percentile: float | None
    rank_change: int | None = None
    points_change: int | None = None

    def against(self, then: Standing) -> Standing:
        """The same with the changes since an earlier standing."""
        if self.rank is None or self.points is None or then.rank is None or then.points is None:
            return self
        return replace(
            self, rank_change=then.rank - self.rank, points_change=self.points - then.points
        )

    def to_pandas(self) -> pd.DataFrame:
        """One row, the board's key in columns."""
        return standings_frame([self])


@dataclass(frozen=True)
class Standings:
    """Standings of one student: over time (newest first), or on all their boards of a day."""

    student_id: str
    standings: tuple[Standing, ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row per standing, the board's key in columns."""
        return standings_frame(self.standings)


@dataclass(frozen=True)
class Around:
    """A student and the nearest above and below on a board, best first; inside a tie by student id,
    of which some may be left out.

    `tied_students`: how many others have exactly the student's points; 0 where not ranked.
    """

    key: BoardKey
    student_id: str
    day: date
    ranked: int
    tied_students: int
    entries: tuple[Entry, ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row per entry."""
        return _entries_frame(self.entries).drop(columns="previous_rank")


@dataclass(frozen=True)
class Comparison:
    """Two boards, or two students on one board, day by day: a pandas frame with both in columns.

    `rows`: one mapping per period, newest first; names end in `_a` and `_b`.
    """

    a: str
    b: str
    rows: tuple[Mapping[str, Any], ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row per period."""
        return pd.DataFrame(list(self.rows))


def standings_frame(standings: Iterable[Standing]) -> pd.DataFrame:
    """One row per standing, whole numbers that may be missing as Int64."""
    whole = ("rank", "points", "rank_change", "points_change")
    rows: Sequence[dict[str, Any]] = [
        {
            "type": str(s.key.type),
            "reference_id": s.key.reference_id,
            "granularity": str(s.key.granularity),
            "day": s.day,
            "student_id": s.student_id,
            "ranked": s.ranked,
            "rank": s.rank,
            "points": s.points,
            "percentile": s.percentile,
            "rank_change": s.rank_change,
            "points_change": s.points_change,
        }
        for s in standings
    ]
    return _nullable(pd.DataFrame(rows), *(name for name in whole if rows))


def _entries_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    return _nullable(pd.DataFrame(entries, columns=list(Entry._fields)), "previous_rank")


def _nullable(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return frame.astype(dict.fromkeys(columns, "Int64"))
