"""Cells packed in blocks, so that one student's can be read out of very many alone.

A cell is 20 bytes, little endian: keys of student and board (int32), points (int64), number of
events (int32). Cells are sorted by student, then board; `CELLS` of them make a block. With the
first student of each block beside them, a student's blocks are known without reading any other:
those of `BYTES` each from the last that begins below the student through the last that does not
begin above (`windows_of_student` in reading.sql takes them).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lb_pipelines.core.ranking import Int32, Int64
from lb_pipelines.core.sums import ascending

CELLS = 64
_CELL = np.dtype([("student", "<i4"), ("board", "<i4"), ("points", "<i8"), ("events", "<i4")])
BYTES = CELLS * _CELL.itemsize


class Blocks(NamedTuple):
    """`students` int32: the first of each block; `cells`: the blocks, one after the other."""

    students: Int32
    cells: bytes


def pack(students: Int64, boards: Int64, points: Int64, events: Int64 | Int32) -> Blocks:
    """Cells in any order: keys, points and numbers of events, one element of each a cell."""
    order = ascending((students << 32) | boards)
    cells = np.empty(len(order), _CELL)
    for name, column in zip(_CELL.names or (), (students, boards, points, events), strict=True):
        cells[name] = column[order]
    return Blocks(cells["student"][::CELLS].astype(np.int32), cells.tobytes())


def cells_of(student: int, blocks: bytes) -> list[tuple[int, int, int]]:
    """(board, points, events) of each of a student's cells in some blocks."""
    cells = np.frombuffer(blocks, _CELL)
    own: list[tuple[int, int, int]] = [
        row[1:] for row in cells[cells["student"] == student].tolist()
    ]
    return own
