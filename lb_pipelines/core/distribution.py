"""The distribution of points of all ranked students of a board, packed.

Distinct points from high to low with the number of students at each. From it and a student's own
points follow the exact rank and percentile of anybody, and from an exact rank the points, without
scanning the board.

Format: a sequence of unsigned LEB128 integers: format version (1), number of distinct points n,
the highest points (zigzag), n - 1 differences between neighbours, n counts. Differences and counts
are small, so most take one byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lb_pipelines.core.ranking import Int64, Ranking
from lb_pipelines.core.words import RankMethod

VERSION = 1


@dataclass(frozen=True)
class Distribution:
    """`points` int64[n] strictly descending, `counts` int64[n], each at least 1."""

    points: Int64
    counts: Int64

    @cached_property
    def _above(self) -> Int64:
        """int64[n + 1]: students with more points than each level, then all of them."""
        return np.concatenate(([0], np.cumsum(self.counts)))

    @cached_property
    def _falling(self) -> Int64:
        """The levels in an order that can be searched."""
        return -self.points

    @property
    def ranked(self) -> int:
        """How many students are ranked."""
        return int(self._above[-1])

    def rank_of(self, points: int, method: RankMethod = RankMethod.COMPETITION) -> int:
        """The rank that `points` has or would have; for ORDINAL the first place of its tie."""
        level = int(np.searchsorted(self._falling, -points, side="left"))
        return level + 1 if method is RankMethod.DENSE else int(self._above[level]) + 1

    def count_at(self, points: int) -> int:
        """How many have exactly these points."""
        level = int(np.searchsorted(self._falling, -points, side="left"))
        there = level < len(self.points) and int(self.points[level]) == points
        return int(self.counts[level]) if there else 0

    def holds(self, points: int) -> bool:
        """Whether somebody ranked has exactly these points."""
        return self.count_at(points) > 0

    def points_at(self, rank: int, method: RankMethod = RankMethod.COMPETITION) -> int:
        """The points of whoever holds `rank`; raises ValueError where nobody can."""
        if method is RankMethod.DENSE:
            level = rank - 1
        else:
            level = int(np.searchsorted(self._above, rank, side="left")) - 1
        if not 0 <= level < len(self.points):
            raise ValueError(f"nobody holds rank {rank} among {self.ranked}")
        return int(self.points[level])

    def percentile_of(self, points: int) -> float:
        """Share (0 to 100) of the ranked students who have at most `points`."""
        above = int(self._above[np.searchsorted(self._falling, -points, side="left")])
        return 100.0 * (self.ranked - above) / self.ranked if self.ranked else 100.0


def pack_all(ranking: Ranking) -> list[bytes]:
    """The packed distribution of every board of a ranking, in the order of its boards."""
    if not len(ranking.boards):
        return []
    first_level, levels, counts = (
        ranking.levels.starts,
        ranking.levels.points,
        ranking.levels.counts,
    )
    distinct = np.diff(first_level)

    # A board's integers: version, n, first, n - 1 differences, n counts: 2n + 2 of them.
    lengths = 2 * distinct + 2
    ends = np.cumsum(lengths)
    begins = ends - lengths
    numbers = np.empty(int(ends[-1]), dtype=np.uint64)
    numbers[begins] = VERSION
    numbers[begins + 1] = distinct
    within = np.arange(len(levels)) - np.repeat(first_level[:-1], distinct)
    differences = np.empty(len(levels), dtype=np.int64)
    differences[1:] = levels[:-1] - levels[1:]
    highest = levels[first_level[:-1]]
    differences[first_level[:-1]] = (highest << 1) ^ (highest >> 63)
    numbers[np.repeat(begins + 2, distinct) + within] = differences.view(np.uint64)
    numbers[np.repeat(begins + 2 + distinct, distinct) + within] = counts
    packed, byte_ends = _leb128(numbers)
    cuts = np.concatenate(([0], byte_ends[ends - 1])).tolist()
    data = packed.tobytes()
    return [data[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


def unpack(data: bytes) -> Distribution:
    """Read a packed distribution; raises ValueError for anything else."""
    raw = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if not len(raw) or raw[-1] >= 0x80:
        raise ValueError("not a packed distribution: cut off inside a number")
    begins = np.concatenate(([0], ends[:-1] + 1))
    numbers = np.zeros(len(ends), dtype=np.uint64)
    lengths = ends - begins + 1
    for byte in range(int(lengths.max(initial=0))):
        longer = lengths > byte
        part = (raw[begins[longer] + byte] & 0x7F).astype(np.uint64)
        numbers[longer] |= part << np.uint64(7 * byte)
    if len(numbers) < 2 or numbers[0] != VERSION or len(numbers) != 2 * int(numbers[1]) + 2:
        raise ValueError("not a packed distribution of version 1")
    distinct = int(numbers[1])
    differences = numbers[2 : 2 + distinct].view(np.int64).copy()
    if distinct:
        zigzag = int(numbers[2])
        differences[0] = (zigzag >> 1) ^ -(zigzag & 1)
        differences[1:] *= -1
    return Distribution(np.cumsum(differences), numbers[2 + distinct :].astype(np.int64))


def _leb128(numbers: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], Int64]:
    """All numbers as one run of bytes, and the end of each in it."""
    lengths = np.ones(len(numbers), dtype=np.int64)
    for bits in range(7, 64, 7):
        longer = numbers >= np.uint64(1 << bits)
        if not longer.any():
            break
        lengths += longer
    ends = np.cumsum(lengths)
    begins = ends - lengths
    out = np.empty(int(ends[-1]), dtype=np.uint8)
    for byte in range(int(lengths.max())):
        has = lengths > byte
        part = (numbers[has] >> np.uint64(7 * byte)).astype(np.uint8) & 0x7F
        part[lengths[has] > byte + 1] |= 0x80
        out[begins[has] + byte] = part
    return out, ends
