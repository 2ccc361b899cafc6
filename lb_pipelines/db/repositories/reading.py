"""What the service reads of one institution: boards from the live table or the archive, trends,
one student's points. Run in `Database.reading`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, Term, academic_years_around, instants_around
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection


@dataclass(frozen=True)
class NamedBoard:
    """A class, subject or campus."""

    key: int
    name: str
    type: BoardType
    id: str


@dataclass(frozen=True)
class StoredBoard:
    """A snapshot as it is stored; `academic_year` where it came from the archive."""

    day: date
    period_start: date
    entries: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, Any]
    distribution: bytes
    status: str
    created_at: Any
    academic_year: str | None


@dataclass(frozen=True)
class BoardOfDay:
    """One of the boards of a day, by what it ranks."""

    type: BoardType
    reference_id: str
    granularity: Granularity
    period_start: date
    metadata: Mapping[str, Any]
    distribution: bytes
    entries: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class DayPoints:
    """A student's points of one local day in one class, subject and campus (keys or None)."""

    day: date
    keys: Mapping[BoardType, int | None]
    points: int
    events: int


def board_named(
    connection: Connection, institution: Institution, type: BoardType, reference_id: str
) -> NamedBoard | None:
    """The class, subject or campus with this id."""
    row = queries.reading.board_named(
        connection, institution_key=institution.key, type=type, reference_id=reference_id
    )
    return NamedBoard(row[0], row[1], type, reference_id) if row else None


def term_of_class(
    connection: Connection, institution: Institution, board: NamedBoard
) -> Term | None:
    """A class's own term."""
    row = queries.reading.term_of_class(
        connection, institution_key=institution.key, class_key=board.key
    )
    return Term(*row) if row else None


def student_key(connection: Connection, institution: Institution, student_id: str) -> int | None:
    """The key of a student; None where there is none of this id."""
    row = queries.reading.student(
        connection, institution_key=institution.key, student_id=student_id
    )
    return row[0] if row else None


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


def is_materialized(
    connection: Connection, institution: Institution, asset: str, day: date
) -> bool:
    """Whether an asset has been materialized for a day."""
    return bool(
        queries.reading.is_materialized(
            connection, institution_key=institution.key, asset=asset, day=day
        )
    )


def closing_snapshots(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    reference_id: str,
    granularity: Granularity,
    periods: Sequence[DayRange],
    at_most: int,
) -> list[StoredBoard]:
    """The last snapshot of each period, in the order of the periods; none for an empty period."""
    if not periods:
        return []
    first, last = min(p.first for p in periods), max(p.last for p in periods)
    rows = queries.reading.closing_snapshots(
        connection,
        **_board(institution, type, reference_id, granularity),
        **_bounds(periods),
        id_prefix=f"{institution.id}:{type}:{reference_id}:{granularity}:",
        years=sorted(_years(first, last)),
        at_most=at_most,
    )
    return [StoredBoard(*row) for row in rows]


def closing_trends(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    reference_id: str,
    granularity: Granularity,
    periods: Sequence[DayRange],
) -> list[tuple[Any, ...]]:
    """The last trend of each period, in the order of the periods."""
    if not periods:
        return []
    return list(
        queries.reading.closing_trends(
            connection,
            **_board(institution, type, reference_id, granularity),
            **_bounds(periods),
        )
    )


def snapshots_of_boards(
    connection: Connection,
    institution: Institution,
    boards: Iterable[NamedBoard],
    day: date,
) -> list[BoardOfDay]:
    """All granularities of these boards on a day."""
    keys = [(board.type, board.id) for board in boards]
    rows = queries.reading.snapshots_of_boards(
        connection,
        institution_id=institution.id,
        types=[str(type) for type, _ in keys],
        references=[id for _, id in keys],
        day=day,
        years=academic_years_around(day),
        ids=[f"{institution.id}:{type}:{id}:{g}:{day}" for type, id in keys for g in Granularity],
    )
    return [
        BoardOfDay(BoardType(type), reference, Granularity(granularity), *rest)
        for type, reference, granularity, *rest in rows
    ]


def points_of_student(
    connection: Connection, institution: Institution, student: int, days: DayRange
) -> list[DayPoints]:
    """A student's ACTIVE points of each local day of a range, by class, subject and campus."""
    rows = queries.reading.points_of_student(
        connection, **_student_days(institution, student, days)
    )
    return [
        DayPoints(
            day,
            {BoardType.CLASS: class_, BoardType.SUBJECT: subject, BoardType.CAMPUS: campus},
            points,
            events,
        )
        for day, class_, subject, campus, points, events in rows
    ]


def boards_of_student(
    connection: Connection, institution: Institution, student: int, days: DayRange
) -> list[NamedBoard]:
    """Every class, subject and campus for which the student has points on these days."""
    rows = queries.reading.boards_of_student(
        connection, **_student_days(institution, student, days)
    )
    return [NamedBoard(key, name, BoardType(type), id) for type, key, id, name in rows]


def _student_days(institution: Institution, student: int, days: DayRange) -> dict[str, Any]:
    low, high = instants_around(days, institution.zone)
    return {
        "institution_key": institution.key,
        "student_key": student,
        "zone": institution.time_zone,
        "first": days.first,
        "last": days.last,
        "low": low,
        "high": high,
    }


def _board(
    institution: Institution, type: BoardType, reference_id: str, granularity: Granularity
) -> dict[str, Any]:
    return {
        "institution_id": institution.id,
        "type": type,
        "reference_id": reference_id,
        "granularity": granularity,
    }


def _bounds(periods: Sequence[DayRange]) -> dict[str, Any]:
    return {
        "first": min(p.first for p in periods),
        "last": max(p.last for p in periods),
        "firsts": [p.first for p in periods],
        "lasts": [p.last for p in periods],
    }


def _years(first: date, last: date) -> set[str]:
    """Every academic year that a day of the range can lie in."""
    return {
        year for y in range(first.year, last.year + 1) for year in (f"{y - 1}-{y}", f"{y}-{y + 1}")
    }
