"""Ranking of many boards at once: the kernel.

Input is a flat list of (board, student, points) in ascending (board, student) order; output the
same rows in rank order with their ranks, board after board. No Python object per row: a full
day ranks tens of millions of rows.

A sort of one packed integer a row, `board | most - points | position`, orders boards, then points
from high to low, then student ids, in a single pass over plain int64; where the three parts do
not fit in 63 bits a three-key sort gives the same order.
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


@dataclass(frozen=True)
class Ranking:
    """All ranked students of a set of boards, board after board, best first.

    `boards` int32[B]: the boards in ascending order, none of them empty.
    `starts` int64[B + 1]: board i's rows are `starts[i]:starts[i + 1]`.
    `members` int64[R]: the pair code of each row (`core.sums`);
    `points` int64[R], `ranks` int32[R].
    `order` int64[R]: which row of the input each row was.
    """

    boards: Int32
    starts: Int64
    members: Int64
    points: Int64
    ranks: Int32
    order: Int64

    @property
    def sizes(self) -> Int64:
        """int64[B]: ranked students of each board."""
        return np.diff(self.starts)

    def top(self, limit: int) -> tuple[Int64, Int64]:
        """Rows of the top `limit` of every board, and int64[B + 1] offsets into them."""
        counts = np.minimum(self.sizes, limit)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        return np.repeat(self.starts[:-1], counts) + within, offsets

    def find(self, members: Int64) -> tuple[Int32, Int64]:
        """Rank and points of each of these members; 0 and 0 for whoever is not ranked."""
        if not len(self.members):
            return np.zeros(len(members), np.int32), np.zeros(len(members), np.int64)
        codes, ranks, points = self._by_member
        at = np.minimum(np.searchsorted(codes, members), len(codes) - 1)
        known = codes[at] == members
        return np.where(known, ranks[at], 0).astype(np.int32), np.where(known, points[at], 0)

    @cached_property
    def _by_member(self) -> tuple[Int64, Int32, Int64]:
        codes, ranks, points = map(np.empty_like, (self.members, self.ranks, self.points))
        codes[self.order], ranks[self.order], points[self.order] = (
            self.members,
            self.ranks,
            self.points,
        )
        return codes, ranks, points


def rank(boards: Int32, members: Int64, points: Int64, method: RankMethod) -> Ranking:
    """Rank every board's members by points, highest first.

    The three arrays have one element per (board, student), members ascending and with them the
    boards and, inside a board, the student ids: that order breaks ties.
    """
    order = _order(boards, points)
    boards, members, points = boards[order], members[order], points[order]
    count = len(order)
    position = np.arange(count)
    opens_board = np.ones(count, dtype=bool)
    opens_board[1:] = boards[1:] != boards[:-1]
    opens_level = opens_board.copy()
    opens_level[1:] |= points[1:] != points[:-1]
    starts = np.flatnonzero(opens_board)
    board_start = np.repeat(starts, np.diff(np.append(starts, count)))
    match method:
        case RankMethod.COMPETITION:
            level_start = np.maximum.accumulate(np.where(opens_level, position, 0))
            ranks = level_start - board_start + 1
        case RankMethod.DENSE:
            levels = np.cumsum(opens_level)
            ranks = levels - levels[board_start] + 1 if count else levels
        case RankMethod.ORDINAL:
            ranks = position - board_start + 1
    return Ranking(
        boards=boards[starts],
        starts=np.append(starts, count),
        members=members,
        points=points,
        ranks=ranks.astype(np.int32),
        order=order,
    )


def _order(boards: Int32, points: Int64) -> Int64:
    """The permutation that sorts by board, points descending, position."""
    count = len(boards)
    if count == 0:
        return np.empty(0, dtype=np.int64)
    most = int(points.max())
    position_bits = count.bit_length()
    points_bits = (most - int(points.min())).bit_length()
    board_bits = int(boards[-1]).bit_length()
    if board_bits + points_bits + position_bits > 63:
        # Descending without negation, which the least int64 does not survive.
        return np.lexsort((np.arange(count), np.bitwise_not(points), boards))
    packed = boards.astype(np.int64) << points_bits
    packed |= most - points
    packed <<= position_bits
    packed |= np.arange(count)
    packed.sort()
    packed &= (1 << position_bits) - 1
    return packed
