"""What the checks read: boards, entries, sums of events; from the rows, not from what wrote them.

What must be true of them is said in `core.checking` and `materialize.verifying`. Boards are asked
for by name, and all of a question in one statement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate, islice
from typing import Any, NamedTuple

import numpy as np

from lb_pipelines.core.checking import NOBODY, Entries
from lb_pipelines.core.day_starts import find_day_starts
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import ONE_DAY, DayRange, academic_years_around
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import bulk, queries
from lb_pipelines.db.bulk import Numbers
from lb_pipelines.db.engine import Connection


class BoardName(NamedTuple):
    """One board of a day, of a known institution and type."""

    day: date
    reference_id: str
    granularity: str


@dataclass(frozen=True)
class StoredBoard:
    """A board as it stands: `leaf` is where, `key` that of its class, subject or campus.

    `key` None: the institution has nothing of that id. `figures`: its `metadata`.
    """

    name: BoardName
    active: bool
    figures: Mapping[str, Any]
    leaf: str
    key: int | None

    def count(self, figure: str) -> int:
        """A whole number of `figures`; -1 where there is none."""
        value = self.figures.get(figure)
        return value if isinstance(value, int) and not isinstance(value, bool) else -1


@dataclass(frozen=True)
class Content:
    """What is inside of a board."""

    active: bool
    figures: Mapping[str, Any]
    distribution: bytes
    entries: Entries


class Sums(NamedTuple):
    """Of a day's ACTIVE events, or cells: number, points, and two sums that fix whose they are.

    The last two are sums of student keys, and of points times student key, modulo 2^64.
    """

    events: int = 0
    points: int = 0
    students: int = 0
    weighted: int = 0


# Of a day as a whole the key is 0, and also of no class, subject or campus.
SumsOfDay = Mapping[tuple[BoardType | None, int], Sums]
_KINDS: Mapping[int, BoardType | None] = {
    7: None,
    3: BoardType.CLASS,
    5: BoardType.SUBJECT,
    6: BoardType.CAMPUS,
}


@dataclass(frozen=True)
class DaySums:
    """The events, or cells, of a day: how many rows they were made from, and their sums."""

    source_rows: int
    sums: SumsOfDay


def boards_of_days(
    connection: Connection, institution: Institution, type: BoardType, days: DayRange
) -> list[StoredBoard]:
    """All boards of the days, archived ones included."""
    rows = list(
        queries.verification.boards_of_days(
            connection,
            institution_key=institution.key,
            institution_id=institution.id,
            type=type.value,
            first=days.first,
            last=days.last,
        )
    )
    leaves = dict(
        queries.verification.leaf_names(connection, oids=sorted({oid for *_, oid, _ in rows}))
    )
    return [
        StoredBoard(BoardName(day, reference, granularity), active, figures, leaves[oid], key)
        for day, reference, granularity, active, figures, oid, key in rows
    ]


def contents_of(
    connection: Connection, institution: Institution, type: BoardType, names: Sequence[BoardName]
) -> dict[BoardName, Content]:
    """What is inside of these boards, of those that are there."""
    if not names:
        return {}
    asked = _asked(institution, type, names)
    # A leaf that was filled just now has no statistics yet.
    queries.joins.by_hash(connection)
    entries = _entries_of(connection, institution, asked)
    contents = {
        names[number - 1]: Content(active, figures, distribution, entries.get(number, NOBODY))
        for number, active, figures, distribution in queries.verification.contents_of(
            connection, **asked
        )
    }
    queries.joins.by_any(connection)
    return contents


def _entries_of(
    connection: Connection, institution: Institution, asked: Mapping[str, Any]
) -> dict[int, Entries]:
    """The entries of each board that has any, by its number in the question."""
    columns = bulk.read_columns(
        connection,
        queries.text(queries.verification.entries_of),
        {**asked, "institution_key": institution.key},
        ("number", "place", "rank", "points", "previous", "student", "position"),
    )
    order = np.lexsort((columns["place"], columns["number"]))
    numbers = columns["number"][order]
    names = ("rank", "points", "previous", "student", "position")
    values = [columns[name][order].astype(np.int64) for name in names]
    begins = np.flatnonzero(np.diff(numbers, prepend=0))
    ends = np.append(begins[1:], len(numbers))
    return {
        int(numbers[begin]): Entries(*(column[begin:end] for column in values))
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
    }


def enrolled_entries(
    connection: Connection, institution: Institution, type: BoardType, names: Sequence[BoardName]
) -> list[int]:
    """For each of these boards how many of its entries are of students enrolled on its day."""
    if not names:
        return []
    queries.joins.by_hash(connection)
    found = dict(
        queries.verification.enrolled_entries(
            connection, institution_key=institution.key, **_asked(institution, type, names)
        )
    )
    queries.joins.by_any(connection)
    return [found.get(number, 0) for number in range(1, len(names) + 1)]


def event_sums(
    connection: Connection, institution: Institution, days: DayRange
) -> dict[date, DaySums]:
    """The events of each of the days, summed as a whole and by class, subject and campus."""
    rows = queries.verification.event_sums(
        connection,
        institution_key=institution.key,
        **find_day_starts(institution.zone, days).parameters,
    )
    sums: list[dict[tuple[BoardType | None, int], Sums]] = [{} for _ in days]
    source_rows = [0] * len(days)
    for at, kind, key, count, *figures in rows:
        type = _KINDS[kind]
        if type is None:
            source_rows[at] = count
        if figures[0]:
            sums[at][type, key] = Sums(*(int(figure) % 2**64 for figure in figures))
    return {
        day: DaySums(count, of_day)
        for day, count, of_day in zip(days, source_rows, sums, strict=True)
    }


def cell_sums(
    connection: Connection, institution: Institution, days: DayRange
) -> dict[date, DaySums]:
    """The same of the cells of each aggregated day."""
    rows = (
        bulk.array_cursor(connection)
        .execute(
            queries.text(queries.verification.cells_of_days),
            {"institution_key": institution.key, "first": days.first, "last": days.last},
        )
        .fetchall()
    )
    return {
        day: DaySums(source_rows, _sums_of_cells(*(column.astype(np.int64) for column in columns)))
        for day, source_rows, *columns in rows
    }


def _sums_of_cells(
    students: Numbers,
    classes: Numbers,
    subjects: Numbers,
    campuses: Numbers,
    points: Numbers,
    events: Numbers,
) -> SumsOfDay:
    # Products wrap around, as int64 does, and so does the other side.
    figures = (events, points, students * events, points * students)
    sums: dict[tuple[BoardType | None, int], Sums] = {}
    for type, keys in (
        (None, np.zeros_like(students)),
        (BoardType.CLASS, classes),
        (BoardType.SUBJECT, subjects),
        (BoardType.CAMPUS, campuses),
    ):
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        begins = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
        if not len(begins):
            continue
        of_key = [np.add.reduceat(figure[order], begins).tolist() for figure in figures]
        for key, *values in zip(sorted_keys[begins].tolist(), *of_key, strict=True):
            sums[type, key] = Sums(*(value % 2**64 for value in values))
    return sums


def outdated_aggregates(
    connection: Connection, institution: Institution, days: Collection[date]
) -> set[date]:
    """Those of the days that were never aggregated, or before a change of their events."""
    rows = queries.verification.outdated_aggregates(
        connection, institution_key=institution.key, days=sorted(days)
    )
    return {day for (day,) in rows}


def revisions_through(
    connection: Connection, institution: Institution, days: DayRange
) -> dict[date, int]:
    """The state of the events up to each of the days: the highest revision of any of them."""
    revisions = dict(
        queries.verification.revisions(
            connection, institution_key=institution.key, first=days.first, last=days.last
        )
    )
    before = revisions[days.first - ONE_DAY]
    highest = accumulate((revisions.get(day, 0) for day in days), max, initial=before)
    return dict(zip(days, islice(highest, 1, None), strict=True))


def archived_boards(
    connection: Connection, institution: Institution, type: BoardType, day: date
) -> set[BoardName]:
    """The boards of a day that have a copy in the archive."""
    rows = queries.verification.archived_boards(
        connection,
        institution_id=institution.id,
        type=type.value,
        first=day,
        last=day,
        academic_years=academic_years_around(day),
    )
    return {BoardName(*row) for row in rows}


def distrust_boards(
    connection: Connection, institution: Institution, type: BoardType, names: Sequence[BoardName]
) -> None:
    """Let the next materialization write these boards anew, at least one of them; archived ones
    stay.

    It leaves alone what has the hash that it would write, and a row that somebody has written to
    by hand still has it.
    """
    queries.verification.distrust_boards(connection, **_asked(institution, type, names))


def distrust_aggregates(
    connection: Connection, institution: Institution, days: Collection[date]
) -> None:
    """Let the next materialization write the aggregates of these days anew."""
    queries.verification.distrust_aggregates(
        connection, institution_key=institution.key, days=sorted(days)
    )


def altered_copies(
    connection: Connection, institution: Institution, days: DayRange
) -> tuple[int, str | None]:
    """How many copies of days of one month do not say what their original says, though the hashes
    are equal; and the id of one of them.
    """
    count, example = queries.verification.altered_copies(
        connection,
        institution_id=institution.id,
        first=days.first,
        last=days.last,
        academic_years=academic_years_around(days.first),
    )
    return count, example


def _asked(institution: Institution, type: BoardType, names: Sequence[BoardName]) -> dict[str, Any]:
    days, references, granularities = map(list, zip(*names, strict=True))
    return {
        "institution_id": institution.id,
        "type": type.value,
        "first": min(days),
        "last": max(days),
        "days": days,
        "references": references,
        "granularities": granularities,
    }
