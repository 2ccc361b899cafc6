"""The small kernels by themselves, at several sizes: pytest-benchmark.

    make benchmark-kernels
    .venv/bin/pytest benchmarks/kernels --benchmark-only --benchmark-group-by=func -k "1000000"

A size is a number of ranked students and the students of a board; `make test` does not collect
this directory. Each kernel also says that it did what it is for, so that no time is of nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lb_pipelines.core import distribution, json_lists
from lb_pipelines.core.correlation import tau_b
from lb_pipelines.core.ranking import Int32, Int64, Levels, rank
from lb_pipelines.core.sums import RunningSums, Sums, boards_of, pair_codes, students_of
from lb_pipelines.core.words import RankMethod

SIZES = [(10_000, 100), (100_000, 500), (1_000_000, 500), (1_000_000, 5_000)]
TOP = 100


@dataclass(frozen=True)
class Input:
    """Boards of equal size, members ascending, points as a month's sums are: many ties."""

    boards: Int32
    codes: Int64
    points: Int64


@pytest.fixture(params=SIZES, ids=[f"{rows}-rows-{board}-a-board" for rows, board in SIZES])
def many(request: pytest.FixtureRequest) -> Input:
    rows, board = request.param
    chance = np.random.default_rng(1)
    boards = np.repeat(np.arange(rows // board, dtype=np.int32), board)
    students = np.tile(np.arange(board, dtype=np.int32) * 7, rows // board)
    points = 5 * chance.poisson(40, size=rows).astype(np.int64)
    return Input(boards, pair_codes(boards, students), points)


def test_rank(benchmark: BenchmarkFixture, many: Input) -> None:
    def levels() -> Levels:
        # Counting is put off until it is asked for.
        return rank(many.boards, many.codes, many.points, RankMethod.COMPETITION).levels

    assert benchmark(levels).counts.sum() == len(many.codes)


def test_top(benchmark: BenchmarkFixture, many: Input) -> None:
    ranking = rank(many.boards, many.codes, many.points, RankMethod.COMPETITION)
    assert ranking.levels
    top = benchmark(ranking.top, TOP)
    assert (top.ranks[top.offsets[:-1]] == 1).all()


def test_find_previous_ranks(benchmark: BenchmarkFixture, many: Input) -> None:
    now = rank(many.boards, many.codes, many.points, RankMethod.COMPETITION)
    members = now.top(TOP).members

    def find() -> Int32:
        # A new ranking each time: it keeps its levels.
        then = rank(many.boards, many.codes, many.points[::-1].copy(), RankMethod.COMPETITION)
        return then.find(members)[0]

    assert (benchmark(find) > 0).all()


def test_pack_distributions(benchmark: BenchmarkFixture, many: Input) -> None:
    ranking = rank(many.boards, many.codes, many.points, RankMethod.COMPETITION)
    packed = benchmark(distribution.pack_all, ranking)
    assert distribution.unpack(packed[0]).ranked == ranking.sizes[0]


def test_json_lists(benchmark: BenchmarkFixture, many: Input) -> None:
    ranking = rank(many.boards, many.codes, many.points, RankMethod.COMPETITION)
    top = ranking.top(TOP)
    ids = json_lists.quoted(pa.array([f"s{n:06d}" for n in range(50_000)]))
    students = students_of(top.members)

    def texts() -> list[bytes]:
        members = {
            "rank": json_lists.numbers(top.ranks),
            "studentId": ids.take(pa.array(students)),
            "points": json_lists.numbers(top.points),
            "previousRank": json_lists.numbers(top.ranks, null_where=students == 0),
        }
        return json_lists.lists(json_lists.objects(members), top.offsets)

    assert len(benchmark(texts)) == len(ranking.boards)


def test_window_sums(benchmark: BenchmarkFixture, many: Input) -> None:
    """A day added to running sums, then the points since a mark: a weekly window."""
    chance = np.random.default_rng(2)
    count = len(many.codes)
    at = np.sort(chance.choice(count, size=count // 4, replace=False))
    ones = np.ones(count, np.int64)
    total = Sums(many.codes, many.points, ones)
    day = Sums(many.codes[at], many.points[at], ones[at])

    def window() -> Int64:
        sums = RunningSums()
        sums.admit([total, day])
        sums.restart(total)
        sums.mark("week")
        sums.add(day)
        mark = sums.marked("week")
        assert mark is not None
        since = np.flatnonzero(sums.events > mark.events)
        return sums.points[since] - mark.points[since]

    assert len(benchmark(window)) == len(at)


def test_group_events(benchmark: BenchmarkFixture, many: Input) -> None:
    """Events in any order to sums by (board, student)."""
    order = np.random.default_rng(3).permutation(len(many.codes))
    codes, points = many.codes[order], many.points[order]
    sums = benchmark(Sums.of, codes, points, np.ones(len(codes), np.int64))
    assert (boards_of(sums.codes) == many.boards).all()


def test_tau_b(benchmark: BenchmarkFixture, many: Input) -> None:
    """Rank correlation of the top of every board with other ranks."""
    ranking = rank(many.boards, many.codes, many.points, RankMethod.COMPETITION)
    top = ranking.top(TOP)
    ranks = top.ranks
    other = np.random.default_rng(4).permutation(ranks)
    assert len(benchmark(tau_b, ranks, other, top.offsets)) == len(ranking.boards)
