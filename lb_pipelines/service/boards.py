"""`LeaderboardService`: every question about boards that lasts longer than a page view.

Every method takes an institution's id, validates it and its status, and reads as that institution
alone. What is wrong is a typed error of `lb_pipelines.errors` with its remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
from typing import TypeVar

import sqlalchemy

from lb_pipelines.core.history import periods
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import (
    ONE_DAY,
    DayRange,
    Term,
    closed_through,
    institution_term,
    local_day,
)
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import institutions, reading
from lb_pipelines.db.repositories.reading import NamedBoard, StoredBoard
from lb_pipelines.errors import (
    InvalidPartition,
    InvalidSelection,
    NotMaterialized,
    UnknownBoard,
    UnknownStudent,
)
from lb_pipelines.materialize import aggregates, snapshots
from lb_pipelines.materialize.results import DayResult, Provenance
from lb_pipelines.materialize.snapshots import asset_name
from lb_pipelines.service import neighbours, students
from lb_pipelines.service.results import (
    Around,
    Board,
    BoardKey,
    BoardTrends,
    Comparison,
    Entry,
    History,
    Standings,
    TrendPoint,
)
from lb_pipelines.service.students import Snapshot, Student

T = TypeVar("T")

PAGE = 400
"""Boards of a page unless told otherwise: a year of days and some."""
MONTHS = 12


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class _Reader:
    """One transaction's view of one board."""

    connection: Connection
    institution: Institution
    board: NamedBoard
    key: BoardKey

    def snapshots(self, wanted: Sequence[DayRange], at_most: int) -> list[StoredBoard]:
        return reading.closing_snapshots(
            self.connection,
            self.institution,
            self.key.type,
            self.key.reference_id,
            self.key.granularity,
            wanted,
            at_most,
        )

    def term_on(self) -> Callable[[date], Term | None]:
        """Which term's TERM board the board has on a day."""
        if self.key.granularity is not Granularity.TERM:
            return lambda day: None
        if self.board.type is BoardType.CLASS:
            own = reading.term_of_class(self.connection, self.institution, self.board)
            return lambda day: own if own is not None and own.holds(day) else None
        terms = institutions.terms(self.connection, self.institution)
        return partial(institution_term, terms)

    def last_day(self) -> date | None:
        return reading.last_materialized(
            self.connection, self.institution, asset_name(self.key.type)
        )


class LeaderboardService:
    """Boards, histories, trends and ranks out of one database.

    `engine`: a SQLAlchemy engine over psycopg 3, or a `Database`. `now` gives the present instant;
    only what has no day of its own (the last N months, a closed day) asks for it.
    """

    def __init__(
        self,
        engine: sqlalchemy.Engine | Database,
        *,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._database = engine if isinstance(engine, Database) else Database.over(engine)
        self._now = now

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
        with self._board(institution_id, type, reference_id, granularity) as reader:
            day = day or reader.last_day()
            if day is None:
                raise NotMaterialized(
                    f"{reader.key} has never been made", "Materialize a day of the institution"
                )
            stored = reader.snapshots([DayRange(day, day)], 1)
            if not stored:
                self._require_materialized(reader, day)
                return _empty(reader.key, day)
            board = _board(reader.key, stored[0])
            return self._named(reader, board) if names else board

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
        if limit < 1:
            raise InvalidSelection(f"A page of {limit} boards", "Ask for 1 board or more")
        days = _days(first, last)
        with self._board(institution_id, type, reference_id, granularity) as reader:
            if before is not None:
                if before <= first:
                    return History(reader.key, ())
                days = DayRange(first, min(last, before - ONE_DAY))
            wanted = periods(reader.key.granularity, days, reader.term_on(), every_day=every_day)
            stored = reader.snapshots(wanted, limit + 1)
        boards = tuple(_board(reader.key, one) for one in stored[:limit])
        more = len(stored) > limit
        # From the first day of the last period shown: a later closing day of it that arrives
        # between two pages belongs to this one.
        position = _period_of(boards[-1].day, wanted).first if more else None
        return History(reader.key, boards, position)

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
        with self._board(institution_id, type, reference_id, granularity) as reader:
            wanted = periods(
                reader.key.granularity, self._months(reader.institution, months), reader.term_on()
            )
            rows = reading.closing_trends(
                reader.connection,
                reader.institution,
                reader.key.type,
                reader.key.reference_id,
                reader.key.granularity,
                wanted,
            )
        return BoardTrends(reader.key, tuple(TrendPoint(*row) for row in rows))

    def get_rank(
        self,
        institution_id: str,
        student_id: str,
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
        day: date,
    ) -> Standings:
        """The exact rank, points and percentile of any student on any past day: one standing."""
        with self._board(institution_id, type, reference_id, granularity) as reader:
            student = _student(reader, student_id)
            stored = reader.snapshots([DayRange(day, day)], 1)
            if not stored:
                self._require_materialized(reader, day)
                return Standings(student_id, ())
            return Standings(student_id, tuple(self._standings(reader, student, stored)))

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
        with self._board(institution_id, type, reference_id, granularity) as reader:
            student = _student(reader, student_id)
            wanted = periods(
                reader.key.granularity, self._months(reader.institution, months), reader.term_on()
            )
            series = self._standings(reader, student, reader.snapshots(wanted, len(wanted)))
        return Standings(student_id, students.with_changes(series))

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
        """The `k` students above and below any student, ties with any of them included.

        No entries where the student was not ranked.
        """
        if k < 0:
            raise InvalidSelection(f"{k} students above and below", "Ask for 0 or more")
        with self._board(institution_id, type, reference_id, granularity) as reader:
            student = _student(reader, student_id)
            stored = reader.snapshots([DayRange(day, day)], 1)
            if not stored:
                self._require_materialized(reader, day)
                return Around(reader.key, student_id, day, 0, ())
            snapshot = _snapshot(reader.key, stored[0])
            whole = neighbours.whole_board(
                reader.connection, reader.institution, reader.board, snapshot.window
            )
            if not _agrees(snapshot, whole):
                raise students.stale(snapshot)
            rows = whole.around(student.key, k) or slice(0, 0)
            entries = tuple(
                Entry(rank, id, points)
                for rank, id, points in zip(
                    whole.ranks[rows].tolist(),
                    whole.ids[rows],
                    whole.points[rows].tolist(),
                    strict=True,
                )
            )
            if names:
                entries = _with_names(reader, entries)
        return Around(reader.key, student_id, day, snapshot.ranked, entries)

    def get_student_boards(self, institution_id: str, student_id: str, day: date) -> Standings:
        """Every board of a day on which the student is ranked, with the exact rank on each."""
        with self._institution(institution_id) as (connection, institution):
            key = reading.student_key(connection, institution, student_id)
            if key is None:
                raise UnknownStudent(institution_id, student_id)
            student = Student(key, student_id)
            days = DayRange(date(1970, 1, 2), day)
            boards = reading.boards_of_student(connection, institution, key, days)
            found = reading.snapshots_of_boards(connection, institution, boards, day)
            if not found and not any(
                reading.is_materialized(connection, institution, asset_name(type), day)
                for type in BoardType
            ):
                raise _not_materialized(institution_id, day)
            by_key = {(board.type, board.id): board for board in boards}
            order = {granularity: at for at, granularity in enumerate(Granularity)}
            stored = [
                Snapshot(
                    BoardKey(institution_id, one.type, one.reference_id, one.granularity),
                    day,
                    one.period_start,
                    one.entries,
                    one.metadata["ranked"],
                    one.distribution,
                )
                for one in sorted(
                    found,
                    key=lambda o: (
                        list(BoardType).index(o.type),
                        o.reference_id,
                        order[o.granularity],
                    ),
                )
            ]
            standing = students.standings(connection, institution, student, by_key, stored)
        return Standings(student_id, tuple(s for s in standing if s.rank is not None))

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
                institution_id, type, reference_id, granularity, first, last, limit=100_000
            )
            sides.append(
                {
                    board.day: {
                        name: getattr(board, name)
                        for name in ("ranked", "enrolled", "sum", "mean", "median", "max")
                    }
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
        days = _days(first, last)
        sides = []
        with self._board(institution_id, type, reference_id, granularity) as reader:
            wanted = periods(reader.key.granularity, days, reader.term_on())
            stored = reader.snapshots(wanted, len(wanted))
            for student_id in student_ids:
                standings = self._standings(reader, _student(reader, student_id), stored)
                sides.append(
                    {
                        s.day: {name: getattr(s, name) for name in ("rank", "points", "percentile")}
                        for s in standings
                    }
                )
        return _compared(*student_ids, *sides)

    def create_partitioned_snapshot(
        self, institution_id: str, type: BoardType | str, day: date, *, run_id: str = "service"
    ) -> DayResult:
        """Make all boards of one type as of a closed day, in their partition; replaces that day's.

        Raises `InvalidPartition` for a day that is not over at the institution.
        """
        board_type = _type(type)
        with self._database.transaction() as connection:
            institution = institutions.find_active(connection, institution_id)
        if day > closed_through(self._now(), institution.zone):
            raise InvalidPartition(
                f"{day} is not over yet at {institution_id} ({institution.zone})",
                "Make its boards after midnight there",
            )
        days, run = DayRange(day, day), Provenance(run_id)
        for _ in aggregates.materialize(self._database, institution, days, run):
            pass
        (result,) = snapshots.materialize(self._database, institution, board_type, days, run)
        return result

    @contextmanager
    def _institution(self, institution_id: str) -> Iterator[tuple[Connection, Institution]]:
        with self._database.reading(institution_id) as connection:
            yield connection, institutions.find_active(connection, institution_id)

    @contextmanager
    def _board(
        self,
        institution_id: str,
        type: BoardType | str,
        reference_id: str,
        granularity: Granularity | str,
    ) -> Iterator[_Reader]:
        key = BoardKey(institution_id, _type(type), reference_id, _granularity(granularity))
        with self._institution(institution_id) as (connection, institution):
            board = reading.board_named(connection, institution, key.type, reference_id)
            if board is None:
                raise UnknownBoard(institution_id, key.type, reference_id)
            yield _Reader(connection, institution, board, key)

    def _months(self, institution: Institution, months: int) -> DayRange:
        if not 1 <= months <= 1200:
            raise InvalidSelection(f"Trends over {months} months", "Ask for 1 to 1200 months")
        today = local_day(self._now(), institution.zone)
        year, month = divmod(today.year * 12 + today.month - 1 - (months - 1), 12)
        return DayRange(date(year, month + 1, 1), today)

    def _standings(
        self, reader: _Reader, student: Student, stored: Sequence[StoredBoard]
    ) -> list[students.Standing]:
        return students.standings(
            reader.connection,
            reader.institution,
            student,
            {(reader.board.type, reader.board.id): reader.board},
            [_snapshot(reader.key, one) for one in stored],
        )

    def _named(self, reader: _Reader, board: Board) -> Board:
        return replace(board, entries=_with_names(reader, board.entries))

    def _require_materialized(self, reader: _Reader, day: date) -> None:
        asset = asset_name(reader.key.type)
        if not reading.is_materialized(reader.connection, reader.institution, asset, day):
            raise _not_materialized(reader.institution.id, day)


def _not_materialized(institution_id: str, day: date) -> NotMaterialized:
    return NotMaterialized(
        f"The boards of {day} have not been made at {institution_id}",
        "Materialize that day, or ask for one that is there",
    )


def _type(value: BoardType | str) -> BoardType:
    try:
        return BoardType(value)
    except ValueError:
        raise InvalidSelection(
            f"{value!r} is no type of board", f"Use one of {', '.join(BoardType)}"
        ) from None


def _granularity(value: Granularity | str) -> Granularity:
    try:
        return Granularity(value)
    except ValueError:
        raise InvalidSelection(
            f"{value!r} is no granularity", f"Use one of {', '.join(Granularity)}"
        ) from None


def _days(first: date, last: date) -> DayRange:
    return DayRange(first, last)


def _period_of(day: date, wanted: Sequence[DayRange]) -> DayRange:
    return next(period for period in wanted if day in period)


def _student(reader: _Reader, student_id: str) -> Student:
    key = reading.student_key(reader.connection, reader.institution, student_id)
    if key is None:
        raise UnknownStudent(reader.institution.id, student_id)
    return Student(key, student_id)


def _with_names(reader: _Reader, entries: Sequence[Entry]) -> tuple[Entry, ...]:
    names = reading.names(
        reader.connection, reader.institution, [entry.student_id for entry in entries]
    )
    return tuple(replace(entry, name=names.get(entry.student_id)) for entry in entries)


def _snapshot(key: BoardKey, stored: StoredBoard) -> Snapshot:
    return Snapshot(
        key,
        stored.day,
        stored.period_start,
        stored.entries,
        stored.metadata["ranked"],
        stored.distribution,
    )


def _board(key: BoardKey, stored: StoredBoard) -> Board:
    figures = stored.metadata
    return Board(
        key=key,
        day=stored.day,
        period_start=stored.period_start,
        entries=tuple(
            Entry(e["rank"], e["studentId"], e["points"], e["previousRank"]) for e in stored.entries
        ),
        ranked=figures["ranked"],
        enrolled=figures["enrolled"],
        sum=figures["sum"],
        mean=figures["mean"],
        median=figures["median"],
        p90=figures["p90"],
        max=figures["max"],
        ties_cut=figures["tiesCut"],
        status=stored.status,
        academic_year=stored.academic_year,
        provenance=figures.get("provenance"),
    )


def _empty(key: BoardKey, day: date) -> Board:
    return Board(key, day, None, (), 0, None, None, None, None, None, None, 0, "ACTIVE")


def _agrees(snapshot: Snapshot, whole: neighbours.WholeBoard) -> bool:
    """Whether the board made again is the one that was stored."""
    if len(whole.ids) != snapshot.ranked:
        return False
    stored = [(e["rank"], e["studentId"], e["points"]) for e in snapshot.entries]
    top = slice(0, len(stored))
    made = zip(whole.ranks[top].tolist(), whole.ids[top], whole.points[top].tolist(), strict=True)
    return stored == list(made)


def _compared(
    a: str, b: str, of_a: dict[date, dict[str, object]], of_b: dict[date, dict[str, object]]
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
