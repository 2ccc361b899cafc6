"""Cells packed in blocks, so that one student's can be read out of very many alone.

A cell is 28 bytes, little endian: keys of student, class, subject and campus (int32, 0 for none),
points (int64), number of events (int32). Cells are sorted by student; `CELLS` of them make a block.
With the first student of each block beside them, a student's blocks are known without reading any
other: those of `BYTES` each from the last that begins below the student through the last that does
not begin above (`windows_of_student` in reading.sql takes them).
"""

from __future__ import annotations

import numpy as np

from lb_pipelines.core.ranking import Int32, Int64

CELLS = 64
_CELL = np.dtype(
    [
        ("student", "<i4"),
        ("class", "<i4"),
        ("subject", "<i4"),
        ("campus", "<i4"),
        ("points", "<i8"),
        ("events", "<i4"),
    ]
)
BYTES = CELLS * _CELL.itemsize


def pack(keys: Int64, points: Int64, events: Int64) -> tuple[Int32, bytes]:
    """(the first student of each block, the blocks) of cells sorted by student.

    `keys` int64[4, n]: student, class, subject, campus; `points`, `events` int64[n].
    """
    cells = np.empty(len(points), _CELL)
    for name, column in zip(_CELL.names or (), (*keys, points, events), strict=True):
        cells[name] = column
    return cells["student"][::CELLS].astype(np.int32), cells.tobytes()


def cells_of(student: int, blocks: bytes) -> list[tuple[int, int, int, int, int]]:
    """(class, subject, campus, points, events) of each of a student's cells in some blocks."""
    cells = np.frombuffer(blocks, _CELL)
    own: list[tuple[int, int, int, int, int]] = [
        row[1:] for row in cells[cells["student"] == student].tolist()
    ]
    return own
