"""Students, boards and enrollments of an institution, as ordinals in the order of their ids.

An ordinal is a position in the ascending list of ids; ascending ordinals are ascending ids. Only
an erased student has a pseudonym for an id and keeps the old place (`lb.students.order_key`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lb_pipelines.core.enrolment import Enrolment
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import Term
from lb_pipelines.core.ranking import Int32, Int64
from lb_pipelines.core.windows import BoardTerms
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import bulk, queries
from lb_pipelines.db.engine import Connection

# Students of the first step of a walk.
_FIRST_STEP = 64


@dataclass(frozen=True)
class Index:
    """Ids and keys in the order of the ids: `ids` string[n], `keys` int64[n]."""

    ids: pa.Array
    keys: Int64

    def __len__(self) -> int:
        return len(self.keys)

    def ordinals(self, keys: Int64) -> Int32:
        """The ordinal of each key; -1 for a key that is not in the index."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int32)
        lowest, table = self._table
        at = keys.astype(np.int64) - lowest
        at[(at < 0) | (at >= len(table))] = len(table) - 1
        return table[at]

    @cached_property
    def _table(self) -> tuple[int, Int32]:
        """The lowest key, and the ordinal of every key from there on; the last is no key's."""
        lowest = int(self.keys.min())
        table = np.full(int(self.keys.max()) - lowest + 2, -1, np.int32)
        table[self.keys - lowest] = np.arange(len(self.keys), dtype=np.int32)
        return lowest, table


def students(connection: Connection, institution: Institution) -> Index:
    """All students of the institution."""
    keys, ids = bulk.read_texts(
        connection, queries.text(queries.directory.students), {"institution_key": institution.key}
    )
    return Index(ids, keys)


def students_of_keys(connection: Connection, institution: Institution, keys: Int64) -> Index:
    """Those of the institution's students who have these keys."""
    found, ids = bulk.read_texts(
        connection,
        queries.text(queries.directory.students_of_keys),
        {"institution_key": institution.key, "keys": bulk.Int4Array(keys)},
    )
    return Index(ids, found)


def walk_students(
    connection: Connection,
    institution: Institution,
    student_key: int | None = None,
    *,
    backwards: bool = False,
) -> Iterator[tuple[int, str]]:
    """Key and id of the students after a student in their order, or before with `backwards`; None:
    from the first, or the last. Few are read at a time, each time twice as many.
    """
    step = queries.directory.students_before if backwards else queries.directory.students_after
    at_most = _FIRST_STEP
    position = (
        # Every id is longer, and every key is larger.
        ("", 0)
        if student_key is None and not backwards
        else queries.directory.last_position(connection, institution_key=institution.key)
        if student_key is None
        else queries.directory.position_of_student(
            connection, institution_key=institution.key, student_key=student_key
        )
    )
    if position is None:
        return
    place, key = position
    if student_key is None and backwards:
        key += 1
    while True:
        rows = list(
            step(
                connection,
                institution_key=institution.key,
                place=place,
                student_key=key,
                at_most=at_most,
            )
        )
        for _, *student in rows:
            yield student[0], student[1]
        if len(rows) < at_most:
            return
        place, key, _ = rows[-1]
        at_most *= 2


def keys_before(connection: Connection, institution: Institution, student_key: int) -> Int64:
    """int64[n]: the keys of the students who come before a student in their order, in any order."""
    place, key = queries.directory.position_of_student(
        connection, institution_key=institution.key, student_key=student_key
    )
    columns = bulk.read_columns(
        connection,
        queries.text(queries.directory.keys_before),
        {"institution_key": institution.key, "place": place, "student_key": key},
        ("student_key",),
    )
    return columns["student_key"].astype(np.int64)


def boards(
    connection: Connection, institution: Institution, type: BoardType, terms: list[Term]
) -> tuple[Index, BoardTerms]:
    """All boards of one type, and which term's TERM board each has."""
    query = getattr(queries.directory, f"boards_of_{type.lower()}")
    rows = list(query(connection, institution_key=institution.key))
    own = None
    if type is BoardType.CLASS:
        position = {term.id: at for at, term in enumerate(terms)}
        own = np.array([position[term] for _, term, _ in rows], dtype=np.int32)
    index = Index(
        pa.array([id for *_, id in rows], pa.string()),
        np.array([key for key, *_ in rows], dtype=np.int64),
    )
    return index, BoardTerms(terms, own)


def enrolments(
    connection: Connection,
    institution: Institution,
    boards: Mapping[BoardType, Index],
    students: Index,
) -> dict[BoardType, Enrolment]:
    """Who is enrolled on each board of these types, and when; read once for all."""
    rows = list(
        queries.directory.enrolled(
            bulk.ArrayConnection(connection), institution_key=institution.key
        )
    )
    of_class, of_subject, of_campus, begins, ends = (
        np.array(column, np.int64) for column in (list(zip(*rows, strict=True))[:5] or [()] * 5)
    )
    taken = [row[5] for row in rows]
    sizes = np.array([len(part) for part in taken], np.int64)
    ordinals = students.ordinals(np.concatenate([np.empty(0, np.int32), *taken]))
    keys = {
        BoardType.CLASS: of_class,
        BoardType.SUBJECT: of_subject,
        BoardType.CAMPUS: of_campus,
    }
    found = {}
    for type, index in boards.items():
        of = index.ordinals(keys[type])
        on_board = np.repeat(of >= 0, sizes)

        def spread(values: Int64 | Int32, on_board: NDArray[np.bool_] = on_board) -> Int32:
            return np.repeat(values.astype(np.int32), sizes)[on_board]

        found[type] = Enrolment.of(
            len(index), spread(of), ordinals[on_board], spread(begins), spread(ends)
        )
    return found
