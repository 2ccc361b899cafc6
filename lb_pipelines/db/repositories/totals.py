"""Stored totals of all days before a day, and the pairs whose sums they hold by slot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import numpy as np

from lb_pipelines.core import packed
from lb_pipelines.core.blocks import Blocks
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.ranking import Int64
from lb_pipelines.core.sums import Total, ascending
from lb_pipelines.core.words import BoardType
from lb_pipelines.db import queries
from lb_pipelines.db.bulk import ArrayConnection, Int4Array
from lb_pipelines.db.engine import Connection


@dataclass(frozen=True)
class Pairs:
    """Pairs by slot: `boards` and `students` int64[n] are keys."""

    boards: Int64
    students: Int64

    def __len__(self) -> int:
        return len(self.boards)

    @property
    def codes(self) -> Int64:
        """One number a pair, by its keys."""
        return (self.boards << 32) | self.students


def pairs(
    connection: Connection, institution: Institution, type: BoardType, *, first_slot: int = 0
) -> Pairs:
    """The pairs of every slot from `first_slot` on."""
    rows = list(
        queries.totals.pairs(
            ArrayConnection(connection),
            institution_key=institution.key,
            type=type.value,
            first_slot=first_slot,
        )
    )
    nothing = [np.empty(0, np.int64)]
    return Pairs(
        np.concatenate([*nothing, *(packed.unpack(boards) for *_, boards, _ in rows)]),
        np.concatenate([*nothing, *(packed.unpack(students) for *_, students in rows)]),
    )


def give_slots(
    connection: Connection, institution: Institution, type: BoardType, known: int, met: Pairs
) -> tuple[Int64, int]:
    """The slots of these pairs, which had none when the first `known` slots were read; and how
    many slots there are then.

    Until the transaction ends nobody else can give any.
    """
    queries.totals.lock_pairs(connection, institution_key=institution.key, type=type.value)
    since = pairs(connection, institution, type, first_slot=known)
    slots = _find(since.codes, met.codes)
    slots[slots >= 0] += known
    fresh = np.flatnonzero(slots < 0)
    following = known + len(since)
    slots[fresh] = following + np.arange(len(fresh))
    if len(fresh):
        queries.totals.add_pairs(
            connection,
            institution_key=institution.key,
            type=type.value,
            first_slot=following,
            pairs=len(fresh),
            boards=packed.pack(met.boards[fresh]),
            students=packed.pack(met.students[fresh]),
        )
    return slots, following + len(fresh)


def stored(connection: Connection, institution: Institution, type: BoardType) -> dict[date, int]:
    """The through_revision of every stored total, by its cut, ascending."""
    rows = queries.totals.stored(connection, institution_key=institution.key, type=type.value)
    return dict(rows)


def total(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    before: date,
    through_revision: int,
) -> Total | None:
    """The stored total of that very state; None where there is none."""
    row = queries.totals.total(
        ArrayConnection(connection),
        institution_key=institution.key,
        type=type.value,
        before=before,
        through_revision=through_revision,
    )
    return row and Total(*map(packed.unpack, row))


def sums(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    before: date,
    through_revision: int,
) -> tuple[Int64, Int64, Int64, Int64] | None:
    """(board keys, student keys, points, events) of a stored total of that very state."""
    found = total(connection, institution, type, before, through_revision)
    if found is None:
        return None
    of, count = pairs(connection, institution, type), len(found.points)
    return (
        of.boards[:count],
        of.students[:count],
        found.points.astype(np.int64),
        found.events.astype(np.int64),
    )


def store(
    connection: Connection,
    institution: Institution,
    type: BoardType,
    before: date,
    through_revision: int,
    total: Total,
    blocks: Blocks | None = None,
) -> None:
    """Keep a total, whose pairs have their slots, unless one of a later state stands.

    `blocks`: the same by student, for one that standings of a student may be read from.
    """
    queries.totals.store(
        ArrayConnection(connection),
        institution_key=institution.key,
        type=type.value,
        before=before,
        through_revision=through_revision,
        points=packed.pack(total.points),
        events=packed.pack(total.events),
        block_students=None if blocks is None else Int4Array(blocks.students),
        blocks=None if blocks is None else blocks.cells,
    )


def drop(
    connection: Connection, institution: Institution, type: BoardType, cuts: Iterable[date]
) -> None:
    """Drop the totals of these cuts."""
    queries.totals.drop(
        connection, institution_key=institution.key, type=type.value, cuts=list(cuts)
    )


def drop_after(connection: Connection, institution: Institution, day: date) -> None:
    """Drop the totals, of all types, that hold this day."""
    queries.totals.drop_after(connection, institution_key=institution.key, day=day)


def _find(codes: Int64, wanted: Int64) -> Int64:
    """The position of each wanted code among the codes; -1 where it is not there."""
    if not len(codes):
        return np.full(len(wanted), -1, np.int64)
    order = ascending(codes)
    at = order[np.minimum(np.searchsorted(codes[order], wanted), len(codes) - 1)]
    return np.where(codes[at] == wanted, at, -1)
