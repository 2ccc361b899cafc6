"""The stored past of one institution: aggregated days, and totals of all days before a day.

Passes read from here (`timeline.PointSource`), and leave here the totals that the next ones will
want: before the beginnings of months and terms for good, before the last days until later ones
take their place. So a day costs the same however long the history is. A total says which state of
the days it sums; one whose days have changed since is never used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta

import numpy as np

from lb_pipelines.core import blocks, timeline
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, contiguous_ranges
from lb_pipelines.core.ranking import Int32
from lb_pipelines.core.sums import RunningSums, Sums, Total, boards_of, pair_codes, students_of
from lb_pipelines.core.windows import BoardTerms
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import aggregates as repository
from lb_pipelines.db.repositories import directory, institutions, totals
from lb_pipelines.db.repositories.aggregates import KEYS, Cells

# The baselines of the days to come: seven days back, and two Mondays.
_LAST_DAYS = timedelta(days=8)
_LAST_MONDAYS = timedelta(days=15)


def is_worth_keeping(before: date, newest: date, board_terms: BoardTerms) -> bool:
    """Whether a total before this day is kept, where `newest` is the latest day that has one."""
    return (
        board_terms.is_cut(before)
        or before > newest - _LAST_DAYS
        or (before.isoweekday() == 1 and before > newest - _LAST_MONDAYS)
    )


class History:
    """The aggregated days up to the end of a pass, ascending."""

    def __init__(self, states: Sequence[repository.DayState]) -> None:
        self.first_event_day = next((state.day for state in states if state.cells), None)
        self._states: dict[date, tuple[int, datetime | None]] = {}
        self._first = states[0].day if states else None
        revision = 0
        watermark: datetime | None = None
        for state in states:
            revision = max(revision, state.revision)
            watermark = max(filter(None, (watermark, state.watermark)), default=None)
            self._states[state.day] = revision, watermark

    def state_on(self, day: date) -> tuple[int, datetime | None]:
        """(through_revision, watermark) over all days up to `day`."""
        while day not in self._states:
            if self._first is None or day < self._first:
                return 0, None
            day -= ONE_DAY
        return self._states[day]

    def through(self, before: date) -> int:
        """The revision that a total before this day has if it is current."""
        return self.state_on(before - ONE_DAY)[0]

    def standing(self, stored: Mapping[date, int]) -> set[date]:
        """Those of the stored totals that are current."""
        return {before for before, through in stored.items() if through == self.through(before)}


class Days:
    """The cells of aggregated days, read once for all types of boards that walk side by side."""

    def __init__(
        self, connection: Connection, institution: Institution, students: directory.Index
    ) -> None:
        self._connection = connection
        self._institution = institution
        self._students = students
        # Each type asks for the same days, one soon after the other.
        self._last: deque[tuple[Sequence[date], dict[date, tuple[Cells, Int32]]]] = deque(maxlen=1)

    def on(self, days: Sequence[date]) -> dict[date, tuple[Cells, Int32]]:
        """The cells of these days, and the student ordinal of each; days without any are absent."""
        for read, found in self._last:
            if read == days:
                return found
        found = {
            day: (cells, self._students.ordinals(cells.keys[0]))
            for part in contiguous_ranges(days)
            for day, cells in repository.cells_of_days(self._connection, self._institution, part)
        }
        self._last.append((list(days), found))
        return found


class StoredPoints:
    """The sums of one type's boards, read from stored days and totals.

    `standing`: the cuts whose totals are current. `is_for_good`: whether a total before a day is
    kept for good, and so by student too.
    """

    def __init__(
        self,
        connection: Connection,
        institution: Institution,
        type: BoardType,
        boards: directory.Index,
        students: directory.Index,
        days: Days,
        history: History,
        is_for_good: Callable[[date], bool],
    ) -> None:
        self._connection = connection
        self._institution = institution
        self._type = type
        self._is_for_good = is_for_good
        self._boards = boards
        self._students = students
        self._days = days
        self._history = history
        self._column = KEYS.index(_KEY_OF[type])
        self._pairs = 0
        self.standing = history.standing(totals.stored(connection, institution, type))

    def running_sums(self) -> RunningSums:
        """Sums that know every pair which has a slot."""
        pairs = totals.pairs(self._connection, self._institution, self._type)
        self._pairs = len(pairs)
        codes = pair_codes(
            self._boards.ordinals(pairs.boards), self._students.ordinals(pairs.students)
        )
        # A board that is gone from the directory has no ordinal.
        slots = np.flatnonzero(codes >= 0)
        return RunningSums(codes[slots], slots)

    def before(self, cut: date) -> Sums | Total:
        """Sums over all days before `cut`: the stored total, or the days if it became stale."""
        stored = totals.total(
            self._connection, self._institution, self._type, cut, self._history.through(cut)
        )
        if stored is not None:
            return stored
        assert self._history.first_event_day is not None
        sums = RunningSums()
        steps = timeline.steps_to([cut], self._history.first_event_day, ())
        for _ in timeline.follow(steps, self, sums):
            pass
        return Sums(sums.codes, sums.points, sums.events.astype(np.int64))

    def on(self, days: Sequence[date]) -> list[Sums]:
        """Sums of each of these days."""
        found = self._days.on(days)
        return [self._sums(*found[day]) if day in found else Sums.empty() for day in days]

    def _sums(self, cells: Cells, students: Int32) -> Sums:
        keys = cells.keys[self._column]
        on_board = np.flatnonzero(keys)
        codes = pair_codes(self._boards.ordinals(keys[on_board]), students[on_board])
        return Sums.of(codes, cells.points[on_board], cells.events[on_board])

    def keep(self, database: Database, sums: RunningSums, before: date) -> None:
        """Store the sums as they are now as the total before this day; strangers get slots."""
        by_student = self._by_student(sums) if self._is_for_good(before) else None
        strangers = np.flatnonzero(sums.slots < 0)
        with database.transaction() as connection:
            if len(strangers):
                codes = sums.codes[strangers]
                met = totals.Pairs(
                    self._boards.keys[boards_of(codes)], self._students.keys[students_of(codes)]
                )
                sums.slots[strangers], self._pairs = totals.give_slots(
                    connection, self._institution, self._type, self._pairs, met
                )
            totals.store(
                connection,
                self._institution,
                self._type,
                before,
                self._history.through(before),
                sums.total(),
                by_student,
            )
        self.standing.add(before)

    def _by_student(self, sums: RunningSums) -> blocks.Blocks:
        there = np.flatnonzero(sums.events)
        codes = sums.codes[there]
        return blocks.pack(
            self._students.keys[students_of(codes)],
            self._boards.keys[boards_of(codes)],
            sums.points[there],
            sums.events[there],
        )


_KEY_OF = {
    BoardType.CLASS: "classes",
    BoardType.SUBJECT: "subjects",
    BoardType.CAMPUS: "campuses",
}


def ensure_totals(
    database: Database, institution: Institution, cuts: Mapping[BoardType, Sequence[date]]
) -> None:
    """Store the totals before these cuts, except those that stand and are current.

    Safe beside a writer of aggregates: a total says which state it sums, and readers check it.
    """
    last = max((cut for of_type in cuts.values() for cut in of_type), default=None)
    if last is None:
        return
    with database.transaction(snapshot=True) as connection:
        history = History(repository.states(connection, institution, last - ONE_DAY))
        if history.first_event_day is None:
            return
        terms = institutions.terms(connection, institution)
        students = directory.students(connection, institution)
        days = Days(connection, institution, students)
        ways: list[Iterator[None]] = []
        for type, wanted in cuts.items():
            boards, board_terms = directory.boards(connection, institution, type, terms)
            source = StoredPoints(
                connection,
                institution,
                type,
                boards,
                students,
                days,
                history,
                board_terms.is_cut,
            )
            ways.append(_make(database, source, wanted, history.first_event_day))
        # Side by side, so that each day is read once.
        while ways:
            ways = [way for way in ways if next(way, _DONE) is not _DONE]


_DONE = object()


def _make(
    database: Database, source: StoredPoints, cuts: Sequence[date], first_event_day: date
) -> Iterator[None]:
    missing = [cut for cut in cuts if cut not in source.standing and cut > first_event_day]
    sums = source.running_sums() if missing else RunningSums()
    steps = timeline.steps_to(missing, first_event_day, source.standing)
    for before in timeline.follow(steps, source, sums):
        source.keep(database, sums, before)
        yield


def drop_outlived(
    database: Database,
    institution: Institution,
    type: BoardType,
    board_terms: BoardTerms,
) -> None:
    """Drop the totals of days that have become old."""
    with database.transaction() as connection:
        stored = totals.stored(connection, institution, type)
        newest = max(stored, default=date.min)
        old = [cut for cut in stored if not is_worth_keeping(cut, newest, board_terms)]
        if old:
            totals.drop(connection, institution, type, old)
