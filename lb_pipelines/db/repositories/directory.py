"""Students, boards and enrollments of an institution, as ordinals in the order of their ids.

An ordinal is a position in the ascending list of ids; ascending ordinals are ascending ids. Only
an erased student has a pseudonym for an id and keeps the old place (`lb.students.order_key`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lb_pipelines.core.enrolment import ALWAYS, NEVER, Enrolment, merge
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import Term
from lb_pipelines.core.ranking import Int32, Int64
from lb_pipelines.core.sums import pair_codes
from lb_pipelines.core.timeline import BoardTerms
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import bulk, queries
from lb_pipelines.db.engine import Connection

_DAYS_1970_TO_2000 = 10_957


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
        lowest, highest = int(self.keys.min()), int(self.keys.max())
        table = np.full(highest - lowest + 2, -1, np.int32)
        table[self.keys - lowest] = np.arange(len(self.keys), dtype=np.int32)
        inside = (keys >= lowest) & (keys <= highest)
        return table[np.where(inside, keys - lowest, len(table) - 1)]


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


def enrolment(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    boards: Index,
    students: Index,
) -> Enrolment:
    """Who is enrolled on each board, and when."""
    columns = bulk.read_columns(
        connection,
        queries.text(getattr(queries.directory, f"enrolled_of_{type.lower()}")),
        {"institution_key": institution.key},
        ("board", "student", "enrolled_on", "withdrawn_on"),
    )
    # -infinity and infinity come as the ends of int32.
    begins, ends = (
        np.clip(columns[name].astype(np.int64) + _DAYS_1970_TO_2000, ALWAYS, NEVER)
        for name in ("enrolled_on", "withdrawn_on")
    )
    codes = pair_codes(
        boards.ordinals(columns["board"].astype(np.int64)),
        students.ordinals(columns["student"].astype(np.int64)),
    )
    return merge(len(boards), codes, begins, ends)
