"""A whole board made again from stored aggregates: everybody's points and rank, in order.

For what neither the top N nor the distribution can tell: who stands next to somebody far down.
Reads stored totals and the few days that they leave, so that the past costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial

import numpy as np

from lb_pipelines.core.distribution import pack_all
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.ranking import Int32, Int64, rank
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import aggregates, directory, reading, totals
from lb_pipelines.db.repositories.directory import Index
from lb_pipelines.db.repositories.reading import NamedBoard, StoredBoard
from lb_pipelines.service.results import Entry

# What reading a stored total costs: it holds every pair there ever was.
_DAYS_OF_A_TOTAL = 10


@dataclass(frozen=True)
class WholeBoard:
    """All who are ranked, best first, in no order inside a tie; `keys` and `points` int64[n],
    `ranks` int32[n] of a row once its tie is in order.

    `packed` is their distribution (`core.distribution`). `index` finds the ids of some keys: those
    of all would take longer than everything else.
    """

    keys: Int64
    points: Int64
    ranks: Int32
    packed: bytes
    index: Callable[[Int64], Index]

    def rank_and_points(self, student_key: int) -> tuple[int, int] | tuple[None, None]:
        """The rank and points of a student; None where not ranked."""
        for key, entry in self._entries(self._rows_around(student_key, 0)):
            if key == student_key:
                return entry.rank, entry.points
        return None, None

    def equals(self, stored: StoredBoard) -> bool:
        """Whether a stored board says the same: its distribution, and the entries that are there.

        Equal ranks of the last entry speak for one rank method.
        """
        if self.packed != stored.distribution:
            return False
        shown = stored.entries if stored.entries is not None else [*stored.own, stored.last_entry]
        top = slice(0, _around(self.points, stored.shown - 1, 0).stop)
        there = {entry.student_id: entry for _, entry in self._entries(top)[: stored.shown]}
        return all(
            (entry := there.get(one["studentId"])) is not None
            and (entry.rank, entry.points) == (one["rank"], one["points"])
            for one in shown
        )

    def around(self, student_key: int, k: int) -> tuple[Entry, ...]:
        """The `k` above and below a student, whole ties; nobody where the student is not ranked."""
        return tuple(entry for _, entry in self._entries(self._rows_around(student_key, k)))

    def _rows_around(self, student_key: int, k: int) -> slice:
        at = np.flatnonzero(self.keys == student_key)
        return _around(self.points, int(at[0]), k) if len(at) else slice(0, 0)

    def _entries(self, rows: slice) -> list[tuple[int, Entry]]:
        """The student keys and entries of rows that hold whole ties, in order."""
        keys, points = self.keys[rows], self.points[rows]
        index = self.index(keys)
        places = index.ordinals(keys)
        order = np.lexsort((places, -points))
        ids = index.ids.take(places[order]).to_pylist()
        entries = map(Entry, self.ranks[rows].tolist(), ids, points.tolist())
        return list(zip(keys[order].tolist(), entries, strict=True))


def among_entries(stored: StoredBoard, student_id: str, k: int) -> tuple[Entry, ...] | None:
    """The same from the entries of a whole stored board; None where they do not tell."""
    entries = stored.entries
    assert entries is not None
    all_shown = stored.shown == stored.ranked
    at = next((at for at, e in enumerate(entries) if e["studentId"] == student_id), None)
    if at is None:
        return () if all_shown else None
    rows = _around(np.array([e["points"] for e in entries], np.int64), at, k)
    if rows.stop == len(entries) and not all_shown:
        # A tie may go on below, or fewer than k are shown.
        return None
    return tuple(Entry(e["rank"], e["studentId"], e["points"]) for e in entries[rows])


def _around(points: Int64, at: int, k: int) -> slice:
    """The rows of the `k` above and below row `at` and its tie, whole ties; `points` descend."""
    falling = -points
    first = int(np.searchsorted(falling, falling[at], side="left"))
    last = int(np.searchsorted(falling, falling[at], side="right")) - 1
    low, high = max(0, first - k), min(len(points) - 1, last + k)
    return slice(
        int(np.searchsorted(falling, falling[low], side="left")),
        int(np.searchsorted(falling, falling[high], side="right")),
    )


def whole_board(
    connection: Connection, institution: Institution, board: NamedBoard, window: DayRange
) -> WholeBoard:
    """Rank everybody on a board by the aggregated points of a window of days."""
    none = np.zeros(0, np.int64)
    columns = [(none, none, none)]
    for sign, references, keys, points, events in _parts(connection, institution, board, window):
        here = references == board.key
        columns.append((keys[here], sign * points[here], sign * events[here]))
    keys, rows = np.unique(np.concatenate([own for own, *_ in columns]), return_inverse=True)
    points, events = np.zeros((2, len(keys)), np.int64)
    np.add.at(points, rows, np.concatenate([own for _, own, _ in columns]))
    np.add.at(events, rows, np.concatenate([own for *_, own in columns]))
    keys, points = keys[events > 0], points[events > 0]
    ranking = rank(np.zeros(len(keys), np.int32), keys, points, institution.rank_method)
    everybody = ranking.top(len(keys))
    return WholeBoard(
        everybody.members,
        everybody.points,
        everybody.ranks,
        next(iter(pack_all(ranking)), b""),
        partial(directory.students_of_keys, connection, institution),
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
