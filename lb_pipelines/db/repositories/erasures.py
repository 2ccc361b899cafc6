"""The rows that name a student, read and rewritten in batches, and the ledger of erasures.

All rows of the institution are looked through, whatever the events say today: some were made when
they said something else. What to write in their place is the caller's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, academic_years_around, next_month
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.partitions.names import SCHEMA

BATCH_ROWS = 500
"""Rows in memory at once, some megabytes where boards are long."""


@dataclass(frozen=True)
class Student:
    """A student as stored; `erased` is who has a pseudonym for an id."""

    key: int
    id: str
    name: str | None
    erased: bool


@dataclass(frozen=True)
class NamingRow:
    """A row that names the student. `id`: of the snapshot, or of the snapshot beside a trend.

    `part`: what finds it, beside granularity and day: reference id, in the archive academic year.
    """

    type: BoardType
    day: date
    id: str
    content_hash: bytes
    part: str
    granularity: str


@dataclass(frozen=True)
class NamingSnapshot(NamingRow):
    """A snapshot, live, set aside by a purge or in the archive."""

    period_start: date
    entries: list[dict[str, Any]]
    metadata: dict[str, Any]
    distribution: bytes


@dataclass(frozen=True)
class NamingTrend(NamingRow):
    """A trend; `figures` in the order of its columns."""

    figures: list[float | None]
    leader_id: str
    movement: dict[str, Any]
    students: list[dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """Rows that are read and written by one plan: those of a month, in a leaf or two.

    `relation`: the table of a purge, None: the tree itself.
    """

    first: date
    last: date
    type: BoardType | None = None
    relation: str | None = None


@dataclass(frozen=True)
class ExportTask:
    """An export that may still name students: `pseudonyms` by their ids, for these erasures."""

    export: int
    institution_id: str
    directory: str
    erasures: list[int]
    pseudonyms: dict[str, str]


def find(connection: Connection, institution: Institution, student: str | int) -> Student | None:
    """The student of an id (text) or of a key (number)."""
    if isinstance(student, int):
        row = queries.erasures.student_of_key(
            connection, institution_key=institution.key, student_key=student
        )
    else:
        row = queries.erasures.student_of_id(
            connection, institution_key=institution.key, id=student
        )
    if row is None:
        return None
    key, id, name, order_key = row
    return Student(key, id, name, order_key is not None)


def is_suppressed(connection: Connection, institution: Institution, id: str) -> bool:
    """Whether a student of this id was erased."""
    found: bool = queries.erasures.is_suppressed(connection, institution_key=institution.key, id=id)
    return found


def neighbours(
    connection: Connection, institution: Institution, student: Student
) -> tuple[str | None, str | None]:
    """What comes right before and right after the student in the order that breaks ties."""
    before, after = queries.erasures.neighbours(
        connection, institution_key=institution.key, student_key=student.key
    )
    return before, after


def rename(
    connection: Connection,
    institution: Institution,
    student: Student,
    pseudonym: str,
    order_key: str,
) -> int:
    """Give the student the pseudonym, and all their events ids that say nothing; how many."""
    which = {"institution_key": institution.key, "student_key": student.key}
    queries.erasures.rename_student(connection, **which, pseudonym=pseudonym, order_key=order_key)
    renamed: int = queries.erasures.rename_events(connection, **which)
    return renamed


def count_events(connection: Connection, institution: Institution, student: Student) -> int:
    """The student's events."""
    found: int = queries.erasures.count_events(
        connection, institution_key=institution.key, student_key=student.key
    )
    return found


def snapshot_places(connection: Connection, institution: Institution) -> list[Place]:
    """Where live snapshots stand."""
    days = queries.erasures.days_of_snapshots(connection, institution_id=institution.id)
    return [Place(*month, type) for month in _months(days) for type in BoardType]


def trend_places(connection: Connection, institution: Institution) -> list[Place]:
    """Where trends stand."""
    days = queries.erasures.days_of_trends(connection, institution_id=institution.id)
    return [Place(*month, type) for month in _months(days) for type in BoardType]


def archive_places(connection: Connection, institution: Institution) -> list[Place]:
    """Where archived snapshots stand."""
    days = queries.erasures.days_of_archive(connection, institution_id=institution.id)
    return [Place(*month) for month in _months(days)]


def purge_place(
    connection: Connection, type: BoardType, month: date, relation: str
) -> Place | None:
    """Where the originals of a purge stand; None where their table is gone."""
    if not queries.erasures.stands(connection, relation=relation):
        return None
    return Place(month, next_month(month) - ONE_DAY, type, relation)


def snapshots_naming(
    connection: Connection, institution: Institution, place: Place, id: str
) -> Iterator[list[NamingSnapshot]]:
    """Live snapshots of the place, or those of a purge, that name the student."""
    query = _in(queries.erasures.snapshots_naming, place)
    for rows in _batches(connection, query, _which(institution, place) | _entry(id)):
        yield [NamingSnapshot(BoardType(type), *rest) for type, *rest in rows]


def archive_naming(
    connection: Connection, institution: Institution, place: Place, id: str
) -> Iterator[list[NamingSnapshot]]:
    """Archived snapshots of the place that name the student."""
    query = queries.text(queries.erasures.archive_naming)
    for rows in _batches(connection, query, _which(institution, place) | _entry(id)):
        yield [NamingSnapshot(BoardType(type), *rest) for type, *rest in rows]


def trends_naming(
    connection: Connection, institution: Institution, place: Place, id: str
) -> Iterator[list[NamingTrend]]:
    """Trends of the place that name the student."""
    member = {"studentId": id}
    # Whoever is in `top3` or an entrant need not be among `students`, where N is 1 or 2.
    movements = [
        {"top3": [member]},
        {"leavers": [id]},
        {"climbers": [member]},
        {"fallers": [member]},
    ]
    parameters = _which(institution, place) | _entry(id) | {"id": id}
    parameters["movements"] = [json.dumps(of) for of in movements]
    for rows in _batches(connection, queries.text(queries.erasures.trends_naming), parameters):
        yield [NamingTrend(BoardType(type), *rest) for type, *rest in rows]


def rewrite_snapshots(
    connection: Connection,
    institution: Institution,
    place: Place,
    rows: Sequence[NamingSnapshot],
    entries: Sequence[Any],
    hashes: Sequence[bytes],
) -> None:
    """Give snapshots of `snapshots_naming` new entries and hashes."""
    connection.execute(
        _in(queries.erasures.rewrite_snapshots, place),
        _which(institution, place) | _keys(rows) | {"entries": _texts(entries), "hashes": hashes},
    )
    _follow(connection, institution, rows, hashes)


def rewrite_archive(
    connection: Connection,
    institution: Institution,
    place: Place,
    rows: Sequence[NamingSnapshot],
    entries: Sequence[Any],
    hashes: Sequence[bytes],
) -> None:
    """Give snapshots of `archive_naming` new entries and hashes."""
    queries.erasures.rewrite_archive(
        connection,
        institution_id=institution.id,
        years=academic_years_around(place.first),
        ids=[row.id for row in rows],
        academic_years=[row.part for row in rows],
        entries=_texts(entries),
        hashes=hashes,
    )
    _follow(connection, institution, rows, hashes)


def rewrite_trends(
    connection: Connection,
    institution: Institution,
    place: Place,
    rows: Sequence[NamingTrend],
    leaders: Sequence[str],
    movements: Sequence[Any],
    students: Sequence[Any],
    hashes: Sequence[bytes],
) -> None:
    """Give trends of `trends_naming` new leaders, movements, students and hashes."""
    queries.erasures.rewrite_trends(
        connection,
        institution_id=institution.id,
        type=place.type,
        first=place.first,
        last=place.last,
        **_keys(rows),
        leaders=leaders,
        movements=_texts(movements),
        students=_texts(students),
        hashes=hashes,
    )


def enter(
    connection: Connection,
    institution: Institution,
    id: str,
    *,
    counts: dict[str, int],
    requested_by: str,
    reason: str,
    run_id: str | None,
) -> int:
    """Enter an erasure, which suppresses the id from now on; gives its number.

    What anybody has read of the institution's students before does not hold any more.
    """
    queries.erasures.raise_epoch(connection, institution_key=institution.key)
    number: int = queries.erasures.enter(
        connection,
        institution_key=institution.key,
        id=id,
        counts=Jsonb(counts),
        requested_by=requested_by,
        reason=reason,
        run_id=run_id,
    )
    return number


def exports(connection: Connection, institution: Institution) -> tuple[int, ...]:
    """The exports of the institution, by number."""
    rows = queries.erasures.exports_of(connection, institution_key=institution.key)
    return tuple(number for (number,) in rows)


def enter_tasks(
    connection: Connection, institution: Institution, erasure: int, id: str, pseudonym: str
) -> None:
    """Leave it to be done to rewrite each export of the institution."""
    queries.erasures.enter_tasks(
        connection,
        institution_key=institution.key,
        erasure=erasure,
        id=id,
        pseudonym=pseudonym,
    )


def tasks(connection: Connection, institution: Institution | None) -> list[ExportTask]:
    """What is left to do in exports, of one institution or of all."""
    rows = queries.erasures.tasks(connection, institution_key=institution and institution.key)
    found: dict[int, ExportTask] = {}
    for export, institution_id, directory, erasure, id, pseudonym in rows:
        task = found.setdefault(export, ExportTask(export, institution_id, directory, [], {}))
        task.erasures.append(erasure)
        task.pseudonyms[id] = pseudonym
    return list(found.values())


def end_tasks(connection: Connection, task: ExportTask, manifest_sha256: str | None) -> None:
    """It is done, the export has this manifest now; None: it is beyond reach."""
    if manifest_sha256 is not None:
        queries.erasures.seal_export(
            connection, export=task.export, manifest_sha256=manifest_sha256
        )
    queries.erasures.end_tasks(connection, export=task.export, erasures=task.erasures)


def _months(days: tuple[date | None, date | None]) -> Iterator[tuple[date, date]]:
    first, last = days
    month = first and first.replace(day=1)
    while month and last and month <= last:
        yield month, next_month(month) - ONE_DAY
        month = next_month(month)


def _which(institution: Institution, place: Place) -> dict[str, Any]:
    return {
        "institution_id": institution.id,
        "type": place.type,
        "first": place.first,
        "last": place.last,
        "years": academic_years_around(place.first),
    }


def _entry(id: str) -> dict[str, Any]:
    return {"entry": json.dumps([{"studentId": id}])}


def _keys(rows: Sequence[NamingRow]) -> dict[str, Any]:
    return {
        "references": [row.part for row in rows],
        "granularities": [row.granularity for row in rows],
        "dates": [row.day for row in rows],
    }


def _texts(values: Sequence[Any]) -> list[str]:
    return [json.dumps(value, ensure_ascii=False) for value in values]


def _in(query: Any, place: Place) -> sql.Composed:
    table = (
        sql.Identifier("lb", "leaderboard_snapshots")
        if place.relation is None
        else sql.Identifier(SCHEMA, place.relation)
    )
    return sql.SQL(queries.text(query)).format(relation=table)


def _batches(
    connection: Connection, query: sql.Composed | str, parameters: dict[str, Any]
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows by a cursor of the server's, which sees what stood when it was opened."""
    with connection.cursor(name="rows_naming_a_student") as cursor:
        cursor.execute(query, parameters)
        while rows := cursor.fetchmany(BATCH_ROWS):
            yield rows


def _follow(
    connection: Connection,
    institution: Institution,
    rows: Sequence[NamingSnapshot],
    hashes: Sequence[bytes],
) -> None:
    queries.erasures.follow_in_revisions(
        connection,
        institution_key=institution.key,
        ids=[row.id for row in rows],
        old=[row.content_hash for row in rows],
        new=list(hashes),
    )
