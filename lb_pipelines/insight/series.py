"""The data of the pictures, as pure functions of boards and distributions. Nothing is drawn here.

Days are local days of the institution, ascending. What is missing is None and stays a gap: no
function invents a rank, a share or a day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

import numpy as np

from lb_pipelines.core.distribution import Distribution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.ranking import Int64
from lb_pipelines.service.results import Board, Entry

TOP = 10
"""Lines of a movement chart."""
BINS = 30
"""Bars of a histogram at most."""
DAILY_UP_TO = 35
"""Days up to which a movement is drawn day by day; longer ones week by week."""


@dataclass(frozen=True)
class Line:
    """One student of the last day's top, over the days: None where not among the entries then.

    `tied`: how many of the lines share its last rank, itself included.
    """

    ranks: tuple[int | None, ...]
    points: int
    tied: int
    name: str | None = None

    @property
    def last_rank(self) -> int:
        """The rank on the last day, which every line has."""
        rank = self.ranks[-1]
        assert rank is not None
        return rank


@dataclass(frozen=True)
class Movement:
    """How the top of the last day came to be there: `lines` in the order of the last board.

    `ties_cut`: so many more hold the rank of the last line, and have none.
    """

    days: tuple[date, ...]
    lines: tuple[Line, ...]
    ranked: int
    ties_cut: int


@dataclass(frozen=True)
class Histogram:
    """Students by points: `edges` int64[b + 1] ascending, `counts` int64[b].

    Bar i holds edges[i] <= points < edges[i + 1]; all edges are whole points and all bars equally
    wide.
    """

    edges: Int64
    counts: Int64
    median: float


@dataclass(frozen=True)
class Participation:
    """By day: students with points in the window, and enrolled; None where there was no board."""

    days: tuple[date, ...]
    ranked: tuple[int | None, ...]
    enrolled: tuple[int | None, ...]


@dataclass(frozen=True)
class ShareGrid:
    """Share of the enrolled who had points, by board (rows, as `names`) and day; NaN: no board.

    A share above 1 happens where students have points without being enrolled. `left_out`: boards
    beyond those shown.
    """

    names: tuple[str, ...]
    days: tuple[date, ...]
    shares: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    left_out: int


def movement_days(days: DayRange) -> list[date]:
    """The days at which ranks are read: each, or of longer ranges each seventh back from the last;
    ascending.
    """
    step = 1 if len(days) <= DAILY_UP_TO else 7
    return [days.last - timedelta(days=back) for back in range(0, len(days), step)][::-1]


def movement(
    boards: Iterable[Board], days: Sequence[date], top: int = TOP, *, names: bool = False
) -> Movement | None:
    """Ranks on `days` of the first `top` entries of the last of them; None without such entries.

    `names` labels the lines: by name where the entry has one, else by id.
    """
    by_day = {board.day: board for board in boards}
    last = by_day.get(days[-1])
    if last is None or not last.entries:
        return None
    ranks: list[dict[str, int]] = [
        {e.student_id: e.rank for e in by_day[day].entries} if day in by_day else {} for day in days
    ]
    shown = last.entries[:top]
    ties = Counter(entry.rank for entry in shown)
    beyond = sum(entry.rank == shown[-1].rank for entry in last.entries[top:])
    if last.entries[-1].points == shown[-1].points:
        beyond += last.ties_cut
    return Movement(
        tuple(days),
        tuple(
            Line(
                tuple(on_day.get(entry.student_id) for on_day in ranks),
                entry.points,
                ties[entry.rank],
                _label(entry) if names else None,
            )
            for entry in shown
        ),
        last.ranked,
        beyond,
    )


def _label(entry: Entry) -> str:
    return entry.name or entry.student_id


def histogram(distribution: Distribution, bins: int = BINS) -> Histogram:
    """All ranked students, at least one, by points in at most `bins` bars."""
    low, high = int(distribution.points[-1]), int(distribution.points[0])
    width = -(-(high - low + 1) // bins)
    bars = -(-(high - low + 1) // width)
    counts = np.zeros(bars, np.int64)
    np.add.at(counts, (distribution.points - low) // width, distribution.counts)
    edges = low + width * np.arange(bars + 1)
    return Histogram(edges, counts, _median(distribution))


def _median(distribution: Distribution) -> float:
    upto = np.cumsum(distribution.counts)
    places = np.array([(distribution.ranked - 1) // 2, distribution.ranked // 2])
    # Counted from the best: place k lies where the running count first exceeds k.
    middle = np.searchsorted(upto, places, side="right")
    return float(distribution.points[middle].mean())


def participation(boards: Iterable[Board]) -> Participation | None:
    """Ranked and enrolled by day, of boards in any order; None where there are none.

    A stretch without boards is a gap: the day after the last board before it has none.
    """
    by_day = {board.day: board for board in boards}
    if not by_day:
        return None
    days = sorted(by_day)
    step = min((b - a for a, b in pairwise(days)), default=timedelta(days=7))
    filled: list[date] = []
    for day in days:
        if filled and day - filled[-1] > step:
            filled.append(filled[-1] + step)
        filled.append(day)
    shown = [by_day.get(day) for day in filled]
    return Participation(
        tuple(filled),
        tuple(board.ranked if board else None for board in shown),
        tuple(board.enrolled if board else None for board in shown),
    )


def share_grid(
    rows: Iterable[tuple[str, date, int, int]], days: Sequence[date], at_most: int
) -> ShareGrid | None:
    """`rows`: name, day, ranked, enrolled. The `at_most` boards with the most ever enrolled, the
    largest first, equal ones by name; None without rows.
    """
    shares: dict[str, dict[date, float]] = {}
    size: Counter[str] = Counter()
    for name, day, ranked, enrolled in rows:
        size[name] = max(size[name], enrolled, ranked)
        if enrolled:
            shares.setdefault(name, {})[day] = ranked / enrolled
    names = sorted(size, key=lambda name: (-size[name], name))
    if not names:
        return None
    shown = names[:at_most]
    nothing: Mapping[date, float] = {}
    grid = [[shares.get(name, nothing).get(day, np.nan) for day in days] for name in shown]
    return ShareGrid(tuple(shown), tuple(days), np.array(grid), len(names) - len(shown))
