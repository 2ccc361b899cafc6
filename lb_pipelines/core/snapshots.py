"""Snapshots of ranked boards: entries, statistics and distribution, ready to be stored.

Everything here is a pure function of the boards of a day and of the institution's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from lb_pipelines.core import distribution, json_lists
from lb_pipelines.core.ranking import Float64, Int64, Ranking
from lb_pipelines.core.sums import students_of
from lb_pipelines.core.windows import Boards
from lb_pipelines.core.words import Granularity


@dataclass(frozen=True)
class Statistics:
    """Over all ranked students of each board; every array has one element per board.

    `median` is the middle value (the mean of the middle two), `p90` the 90th percentile with
    linear interpolation (PostgreSQL's percentile_cont, NumPy's default); `ties_cut` counts the
    students who have the points of the last entry but lie beyond the top N.
    """

    ranked: Int64
    sum: Int64
    mean: Float64
    median: Float64
    p90: Float64
    max: Int64
    ties_cut: Int64


@dataclass(frozen=True)
class SnapshotRows:
    """Rows to be stored, one per board: `boards` are ordinals, JSON columns are UTF-8 text.

    `ranked` int64[boards]: students ranked on each.
    """

    granularities: Sequence[Granularity]
    boards: Sequence[int]
    period_start: np.ndarray[tuple[int], np.dtype[np.datetime64]]
    entries: Sequence[bytes]
    statistics: Sequence[bytes]
    distribution: Sequence[bytes]
    content_hash: Sequence[bytes]
    ranked: Int64

    def __len__(self) -> int:
        return len(self.boards)


def statistics(ranking: Ranking, limit: int | Int64) -> Statistics:
    """The statistics of every board of a ranking whose snapshots hold the top `limit`, or int64[B]
    of each.
    """
    starts, sizes, levels = ranking.starts[:-1], ranking.sizes, ranking.levels
    sums = ranking.sums if len(starts) else np.empty(0, np.int64)

    def from_below(index: Int64) -> Int64:
        """The points at an ascending index of each board."""
        return levels.points[np.searchsorted(levels.through, starts + sizes - index, side="left")]

    exact = 0.9 * (sizes - 1)
    below = np.floor(exact).astype(np.int64)
    low, high = from_below(below), from_below(np.minimum(below + 1, sizes - 1))
    shown = np.minimum(sizes, limit)
    last = np.searchsorted(levels.through, starts + shown, side="left")
    return Statistics(
        ranked=sizes,
        sum=sums,
        mean=sums / np.maximum(sizes, 1),
        median=(from_below((sizes - 1) // 2) + from_below(sizes // 2)) / 2,
        p90=low + (exact - below) * (high - low),
        max=levels.points[levels.starts[:-1]],
        ties_cut=levels.through[last] - starts - shown,
    )


def snapshot_rows(
    boards: Boards,
    baseline: Boards | None,
    *,
    limits: Mapping[Granularity, int],
    enrolled: Int64,
    student_ids: pa.Array,
) -> SnapshotRows:
    """The rows of these boards, which hold the top N by `limits`.

    `enrolled` int64 by board ordinal; `student_ids`: the JSON literals of the ids by student
    ordinal. `previousRank` is exact for whoever was ranked on the baseline's day, else null.
    """
    ranking, ordinals = boards.ranking, boards.ordinals
    limit = boards.of_each(limits)
    top = ranking.top(limit)
    previous = np.zeros(len(top.members), np.int32)
    if baseline is not None:
        previous, _ = baseline.ranking.find(top.members)
    entries = json_lists.lists(
        json_lists.objects(
            {
                "rank": json_lists.numbers(top.ranks),
                "studentId": student_ids.take(pa.array(students_of(top.members))),
                "points": json_lists.numbers(top.points),
                "previousRank": json_lists.numbers(previous, null_where=previous == 0),
            }
        ),
        top.offsets,
    )
    figures = _statistics_json(statistics(ranking, limit), enrolled[ordinals])
    packed = distribution.pack_all(ranking)
    return SnapshotRows(
        granularities=boards.granularities,
        boards=ordinals.tolist(),
        period_start=boards.period_start,
        entries=entries,
        statistics=figures,
        distribution=packed,
        content_hash=[
            content_hash(start, *parts)
            for start, *parts in zip(
                boards.period_start.astype(str).tolist(), entries, figures, packed, strict=True
            )
        ],
        ranked=ranking.sizes,
    )


def content_hash(period_start: str, *parts: bytes) -> bytes:
    """BLAKE2b-128 over the parts, each preceded by its length so that none can run into another."""
    digest = blake2b(period_start.encode(), digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _statistics_json(figures: Statistics, enrolled: Int64) -> list[bytes]:
    columns = (
        figures.ranked,
        enrolled,
        figures.sum,
        figures.mean,
        figures.median,
        figures.p90,
        figures.max,
        figures.ties_cut,
    )
    return [
        (
            f'"ranked":{ranked},"enrolled":{of},"sum":{total},"mean":{mean!r},'
            f'"median":{median!r},"p90":{p90!r},"max":{most},"tiesCut":{cut}'
        ).encode()
        for ranked, of, total, mean, median, p90, most, cut in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]
