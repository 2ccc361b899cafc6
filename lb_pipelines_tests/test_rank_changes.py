"""Rank changes of all who are ranked both times: who moved most, Spearman's rho, and their cost."""

from __future__ import annotations

from math import ceil, sqrt

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lb_pipelines.core import correlation, rank_changes
from lb_pipelines.core.correlation import spearman_rho
from lb_pipelines.core.rank_changes import compare_rankings, find_biggest_moves
from lb_pipelines.core.ranking import Ranking
from lb_pipelines.core.sums import boards_of, students_of
from lb_pipelines.core.words import RankMethod
from lb_pipelines_tests import oracle
from lb_pipelines_tests.test_ranking import BOARDS, METHODS, naive, ranked

POINTS = st.dictionaries(st.integers(0, 12), st.integers(0, 4), min_size=1, max_size=13)
TWICE = st.dictionaries(st.integers(0, 3), st.tuples(POINTS, POINTS), max_size=4)


def both(boards: dict[int, tuple[dict[int, int], dict[int, int]]]) -> list[dict[int, dict]]:
    return [{board: times[side] for board, times in boards.items()} for side in (0, 1)]


@given(TWICE, METHODS, st.integers(1, 5))
@example({0: ({s: s for s in range(13)}, {s: -s for s in range(13)})}, RankMethod.COMPETITION, 5)
def test_changes_and_biggest_moves_equal_the_naive_ones(
    boards: dict[int, tuple[dict[int, int], dict[int, int]]], method: RankMethod, most: int
) -> None:
    now, then = both(boards)
    now.pop(1, None)
    then.pop(2, None)
    changes = compare_rankings(ranked(now, method), ranked(then, method))
    ranks, ranks_then = (
        {(b, s): rank for b in of for rank, s, _ in naive(of[b], method)} for of in (now, then)
    )
    common = sorted(pair for pair in ranks if pair in ranks_then)
    pairs = list(
        zip(
            boards_of(changes.pair_codes).tolist(),
            students_of(changes.pair_codes).tolist(),
            strict=True,
        )
    )
    assert pairs == common
    assert changes.ranks.tolist() == [ranks[pair] for pair in common]
    assert changes.previous_ranks.tolist() == [ranks_then[pair] for pair in common]
    assert changes.offsets.tolist() == [
        sum(board < of for board, _ in common) for of in (*sorted(now), 9)
    ]
    for direction in (1, -1):
        gains = {pair: direction * (ranks_then[pair] - ranks[pair]) for pair in common}
        want = []
        for board in sorted(now):
            moved = [pair for pair in common if pair[0] == board and gains[pair] > 0]
            want += sorted(moved, key=lambda pair: (-gains[pair], ranks[pair], pair[1]))[:most]
        found = find_biggest_moves(changes, direction, most)
        assert [pairs[row] for row in found.tolist()] == want

    rhos = spearman_rho(changes.levels, changes.previous_levels, changes.offsets)
    for board, rho in zip(sorted(now), rhos.tolist(), strict=True):
        of_board = [
            (-now[board][s], -then[board][s]) for b, s in common if b == board and board in then
        ]
        expected = oracle.spearman_rho(of_board)
        if expected is None:
            assert np.isnan(rho)
        else:
            assert rho == pytest.approx(expected, abs=1e-12)


@given(BOARDS, METHODS)
def test_levels_and_ranks_of_rows_are_those_that_are_found_one_by_one(
    boards: dict[int, dict[int, int]], method: RankMethod
) -> None:
    """Also where points are too far apart to be counted."""
    ranking = ranked(boards, method)
    levels = ranking.find_row_levels()
    assert ranking.levels.points[levels].tolist() == ranking.points.tolist()
    rows = np.arange(len(ranking))[::-1]
    ranks, _ = ranking.find(ranking.members[rows])
    assert ranking.rank_rows(rows, levels[rows]).tolist() == ranks.tolist()


def test_ordinal_ranks_of_more_levels_than_16_bits() -> None:
    chance = np.random.default_rng(1)
    points = dict(enumerate(chance.permutation(150_000).tolist()))
    points |= {150_000 + s: 7 for s in range(5)}
    ranking = ranked({0: points}, RankMethod.ORDINAL)
    rows = np.arange(len(ranking))
    ranks = ranking.rank_rows(rows, ranking.find_row_levels())
    assert ranks.tolist() == [
        rank for _, rank in sorted((s, rank) for rank, s, _ in _ordinal(points))
    ]


def _ordinal(points: dict[int, int]) -> list[tuple[int, int, int]]:
    order = sorted(points, key=lambda s: (-points[s], s))
    return [(place, s, points[s]) for place, s in enumerate(order, start=1)]


def test_equal_rankings_give_exactly_1_and_reversed_ones_minus_1() -> None:
    levels = np.arange(1_001, dtype=np.int32)
    offsets = np.array([0, 0, 1, 1_001], np.int64)
    assert spearman_rho(levels, levels, offsets).tolist()[2] == 1.0
    reverse = np.concatenate(([0], levels[:0:-1])).astype(np.int32)
    rho = spearman_rho(levels, reverse, offsets)
    assert np.isnan(rho[:2]).all()
    assert rho[2] == -1.0


def test_sums_of_products_beyond_63_bits_are_exact() -> None:
    most = np.full(5, 2**31 - 1)
    begins = np.array([0, 4])
    found = correlation._sum_products(most, -most, begins)
    assert found.tolist() == [-float(4 * (2**31 - 1) ** 2), -float((2**31 - 1) ** 2)]
    assert 4 * (2**31 - 1) ** 2 > 2**63 - 1


@pytest.mark.parametrize("shape", ["random", "rising", "falling", "equal", "two"])
def test_few_candidates_are_left_to_be_sorted_however_moves_are_spread(shape: str) -> None:
    """Some sqrt(n) of n, not n: that is what makes finding the biggest moves linear."""
    sizes = [10_000, 1, 40_000, 0, 3]
    total, offsets = sum(sizes), np.concatenate(([0], np.cumsum(sizes)))
    keys = {
        "random": np.random.default_rng(3).permutation(total) + 1,
        "rising": np.arange(1, total + 1),
        "falling": np.arange(total, 0, -1),
        "equal": np.full(total, 9),
        "two": np.arange(total) // 20_000 + 1,
    }[shape].astype(np.int64)
    most = 5
    found = rank_changes._find_largest(keys, offsets, most)
    groups = np.searchsorted(offsets, found, side="right") - 1
    for group, (begin, size) in enumerate(zip(offsets, sizes, strict=False)):
        of_group = found[groups == group]
        assert len(of_group) <= most * (ceil(sqrt(size)) + 1)
        order = np.argsort(-keys[begin : begin + size], kind="stable")[:most] + begin
        assert set(order.tolist()) <= set(of_group.tolist())


@pytest.mark.parametrize("method", [RankMethod.COMPETITION, RankMethod.ORDINAL])
def test_no_sort_of_all_who_are_ranked(method: RankMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing 60,000 students sorts none of them by comparisons: what is sorted stays small, but
    for the counting sort of 16 bits.
    """
    chance = np.random.default_rng(5)
    sides: list[Ranking] = [
        ranked({0: dict(enumerate(chance.integers(0, 500, 60_000).tolist()))}, method)
        for _ in range(2)
    ]
    for side in sides:
        assert side.levels
    sorted_sizes = []
    real = {name: getattr(np, name) for name in ("sort", "argsort", "lexsort", "partition")}

    def watch(name: str):
        def watched(values, *args, **kwargs):
            array = np.asarray(values)
            if array.dtype != np.uint16:
                sorted_sizes.append(array.shape[-1])
            return real[name](values, *args, **kwargs)

        return watched

    for name in real:
        monkeypatch.setattr(np, name, watch(name))
    changes = compare_rankings(*sides)
    rho = spearman_rho(changes.levels, changes.previous_levels, changes.offsets)
    assert len(find_biggest_moves(changes, 1, 5)) == 5
    assert abs(rho[0]) < 0.05
    assert sorted_sizes
    assert max(sorted_sizes) < 3_000
