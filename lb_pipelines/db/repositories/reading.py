"""What the service reads of one institution: boards from the live table or the archive, trends,
one student's points. Run in `Database.reading`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from lb_pipelines.core import blocks
from lb_pipelines.core.day_starts import find_day_starts
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import (
    ONE_DAY,
    DayRange,
    Term,
    academic_years_around,
    month_start,
    next_month,
)
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection

# A shorter window lies in two months of events at most, and those are read as fast as totals.
_LEAST_DAYS = 28

_Json = Mapping[str, Any]


@dataclass(frozen=True)
class NamedBoard:
    """A class, subject or campus; `term` is a class's own."""

    key: int
    name: str
    type: BoardType
    id: str
    term: Term | None = None


@dataclass(frozen=True)
class Opening:
    """What every question begins with. `board` None: there is none of this id; `students`: the
    keys of those asked for, None where there is none.
    """

    institution: Institution
    board: NamedBoard | None
    students: Sequence[int | None]


@dataclass(frozen=True)
class StoredBoard:
    """A snapshot as it is stored, whole or only what standings need of it.

    `entries` and `metadata` are None unless it was asked for whole; `own` are the entries of the
    students asked for, `last_entry` is the last of the `shown`. The row was made from a state of
    the events not older than `made_from`, and equals what `vouched_from` gave, where not None.
    """

    day: date
    period_start: date
    status: str | None
    academic_year: str | None
    entries: Sequence[_Json] | None
    metadata: _Json | None
    ranked: int
    distribution: bytes
    shown: int
    last_entry: _Json
    own: Sequence[_Json]
    made_from: int | None
    ledger_revision: int | None
    live: bool

    @property
    def window(self) -> DayRange:
        """The days whose points count."""
        return DayRange(self.period_start, self.day)

    @property
    def through_revision(self) -> int:
        """The state of the aggregates that the row surely says; -1 where that is not known.

        The ledger vouches for a live row, which a later pass may have found equal. One that is or
        was archived only says what it was made from, and one out of another database (its state is
        ahead of the ledger) nothing.
        """
        made_from, ledger = self.made_from, self.ledger_revision
        if made_from is None or ledger is None or made_from > ledger:
            return -1
        return ledger if self.live else made_from


Keys = Mapping[BoardType, int | None]


@dataclass(frozen=True)
class Cell:
    """A student's points and events over some days: in one class, subject and campus, or, where a
    total has them, on one board, whose type alone is among the keys.
    """

    keys: Keys
    points: int
    events: int


@dataclass(frozen=True)
class Total:
    """A student's cells, of one type of boards, over all days before one."""

    before: date
    cells: Sequence[Cell]


@dataclass(frozen=True)
class AggregatedWindow:
    """`changed`: a day of the window was aggregated anew since a revision. `totals`: two within
    it, whose difference is what was aggregated of the days between.
    """

    changed: bool
    totals: tuple[Total, Total] | None


@dataclass(frozen=True)
class PointsBetween:
    """A student's sums by place between edges, of the days on which the events are sure to be what
    was aggregated; and the days on which they are not.
    """

    sums: Sequence[tuple[int, Cell]]
    doubted: Sequence[date]


def opening(
    connection: Connection,
    institution_id: str,
    type: BoardType | None = None,
    reference_id: str | None = None,
    student_ids: Sequence[str] = (),
) -> Opening | None:
    """The institution with a board and students of it; None where there is no such institution."""
    row = queries.reading.opening(
        connection,
        institution_id=institution_id,
        type=type or "",
        reference_id=reference_id or "",
        student_ids=list(student_ids),
    )
    if row is None:
        return None
    board = None
    if row[7] is not None:
        assert type is not None
        assert reference_id is not None
        term = Term(*row[9:12]) if row[9] is not None else None
        board = NamedBoard(row[7], row[8], type, reference_id, term)
    return Opening(Institution(*row[:7]), board, row[12])


def names(
    connection: Connection, institution: Institution, student_ids: Collection[str]
) -> dict[str, str]:
    """Names by id, of those who have one."""
    return dict(
        queries.reading.names(
            connection, institution_key=institution.key, student_ids=list(student_ids)
        )
    )


def last_materialized(connection: Connection, institution: Institution, asset: str) -> date | None:
    """The last day for which an asset has been materialized."""
    found: date | None = queries.reading.last_materialized(
        connection, institution_key=institution.key, asset=asset
    )
    return found


def any_materialized(
    connection: Connection, institution: Institution, assets: Sequence[str], day: date
) -> bool:
    """Whether any of these assets has been materialized for a day."""
    return bool(
        queries.reading.any_materialized(
            connection, institution_key=institution.key, assets=list(assets), day=day
        )
    )


def closing_snapshots(
    connection: Connection,
    institution: Institution,
    board: NamedBoard,
    granularity: Granularity,
    periods: Sequence[DayRange],
    at_most: int,
    *,
    student_ids: Sequence[str] | None = None,
) -> list[StoredBoard]:
    """The last snapshot of each period, in the order of the periods; none for an empty period.

    Whole, unless `student_ids` says whose entries alone are wanted.
    """
    # Most periods have a live snapshot of their very last day, and such are found without a search.
    found = _snapshots(
        connection,
        queries.reading.snapshots_of_days,
        (institution, board, granularity),
        periods[:at_most],
        student_ids,
        days=[period.last for period in periods[:at_most]],
    )
    found.sort(key=lambda stored: stored.day, reverse=True)
    if len(found) < min(at_most, len(periods)):
        there = {stored.day for stored in found}
        gaps = [period for period in periods if period.last not in there]
        prefix = f"{institution.id}:{board.type}:{board.id}:{granularity}:"
        found += _snapshots(
            connection,
            queries.reading.closing_snapshots,
            (institution, board, granularity),
            gaps,
            student_ids,
            firsts=[period.first for period in gaps],
            lasts=[period.last for period in gaps],
            first_ids=[f"{prefix}{period.first}" for period in gaps],
            last_ids=[f"{prefix}{period.last}" for period in gaps],
            at_most=at_most,
            years=_years(gaps),
        )
        found.sort(key=lambda stored: stored.day, reverse=True)
    return found[:at_most]


def _snapshots(
    connection: Connection,
    query: Any,
    which: tuple[Institution, NamedBoard, Granularity],
    periods: Sequence[DayRange],
    student_ids: Sequence[str] | None,
    **more: Any,
) -> list[StoredBoard]:
    """Rows of one of the queries that give stored boards; `more` are its own parameters."""
    if not periods:
        return []
    institution, board, granularity = which
    years = {"years": more.pop("years")} if "years" in more else {}
    constants = _leaves(institution, board.type, periods) | years
    rows = connection.execute(
        queries.with_constants(query, whole=student_ids is None, **constants),
        {
            "institution_key": institution.key,
            "asset": f"{board.type.lower()}_snapshots",
            "reference_id": board.id,
            "granularity": granularity.value,
            "student_ids": list(student_ids or ()),
            **more,
        },
    )
    return [StoredBoard(*row) for row in rows]


def closing_trends(
    connection: Connection,
    institution: Institution,
    board: NamedBoard,
    granularity: Granularity,
    periods: Sequence[DayRange],
) -> list[tuple[Any, ...]]:
    """The last trend of each period, in the order of the periods."""
    if not periods:
        return []
    query = queries.with_constants(
        queries.reading.closing_trends, **_leaves(institution, board.type, periods)
    )
    return connection.execute(
        query,
        {
            "reference_id": board.id,
            "granularity": granularity.value,
            "firsts": [period.first for period in periods],
            "lasts": [period.last for period in periods],
        },
    ).fetchall()


def places_of_boards(
    connection: Connection,
    institution: Institution,
    boards: Iterable[NamedBoard],
    day: date,
    student_id: str,
) -> list[tuple[BoardType, str, Granularity, StoredBoard]]:
    """All granularities of these boards on a day, with the entry of one student."""
    keys = [(board.type, board.id) for board in boards]
    query = queries.with_constants(
        queries.reading.places_of_boards,
        institution_id=institution.id,
        years=tuple(academic_years_around(day)),
        **_months([DayRange(day, day)]),
    )
    rows = connection.execute(
        query,
        {
            "institution_key": institution.key,
            "types": [str(type) for type, _ in keys],
            "references": [id for _, id in keys],
            "day": day,
            "ids": [
                f"{institution.id}:{type}:{id}:{g}:{day}" for type, id in keys for g in Granularity
            ],
            "student_id": student_id,
        },
    )
    return [
        (BoardType(type), reference, Granularity(granularity), StoredBoard(*rest))
        for type, reference, granularity, *rest in rows
    ]


def windows_of_student(
    connection: Connection,
    institution: Institution,
    student: int,
    windows: Sequence[tuple[BoardType, DayRange, int]],
) -> list[AggregatedWindow]:
    """What the aggregates know of each of these (type of boards, window, revision), for one
    student.
    """
    rows = queries.reading.windows_of_student(
        connection,
        institution_key=institution.key,
        student_key=student,
        types=[type.value for type, *_ in windows],
        firsts=[window.first for _, window, _ in windows],
        lasts=[window.last for _, window, _ in windows],
        revisions=[revision for *_, revision in windows],
        least_days=_LEAST_DAYS,
        block_bytes=blocks.BYTES,
    )
    return [
        AggregatedWindow(
            changed,
            None
            if before is None
            else (_total(type, student, first, early), _total(type, student, before, late)),
        )
        for (type, *_), (changed, first, early, before, late) in zip(windows, rows, strict=True)
    ]


def _total(type: BoardType, student: int, before: date, packed: bytes) -> Total:
    return Total(
        before,
        [
            Cell({type: board}, points, events)
            for board, points, events in blocks.cells_of(student, packed)
        ],
    )


def first_day(connection: Connection, institution: Institution) -> date | None:
    """The first day that was ever aggregated."""
    found: date | None = queries.reading.first_day(connection, institution_key=institution.key)
    return found


def totals_before(
    connection: Connection, institution: Institution, type: BoardType, last: date
) -> dict[date, int]:
    """The through_revision of every stored total before `last` and at it that is current."""
    return dict(
        queries.reading.totals_before(
            connection, institution_key=institution.key, type=type.value, last=last
        )
    )


def points_between(
    connection: Connection,
    institution: Institution,
    student: int,
    days: DayRange,
    edges: Sequence[date],
) -> PointsBetween:
    """A student's ACTIVE points of the days of a range, summed between edges (ascending days)."""
    rows = queries.reading.points_of_student(
        connection,
        institution_key=institution.key,
        student_key=student,
        first=days.first,
        last=days.last,
        edges=list(edges),
        **find_day_starts(institution.zone, days).parameters,
    )
    sums, doubted = [], []
    for day, place, class_, subject, campus, points, events in rows:
        if day is not None:
            doubted.append(day)
        else:
            sums.append((place, Cell(_keys(class_, subject, campus), points, events)))
    return PointsBetween(sums, doubted)


def cells_of_student(
    connection: Connection, institution: Institution, student: int, days: Sequence[date]
) -> list[tuple[date, Cell]]:
    """A student's points of each of these days as they were aggregated."""
    rows = queries.reading.cells_of_student(
        connection, institution_key=institution.key, student_key=student, days=list(days)
    )
    return [
        (day, Cell(_keys(class_, subject, campus), points, events))
        for day, class_, subject, campus, points, events in rows
    ]


def boards_of_student(
    connection: Connection, institution: Institution, student: int, last: date
) -> list[NamedBoard]:
    """Every class, subject and campus for which the student has had an event through a day."""
    rows = queries.reading.boards_of_student(
        connection,
        institution_key=institution.key,
        student_key=student,
        **find_day_starts(institution.zone, DayRange(last, last)).parameters,
    )
    return [NamedBoard(key, name, BoardType(type), id) for type, key, id, name in rows]


def _keys(class_: int | None, subject: int | None, campus: int | None) -> Keys:
    return {BoardType.CLASS: class_, BoardType.SUBJECT: subject, BoardType.CAMPUS: campus}


def _leaves(
    institution: Institution, type: BoardType, periods: Sequence[DayRange]
) -> dict[str, Any]:
    """The constants that say which leaves of the boards a plan may hold."""
    return {"institution_id": institution.id, "type": type.value, **_months(periods)}


def _months(periods: Sequence[DayRange]) -> dict[str, date]:
    """The ends of the months of some periods, so that all of a month share one plan."""
    return {
        "first": month_start(min(period.first for period in periods)),
        "last": next_month(max(period.last for period in periods)) - ONE_DAY,
    }


def _years(periods: Sequence[DayRange]) -> tuple[str, ...]:
    """Every academic year that a day of these months can lie in."""
    first, last = _months(periods).values()
    return tuple(f"{year}-{year + 1}" for year in range(first.year - 1, last.year + 1))
