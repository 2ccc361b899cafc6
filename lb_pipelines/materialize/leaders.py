"""Who led each board on the day before a pass, and since when: by the events.

The stored trends of that day say it, where they are current. Else it is followed through the
aggregated days, from the latest day whose trends are, or from the first event on. Which days were
made, and in which order, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lb_pipelines.core import timeline
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.leaders import NO_LEADER, Leaders, LeaderStreaks
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.sums import Sums, Total
from lb_pipelines.core.timeline import Step
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import aggregates as repository
from lb_pipelines.db.repositories import boards as trends
from lb_pipelines.db.repositories import currency, directory, institutions
from lb_pipelines.db.repositories.boards import Leader
from lb_pipelines.db.repositories.directory import Index
from lb_pipelines.materialize.past import Days, History, StoredPoints

LeadersByBoard = dict[tuple[bytes, bytes], Leader]
"""By reference id and granularity, as UTF-8."""


def find_leaders(
    database: Database, institution: Institution, type: BoardType, asset: str, day: date
) -> LeadersByBoard:
    """The leader of every board of a type as of `day`, whose days are aggregated; `asset` is that
    of the type's trends.
    """
    with database.transaction(snapshot=True) as connection:
        stored_day = currency.find_latest_current_day(connection, institution, asset, day)
        stored = (
            trends.leaders(connection, institution, type, stored_day)
            if stored_day is not None
            else {}
        )
        if stored_day == day:
            return {
                (reference.encode(), granularity.encode()): leader
                for (reference, granularity), leader in stored.items()
            }
        return _follow_leaders(connection, institution, type, stored_day, stored, day)


def _follow_leaders(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    stored_day: date | None,
    stored: Mapping[tuple[str, str], Leader],
    last: date,
) -> LeadersByBoard:
    """The leaders as of `last`, followed from those of `stored_day`; None: from the beginning."""
    history = History(repository.states(connection, institution, last))
    first_event_day = history.first_event_day
    if first_event_day is None:
        return {}
    terms = institutions.terms(connection, institution)
    boards, board_terms = directory.boards(connection, institution, type, terms)
    students = directory.students(connection, institution)
    streaks = LeaderStreaks(len(boards), board_terms, first_event_day)
    first = first_event_day
    if stored_day is not None and stored_day >= first_event_day:
        streaks.resume(stored_day, _read_leaders(stored, boards, students))
        first = stored_day + ONE_DAY

    cells = Days(connection, institution, students)
    source = _RecordingSource(
        StoredPoints(
            connection,
            institution,
            type,
            boards,
            students,
            cells,
            history,
            board_terms.is_cut,
        )
    )
    sums = source.points.running_sums()
    days = DayRange(first, last)
    starts = streaks.window_starts(days)
    # To where the walk begins it may jump onto stored totals; from there on each day is looked at.
    earlier = {start for start in starts if start <= first}
    if first > first_event_day:
        earlier.add(first)
    steps = timeline.steps_to(earlier, first_event_day, source.points.standing)
    steps += [Step(None, (day,), day + ONE_DAY) for day in days]
    for boundary in timeline.follow(steps, source, sums):
        day = boundary - ONE_DAY
        day_sums = source.take(day)
        if day in days:
            streaks.add(day, sums, day_sums)
        if boundary in starts:
            sums.mark(boundary)
        for start in [start for start, until in starts.items() if until <= day]:
            sums.forget(start)
            del starts[start]
    return _leaders_by_board(streaks.leaders, boards, students)


class _RecordingSource:
    """A source of sums that remembers those of single days until they are taken."""

    def __init__(self, points: StoredPoints) -> None:
        self.points = points
        self._day_sums: dict[date, Sums] = {}

    def before(self, cut: date) -> Sums | Total:
        return self.points.before(cut)

    def on(self, days: Sequence[date]) -> list[Sums]:
        sums = self.points.on(days)
        self._day_sums.update(zip(days, sums, strict=True))
        return sums

    def take(self, day: date) -> Sums:
        """The sums of a day, which are not remembered any longer, nor those before it."""
        day_sums = self._day_sums.get(day, Sums.empty())
        self._day_sums = {other: sums for other, sums in self._day_sums.items() if other > day}
        return day_sums


def _read_leaders(
    stored: Mapping[tuple[str, str], Leader], boards: Index, students: Index
) -> dict[Granularity, Leaders]:
    """Stored leaders by ordinals."""
    board_ordinals = {id: ordinal for ordinal, id in enumerate(boards.ids.to_pylist())}
    ids = pa.array([leader.student_id for leader in stored.values()], pa.string())
    student_ordinals = pc.index_in(ids, value_set=students.ids)
    assert student_ordinals.null_count == 0, "a leader is no student"
    leaders = {
        granularity: Leaders(
            np.full(len(boards), NO_LEADER, np.int64),
            np.full(len(boards), np.datetime64("NaT", "D")),
        )
        for granularity in Granularity
    }
    for ((reference, granularity), leader), student in zip(
        stored.items(), student_ordinals.to_pylist(), strict=True
    ):
        # A board that is gone from the directory has no ordinal.
        board = board_ordinals.get(reference)
        if board is not None:
            granularity_leaders = leaders[Granularity(granularity)]
            granularity_leaders.students[board] = student
            granularity_leaders.since[board] = np.datetime64(leader.since, "D")
    return leaders


def _leaders_by_board(
    leaders: Mapping[Granularity, Leaders], boards: Index, students: Index
) -> LeadersByBoard:
    by_board: LeadersByBoard = {}
    references = [id.encode() for id in boards.ids.to_pylist()]
    for granularity, granularity_leaders in leaders.items():
        led = np.flatnonzero(granularity_leaders.students != NO_LEADER)
        ids = students.ids.take(pa.array(granularity_leaders.students[led])).to_pylist()
        days: list[date] = granularity_leaders.since[led].tolist()
        for board, student, since in zip(led.tolist(), ids, days, strict=True):
            by_board[references[board], granularity.encode()] = Leader(student, since)
    return by_board
