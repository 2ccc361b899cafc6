"""One student's exact standings on stored boards, in the top N or far below it.

A board as of a day is closed: what is told is what it says of the student, whatever has happened
to the events since. In the top N that is the entry. Below it rank and percentile follow from the
student's points and the distribution that every snapshot keeps, provided that these points are
those that the board was made from, which is what most of this module makes sure of:

- the student's events say what their days' aggregates say, or the aggregates are asked themselves;
- no day of the window was aggregated anew after the board was made, or the whole board made again
  (`neighbours`) equals the stored one;
- the distribution holds these points, below the last entry, by the institution's rank method.

Where one of them fails nothing exact follows any more, and `StaleBoard` says so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lb_pipelines.core.distribution import Distribution, unpack
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.words import BoardType, RankMethod
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import reading
from lb_pipelines.db.repositories.reading import Cell, NamedBoard, StoredBoard
from lb_pipelines.errors import StaleBoard
from lb_pipelines.service import neighbours
from lb_pipelines.service.results import BoardKey, Standing

# Whoever asks twice pays another round trip and another start of the plan.
_DAYS_READ_BESIDES = 31


@dataclass(frozen=True)
class Student:
    """A student of the institution."""

    key: int
    id: str


@dataclass(frozen=True)
class Place:
    """A stored board, and what it is a board of."""

    key: BoardKey
    board: NamedBoard
    stored: StoredBoard


def standings(
    connection: Connection, institution: Institution, student: Student, places: Sequence[Place]
) -> list[Standing]:
    """Where the student stood on each of these boards; raises `StaleBoard`.

    Their points are read once, however many boards there are.
    """
    found = [_in_top(place, student) for place in places]
    below = [place for place, standing in zip(places, found, strict=True) if standing is None]
    if below:
        points = _Points(connection, institution, student, below)
        rest = iter([_below_top(connection, institution, student, p, points) for p in below])
        found = [standing or next(rest) for standing in found]
    return [standing for standing in found if standing is not None]


def with_changes(series: Sequence[Standing]) -> tuple[Standing, ...]:
    """A series of one board, newest first, each with its change against the one before in time."""
    changed = [now.against(then) for now, then in pairwise(series)]
    return (*changed, *series[-1:])


def stale(place: Place) -> StaleBoard:
    """The error of a board that the events, or the settings, have left behind."""
    return StaleBoard(
        f"{place.key} of {place.stored.day} was made before its events or settings changed",
        "Wait for the late-events sensor, or materialize the day again; an archived day stays as "
        "it is unless it is materialized again on purpose",
    )


def _in_top(place: Place, student: Student) -> Standing | None:
    stored = place.stored
    for entry in stored.own:
        if entry["studentId"] == student.id:
            distribution = unpack(stored.distribution)
            return _standing(place, student, entry["rank"], entry["points"], distribution)
    if stored.shown == stored.ranked:
        # All who are ranked are on it.
        return _standing(place, student, None, None, None)
    return None


def _below_top(
    connection: Connection,
    institution: Institution,
    student: Student,
    place: Place,
    points: _Points,
) -> Standing:
    stored, method = place.stored, institution.rank_method
    distribution = unpack(stored.distribution)
    if not points.as_made(place):
        return _of_whole(connection, institution, student, place, distribution)
    total = points.on(place)
    if total is None:
        return _standing(place, student, None, None, None)
    last = stored.last_entry
    if not distribution.holds(total) or total > last["points"]:
        raise stale(place)
    if method is RankMethod.ORDINAL:
        if distribution.count_at(total) > 1:
            # Their place inside the tie.
            return _of_whole(connection, institution, student, place, distribution)
        explained = last["rank"] == stored.shown
    else:
        explained = last["rank"] == distribution.rank_of(last["points"], method)
    if not explained:
        raise stale(place)
    return _standing(place, student, distribution.rank_of(total, method), total, distribution)


def _of_whole(
    connection: Connection,
    institution: Institution,
    student: Student,
    place: Place,
    distribution: Distribution,
) -> Standing:
    """From the board made again; raises `StaleBoard` where that is not the stored one."""
    whole = neighbours.whole_board(connection, institution, place.board, place.stored.window)
    if not whole.equals(place.stored):
        raise stale(place)
    rank, total = whole.rank_and_points(student.key)
    return _standing(place, student, rank, total, distribution)


def _standing(
    place: Place,
    student: Student,
    rank: int | None,
    points: int | None,
    distribution: Distribution | None,
) -> Standing:
    return Standing(
        place.key,
        student.id,
        place.stored.day,
        place.stored.ranked,
        rank,
        points,
        None if distribution is None or points is None else distribution.percentile_of(points),
    )


_Window = tuple[BoardType, DayRange, int]


def _window_of(place: Place) -> _Window:
    """What a board was made from: the totals of its type, some days, a state of the aggregates."""
    return place.board.type, place.stored.window, place.stored.through_revision


class _Points:
    """A student's points in the windows of some stored boards, as they were aggregated.

    Of a long window the stored totals within it give the greatest part, so that the past costs
    nothing; the days before the first of them and after the last come from the student's events.
    """

    def __init__(
        self,
        connection: Connection,
        institution: Institution,
        student: Student,
        places: Iterable[Place],
    ) -> None:
        windows = list({_window_of(place): None for place in places})
        self._windows = dict(
            zip(
                windows,
                reading.windows_of_student(connection, institution, student.key, windows),
                strict=True,
            )
        )
        pieces = [piece for window in windows for piece in self._pieces(window)]
        self._edges = sorted({day for p in pieces for day in (p.first, p.last + ONE_DAY)})
        self._cells: dict[int, list[Cell]] = defaultdict(list)
        for days in _joined(pieces):
            read = reading.points_between(connection, institution, student.key, days, self._edges)
            for between, cell in read.sums:
                self._cells[between].append(cell)
            if read.doubted:
                for day, cell in reading.cells_of_student(
                    connection, institution, student.key, read.doubted
                ):
                    self._cells[bisect_right(self._edges, day)].append(cell)

    def as_made(self, place: Place) -> bool:
        """Whether the aggregates of the window are still those that the board was made from."""
        return not self._windows[_window_of(place)].changed

    def on(self, place: Place) -> int | None:
        """Their points on a board; None where they had no event."""
        points = events = 0
        for sign, cell in self._of(_window_of(place)):
            if cell.keys[place.board.type] == place.board.key:
                points += sign * cell.points
                events += sign * cell.events
        return points if events else None

    def _of(self, window: _Window) -> Iterator[tuple[int, Cell]]:
        """The cells to add (1) and to take away (-1)."""
        totals = self._windows[window].totals
        if totals is not None:
            early, late = totals
            yield from ((1, cell) for cell in late.cells)
            yield from ((-1, cell) for cell in early.cells)
        for piece in self._pieces(window):
            for between in range(
                bisect_right(self._edges, piece.first), bisect_right(self._edges, piece.last) + 1
            ):
                yield from ((1, cell) for cell in self._cells[between])

    def _pieces(self, window: _Window) -> list[DayRange]:
        """The days that totals leave to the events."""
        _, days, _ = window
        totals = self._windows[window].totals
        if totals is None:
            return [days]
        early, late = totals
        return [
            DayRange(first, last)
            for first, last in (
                (days.first, early.before - ONE_DAY),
                (late.before, days.last),
            )
            if first <= last
        ]


def _joined(pieces: Iterable[DayRange]) -> list[DayRange]:
    """Ranges that hold these: one where the events of all months between are little to read."""
    joined: list[DayRange] = []
    for piece in sorted(pieces, key=lambda piece: piece.first):
        if joined and (piece.first - joined[-1].last).days <= _DAYS_READ_BESIDES:
            joined[-1] = DayRange(joined[-1].first, max(joined[-1].last, piece.last))
        else:
            joined.append(piece)
    return joined
