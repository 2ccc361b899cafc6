"""A whole board made again from stored aggregates: everybody's points and rank, in order.

For what neither the top N nor the distribution can tell: who stands next to somebody far down.
Reads a stored total and at most a month of days, so the past costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np

from lb_pipelines.core.distribution import pack_all
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, month_start
from lb_pipelines.core.ranking import Int32, Int64, rank
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import aggregates, directory
from lb_pipelines.db.repositories.reading import NamedBoard, StoredBoard
from lb_pipelines.service.results import Entry

# Up to this many days the days themselves are read; beyond, the totals at the window's ends.
_FEW_DAYS = 31


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
    return WholeBoard(
        students.keys[ranking.members],
        students.ids.take(ranking.members).to_pylist(),
        ranking.points,
        ranking.ranks,
        next(iter(pack_all(ranking)), b""),
    )


Part = tuple[int, Int64, Int64, Int64, Int64]
"""(1 or -1, reference keys, student keys, points, events)."""


def _parts(
    connection: Connection, institution: Institution, board: NamedBoard, window: DayRange
) -> Iterator[Part]:
    """What to add and take away so that the sums of the window remain."""
    if len(window) <= _FEW_DAYS:
        yield from _days(connection, institution, board, window)
        return
    revisions = _Revisions(connection, institution, window.last)
    cut = month_start(window.last)
    yield from _before(connection, institution, board, cut, 1, revisions)
    yield from _days(connection, institution, board, DayRange(cut, window.last))
    if revisions.first_day is not None and window.first > revisions.first_day:
        yield from _before(connection, institution, board, window.first, -1, revisions)


def _days(
    connection: Connection,
    institution: Institution,
    board: NamedBoard,
    days: DayRange,
    sign: int = 1,
) -> Iterator[Part]:
    for _, *columns in aggregates.sums_of_days(connection, institution, board.type, days):
        references, keys, points, events = columns
        yield sign, references, keys, points, events


class _Revisions:
    """Through which revision a total before a cut has to be."""

    def __init__(self, connection: Connection, institution: Institution, last: date) -> None:
        self._states = aggregates.states(connection, institution, last)
        self.first_day = self._states[0].day if self._states else None

    def before(self, cut: date) -> int:
        return max((s.revision for s in self._states if s.day < cut), default=0)


def _before(
    connection: Connection,
    institution: Institution,
    board: NamedBoard,
    cut: date,
    sign: int,
    revisions: _Revisions,
) -> Iterator[Part]:
    """The sums of all days before a cut: the stored total, or the days where there is none."""
    total = aggregates.total_before(connection, institution, board.type, cut, revisions.before(cut))
    if total is not None:
        yield (sign, *total)
    elif revisions.first_day is not None and revisions.first_day < cut:
        days = DayRange(revisions.first_day, cut - ONE_DAY)
        yield from _days(connection, institution, board, days, sign)
