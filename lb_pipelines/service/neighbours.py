"""A whole board made again from stored aggregates: everybody's points and rank, in order.

For what neither the top N nor the distribution can tell: who stands next to somebody far down.
Reads stored totals and the few days that they leave, so that the past costs nothing.

Points order everybody but inside ties, which go by the students' order (`directory`). That order is
asked of the database: for all students of small ties at once; in large ones, where the ids of all
would take longer than everything else, step by step along the index of students until enough
members of the tie were met.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from lb_pipelines.core.distribution import Distribution, pack_all
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.ranking import Int64, rank
from lb_pipelines.core.sums import Sums
from lb_pipelines.core.words import BoardType, RankMethod
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import aggregates, directory, reading, totals
from lb_pipelines.db.repositories.reading import NamedBoard, StoredBoard
from lb_pipelines.service.results import Entry

# What reading a stored total costs: it holds every pair there ever was.
_DAYS_OF_A_TOTAL = 10
# Up to so many students of a tie are put in order at once. Among S students those of a tie of t
# are S / t apart on average: in larger ties few steps lead from one to the next.
_SMALL_TIE = 1_000

# A student's key and id.
_Student = tuple[int, str]


@dataclass(frozen=True)
class WholeBoard:
    """All who are ranked on a board: `keys` int64[n], ascending, and `points` int64[n].

    `distribution` is theirs, `packed` the same as it is stored (`core.distribution`).
    """

    connection: Connection
    institution: Institution
    keys: Int64
    points: Int64
    distribution: Distribution
    packed: bytes
    _ordered_ties: dict[int, list[_Student]] = field(default_factory=dict)

    def rank_and_points(self, student_key: int) -> tuple[int, int] | tuple[None, None]:
        """The rank and points of a student; None where not ranked."""
        points = self._points_of(student_key)
        if points is None:
            return None, None
        rank = self.distribution.rank_of(points, self._method)
        if self._method is RankMethod.ORDINAL:
            rank += self._count_before(student_key, points)
        return rank, points

    def equals(self, stored: StoredBoard) -> bool:
        """Whether a stored board says the same: its distribution, and the entries that are there.

        Equal ranks of the last entry speak for one rank method.
        """
        if self.packed != stored.distribution:
            return False
        shown = stored.entries if stored.entries is not None else [*stored.own, stored.last_entry]
        top = {entry.student_id: entry for entry in self._find_top(stored.shown)}
        return all(
            (entry := top.get(one["studentId"])) is not None
            and (entry.rank, entry.points) == (one["rank"], one["points"])
            for one in shown
        )

    def around(self, student_key: int, k: int) -> tuple[Entry, ...]:
        """The student, the `k` above and the `k` below, in order; nobody where the student is not
        ranked.
        """
        own_rank, own = self.rank_and_points(student_key)
        if own_rank is None or own is None:
            return ()
        level = self.distribution.rank_of(own, RankMethod.DENSE) - 1
        above, below = self._levels_from(level - 1, -1, k), self._levels_from(level + 1, 1, k)
        self._order_small_ties([*above[::-1], own, *below], at_least=k)
        (self_id,) = directory.students_of_keys(
            self.connection, self.institution, np.array([student_key])
        ).ids.to_pylist()

        upwards = self._nearest(own, above, student_key, k, backwards=True)
        downwards = self._nearest(own, below, student_key, k, backwards=False)
        rows = [*upwards[::-1], (own, (student_key, self_id)), *downwards]
        return self._entries(rows, own_rank - len(upwards))

    def _nearest(
        self, own: int, others: Sequence[int], student_key: int, k: int, *, backwards: bool
    ) -> list[tuple[int, _Student]]:
        """Points and students of the `k` nearest on one side: in the student's own tie, then on the
        other levels.
        """
        nearest: list[tuple[int, _Student]] = []
        for points in (own, *others):
            start = student_key if points == own else None
            missing = k - len(nearest)
            if missing:
                found = self._next_in_tie(points, missing, start, backwards=backwards)
                nearest += [(points, student) for student in found]
        return nearest

    @property
    def _method(self) -> RankMethod:
        return self.institution.rank_method

    def _points_of(self, student_key: int) -> int | None:
        at = int(np.searchsorted(self.keys, student_key))
        is_ranked = at < len(self.keys) and int(self.keys[at]) == student_key
        return int(self.points[at]) if is_ranked else None

    def _find_top(self, count: int) -> tuple[Entry, ...]:
        """The first `count` entries."""
        levels = self._levels_from(0, 1, count)
        self._order_small_ties(levels, at_least=count)
        rows: list[tuple[int, _Student]] = []
        for points in levels:
            found = self._next_in_tie(points, count - len(rows), None, backwards=False)
            rows += [(points, student) for student in found]
        return self._entries(rows, 1)

    def _entries(self, rows: Sequence[tuple[int, _Student]], first: int) -> tuple[Entry, ...]:
        """Rows (points, student) that follow each other, the first of which has this position."""
        ordinal = self._method is RankMethod.ORDINAL
        return tuple(
            Entry(
                position if ordinal else self.distribution.rank_of(points, self._method),
                id,
                points,
            )
            for position, (points, (_, id)) in enumerate(rows, start=first)
        )

    def _levels_from(self, level: int, step: int, count: int) -> list[int]:
        """The points of this level and the next ones, in steps of 1 (worse) or -1 (better), until
        they hold `count` students.
        """
        levels: list[int] = []
        while count > 0 and 0 <= level < len(self.distribution.points):
            levels.append(int(self.distribution.points[level]))
            count -= int(self.distribution.counts[level])
            level += step
        return levels

    def _members(self, points: int) -> Int64:
        """The keys of the students who have these points, ascending."""
        return self.keys[self.points == points]

    def _order_small_ties(self, levels: Sequence[int], *, at_least: int) -> None:
        """Put the students of these levels in order, unless one is so large that some steps along
        it are faster; `at_least`: so many are wanted of any.
        """
        small = [
            points
            for points in levels
            if points not in self._ordered_ties
            and self.distribution.count_at(points) <= max(_SMALL_TIE, 2 * at_least)
        ]
        if not small:
            return
        rows = np.flatnonzero(np.isin(self.points, small))
        keys, of_keys = self.keys[rows], self.points[rows]
        index = directory.students_of_keys(self.connection, self.institution, keys)
        # In the students' order, which a stable sort keeps inside each tie.
        points_in_order = of_keys[np.searchsorted(keys, index.keys)]
        order = np.argsort(points_in_order, kind="stable")
        ids = index.ids.take(order).to_pylist()
        for points, key, id in zip(
            points_in_order[order].tolist(), index.keys[order].tolist(), ids, strict=True
        ):
            self._ordered_ties.setdefault(points, []).append((key, id))

    def _next_in_tie(
        self, points: int, count: int, student_key: int | None, *, backwards: bool
    ) -> list[_Student]:
        """The `count` students of a tie who come next in the students' order after a student, or
        before with `backwards`; None: from the first, or the last. The nearest comes first.
        """
        ordered = self._ordered_ties.get(points)
        if ordered is not None:
            if backwards:
                ordered = ordered[::-1]
            keys = [key for key, _ in ordered]
            begin = 0 if student_key is None else keys.index(student_key) + 1
            return list(ordered[begin : begin + count])
        members, found = self._members(points), list[_Student]()
        for key, id in directory.walk_students(
            self.connection, self.institution, student_key, backwards=backwards
        ):
            if len(found) == count:
                break
            at = int(np.searchsorted(members, key))
            if at < len(members) and int(members[at]) == key:
                found.append((key, id))
        return found

    def _count_before(self, student_key: int, points: int) -> int:
        """How many students of the student's tie come before in the students' order."""
        self._order_small_ties([points], at_least=0)
        ordered = self._ordered_ties.get(points)
        if ordered is not None:
            return [key for key, _ in ordered].index(student_key)
        earlier = directory.keys_before(self.connection, self.institution, student_key)
        return int(np.isin(self._members(points), earlier, assume_unique=True).sum())


def among_entries(stored: StoredBoard, student_id: str, k: int) -> tuple[Entry, ...] | None:
    """The same from the entries of a whole stored board; None where they do not tell."""
    entries = stored.entries
    assert entries is not None
    all_shown = stored.shown == stored.ranked
    at = next((at for at, e in enumerate(entries) if e["studentId"] == student_id), None)
    if at is None:
        return () if all_shown else None
    if at + k >= len(entries) and not all_shown:
        # More follow below the top N.
        return None
    near = entries[max(0, at - k) : at + k + 1]
    return tuple(Entry(e["rank"], e["studentId"], e["points"]) for e in near)


def whole_board(
    connection: Connection, institution: Institution, board: NamedBoard, window: DayRange
) -> WholeBoard:
    """Rank everybody on a board by the aggregated points of a window of days."""
    none = np.zeros(0, np.int64)
    columns = [(none, none, none)]
    for sign, references, keys, points, events in _parts(connection, institution, board, window):
        here = references == board.key
        columns.append((keys[here], sign * points[here], sign * events[here]))
    keys, points, events = (np.concatenate(of_parts) for of_parts in zip(*columns, strict=True))
    sums = Sums.of(keys.astype(np.int64), points, events)
    ranked = np.flatnonzero(sums.events > 0)
    keys, points = sums.codes[ranked], sums.points[ranked]
    ranking = rank(np.zeros(len(keys), np.int32), keys, points, institution.rank_method)
    levels = ranking.levels
    return WholeBoard(
        connection,
        institution,
        keys,
        points,
        Distribution(levels.points, levels.counts),
        next(iter(pack_all(ranking)), b""),
    )


Part = tuple[int, Int64, Int64, Int64, Int64]
"""(1 or -1, reference keys, student keys, points, events)."""


def _parts(
    connection: Connection, institution: Institution, board: NamedBoard, window: DayRange
) -> Iterator[Part]:
    """What to add and take away so that the sums of the window remain: the way that reads least."""
    if len(window) > _DAYS_OF_A_TOTAL:
        past = _Past(connection, institution, board.type, window.last)
        if past.first_day is not None and past.first_day > window.first:
            window = DayRange(min(past.first_day, window.last), window.last)
        end, begin = past.nearest(window.last + ONE_DAY), past.nearest(window.first)
        read = (window.last + ONE_DAY - end).days + (window.first - begin).days
        if read + 2 * _DAYS_OF_A_TOTAL < len(window):
            for sign, total, cut in ((1, end, window.last + ONE_DAY), (-1, begin, window.first)):
                yield from past.before(connection, institution, board, total, cut, sign)
            return
    yield from _days(connection, institution, board, window, 1)


def _days(
    connection: Connection, institution: Institution, board: NamedBoard, days: DayRange, sign: int
) -> Iterator[Part]:
    for _, *columns in aggregates.sums_of_days(connection, institution, board.type, days):
        references, keys, points, events = columns
        yield sign, references, keys, points, events


class _Past:
    """The first aggregated day, and the stored totals that sum the days through a last one as they
    are."""

    def __init__(
        self, connection: Connection, institution: Institution, type: BoardType, last: date
    ) -> None:
        self.first_day = reading.first_day(connection, institution)
        self._through = reading.totals_before(connection, institution, type, last + ONE_DAY)

    def nearest(self, cut: date) -> date:
        """The latest day not after `cut` before which all is known: a total's, or the first."""
        first = min(cut, self.first_day or cut)
        return max((before for before in self._through if before <= cut), default=first)

    def before(
        self,
        connection: Connection,
        institution: Institution,
        board: NamedBoard,
        total: date,
        cut: date,
        sign: int,
    ) -> Iterator[Part]:
        """The sums of all days before `cut`: those before `total`, and the days between."""
        if total in self._through:
            stored = totals.sums(connection, institution, board.type, total, self._through[total])
            assert stored is not None
            yield (sign, *stored)
        if total < cut:
            yield from _days(connection, institution, board, DayRange(total, cut - ONE_DAY), sign)
