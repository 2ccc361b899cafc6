"""Trends: a day's boards against their baselines.

What moved is told of three sets of students: entrants, leavers and the share that stayed of the top
N; tau-b of the entries that were ranked then; the biggest climbers and fallers, and Spearman's rho,
of all students who are ranked both now and then.

Signs: a change is now minus then, except `rankChange`, which is then minus now, so that climbing
is positive. What had no value then has no change: null, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from lb_pipelines.core import json_lists
from lb_pipelines.core.correlation import spearman_rho, tau_b
from lb_pipelines.core.rank_changes import RankChanges, compare_rankings, find_biggest_moves
from lb_pipelines.core.ranking import Float64, Int64, Ranking, Top, rank
from lb_pipelines.core.snapshots import statistics
from lb_pipelines.core.sums import boards_of, students_of
from lb_pipelines.core.windows import Boards
from lb_pipelines.core.words import Granularity, RankMethod

# How many of the biggest climbers and fallers a trend names.
MOVERS = 5


@dataclass(frozen=True)
class TrendRows:
    """Rows to be stored, one per board: `boards` are ordinals, JSON columns are UTF-8 text, NaN
    stands for null.

    `retained_share`: of the baseline's top N, the share that is in today's. `rank_correlation`:
    tau-b between the ranks then and now of today's entries that were ranked then. `spearman_rho`:
    of all students who are ranked both then and now. `leaders`: student ordinals of the first
    entries.
    """

    granularities: Sequence[Granularity]
    boards: Sequence[int]
    ranked: Int64
    ranked_change: Int64
    mean: Float64
    mean_change: Float64
    median: Float64
    median_change: Float64
    retained_share: Float64
    rank_correlation: Float64
    spearman_rho: Float64
    leaders: Sequence[int]
    movement: Sequence[bytes]
    students: Sequence[bytes]
    content_hash: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.boards)


def trend_rows(
    boards: Boards,
    baseline: Boards | None,
    *,
    limits: Mapping[Granularity, int],
    student_ids: pa.Array,
) -> TrendRows:
    """The trends of these boards, whose snapshots hold the top N by `limits`; `student_ids` are
    JSON literals by ordinal.
    """
    baseline = baseline or _nobody()
    now, then = boards.ranking, baseline.ranking
    limit, limit_then = boards.of_each(limits), baseline.of_each(limits)
    top = now.top(limit)
    offsets, members, ranks, points = top.offsets, top.members, top.ranks, top.points
    owners = np.repeat(np.arange(len(now.boards)), np.diff(offsets))
    previous, points_then = then.find(members)
    known = previous > 0

    figures, figures_then = statistics(now, limit), statistics(then, limit_then)
    at = np.searchsorted(then.boards, now.boards)
    at[at == len(then.boards)] = 0
    had = then.boards[at] == now.boards if len(then.boards) else np.zeros(len(at), dtype=bool)

    def matched(values: Int64 | Float64) -> Float64:
        return np.where(had, values[at] if len(values) else 0, np.nan).astype(np.float64)

    # Three are named however few a board shows.
    top3 = top.first(3) if (limit >= 3).all() else now.top(3)
    changes = compare_rankings(now, then)
    moves = _Moves(now, top, top3, then.top(limit_then), owners, changes)
    top_then = np.where(had, np.minimum(matched(figures_then.ranked), limit), np.nan)
    stayed = np.bincount(owners[moves.stayed], minlength=len(now.boards))
    known_offsets = np.concatenate(
        ([0], np.cumsum(np.bincount(owners[known], minlength=len(now.boards))))
    )
    movement = moves.as_json(student_ids)
    students = json_lists.lists(
        json_lists.objects(
            {
                "studentId": student_ids.take(pa.array(students_of(members))),
                "rank": json_lists.numbers(ranks),
                "previousRank": json_lists.numbers(previous, null_where=~known),
                "rankChange": json_lists.numbers(previous - ranks, null_where=~known),
                "points": json_lists.numbers(points),
                "pointsChange": json_lists.numbers(points - points_then, null_where=~known),
            }
        ),
        offsets,
    )
    columns = (
        figures.ranked,
        figures.ranked - np.where(had, matched(figures_then.ranked), 0).astype(np.int64),
        figures.mean,
        figures.mean - matched(figures_then.mean),
        figures.median,
        figures.median - matched(figures_then.median),
        stayed / top_then,
        tau_b(ranks[known], previous[known], known_offsets),
        spearman_rho(changes.levels, changes.previous_levels, changes.offsets),
    )
    numbers = np.stack([column.astype(np.float64) for column in columns], axis=1)
    # What is undefined is a NaN of either sign, as the processor has it; null in the table.
    numbers[np.isnan(numbers)] = np.nan
    return TrendRows(
        boards.granularities,
        boards.ordinals.tolist(),
        *columns,
        leaders=students_of(members[offsets[:-1]]).tolist(),
        movement=movement,
        students=students,
        content_hash=[
            content_hash(*parts) for parts in zip(numbers, movement, students, strict=True)
        ],
    )


def content_hash(figures: Float64, movement: bytes, students: bytes) -> bytes:
    """BLAKE2b-128 over a trend's figures, in the order of their columns, and its JSON texts."""
    return blake2b(b"\0".join((figures.tobytes(), movement, students)), digest_size=16).digest()


class _Moves:
    """Who came into, left, climbed and fell on each board."""

    def __init__(
        self,
        now: Ranking,
        top: Top,
        top3: Top,
        top_then: Top,
        owners: Int64,
        changes: RankChanges,
    ) -> None:
        self._now, self._top3, self._changes = now, top3, changes
        members, members_then = top.members, top_then.members
        self.stayed = np.isin(members, members_then)
        boards_then = boards_of(members_then)
        at = np.searchsorted(now.boards, boards_then)
        at[at == len(now.boards)] = 0
        gone = ~np.isin(members_then, members) & (now.boards[at] == boards_then)
        self._members, self._owners = members, owners
        self._leavers, self._leaver_owners = members_then[gone], at[gone]

    def as_json(self, student_ids: pa.Array) -> list[bytes]:
        """One `movement` object per board."""
        top3 = self._top3
        entrants = ~self.stayed
        parts = {
            "top3": json_lists.lists(
                json_lists.objects(
                    {
                        "rank": json_lists.numbers(top3.ranks),
                        "studentId": _ids(top3.members, student_ids),
                        "points": json_lists.numbers(top3.points),
                    }
                ),
                top3.offsets,
            ),
            "entrants": self._names(self._members[entrants], self._owners[entrants], student_ids),
            "leavers": self._names(self._leavers, self._leaver_owners, student_ids),
            "climbers": self._movers(1, student_ids),
            "fallers": self._movers(-1, student_ids),
        }
        names = [f'"{name}":'.encode() for name in parts]
        return [
            b"{" + b",".join(name + text for name, text in zip(names, texts, strict=True)) + b"}"
            for texts in zip(*parts.values(), strict=True)
        ]

    def _names(self, members: Int64, owners: Int64, student_ids: pa.Array) -> list[bytes]:
        return json_lists.lists(_ids(members, student_ids), self._offsets(owners))

    def _movers(self, direction: int, student_ids: pa.Array) -> list[bytes]:
        """The biggest moves up (1) or down (-1) of all who are ranked now and then."""
        changes = self._changes
        rows = find_biggest_moves(changes, direction, MOVERS)
        ranks, previous_ranks = changes.ranks[rows], changes.previous_ranks[rows]
        return json_lists.lists(
            json_lists.objects(
                {
                    "studentId": _ids(changes.pair_codes[rows], student_ids),
                    "rank": json_lists.numbers(ranks),
                    "previousRank": json_lists.numbers(previous_ranks),
                    "rankChange": json_lists.numbers(previous_ranks - ranks),
                }
            ),
            self._offsets(np.searchsorted(changes.offsets, rows, side="right") - 1),
        )

    def _offsets(self, owners: Int64) -> Int64:
        counts = np.bincount(owners, minlength=len(self._now.boards))
        return np.concatenate(([0], np.cumsum(counts)))


def _ids(members: Int64, student_ids: pa.Array) -> pa.Array:
    return student_ids.take(pa.array(students_of(members)))


def _nobody() -> Boards:
    nothing = np.empty(0, np.int64)
    ranking = rank(nothing.astype(np.int32), nothing, nothing, RankMethod.COMPETITION)
    return Boards(np.empty(0, "datetime64[D]"), ranking)
