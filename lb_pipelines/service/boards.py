"""`LeaderboardService`: every question about boards that lasts longer than a page view.

Every method takes an institution's id, validates it and its status, and reads as that institution
alone. What is wrong is a typed error of `lb_pipelines.errors` with its remedy. What was read is
kept (`cache`) until the boards concerned change; names are joined each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from typing import TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import sqlalchemy
from dogpile.cache import CacheRegion

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.distribution import Distribution, unpack
from lb_pipelines.core.periods import (
    ONE_DAY,
    DayRange,
    closed_through,
    local_day,
)
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import institutions, reading
from lb_pipelines.db.repositories.reading import Opening, StoredBoard
from lb_pipelines.db.repositories.versions import EVER
from lb_pipelines.errors import (
    InvalidPartition,
    InvalidSelection,
    NotMaterialized,
    UnknownBoard,
    UnknownInstitution,
)
from lb_pipelines.materialize import aggregates, snapshots
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.snapshots import asset_name
from lb_pipelines.service import neighbours, students
from lb_pipelines.service.arguments import board_key, board_type, day_range, one_day
from lb_pipelines.service.cache import BoardCache, CacheStatistics
from lb_pipelines.service.reader import Reader, board_of, not_materialized, students_of
from lb_pipelines.service.results import (
    Around,
    Board,
    BoardKey,
    BoardTrends,
    Comparison,
    Entry,
    History,
    Standing,
    Standings,
    TrendPoint,
)
from lb_pipelines.service.students import Place

T = TypeVar("T")

PAGE = 400
"""Boards of a page unless told otherwise: a year of days and some."""
MONTHS = 12
_MOST_MONTHS = 1_200
_FIGURES = ("ranked", "enrolled", "sum", "mean", "median", "max")


class LeaderboardService:
    """Boards, histories, trends and ranks out of one database.

    `engine`: a SQLAlchemy engine over psycopg 3, or a `Database`. What was read is kept in the
    `region` (`cache.region_from`; in this process's memory unless given), or with `keep` False
    nowhere. `now` gives the present instant; only what has no day of its own (the last N months, a
    closed day) asks for it.
    """

    def __init__(
        self,
        engine: sqlalchemy.Engine | Database,
        *,
        region: CacheRegion | None = None,
        keep: bool = True,
        now: Clock = utc_now,
    ) -> None:
        self._database = engine if isinstance(engine, Database) else Database.over(engine)
        self._cache = BoardCache(self._database, region) if keep else None
        self._now = now
        self._zones: dict[str, ZoneInfo] = {}

    @property
    def cache_statistics(self) -> CacheStatistics:
        """How often an answer was there already, since this object was made."""
        return self._cache.statistics if self._cache else CacheStatistics(0, 0)

    def get_leaderboard(
        self,
        institution_id: str,
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
        day: date | None = None,
        *,
        names: bool = False,
    ) -> Board:
        """The board as of the end of `day`; of the last day materialized unless given.

        With `names` the entries bear the students' names, as they are now. A day on which nobody
        was ranked gives a board without entries. Raises `NotMaterialized` for a day that was never
        made.
        """
        key = board_key(institution_id, type, reference_id, granularity)

        def make() -> Board:
            with self._reader(key) as reader:
                wanted = day or reading.last_materialized(
                    reader.connection, reader.institution, asset_name(key.type)
                )
                if wanted is None:
                    raise NotMaterialized(
                        f"{key} has never been made", "Materialize a day of the institution"
                    )
                for stored in reader.snapshots([DayRange(wanted, wanted)]):
                    return board_of(key, stored)
                reader.require_materialized(wanted)
                return Board.empty(key, wanted)

        days = EVER if day is None else one_day(day)
        board = self._kept("get_leaderboard", key, days, {"last": day is None}, make)
        return replace(board, entries=self._named(key, board.entries)) if names else board

    def get_historical_leaderboard(
        self,
        institution_id: str,
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
        first: date,
        last: date,
        *,
        every_day: bool = False,
        before: date | None = None,
        limit: int = PAGE,
    ) -> History:
        """Boards from `last` back to `first`: the closing one of each period, or of every day.

        A period whose last day was not made shows the last day that was. `limit` boards a page;
        `History.next_before` is the next one's `before`.
        """
        key = board_key(institution_id, type, reference_id, granularity)
        if limit < 1:
            raise InvalidSelection(f"A page of {limit} boards", "Ask for 1 board or more")
        days = day_range(first, last)
        if before is not None and before <= first:
            return History(key, ())
        if before is not None and before <= last:
            days = DayRange(first, before - ONE_DAY)

        def make() -> History:
            with self._reader(key) as reader:
                wanted = reader.periods(days, every_day=every_day)
                stored = reader.snapshots(wanted, limit + 1)
            boards = tuple(board_of(key, one) for one in stored[:limit])
            if len(stored) <= limit:
                return History(key, boards)
            # From the first day of the last period shown: a later closing day of it that arrives
            # between two pages belongs to this one.
            return History(key, boards, _period_of(boards[-1].day, wanted).first)

        arguments = {"every_day": every_day, "limit": limit}
        return self._kept("get_historical_leaderboard", key, days, arguments, make)

    def get_distribution(
        self,
        institution_id: str,
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
        day: date,
    ) -> Distribution:
        """The points of all who are ranked on the board as of `day`; empty where nobody is."""
        key = board_key(institution_id, type, reference_id, granularity)
        days = one_day(day)

        def make() -> Distribution:
            with self._reader(key) as reader:
                for stored in reader.snapshots([days]):
                    return unpack(stored.distribution)
                reader.require_materialized(day)
                return Distribution(np.empty(0, np.int64), np.empty(0, np.int64))

        return self._kept("get_distribution", key, days, {}, make)

    def get_leaderboard_trends(
        self,
        institution_id: str,
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
        *,
        months: int = MONTHS,
    ) -> BoardTrends:
        """What has moved on the board at the end of each period of the last `months` months."""
        key = board_key(institution_id, type, reference_id, granularity)
        days = self._months(institution_id, months)

        def make() -> BoardTrends:
            with self._reader(key) as reader:
                rows = reading.closing_trends(
                    reader.connection,
                    reader.institution,
                    reader.board,
                    key.granularity,
                    reader.periods(days),
                )
            return BoardTrends(key, tuple(TrendPoint(*row) for row in rows))

        return self._kept("get_leaderboard_trends", key, days, {}, make)

    def get_rank(
        self,
        institution_id: str,
        student_id: str,
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
        day: date,
    ) -> Standing:
        """The exact rank, points and percentile of any student on any past day.

        `rank` None: the student was not ranked.
        """
        key = board_key(institution_id, type, reference_id, granularity)
        days = one_day(day)

        def make() -> Standing:
            with self._reader(key, student_id) as reader:
                (student,) = reader.students
                for standing in reader.standings(student, reader.places([days])):
                    return standing
                reader.require_materialized(day)
                return Standing(key, student_id, day, 0, None, None, None)

        return self._kept("get_rank", key, days, {"student": student_id}, make)

    def get_student_trends(
        self,
        institution_id: str,
        student_id: str,
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
        *,
        months: int = MONTHS,
    ) -> Standings:
        """A student's standing at the end of each period of the last `months` months."""
        key = board_key(institution_id, type, reference_id, granularity)
        days = self._months(institution_id, months)

        def make() -> Standings:
            with self._reader(key, student_id) as reader:
                (student,) = reader.students
                series = reader.standings(student, reader.places(reader.periods(days)))
            return Standings(student_id, students.with_changes(series))

        return self._kept("get_student_trends", key, days, {"student": student_id}, make)

    def get_around(
        self,
        institution_id: str,
        student_id: str,
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
        day: date,
        *,
        k: int = 3,
        names: bool = False,
    ) -> Around:
        """Any student with exactly `k` students above and `k` below; fewer at the board's ends.

        In the order of the board, inside a tie by student id; `tied_students` says how many others
        tie with the student. No entries where the student was not ranked.
        """
        key = board_key(institution_id, type, reference_id, granularity)
        days = one_day(day)
        if k < 0:
            raise InvalidSelection(f"{k} students above and below", "Ask for 0 or more")

        def make() -> Around:
            with self._reader(key, student_id) as reader:
                for stored in reader.snapshots([days]):
                    entries = self._neighbours(reader, stored, k)
                    own = [entry.points for entry in entries if entry.student_id == student_id]
                    tied = unpack(stored.distribution).count_at(own[0]) - 1 if own else 0
                    return Around(key, student_id, day, stored.ranked, tied, entries)
                reader.require_materialized(day)
                return Around(key, student_id, day, 0, 0, ())

        around = self._kept("get_around", key, days, {"student": student_id, "k": k}, make)
        return replace(around, entries=self._named(key, around.entries)) if names else around

    def get_student_boards(self, institution_id: str, student_id: str, day: date) -> Standings:
        """Every board of a day on which the student is ranked, with the exact rank on each."""
        days = one_day(day)

        def make() -> Standings:
            with self._opened(institution_id, students=(student_id,)) as (connection, opening):
                institution = opening.institution
                (student,) = students_of(opening, (student_id,))
                named = {
                    (board.type, board.id): board
                    for board in reading.boards_of_student(
                        connection, institution, student.key, day
                    )
                }
                places = [
                    Place(BoardKey(institution_id, type, id, granularity), named[type, id], stored)
                    for type, id, granularity, stored in reading.places_of_boards(
                        connection, institution, named.values(), day, student_id
                    )
                ]
                if not places and not reading.any_materialized(
                    connection, institution, [asset_name(type) for type in BoardType], day
                ):
                    raise not_materialized(institution_id, day)
                found = students.standings(connection, institution, student, places)
            ranked = [standing for standing in found if standing.rank is not None]
            return Standings(student_id, tuple(sorted(ranked, key=lambda s: s.key.order)))

        if self._cache is None:
            return make()
        return self._cache.get(
            institution_id, "get_student_boards", None, days, {"student": student_id}, make
        )

    def compare_boards(
        self,
        institution_id: str,
        type: BoardType | str,
        reference_ids: tuple[str, str],
        granularity: Granularity | str,
        first: date,
        last: date,
    ) -> Comparison:
        """Two boards of one type side by side at the end of each period: statistics of both."""
        sides = []
        for reference_id in reference_ids:
            history = self.get_historical_leaderboard(
                institution_id,
                type,
                reference_id,
                granularity,
                first,
                last,
                limit=len(day_range(first, last)),
            )
            sides.append(
                {
                    board.day: {name: getattr(board, name) for name in _FIGURES}
                    for board in history.boards
                }
            )
        return _compared(*reference_ids, *sides)

    def compare_students(
        self,
        institution_id: str,
        student_ids: tuple[str, str],
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
        first: date,
        last: date,
    ) -> Comparison:
        """Two students on one board side by side at the end of each period."""
        key = board_key(institution_id, type, reference_id, granularity)
        days = day_range(first, last)

        def make() -> Comparison:
            with self._reader(key, *student_ids) as reader:
                places = reader.places(reader.periods(days))
                sides = [
                    {
                        s.day: {"rank": s.rank, "points": s.points, "percentile": s.percentile}
                        for s in reader.standings(student, places)
                    }
                    for student in reader.students
                ]
            return _compared(*student_ids, *sides)

        return self._kept("compare_students", key, days, {"students": tuple(student_ids)}, make)

    def create_partitioned_snapshot(
        self, institution_id: str, type: BoardType | str, day: date, *, run_id: str = "service"
    ) -> DayResult:
        """Make all boards of one type as of a closed day, in their partition; replaces that day's.

        Raises `InvalidPartition` for a day that is not over at the institution.
        """
        wanted, days = board_type(type), one_day(day)
        with self._database.transaction() as connection:
            institution = institutions.find_active(connection, institution_id)
        if day > closed_through(self._now(), institution.zone):
            raise InvalidPartition(
                f"{day} is not over yet at {institution_id} ({institution.zone})",
                "Make its boards after midnight there",
            )
        run = Provenance(run_id)
        for _ in aggregates.materialize(self._database, institution, days, run):
            pass
        (result,) = snapshots.materialize(self._database, institution, wanted, days, run)
        return result

    def _kept(
        self,
        method: str,
        key: BoardKey,
        days: DayRange,
        arguments: Mapping[str, object],
        make: Callable[[], T],
    ) -> T:
        """What `make` gives, now or kept from before; `days` are those that it depends on."""
        if self._cache is None:
            return make()
        return self._cache.get(key.institution_id, method, key, days, arguments, make)

    @contextmanager
    def _opened(
        self,
        institution_id: str,
        key: BoardKey | None = None,
        students: Sequence[str] = (),
    ) -> Iterator[tuple[Connection, Opening]]:
        with self._database.reading(institution_id, generic_plans=True) as connection:
            opening = reading.opening(
                connection,
                institution_id,
                key.type if key else None,
                key.reference_id if key else None,
                students,
            )
            if opening is None:
                raise UnknownInstitution(institution_id)
            self._zones[institution_id] = opening.institution.validate().zone
            yield connection, opening

    @contextmanager
    def _reader(self, key: BoardKey, *student_ids: str) -> Iterator[Reader]:
        with self._opened(key.institution_id, key, student_ids) as (connection, opening):
            if opening.board is None:
                raise UnknownBoard(key.institution_id, key.type, key.reference_id)
            found = students_of(opening, student_ids)
            yield Reader(connection, opening.institution, opening.board, key, found)

    def _months(self, institution_id: str, months: int) -> DayRange:
        """The last so many months of the institution, the current one included, through today.

        Its zone is remembered from the last time that it was read: one that has changed since
        makes nothing wrong but which months are shown at the turn of a month, once.
        """
        if not 1 <= months <= _MOST_MONTHS:
            raise InvalidSelection(
                f"Trends over {months} months", f"Ask for 1 to {_MOST_MONTHS} months"
            )
        if institution_id not in self._zones:
            with self._opened(institution_id):
                pass
        today = local_day(self._now(), self._zones[institution_id])
        year, month = divmod(today.year * 12 + today.month - 1 - (months - 1), 12)
        return DayRange(date(year, month + 1, 1), today)

    def _neighbours(self, reader: Reader, stored: StoredBoard, k: int) -> tuple[Entry, ...]:
        (student,) = reader.students
        near = neighbours.among_entries(stored, student.id, k)
        if near is not None:
            return near
        whole = neighbours.whole_board(
            reader.connection, reader.institution, reader.board, stored.window
        )
        if not whole.equals(stored):
            raise students.stale(Place(reader.key, reader.board, stored))
        return whole.around(student.key, k)

    def _named(self, key: BoardKey, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        with self._opened(key.institution_id) as (connection, opening):
            names = reading.names(
                connection, opening.institution, [entry.student_id for entry in entries]
            )
        return tuple(entry._replace(name=names.get(entry.student_id)) for entry in entries)


def _period_of(day: date, wanted: Sequence[DayRange]) -> DayRange:
    return next(period for period in wanted if day in period)


def _compared(
    a: str,
    b: str,
    of_a: Mapping[date, Mapping[str, object]],
    of_b: Mapping[date, Mapping[str, object]],
) -> Comparison:
    names = next(iter((of_a or of_b).values()), {})
    return Comparison(
        a,
        b,
        tuple(
            {
                "day": day,
                **{f"{name}_a": of_a.get(day, {}).get(name) for name in names},
                **{f"{name}_b": of_b.get(day, {}).get(name) for name in names},
            }
            for day in sorted({*of_a, *of_b}, reverse=True)
        ),
    )
