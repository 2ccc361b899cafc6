"""Ranking of many boards at once: the kernel.

Input is a flat list of (board, student, points) in ascending (board, student) order. Nothing is
sorted but what is shown: on each board students are counted by their points, and running totals
of the counts say everything that depends on points alone, which is all but the order inside a
tie: anybody's rank, the distribution, the statistics. Only the rows of a top N are then put in
order. No Python object per row: a full day ranks tens of millions of rows.

To be counted, every (board, points) has a number, its key: boards follow each other, and on a
board the points go from the most down, `offset of the board + most - points`. Where the points
lie so far apart that counting would take more room than the rows do, sorting the rows' keys gives
the same levels; where the keys do not even fit in 63 bits, ordinals of the distinct points take
their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lb_pipelines.core.words import RankMethod

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

# Counters that counting may take per row, besides some for everybody. Up to there a counter costs
# less than the row's share in a sort (2.6 million rows of 5,000 boards: 20 ms against 150 ms).
_COUNTERS_PER_ROW = 8
_COUNTERS_AT_LEAST = 1 << 16


@dataclass(frozen=True)
class Top:
    """The best of every board, board after board, best first.

    `offsets` int64[B + 1]: board i's rows are `offsets[i]:offsets[i + 1]`; `members` int64[R]: the
    pair code of each row (`core.sums`); `points` int64[R]; `ranks` int32[R].
    """

    offsets: Int64
    members: Int64
    points: Int64
    ranks: Int32

    def first(self, limit: int) -> Top:
        """The best `limit` of every board among these."""
        sizes = np.diff(self.offsets)
        counts = np.minimum(sizes, limit)
        offsets = _offsets(counts)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1] - offsets[:-1], counts)
        return Top(offsets, self.members[rows], self.points[rows], self.ranks[rows])


@dataclass(frozen=True)
class Levels:
    """The distinct points of every board, from high to low, board after board.

    `starts` int64[B + 1]: board i's levels are `starts[i]:starts[i + 1]`; `points` int64[L];
    `counts` int64[L]: students who have them; `through` int64[L]: students of all boards up to and
    including the level.
    """

    starts: Int64
    points: Int64
    counts: Int64
    through: Int64


class Ranking:
    """All ranked students of a set of boards.

    `boards` int32[B]: the boards in ascending order, none of them empty. `starts` int64[B + 1]:
    board i's students are rows `starts[i]:starts[i + 1]` of the input, ascending by student:
    `members` int64[R], their pair codes, and `points` int64[R].
    """

    def __init__(self, boards: Int32, members: Int64, points: Int64, method: RankMethod) -> None:
        begins = np.flatnonzero(opens(boards))
        self.boards: Int32 = boards[begins].astype(np.int32, copy=False)
        self.starts: Int64 = np.append(begins, len(boards))
        self.members = members
        self.points = points
        self._method = method

    def __len__(self) -> int:
        """Students ranked, on all boards together."""
        return len(self.points)

    @property
    def sizes(self) -> Int64:
        """int64[B]: ranked students of each board."""
        return np.diff(self.starts)

    @cached_property
    def sums(self) -> Int64:
        """int64[B]: the points of all who are ranked on each board."""
        return np.add.reduceat(self.points, self.starts[:-1])

    @property
    def levels(self) -> Levels:
        """The distinct points of each board and how many have them."""
        return self._counted[1]

    def top(self, limit: int | Int64) -> Top:
        """The best `limit` of every board, or int64[B] of each; inside a tie by student id, also
        where it is cut.
        """
        if not len(self.boards):
            return _NOBODY
        levels, shown = self.levels, np.minimum(self.sizes, limit)
        last = np.searchsorted(levels.through, self.starts[:-1] + shown, side="left")
        rows = np.flatnonzero(self.points >= np.repeat(levels.points[last], self.sizes))
        # Whoever ties with the last one but comes later by id is among them too.
        selected = levels.through[last] - self.starts[:-1]
        owners = np.repeat(np.arange(len(selected)), selected)
        rows = rows[_order(owners, self.points[rows])]
        begins, offsets = _offsets(selected), _offsets(shown)
        rows = rows[np.arange(offsets[-1]) + np.repeat(begins[:-1] - offsets[:-1], shown)]
        points = self.points[rows]
        return Top(offsets, self.members[rows], points, self._ranks(rows, points, shown, offsets))

    def find(self, members: Int64) -> tuple[Int32, Int64]:
        """Rank and points of each of these members; 0 and 0 for whoever is not ranked."""
        ranks, points = np.zeros(len(members), np.int32), np.zeros(len(members), np.int64)
        if len(self.members):
            at = np.minimum(np.searchsorted(self.members, members), len(self.members) - 1)
            known = np.flatnonzero(self.members[at] == members)
            rows = at[known]
            points[known] = self.points[rows]
            owners = np.searchsorted(self.starts, rows, side="right") - 1
            ranks[known] = (
                self._ordinal_ranks[rows]
                if self._method is RankMethod.ORDINAL
                else self._level_ranks(owners, points[known])
            )
        return ranks, points

    def find_row_levels(self) -> Int32:
        """int32[R]: the level of each row of the input, as a position in `levels`.

        Linear in the rows; where points are too far apart to be counted, by binary search.
        """
        keys, _ = self._counted
        if not len(self):
            return np.empty(0, np.int32)
        points = self.points
        if keys.distinct is not None:
            points = np.searchsorted(keys.distinct, points)
        row_keys = np.repeat(keys.lift, self.sizes)
        row_keys -= points
        key_space = int(keys.of_levels[-1]) + 1
        if key_space > _COUNTERS_AT_LEAST + _COUNTERS_PER_ROW * len(self):
            return np.searchsorted(keys.of_levels, row_keys).astype(np.int32)
        level_of_key = np.empty(key_space, np.int32)
        level_of_key[keys.of_levels] = np.arange(len(keys.of_levels), dtype=np.int32)
        return level_of_key[row_keys]

    def rank_rows(self, rows: Int64, row_levels: Int32) -> Int32:
        """int32[n]: the ranks of rows of the input; `row_levels` int32[n] are their levels."""
        if self._method is RankMethod.ORDINAL:
            return self._ordinal_ranks[rows]
        return self._rank_of_level[row_levels]

    def _ranks(self, rows: Int64, points: Int64, shown: Int64, offsets: Int64) -> Int32:
        """Ranks of the rows of a top."""
        if self._method is RankMethod.ORDINAL:
            return (np.arange(len(rows)) - np.repeat(offsets[:-1], shown) + 1).astype(np.int32)
        return self._level_ranks(np.repeat(np.arange(len(shown)), shown), points)

    def _level_ranks(self, owners: Int64, points: Int64) -> Int32:
        """Competition or dense rank of points that are there, on boards by their position."""
        keys, _ = self._counted
        return self._rank_of_level[np.searchsorted(keys.of_levels, keys.of(owners, points))]

    @cached_property
    def _rank_of_level(self) -> Int32:
        """int32[L]: the competition or dense rank of each level."""
        _, levels = self._counted
        distinct = np.diff(levels.starts)
        if self._method is RankMethod.DENSE:
            above = np.arange(len(levels.points)) - np.repeat(levels.starts[:-1], distinct)
        else:
            above = levels.through - levels.counts - np.repeat(self.starts[:-1], distinct)
        return (above + 1).astype(np.int32)

    @cached_property
    def _ordinal_ranks(self) -> Int32:
        """int32[R]: the position of each row of the input on its board, ties by student id."""
        ranks = np.empty(len(self), np.int32)
        # Levels ascend with the boards, so sorted rows stay on their boards.
        ranks[_sort_by_counting(self.find_row_levels())] = np.arange(1, len(self) + 1) - np.repeat(
            self.starts[:-1], self.sizes
        )
        return ranks

    @cached_property
    def _counted(self) -> tuple[_Keys, Levels]:
        """The keys of the levels, and the levels."""
        if not len(self.boards):
            return _Keys.none(), Levels(np.zeros(1, np.int64), *(_NOTHING,) * 3)
        begins = self.starts[:-1]
        most = np.maximum.reduceat(self.points, begins)
        # Unsigned, no difference of two int64 is too large.
        spans = (most - np.minimum.reduceat(self.points, begins)).view(np.uint64)
        room = float(spans.sum(dtype=np.float64)) + len(spans)
        if room >= 1 << 62:
            return self._counted_by_ordinals()
        offsets = _offsets(spans.view(np.int64) + 1)
        lift = offsets[:-1] + most
        rows_keys = np.repeat(lift, self.sizes)
        rows_keys -= self.points
        if room <= _COUNTERS_AT_LEAST + _COUNTERS_PER_ROW * len(self):
            counters = np.bincount(rows_keys)
            of_levels = np.flatnonzero(counters)
            counts = counters[of_levels]
        else:
            rows_keys.sort()
            of_levels, counts = _runs(rows_keys)
        starts = np.searchsorted(of_levels, offsets)
        owners = np.repeat(np.arange(len(begins)), np.diff(starts))
        points = lift[owners] - of_levels
        return _Keys(of_levels, lift, None), Levels(starts, points, counts, np.cumsum(counts))

    def _counted_by_ordinals(self) -> tuple[_Keys, Levels]:
        """The same for points too far apart for 63 bits: by the places of the distinct ones."""
        distinct = np.unique(self.points)
        lift = np.arange(len(self.boards)) * len(distinct) + len(distinct) - 1
        keys = np.repeat(lift, self.sizes) - np.searchsorted(distinct, self.points)
        keys.sort()
        of_levels, counts = _runs(keys)
        owners = of_levels // len(distinct)
        points = distinct[lift[owners] - of_levels]
        starts = np.searchsorted(owners, np.arange(len(self.boards) + 1))
        return _Keys(of_levels, lift, distinct), Levels(starts, points, counts, np.cumsum(counts))


def rank(boards: Int32, members: Int64, points: Int64, method: RankMethod) -> Ranking:
    """Rank every board's members by points, highest first.

    The three arrays have one element per (board, student), members ascending and with them the
    boards and, inside a board, the student ids: that order breaks ties.
    """
    return Ranking(boards, members, points, method)


@dataclass(frozen=True)
class _Keys:
    """The numbers of (board, points): `of_levels` int64[L] ascending, `lift` int64[B].

    `distinct`: where points are counted by their place among these.
    """

    of_levels: Int64
    lift: Int64
    distinct: Int64 | None

    @classmethod
    def none(cls) -> _Keys:
        return cls(_NOTHING, _NOTHING, None)

    def of(self, owners: Int64, points: Int64) -> Int64:
        """The key of each points on a board by its position."""
        if self.distinct is not None:
            points = np.searchsorted(self.distinct, points)
        return self.lift[owners] - points


def opens(*columns: Int64 | Int32) -> NDArray[np.bool_]:
    """Where a run of equal rows begins."""
    begins = np.ones(len(columns[0]), dtype=bool)
    begins[1:] = False
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    return begins


def _order(owners: Int64, points: Int64) -> Int64:
    """The permutation that sorts by board, points descending, position; boards ascend already."""
    count = len(owners)
    if count == 0:
        return _NOTHING
    most = int(points.max())
    position_bits = count.bit_length()
    points_bits = (most - int(points.min())).bit_length()
    if int(owners[-1]).bit_length() + points_bits + position_bits > 63:
        # Descending without negation, which the least int64 does not survive.
        return np.lexsort((np.bitwise_not(points), owners))
    # One integer a row, board | most - points | position, sorts faster than any list of columns.
    packed = owners << points_bits
    packed |= most - points
    packed <<= position_bits
    packed |= np.arange(count)
    packed.sort()
    packed &= (1 << position_bits) - 1
    return packed


def _sort_by_counting(levels: Int32) -> Int64:
    """The permutation that sorts levels (0 or more), equal ones by position, in linear time.

    NumPy's stable sort counts where numbers have 16 bits: the low ones first, then the high ones.
    """
    order: Int64 = np.argsort((levels & 0xFFFF).astype(np.uint16), kind="stable")
    if len(levels) and int(levels.max()) >> 16:
        high = (levels >> 16).astype(np.uint16)[order]
        order = order[np.argsort(high, kind="stable")]
    return order


def _runs(ascending: Int64) -> tuple[Int64, Int64]:
    """The distinct values, and how often each is there."""
    begins = np.flatnonzero(opens(ascending))
    return ascending[begins], np.diff(np.append(begins, len(ascending)))


def _offsets(counts: Int64) -> Int64:
    """int64[n + 1]: where each of n groups begins, and the end."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


_NOTHING: Int64 = np.empty(0, np.int64)
_NOBODY = Top(np.zeros(1, np.int64), _NOTHING, _NOTHING, np.empty(0, np.int32))
