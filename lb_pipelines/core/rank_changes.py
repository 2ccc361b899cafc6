"""Rank changes of all students who are ranked on the same boards at two times.

Both rankings list their students in the order of pair codes, so they are merged without sorting;
everything here is linear in the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lb_pipelines.core.ranking import Int32, Int64, Ranking


@dataclass(frozen=True)
class RankChanges:
    """The students who are ranked on a board both now and then, ascending by pair code.

    `offsets` int64[B + 1]: those of board i of the ranking of now are rows
    `offsets[i]:offsets[i + 1]`. `pair_codes` int64[C]; `ranks` and `previous_ranks` int32[C] by the
    institution's rank method; `levels` and `previous_levels` int32[C], which say who ties
    (`Ranking.levels` of each side).
    """

    offsets: Int64
    pair_codes: Int64
    ranks: Int32
    previous_ranks: Int32
    levels: Int32
    previous_levels: Int32


def compare_rankings(now: Ranking, then: Ranking) -> RankChanges:
    """Find the students who are ranked on the same board now and then."""
    rows, previous_rows = _match(now.members, then.members)
    levels = now.find_row_levels()[rows]
    previous_levels = then.find_row_levels()[previous_rows]
    return RankChanges(
        np.searchsorted(rows, now.starts),
        now.members[rows],
        now.rank_rows(rows, levels),
        then.rank_rows(previous_rows, previous_levels),
        levels,
        previous_levels,
    )


def _match(a: Int64, b: Int64) -> tuple[Int64, Int64]:
    """Where the codes that are in both stand in each; both ascend."""
    if len(a) > len(b):
        b_rows, a_rows = _match(b, a)
        return a_rows, b_rows
    if not len(b):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # The needles ascend too, so that what one search reads the next one finds in the cache.
    positions = np.searchsorted(b, a)
    np.minimum(positions, len(b) - 1, out=positions)
    rows = np.flatnonzero(b[positions] == a)
    return rows, positions[rows]


def find_biggest_moves(changes: RankChanges, direction: int, most: int) -> Int64:
    """int64[m]: rows of `changes` that moved most up (1) or down (-1), `most` of each board.

    Board after board, the biggest move first; of equal ones the better rank now, then the first
    by student id. Whoever has not moved that way is left out.
    """
    gains = changes.previous_ranks - changes.ranks
    if direction < 0:
        np.negative(gains, out=gains)
    moved = np.flatnonzero(gains > 0)
    # Bigger is bigger: the gain first, then the better rank. Both are below 2 ** 31.
    keys = gains[moved].astype(np.int64) << 31
    keys -= changes.ranks[moved]
    offsets = np.searchsorted(moved, changes.offsets)
    candidates = _find_largest(keys, offsets, most)
    boards = np.searchsorted(offsets, candidates, side="right") - 1
    # A stable sort, of few: in a tie the first by student id stays the first.
    order = np.lexsort((-keys[candidates], boards))
    boards = boards[order]
    begins = np.searchsorted(boards, boards)
    return moved[candidates[order[np.arange(len(order)) - begins < most]]]


def _find_largest(keys: Int64, offsets: Int64, most: int) -> Int64:
    """Positions, ascending, among which the `most` largest keys of every group are, equal ones by
    position; keys are above 0.

    A group of n is cut into some sqrt(n) chunks. Of the chunks' largest keys the one that comes
    at `most` is a threshold: `most` keys reach it, and what exceeds it is in the less than `most`
    chunks whose largest exceeds it. So O(sqrt(n)) are left of a group to be sorted, however its
    keys are spread.
    """
    sizes = np.diff(offsets)
    if not len(keys):
        return np.empty(0, np.int64)
    lengths = np.ceil(np.sqrt(np.maximum(sizes, 1))).astype(np.int64)
    chunks = -(-sizes // lengths)
    first_chunks = np.cumsum(chunks) - chunks
    places = np.arange(int(chunks.sum())) - np.repeat(first_chunks, chunks)
    begins = np.repeat(offsets[:-1], chunks) + places * np.repeat(lengths, chunks)
    largest = np.maximum.reduceat(keys, begins)
    groups = np.repeat(np.arange(len(sizes)), chunks)
    descending = largest[np.lexsort((-largest, groups))]
    thresholds = np.zeros(len(sizes), np.int64)
    enough = chunks >= most
    thresholds[enough] = descending[first_chunks[enough] + most - 1]

    reached = np.repeat(thresholds, sizes)
    selected = keys > reached
    # Of those who are equal to it, who may be many, the first ones are enough.
    equal = np.flatnonzero(keys == reached)
    groups_of_equal = np.searchsorted(offsets, equal, side="right") - 1
    firsts = np.searchsorted(groups_of_equal, groups_of_equal)
    selected[equal[np.arange(len(equal)) - firsts < most]] = True
    return np.flatnonzero(selected)
