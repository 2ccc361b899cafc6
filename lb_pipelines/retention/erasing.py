"""Erasure of a student: a pseudonym everywhere, ranks and sums of all others as they were.

One transaction reaches everything in the database: the student, the ids of their events, live
snapshots, the archive, what purges have set aside, trends. The student keeps the key, so sums stay
as they are, and the place among the ids by which ties were broken, so that nobody's rank moves. No
ledger names whom: what is kept is a salted hash by which imports leave the student out.

Files cannot be part of a transaction. It leaves a task for each export, the one place where the id
goes on to stand; `erase` does these next, or `finish_erasures` after a kill.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from lb_pipelines.core import pseudonyms
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import month_start
from lb_pipelines.core.pseudonyms import replaced, trend_hash
from lb_pipelines.core.retention import Hold
from lb_pipelines.core.snapshot_content import rehash
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.each_institution import WRITE_LOCK_TIMEOUT, name_institution
from lb_pipelines.db.engine import Connection, Database
from lb_pipelines.db.partitions.detaching import Standing, snapshot_leaf, standing
from lb_pipelines.db.partitions.patience import held
from lb_pipelines.db.repositories import erasures, holds, purges, writers
from lb_pipelines.db.repositories.erasures import (
    NamingRow,
    NamingSnapshot,
    NamingTrend,
    Place,
    Student,
)
from lb_pipelines.db.repositories.purges import PurgeEntry
from lb_pipelines.db.repositories.versions import raise_versions
from lb_pipelines.errors import (
    InstitutionLocked,
    InvalidErasure,
    UnderLegalHold,
    UnknownStudent,
    UnreadableInstitution,
)
from lb_pipelines.retention import erasing_files
from lb_pipelines.retention.actor import Actor
from lb_pipelines.retention.erasing_files import UnfinishedExport

OnStep = Callable[[str, int], None]
"""Told the table and how many rows of it have been rewritten so far."""


@dataclass(frozen=True)
class PlannedErasure:
    """What an erasure would rewrite: rows by table, exports by number, and the holds in its way."""

    institution_id: str
    student_key: int
    counts: Mapping[str, int]
    exports: tuple[int, ...]
    holds: tuple[Hold, ...]


@dataclass(frozen=True)
class FinishedFiles:
    """What became of the exports that were to be rewritten: those left still name a student."""

    rewritten: int
    forgotten: int
    left: tuple[UnfinishedExport, ...]


@dataclass(frozen=True)
class Erased:
    """An erasure: its number in `lb.erasures`, the rows rewritten by table, and the exports."""

    erasure: int
    counts: Mapping[str, int]
    files: FinishedFiles


def plan_erasure(
    database: Database, institution: Institution, student: str | int, today: date
) -> PlannedErasure:
    """What `erase` would do to the student of an id (text) or of a student_key (a number).

    Raises `UnknownStudent`, `InvalidErasure` for who is erased already.
    """
    with database.transaction(snapshot=True) as connection:
        found = _find(connection, institution, student)
        in_force = holds.in_force(connection, institution, today)
        in_the_way = {hold.number: hold for hold in in_force if _covers_all(hold)}
        counts = Counter(students=1, events=erasures.count_events(connection, institution, found))
        for store in _stores(connection, institution):
            for place in store.places:
                for rows in store.read(connection, institution, place, found.id):
                    counts[store.table] += len(rows)
                    for hold in _covering(in_force, rows):
                        in_the_way[hold.number] = hold
        return PlannedErasure(
            institution.id,
            found.key,
            dict(counts),
            erasures.exports(connection, institution),
            tuple(in_the_way[number] for number in sorted(in_the_way)),
        )


def erase(
    database: Database,
    institution: Institution,
    student: str | int,
    *,
    reason: str,
    today: date,
    actor: Actor,
    forget_missing: bool = False,
    on_step: OnStep = lambda table, rows: None,
) -> Erased:
    """Erase the student of an id (text) or of a student_key (a number), for good.

    Raises `UnknownStudent`; `InvalidErasure` for who is erased already, or a reason that says
    nothing or too much; `UnderLegalHold` where a hold covers a row that names the student or the
    whole institution. Then nothing has changed, but that what earlier erasures had left to do in
    files is done. `forget_missing`: see `finish_erasures`.
    """
    finish_erasures(database, institution, forget_missing=forget_missing)
    reason = reason.strip()
    # Without a purge beside it, else a leaf could leave its tree between two looks.
    with held(database, purges.lock_key(institution)), database.transaction() as connection:
        writers.write_alone(connection, institution)
        found = _find(connection, institution, student)
        _check_words(institution, found, reason, actor)
        in_force = holds.in_force(connection, institution, today)
        for hold in in_force:
            if _covers_all(hold):
                raise _refusal(f"Institution {institution.id!r}", hold)
        pseudonym = pseudonyms.pseudonym()
        order_key = _order_key(connection, institution, found)
        counts = Counter(students=1)
        rewritten: set[tuple[BoardType, date]] = set()
        counts["events"] = erasures.rename(connection, institution, found, pseudonym, order_key)
        on_step("events", counts["events"])
        for store in _stores(connection, institution):
            for place in store.places:
                for rows in store.read(connection, institution, place, found.id):
                    for row in rows:
                        for hold in _covering(in_force, [row]):
                            raise _refusal(f"{row.id}, which names the student,", hold)
                    store.write(connection, institution, place, rows, found.id, pseudonym)
                    counts[store.table] += len(rows)
                    rewritten |= {(row.type, month_start(row.day)) for row in rows}
                    on_step(store.table, counts[store.table])
            if store.purge is not None and store.places:
                purges.retally(connection, store.purge)
        erasure = erasures.enter(
            connection,
            institution,
            found.id,
            counts=dict(counts),
            requested_by=actor.name,
            reason=reason,
            run_id=actor.run_id,
        )
        erasures.enter_tasks(connection, institution, erasure, found.id, pseudonym)
        raise_versions(connection, institution, rewritten)
    on_step("committed", 1)
    files = finish_erasures(database, institution, forget_missing=forget_missing)
    return Erased(erasure, dict(counts), files)


def finish_erasures(
    database: Database, institution: Institution | None, *, forget_missing: bool = False
) -> FinishedFiles:
    """Rewrite the exports that erasures have left to do, of one institution or of all.

    What cannot be reached or is damaged stays to be done and is named in the result; with
    `forget_missing` an export whose directory is gone counts as done.
    """
    with database.transaction() as connection:
        tasks = erasures.tasks(connection, institution)
    rewritten = forgotten = 0
    left = []
    database = database.with_timeouts(lock=WRITE_LOCK_TIMEOUT)
    for task in tasks:
        outcome: bool | UnfinishedExport
        try:
            with name_institution(task.institution_id):
                outcome = erasing_files.rewrite(database, task, forget_missing=forget_missing)
        except (InstitutionLocked, UnreadableInstitution) as error:
            outcome = UnfinishedExport(task.export, task.directory, str(error))
        if isinstance(outcome, UnfinishedExport):
            left.append(outcome)
        else:
            rewritten += outcome
            forgotten += not outcome
    return FinishedFiles(rewritten, forgotten, tuple(left))


def _find(connection: Connection, institution: Institution, student: str | int) -> Student:
    found = erasures.find(connection, institution, student)
    erased = (
        found.erased
        if found is not None
        else isinstance(student, str) and erasures.is_suppressed(connection, institution, student)
    )
    if erased:
        raise InvalidErasure(
            f"This student of institution {institution.id!r} is erased already",
            "Nothing is left to do in the database; exports that were out of reach are finished"
            " by themselves with the next erasure, or at once on demand",
        )
    if found is None:
        raise UnknownStudent(institution.id, student)
    return found


def _check_words(institution: Institution, student: Student, reason: str, actor: Actor) -> None:
    """Who and why go into the ledger, which must not say whom."""
    for what, words in (("reason", reason), ("name of who asks for it", actor.name)):
        if not words.strip():
            raise InvalidErasure(
                f"An erasure in institution {institution.id!r} without a {what}",
                "Say it: a request and its number, a court's order",
            )
        for named in filter(None, (student.id, student.name)):
            if re.search(rf"(?<!\w){re.escape(named)}(?!\w)", words, re.IGNORECASE):
                raise InvalidErasure(
                    f"The {what} of an erasure in institution {institution.id!r} names the student",
                    "Write it without, as by the number of the request: the ledger keeps it",
                )


def _order_key(connection: Connection, institution: Institution, student: Student) -> str:
    before, after = erasures.neighbours(connection, institution, student)
    try:
        order_key = pseudonyms.between(before, after)
        # Among numbers the middle of the neighbours is the very id.
        while order_key.startswith(student.id):
            order_key = pseudonyms.between(before, order_key)
        return order_key
    except ValueError as error:
        raise InvalidErasure(
            f"Student {student.key} of institution {institution.id!r} has an id of control"
            " characters, between two others that leave room for no second one",
            "Import none such; give the student another id, materialize the boards and run again",
        ) from error


def _covers_all(hold: Hold) -> bool:
    return hold.type is None and hold.first_month is None and hold.last_month is None


def _covering(in_force: Iterable[Hold], rows: Iterable[NamingRow]) -> Iterator[Hold]:
    boards = {(row.type, row.day) for row in rows}
    return (hold for hold in in_force if any(hold.covers(*board) for board in boards))


def _refusal(thing: str, hold: Hold) -> UnderLegalHold:
    return UnderLegalHold(thing, hold.number, hold.placed_by, hold.reason)


@dataclass(frozen=True)
class _Store:
    """A table with rows that may name a student: where, how they are read and rewritten.

    `write(connection, institution, place, rows, id, pseudonym)`; `purge`: whose rows these are.
    """

    table: str
    places: list[Place]
    read: Callable[[Connection, Institution, Place, str], Iterator[Sequence[Any]]]
    write: Callable[[Connection, Institution, Place, Sequence[Any], str, str], None]
    purge: PurgeEntry | None = None


def _stores(connection: Connection, institution: Institution) -> Iterator[_Store]:
    yield _Store(
        "snapshots",
        erasures.snapshot_places(connection, institution),
        erasures.snapshots_naming,
        partial(_rewrite_snapshots, erasures.rewrite_snapshots),
    )
    yield _Store(
        "archived",
        erasures.archive_places(connection, institution),
        erasures.archive_naming,
        partial(_rewrite_snapshots, erasures.rewrite_archive),
    )
    for purge in purges.under_way(connection, institution):
        # A purge that was killed may have left it half out of its tree, under the leaf's own name.
        leaf = snapshot_leaf(institution.id, purge.type, purge.month).name
        astray = standing(connection, leaf) in (Standing.PENDING, Standing.ALONE)
        relation = leaf if purge.state == "DETACHING" and astray else purge.relation
        place = erasures.purge_place(connection, purge.type, purge.month, relation)
        yield _Store(
            "purged",
            [place] if place else [],
            erasures.snapshots_naming,
            partial(_rewrite_snapshots, erasures.rewrite_snapshots),
            purge if relation == purge.relation else None,
        )
    yield _Store(
        "trends",
        erasures.trend_places(connection, institution),
        erasures.trends_naming,
        _rewrite_trends,
    )


def _rewrite_snapshots(
    rewrite: Callable[..., None],
    connection: Connection,
    institution: Institution,
    place: Place,
    rows: Sequence[NamingSnapshot],
    id: str,
    pseudonym: str,
) -> None:
    entries = [replaced(row.entries, id, pseudonym) for row in rows]
    hashes = [
        rehash(new, row.metadata, row.distribution, row.period_start)
        for row, new in zip(rows, entries, strict=True)
    ]
    rewrite(connection, institution, place, rows, entries, hashes)


def _rewrite_trends(
    connection: Connection,
    institution: Institution,
    place: Place,
    rows: Sequence[NamingTrend],
    id: str,
    pseudonym: str,
) -> None:
    movements = [replaced(row.movement, id, pseudonym) for row in rows]
    students = [replaced(row.students, id, pseudonym) for row in rows]
    erasures.rewrite_trends(
        connection,
        institution,
        place,
        rows,
        leaders=[replaced(row.leader_id, id, pseudonym) for row in rows],
        movements=movements,
        students=students,
        hashes=[
            trend_hash(row.figures, *new)
            for row, *new in zip(rows, movements, students, strict=True)
        ],
    )
