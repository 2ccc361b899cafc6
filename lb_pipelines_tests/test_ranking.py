"""The kernels of a board: ranks, statistics, distributions, running sums, enrolment."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, timedelta
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lb_pipelines.core import json_lists
from lb_pipelines.core.distribution import Distribution, pack_all, unpack
from lb_pipelines.core.enrolment import Enrolment
from lb_pipelines.core.ranking import Ranking, rank
from lb_pipelines.core.snapshots import statistics
from lb_pipelines.core.sums import RunningSums, Sums, boards_of, pair_codes, students_of
from lb_pipelines.core.words import RankMethod
from lb_pipelines_tests import oracle

FEW = st.integers(-3, 3)
# Sums beyond float's and even beyond what fits into one packed sort key.
WIDE = st.one_of(FEW, st.integers(-(2**62), 2**62), st.sampled_from((-(2**63), 2**63 - 1)))
# {board: {student: points}}
BOARDS = st.dictionaries(
    st.one_of(st.integers(0, 5), st.just(2**31 - 1)),
    st.dictionaries(st.integers(0, 30), st.one_of(FEW, WIDE), min_size=1, max_size=25),
    max_size=4,
)
METHODS = st.sampled_from(RankMethod)


def ranked(boards: dict[int, dict[int, int]], method: RankMethod) -> Ranking:
    rows = sorted((b, s, points) for b, members in boards.items() for s, points in members.items())
    owners, students, points = (
        (np.array(c, np.int64) for c in zip(*rows, strict=True))
        if rows
        else (np.empty(0, np.int64),) * 3
    )
    codes = pair_codes(owners.astype(np.int32), students.astype(np.int32))
    return rank(boards_of(codes), codes, points, method)


def naive(members: dict[int, int], method: RankMethod) -> list[tuple[int, int, int]]:
    """(rank, student, points), best first."""
    order = sorted(members, key=lambda s: (-members[s], s))
    result = []
    for place, student in enumerate(order, start=1):
        better = [p for p in members.values() if p > members[student]]
        by = {"competition": len(better) + 1, "dense": len(set(better)) + 1, "ordinal": place}
        result.append((by[method], student, members[student]))
    return result


@given(BOARDS, METHODS)
def test_every_board_is_ranked_as_if_it_were_alone(
    boards: dict[int, dict[int, int]], method: RankMethod
) -> None:
    ranking = ranked(boards, method)
    assert ranking.boards.tolist() == sorted(boards)
    assert ranking.sizes.tolist() == [len(boards[b]) for b in sorted(boards)]
    everybody = ranking.top(30)
    for board, begin, end in zip(
        ranking.boards.tolist(), everybody.offsets[:-1], everybody.offsets[1:], strict=True
    ):
        found = list(
            zip(
                everybody.ranks[begin:end].tolist(),
                students_of(everybody.members[begin:end]).tolist(),
                everybody.points[begin:end].tolist(),
                strict=True,
            )
        )
        assert found == naive(boards[board], method)
        assert set(boards_of(everybody.members[begin:end]).tolist()) == {board}


def test_ties_share_a_rank_and_leave_a_gap_unless_told_otherwise() -> None:
    board = {0: {1: 9, 2: 5, 3: 5, 4: 1}}
    for method, ranks in (
        (RankMethod.COMPETITION, [1, 2, 2, 4]),
        (RankMethod.DENSE, [1, 2, 2, 3]),
        (RankMethod.ORDINAL, [1, 2, 3, 4]),
    ):
        assert ranked(board, method).top(4).ranks.tolist() == ranks


@given(BOARDS, METHODS, st.integers(1, 6))
def test_the_top_and_the_rank_of_anybody(
    boards: dict[int, dict[int, int]], method: RankMethod, limit: int
) -> None:
    ranking = ranked(boards, method)
    for top, most in ((ranking.top(limit), limit), (ranking.top(limit).first(2), min(limit, 2))):
        for index, board in enumerate(sorted(boards)):
            of_board = slice(top.offsets[index], top.offsets[index + 1])
            found = zip(
                top.ranks[of_board].tolist(),
                students_of(top.members[of_board]).tolist(),
                top.points[of_board].tolist(),
                strict=True,
            )
            assert list(found) == naive(boards[board], method)[:most]
    everybody = [(b, s) for b in (*sorted(boards), 7) for s in range(32)]
    owners, students = (np.array(column, np.int32) for column in zip(*everybody, strict=True))
    ranks, points = ranking.find(pair_codes(owners, students))
    known = {(b, s): (rank_, p) for b in boards for rank_, s, p in naive(boards[b], method)}
    for pair, *found in zip(everybody, ranks.tolist(), points.tolist(), strict=True):
        assert tuple(found) == known.get(pair, (0, 0))


@given(
    st.dictionaries(
        st.integers(0, 5),
        st.dictionaries(
            st.integers(0, 30),
            st.one_of(FEW, st.integers(-(2**50), 2**50)),
            min_size=1,
            max_size=25,
        ),
        max_size=4,
    ),
    st.integers(1, 12),
)
@example({0: {s: -s for s in range(11)}}, 3)
@example({0: {s: 10 * s for s in range(21)}}, 3)
@example({0: {1: 2**50, 2: -(2**50)}, 1: {1: 1}}, 1)
def test_statistics_are_over_all_who_are_ranked(
    boards: dict[int, dict[int, int]], limit: int
) -> None:
    figures = statistics(ranked(boards, RankMethod.COMPETITION), limit)
    for index, board in enumerate(sorted(boards)):
        points = sorted(boards[board].values(), reverse=True)
        assert figures.ranked[index] == len(points)
        assert figures.sum[index] == sum(points)
        assert figures.max[index] == points[0]
        assert figures.mean[index] == pytest.approx(float(Fraction(sum(points), len(points))))
        for name, share in (("median", Fraction(1, 2)), ("p90", Fraction(9, 10))):
            expected = float(oracle.percentile(points, share))
            assert getattr(figures, name)[index] == pytest.approx(expected, rel=1e-9, abs=1e-6)
        assert figures.ties_cut[index] == points[limit:].count(points[:limit][-1])


@given(BOARDS)
def test_a_distribution_keeps_every_points_and_count(boards: dict[int, dict[int, int]]) -> None:
    wide = {b: m for b, m in boards.items() if max(m.values()) - min(m.values()) < 2**63}
    packed = pack_all(ranked(wide, RankMethod.COMPETITION))
    assert len(packed) == len(wide)
    for board, data in zip(sorted(wide), packed, strict=True):
        found = unpack(data)
        expected = sorted(Counter(wide[board].values()).items(), reverse=True)
        assert list(zip(found.points.tolist(), found.counts.tolist(), strict=True)) == expected
        assert found.ranked == len(wide[board])


@given(st.dictionaries(st.integers(0, 30), FEW, min_size=1, max_size=25), METHODS, st.data())
def test_rank_and_percentile_of_anybody_follow_from_the_distribution(
    members: dict[int, int], method: RankMethod, data: st.DataObject
) -> None:
    found = unpack(pack_all(ranked({0: members}, method))[0])
    for rank_, _, points in naive(members, method):
        if method is RankMethod.ORDINAL:
            # Ids are not in it: the first place of the tie.
            assert found.rank_of(points, method) == 1 + sum(p > points for p in members.values())
        else:
            assert found.rank_of(points, method) == rank_
        assert found.points_at(rank_, method) == points
        at_most = sum(p <= points for p in members.values())
        assert found.percentile_of(points) == pytest.approx(100 * at_most / len(members))
    # Points that nobody has: the rank that they would have.
    stranger = data.draw(st.integers(-5, 5))
    better = [p for p in members.values() if p > stranger]
    expected = len(set(better)) if method is RankMethod.DENSE else len(better)
    assert found.rank_of(stranger, method) == expected + 1
    ranks = len(set(members.values())) if method is RankMethod.DENSE else len(members)
    for nobody in (0, -1, ranks + 1):
        with pytest.raises(ValueError):
            found.points_at(nobody, method)


def test_a_distribution_is_small() -> None:
    members = {student: student % 100 for student in range(10_000)}
    (packed,) = pack_all(ranked({0: members}, RankMethod.COMPETITION))
    assert len(packed) <= 4 * 100


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\x02\x00", b"\x01\x01\x00", b"\x01\x01\x00\x01\x01", b"\x01\x01\x00\x01\x80"],
)
def test_anything_else_is_no_distribution(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a packed distribution"):
        unpack(data)


def test_nobody_is_ranked_in_an_empty_distribution() -> None:
    nobody = Distribution(np.empty(0, np.int64), np.empty(0, np.int64))
    assert nobody.ranked == 0
    assert nobody.rank_of(5) == 1
    assert nobody.percentile_of(5) == 100.0
    assert unpack(b"\x01\x00").ranked == 0


BATCHES = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), FEW), max_size=12), max_size=8
)


def sums_of(rows: list[tuple[int, int, int]]) -> Sums:
    owners, students, points = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    codes = pair_codes(owners.astype(np.int32), students.astype(np.int32))
    return Sums.of(codes, points, np.ones(len(rows), np.int64))


@given(BATCHES, st.sets(st.integers(0, 8)), st.integers(1, 4))
def test_running_sums_and_their_marks(
    batches: list[list[tuple[int, int, int]]], marks: set[int], admitted_at_once: int
) -> None:
    """However far ahead pairs are admitted, sums and marks are those of the batches so far."""
    running = RunningSums()
    totals: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    states: dict[int, dict[tuple[int, int], list[int]]] = {}

    def now() -> dict[tuple[int, int], list[int]]:
        return {pair: list(both) for pair, both in totals.items()}

    for number, rows in enumerate(batches):
        if number in marks:
            running.mark(number)
            states[number] = now()
        if number % admitted_at_once == 0:
            running.admit([sums_of(r) for r in batches[number : number + admitted_at_once]])
        running.add(sums_of(rows))
        for board, student, points in rows:
            totals[board, student][0] += points
            totals[board, student][1] += 1
    states[-1] = now()
    for name, expected in states.items():
        state = running.now if name == -1 else running.marked(name)
        assert state is not None
        found = {
            (int(code >> 32), int(code & 0xFFFFFFFF)): [int(p), int(e)]
            for code, p, e in zip(running.codes, state.points, state.events, strict=True)
            if e
        }
        assert found == expected
    assert running.marked("never") is None
    running.forget("never")
    total = sums_of([(9, 9, 5)])
    running.admit([total])
    running.restart(total)
    assert int(running.points.sum()) == 5
    assert int(running.events.sum()) == 1


DAYS = st.one_of(st.none(), st.integers(0, 12).map(lambda n: date(2024, 2, 25) + timedelta(n)))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), DAYS, DAYS), max_size=15))
def test_a_student_counts_once_however_many_spans_overlap(
    spans: list[tuple[int, int, date | None, date | None]],
) -> None:
    def number(day: date | None, absent: int) -> int:
        return absent if day is None else (day - date(1970, 1, 1)).days

    owners, students = (np.array([s[i] for s in spans], np.int32) for i in range(2))
    begins = np.array([number(s[2], -(2**30)) for s in spans], np.int32)
    ends = np.array([number(s[3], 2**30) for s in spans], np.int32)
    enrolment = Enrolment.of(3, owners, students, begins, ends)
    for offset in range(-2, 16):
        day = date(2024, 2, 25) + timedelta(offset)
        expected = [
            len(
                {
                    s
                    for b, s, begin, end in spans
                    if b == board and (begin is None or begin <= day) and (end is None or day < end)
                }
            )
            for board in range(3)
        ]
        assert enrolment.on(day).tolist() == expected


@given(st.lists(st.text(max_size=6), max_size=8))
@example(['"', "\\", "\n", "\x00", "é", "𝔰", "\x7f", "\u2028"])
def test_any_text_becomes_a_json_literal(texts: list[str]) -> None:
    import json

    literals = json_lists.quoted(pa.array(texts, pa.string())).to_pylist()
    assert [json.loads(literal) for literal in literals] == texts
    (listed,) = json_lists.lists(pa.array(literals, pa.string()), [0, len(literals)])
    assert json.loads(listed) == texts


def test_lists_of_nothing() -> None:
    nothing = pa.array([], pa.string())
    assert json_lists.lists(nothing, [0]) == []
    assert json_lists.lists(nothing, [0, 0, 0]) == [b"[]", b"[]"]
