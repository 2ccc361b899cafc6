"""A whole board made again from stored aggregates: everybody's points and rank, in order.

For what neither the top N nor the distribution can tell: who stands next to somebody far down.
Reads stored totals and the few days that they leave, so that the past costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np

from lb_pipelines.core.distribution import pack_all
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.ranking import Int32, Int64, rank
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import aggregates, directory, totals
from lb_pipelines.db.repositories.reading import NamedBoard, StoredBoard
from lb_pipelines.service.results import Entry

# What reading a stored total costs: it holds every pair there ever was.
_DAYS_OF_A_TOTAL = 10


@dataclass(frozen=True)
class WholeBoard:
    """All who are ranked, best first; `keys` and `points` int64[n], `ranks` int32[n].

    `packed` is their distribution (`core.distribution`).
    """

    keys: Int64
    ids: list[str]
    points: Int64
    ranks: Int32
    packed: bytes

    def rank_and_points(self, student_key: int) -> tuple[int, int] | tuple[None, None]:
        """The rank and points of a student; None where not ranked."""
        at = np.flatnonzero(self.keys == student_key)
        return (int(self.ranks[at[0]]), int(self.points[at[0]])) if len(at) else (None, None)

    def equals(self, stored: StoredBoard) -> bool:
        """Whether a stored board says the same: its distribution, and the entries that are there.

        Equal ranks of the last entry speak for one rank method.
        """
        if self.packed != stored.distribution:
            return False
        shown = stored.entries if stored.entries is not None else [*stored.own, stored.last_entry]
        place = {id: at for at, id in enumerate(self.ids[: stored.shown])}
        return all(
            (at := place.get(entry["studentId"])) is not None
            and int(self.ranks[at]) == entry["rank"]
            and int(self.points[at]) == entry["points"]
            for entry in shown
        )

    def around(self, student_key: int, k: int) -> tuple[Entry, ...]:
        """The `k` above and below a student, whole ties; nobody where the student is not ranked."""
        at = np.flatnonzero(self.keys == student_key)
        if not len(at):
            return ()
        rows = _around(self.points, int(at[0]), k)
        return tuple(
            map(
                Entry,
                self.ranks[rows].tolist(),
                self.ids[rows],
                self.points[rows].tolist(),
            )
        )


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
    students = directory.students(connection, institution)
    points = np.zeros(len(students), np.int64)
    events = np.zeros(len(students), np.int64)
    for sign, references, keys, amounts, counts in _parts(connection, institution, board, window):
        on_board = references == board.key
        ordinals = students.ordinals(keys[on_board].astype(np.int64))
        np.add.at(points, ordinals, sign * amounts[on_board])
        np.add.at(events, ordinals, sign * counts[on_board])
    members = np.flatnonzero(events > 0)
    ranking = rank(
        np.zeros(len(members), np.int32), members, points[members], institution.rank_method
    )
    everybody = ranking.top(len(members))
    return WholeBoard(
        students.keys[everybody.members],
        students.ids.take(everybody.members).to_pylist(),
        everybody.points,
        everybody.ranks,
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
    """The aggregated days through a last one, and the stored totals that sum them as they are."""

    def __init__(
        self, connection: Connection, institution: Institution, type: BoardType, last: date
    ) -> None:
        states = aggregates.states(connection, institution, last)
        self.first_day = states[0].day if states else None
        self._through: dict[date, int] = {}
        highest, stored = 0, totals.stored(connection, institution, type)
        for state in states:
            highest = max(highest, state.revision)
            self._through[state.day + ONE_DAY] = highest
        self._totals = sorted(
            before for before, through in stored.items() if self._through.get(before) == through
        )

    def nearest(self, cut: date) -> date:
        """The latest day not after `cut` before which all is known: a total's, or the first."""
        first = min(cut, self.first_day or cut)
        return max((before for before in self._totals if before <= cut), default=first)

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
        if total in self._totals:
            stored = totals.sums(connection, institution, board.type, total, self._through[total])
            assert stored is not None
            yield (sign, *stored)
        if total < cut:
            yield from _days(connection, institution, board, DayRange(total, cut - ONE_DAY), sign)
