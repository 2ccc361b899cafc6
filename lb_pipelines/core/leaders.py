"""Who leads each board, and since which day: followed over calendar days by the sums of events.

A leader is the first entry: most points in the window, then student id. A streak goes on from one
calendar day to the next as long as the board exists on both and the same student leads; a day on
which nobody is ranked ends it. No board is ranked for that: of each only the leader is kept. A day
can only make someone leader whose points it changes; where it takes points from the leader, that
board alone is searched again. So following many days costs as much as the cells of these days.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from lb_pipelines.core.periods import DayRange, window_start
from lb_pipelines.core.ranking import Int32, Int64, opens
from lb_pipelines.core.sums import STUDENT_BITS, RunningSums, State, Sums, boards_of, students_of
from lb_pipelines.core.windows import BoardTerms
from lb_pipelines.core.words import Granularity

NO_LEADER = -1
_NO_WINDOW = np.datetime64("NaT", "D")


@dataclass
class Leaders:
    """The leaders of all boards of one granularity, by board ordinal.

    `students` int64[boards]: student ordinals, `NO_LEADER` where there is no board; `since`
    datetime64[D][boards]: first day of the streak, undefined without a leader.
    """

    students: Int64
    since: NDArray[np.datetime64]


class LeaderStreaks:
    """The leaders of all boards of one type, day after day.

    Starts before the institution's first day with an ACTIVE event, `first_event_day`, or with
    leaders that are known (`resume`). `board_count`: ordinals are below it.
    """

    def __init__(self, board_count: int, terms: BoardTerms, first_event_day: date) -> None:
        self._terms = terms
        self._first_event_day = first_event_day
        self._board_count = board_count
        self._window_starts: dict[Granularity, NDArray[np.datetime64]] = {
            granularity: np.full(board_count, _NO_WINDOW) for granularity in Granularity
        }
        self.leaders: dict[Granularity, Leaders] = {
            granularity: Leaders(
                np.full(board_count, NO_LEADER, np.int64), np.full(board_count, _NO_WINDOW)
            )
            for granularity in Granularity
        }

    def resume(self, day: date, leaders: Mapping[Granularity, Leaders]) -> None:
        """Go on from the leaders as of `day`."""
        self.leaders = dict(leaders)
        for granularity in Granularity:
            self._window_starts[granularity] = self._find_window_starts(granularity, day)

    def window_starts(self, days: DayRange) -> dict[date, date]:
        """The states of the sums (before which days) that `add` needs over these days, each with
        the last day on which it does.
        """
        needed: dict[date, date] = {}
        for day in days:
            for granularity in Granularity:
                for start, _ in self._windows(granularity, day):
                    if start > self._first_event_day and _needs_state(granularity):
                        needed[start] = day
        return needed

    def add(self, day: date, sums: RunningSums, day_sums: Sums) -> None:
        """Take in the next day: `day_sums` are its own sums, which `sums` hold already; `sums` have
        saved the states before the windows' first days (`window_starts`).
        """
        for granularity, leaders in self.leaders.items():
            students = leaders.students.copy()
            starts = self._find_window_starts(granularity, day)
            # The same window as yesterday goes on; one that begins today holds no earlier event.
            goes_on = starts == self._window_starts[granularity]
            students[~goes_on] = NO_LEADER
            search_again = ~goes_on & (starts < np.datetime64(day, "D"))
            self._window_starts[granularity] = starts
            for start, window_boards in self._windows(granularity, day):
                state = None if not _needs_state(granularity) else sums.marked(start)
                window = _Window(sums, day_sums, state, day_alone=granularity is Granularity.DAILY)
                window.update(students, window_boards, search_again)
            changed = students != leaders.students
            leaders.since[changed] = np.datetime64(day, "D")
            leaders.students = students

    def _windows(
        self, granularity: Granularity, day: date
    ) -> Iterator[tuple[date, NDArray[np.bool_] | None]]:
        """The windows that end on `day`: the first day, and bool[boards] whose it is; None: all."""
        if granularity is Granularity.TERM:
            for term, index in self._terms.on(day):
                own = self._terms.own
                yield term.starts_on, None if own is None else own == index
            return
        start = window_start(granularity, day, term=None, first_event_day=self._first_event_day)
        if start is not None:
            yield start, None

    def _find_window_starts(self, granularity: Granularity, day: date) -> NDArray[np.datetime64]:
        """datetime64[D][boards]: the first day of each board's window, NaT where there is none."""
        starts = np.full(self._board_count, _NO_WINDOW)
        for start, window_boards in self._windows(granularity, day):
            starts[slice(None) if window_boards is None else window_boards] = np.datetime64(
                start, "D"
            )
        return starts


def _needs_state(granularity: Granularity) -> bool:
    """Whether a window is the sums now minus those before its first day."""
    return granularity not in (Granularity.DAILY, Granularity.ALL_TIME)


@dataclass(frozen=True)
class _Window:
    """The points of one window: the sums now minus `state`, those before its first day (None:
    nothing), or the day alone.
    """

    sums: RunningSums
    day_sums: Sums
    state: State | None
    day_alone: bool

    def update(
        self,
        students: Int64,
        window_boards: NDArray[np.bool_] | None,
        search_again: NDArray[np.bool_],
    ) -> None:
        """Make `students` (int64[boards]) the leaders with the day, on the boards `window_boards`;
        those of yesterday are no help where it is to `search_again`.
        """
        boards, best_students, best_points = self._find_best_of_day(window_boards)
        current = students[boards]
        led = current != NO_LEADER
        codes = (boards[led].astype(np.int64) << STUDENT_BITS) | current[led]
        fell = np.zeros(len(boards), bool)
        fell[led] = self._has_lost_points(codes)
        better = ~led
        points = self._points(np.searchsorted(self.sums.codes, codes))
        better[led] = (best_points[led] > points) | (
            (best_points[led] == points) & (best_students[led] < current[led])
        )
        students[boards[better]] = best_students[better]

        again = search_again.copy()
        if window_boards is not None:
            again &= window_boards
        again[boards[fell]] = True
        self._search(students, np.flatnonzero(again))

    def _find_best_of_day(
        self, window_boards: NDArray[np.bool_] | None
    ) -> tuple[Int32, Int64, Int64]:
        """The boards with events on the day, and who of those has most points in the window."""
        codes = self.day_sums.codes
        chosen = (
            np.arange(len(codes))
            if window_boards is None
            else np.flatnonzero(window_boards[boards_of(codes)])
        )
        codes = codes[chosen]
        points = (
            self.day_sums.points[chosen]
            if self.day_alone
            else self._points(np.searchsorted(self.sums.codes, codes))
        )
        return _find_best(codes, points)

    def _has_lost_points(self, codes: Int64) -> NDArray[np.bool_]:
        """Whether the day takes points from each of these pairs."""
        if self.day_alone:
            return np.zeros(len(codes), bool)
        at = np.minimum(np.searchsorted(self.day_sums.codes, codes), len(self.day_sums.codes) - 1)
        return (self.day_sums.codes[at] == codes) & (self.day_sums.points[at] < 0)

    def _search(self, students: Int64, boards: Int64) -> None:
        """Make `students` the leaders of these boards, among all who are ranked there."""
        all_codes = self.sums.codes
        begins = np.searchsorted(all_codes, boards << STUDENT_BITS)
        sizes = np.searchsorted(all_codes, (boards + 1) << STUDENT_BITS) - begins
        ends = np.cumsum(sizes)
        rows = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(
            begins - (ends - sizes), sizes
        )
        events = self.sums.events[rows]
        if self.state is not None:
            events = events - self.state.events[rows]
        rows = rows[events > 0]
        found, best_students, _ = _find_best(all_codes[rows], self._points(rows))
        students[boards] = NO_LEADER
        students[found] = best_students

    def _points(self, rows: Int64) -> Int64:
        """Points in the window of pairs, by their positions in the sums."""
        points: Int64 = self.sums.points[rows]
        return points if self.state is None else points - self.state.points[rows]


def _find_best(codes: Int64, points: Int64) -> tuple[Int32, Int64, Int64]:
    """Each board of ascending pair codes, the student with most points there, of equal ones the
    first, and these points.
    """
    boards = boards_of(codes)
    begins = np.flatnonzero(opens(boards))
    if not len(begins):
        return boards, codes, points
    most = np.maximum.reduceat(points, begins)
    reached = np.flatnonzero(points == np.repeat(most, np.diff(np.append(begins, len(codes)))))
    first = reached[opens(boards[reached])]
    return boards[first], students_of(codes[first]), points[first]
