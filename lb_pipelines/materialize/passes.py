"""Opening a pass: one institution's boards over days, from one state of the database.

What snapshots and trends share: make sure that the past is aggregated, plan, read everything in
one REPEATABLE READ transaction, and give the ranked boards day by day. Several types of boards
walk side by side, so that what they share (students, enrollments, cells of days) is read once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from lb_pipelines.core import json_lists, timeline
from lb_pipelines.core.day_starts import find_day_bounds
from lb_pipelines.core.enrolment import Enrolment
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.windows import Boards, BoardTerms
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.repositories import aggregates as repository
from lb_pipelines.db.repositories import directory, input_changes, institutions, totals, writers
from lb_pipelines.db.repositories.input_changes import Inputs
from lb_pipelines.materialize import aggregates, past
from lb_pipelines.materialize.past import Days, History, StoredPoints
from lb_pipelines.materialize.results import Provenance


@dataclass(frozen=True)
class Origin:
    """A day, and the state of the events and of all other inputs that its boards come from."""

    day: date
    through_revision: int
    watermark: datetime | None
    inputs: Inputs


# A day's ranked boards with their baselines, once: one granularity after the other where they take
# much room, each to be gone before the next; all together where they take little.
DayOfBoards = tuple[Origin, Iterable[tuple[Boards, Boards | None]]]


@dataclass(frozen=True)
class Pass:
    """An open pass over one type: `days` yields in ascending order; ids are by ordinal.

    `first` is its first day; `references` are the boards' ids as UTF-8; `student_ids` plain texts,
    `student_literals` the same as JSON string literals; `limits`: the institution's N. They were
    read after so many `erasures`, and are not to be written after another one.
    """

    institution: Institution
    type: BoardType
    first: date
    erasures: int
    references: Sequence[bytes]
    student_ids: pa.Array
    student_literals: pa.Array
    limits: Mapping[Granularity, int]
    enrolment: Enrolment
    days: Iterator[DayOfBoards]


@contextmanager
def opened(
    database: Database,
    institution: Institution,
    types: Collection[BoardType],
    days: DayRange,
    provenance: Provenance,
) -> Iterator[Mapping[BoardType, Pass]]:
    """Open a pass over `days` for each type, whose days are to be taken side by side.

    Days of the past that were never aggregated, or whose events have changed since, are aggregated
    first. The institution's settings are those of the snapshot, too.
    """
    for is_last_try in (False, False, True):
        aggregates.ensure(database, institution, days.last, provenance)
        with database.transaction(snapshot=True) as connection:
            institution = institutions.find(connection, institution.id)
            version = input_changes.read_version(connection, institution)
            stale = input_changes.find_stale_aggregates(connection, institution, days.last)
            if stale and not is_last_try:
                continue
            # Events that come faster than they are aggregated: a later pass has them.
            version = min((first - 1 for first in stale.values()), default=version)
            terms = institutions.terms(connection, institution)
            history = History(repository.states(connection, institution, days.last))
            boards = {
                type: directory.boards(connection, institution, type, terms) for type in types
            }
            missing = {
                type: _missing_totals(connection, institution, type, days, board_terms, history)
                for type, (_, board_terms) in boards.items()
                if not is_last_try
            }
            if not any(missing.values()):
                yield _passes(database, connection, institution, days, version, history, boards)
                return
        # Outside of the snapshot, which does not see them; what is missing then was overtaken, and
        # is summed from its days.
        past.ensure_totals(database, institution, missing)


def _missing_totals(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    board_terms: BoardTerms,
    history: History,
) -> list[date]:
    """The totals that a pass will jump onto and that do not stand."""
    if history.first_event_day is None:
        return []
    standing = history.standing(totals.stored(connection, institution, type))
    plan = timeline.plan(days, board_terms, history.first_event_day, standing)
    return [cut for cut in plan.cuts if cut not in standing]


def _passes(
    database: Database,
    connection: Connection,
    institution: Institution,
    days: DayRange,
    version: int,
    history: History,
    boards: Mapping[BoardType, tuple[directory.Index, BoardTerms]],
) -> Mapping[BoardType, Pass]:
    """A pass for each type, over what the connection sees."""
    students = directory.students(connection, institution)
    cells = Days(connection, institution, students)
    erasures = writers.erasures(connection, institution)
    literals = json_lists.quoted(students.ids)
    enrolments = directory.enrolments(
        connection, institution, {type: index for type, (index, _) in boards.items()}, students
    )

    def walk(type: BoardType, index: directory.Index, of: BoardTerms) -> Iterator[DayOfBoards]:
        source = StoredPoints(
            connection, institution, type, index, students, cells, history, of.is_cut
        )
        return _walk(database, institution, type, days, version, source, of, history)

    return {
        type: Pass(
            institution=institution,
            type=type,
            first=days.first,
            erasures=erasures,
            references=[id.encode() for id in index.ids.to_pylist()],
            student_ids=students.ids,
            student_literals=literals,
            limits={g: institution.limit(type, g) for g in Granularity},
            enrolment=enrolments[type],
            days=walk(type, index, board_terms),
        )
        for type, (index, board_terms) in boards.items()
    }


def _walk(
    database: Database,
    institution: Institution,
    type: BoardType,
    days: DayRange,
    version: int,
    source: StoredPoints,
    board_terms: BoardTerms,
    history: History,
) -> Iterator[DayOfBoards]:
    def origin(day: date) -> Origin:
        inputs = Inputs(version, *find_day_bounds(institution.zone, day))
        return Origin(day, *history.state_on(day), inputs)

    first = history.first_event_day
    if first is None:
        for day in days:
            yield origin(day), ()
        return
    plan = timeline.plan(days, board_terms, first, source.standing)
    sums = source.running_sums()
    newest = max(plan.steps[-1].boundary, *source.standing, first) if plan.steps else first
    kept = False

    def keep(before: date) -> None:
        nonlocal kept
        if before not in source.standing and past.is_worth_keeping(before, newest, board_terms):
            source.keep(database, sums, before)
            kept = True

    for day, boards in timeline.walk(
        plan, source, board_terms, first, institution.rank_method, sums, keep
    ):
        yield origin(day), boards
    if kept:
        past.drop_outlived(database, institution, type, board_terms)
