"""Opening a pass: one institution's boards of one type over days, from one state of the database.

What snapshots and trends share: make sure that the past is aggregated, plan, read everything in
one REPEATABLE READ transaction, and give the ranked boards day by day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from lb_pipelines.core import json_lists, timeline
from lb_pipelines.core.enrolment import Enrolment
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, contiguous_ranges
from lb_pipelines.core.sums import Sums, pair_codes
from lb_pipelines.core.timeline import Boards, BoardTerms
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import aggregates as repository
from lb_pipelines.db.repositories import directory, institutions, writers
from lb_pipelines.materialize import aggregates
from lb_pipelines.materialize.results import Provenance


@dataclass(frozen=True)
class DayOfBoards:
    """A day's ranked boards with their baselines, and the state of the events they come from."""

    day: date
    boards: list[tuple[Boards, Boards | None]]
    through_revision: int
    watermark: datetime | None


@dataclass(frozen=True)
class Pass:
    """An open pass: `days` yields in ascending order; ids are by ordinal.

    `first` is its first day; `references` are the boards' ids as UTF-8; `student_ids` plain texts,
    `student_literals` the same as JSON string literals. They were read after so many `erasures`,
    and are not to be written after another one.
    """

    institution: Institution
    type: BoardType
    first: date
    erasures: int
    references: Sequence[bytes]
    student_ids: pa.Array
    student_literals: pa.Array
    enrolment: Enrolment
    days: Iterator[DayOfBoards]


@contextmanager
def opened(
    database: Database,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    provenance: Provenance,
) -> Iterator[Pass]:
    """Open a pass over `days`. Days of the past that were never aggregated are aggregated first."""
    aggregates.ensure(database, institution, days.last, provenance)
    with database.transaction() as connection:
        terms = institutions.terms(connection, institution)
        _, board_terms = directory.boards(connection, institution, type, terms)
        history = _History(repository.states(connection, institution, days.last))
    if history.first_event_day is not None:
        planned = timeline.plan(days, board_terms, history.first_event_day)
        aggregates.ensure_totals(database, institution, planned.cuts)

    with database.transaction(snapshot=True) as connection:
        terms = institutions.terms(connection, institution)
        boards, board_terms = directory.boards(connection, institution, type, terms)
        students = directory.students(connection, institution)
        history = _History(repository.states(connection, institution, days.last))
        source = _StoredPoints(connection, institution, type, boards, students, history)
        yield Pass(
            institution=institution,
            type=type,
            first=days.first,
            erasures=writers.erasures(connection, institution),
            references=[id.encode() for id in boards.ids.to_pylist()],
            student_ids=students.ids,
            student_literals=json_lists.quoted(students.ids),
            enrolment=directory.enrolment(connection, institution, type, boards, students),
            days=_days(days, source, board_terms, history, institution),
        )


def _days(
    days: DayRange,
    source: _StoredPoints,
    board_terms: BoardTerms,
    history: _History,
    institution: Institution,
) -> Iterator[DayOfBoards]:
    first = history.first_event_day
    if first is None:
        for day in days:
            yield DayOfBoards(day, [], *history.state_on(day))
        return
    planned = timeline.plan(days, board_terms, first)
    for day, boards in timeline.walk(planned, source, board_terms, first, institution.rank_method):
        yield DayOfBoards(day, boards, *history.state_on(day))


class _History:
    """The aggregated days up to the end of a pass, ascending."""

    def __init__(self, states: Sequence[repository.DayState]) -> None:
        self.first_event_day = next((state.day for state in states if state.cells), None)
        self._states: dict[date, tuple[int, datetime | None]] = {}
        self._days = [state.day for state in states]
        revision = 0
        watermark: datetime | None = None
        for state in states:
            revision = max(revision, state.revision)
            watermark = max(filter(None, (watermark, state.watermark)), default=None)
            self._states[state.day] = revision, watermark

    def state_on(self, day: date) -> tuple[int, datetime | None]:
        """(through_revision, watermark) over all days up to `day`."""
        while day not in self._states:
            if not self._days or day < self._days[0]:
                return 0, None
            day -= ONE_DAY
        return self._states[day]


class _StoredPoints:
    """The sums of a pass, read from stored aggregates and totals (a `timeline.PointSource`)."""

    def __init__(
        self,
        connection: Connection,
        institution: Institution,
        type: BoardType,
        boards: directory.Index,
        students: directory.Index,
        history: _History,
    ) -> None:
        self._connection = connection
        self._institution = institution
        self._type = type
        self._boards = boards
        self._students = students
        self._history = history

    def before(self, cut: date) -> Sums:
        """Sums over all days before `cut`: the stored total, or the days if it became stale."""
        through_revision, _ = self._history.state_on(cut - ONE_DAY)
        stored = repository.total_before(
            self._connection, self._institution, self._type, cut, through_revision
        )
        if stored is not None:
            return self._sums(*stored)
        assert self._history.first_event_day is not None
        total = Sums.empty()
        for days in _months(DayRange(self._history.first_event_day, cut - ONE_DAY)):
            batches = [total, *self._read(days).values()]
            total = Sums.of(
                *(
                    pa.concat_arrays(
                        [pa.array(getattr(batch, name)) for batch in batches]
                    ).to_numpy()
                    for name in ("codes", "points", "events")
                )
            )
        return total

    def on(self, days: Sequence[date]) -> list[Sums]:
        """Sums of each of these days."""
        found: dict[date, Sums] = {}
        for contiguous in contiguous_ranges(days):
            found |= self._read(contiguous)
        return [found.get(day, Sums.empty()) for day in days]

    def _read(self, days: DayRange) -> dict[date, Sums]:
        rows = repository.sums_of_days(self._connection, self._institution, self._type, days)
        return {day: self._sums(*columns) for day, *columns in rows}

    def _sums(self, references, students, points, events) -> Sums:  # type: ignore[no-untyped-def]
        on_board = references > 0
        codes = pair_codes(
            self._boards.ordinals(references[on_board]), self._students.ordinals(students[on_board])
        )
        return Sums.of(codes, points[on_board], events[on_board])


def _months(days: DayRange) -> Iterator[DayRange]:
    position = days.first
    while position <= days.last:
        last = min(position + 30 * ONE_DAY, days.last)
        yield DayRange(position, last)
        position = last + ONE_DAY
