"""How many students are enrolled on each board as of a day.

A student with several enrollments on one board (two classes of a subject) counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from lb_pipelines.core.ranking import Int32, Int64

_EPOCH = date(1970, 1, 1)
# Up to here (bytes) every student of every board has a place of their own to be ticked off in,
# which takes a tenth of the time that sorting does.
_ROOM_FOR_TICKS = 1 << 27


@dataclass(frozen=True)
class Enrolment:
    """Enrollments: `boards` and `students` int32[n] are ordinals, `begins` and `ends` int32[n] the
    first day and the first day after the last, counted from 1970-01-01; days beyond any calendar
    stand for none.

    `board_count` and `student_count` are how many there are.
    """

    board_count: int
    student_count: int
    boards: Int32
    students: Int32
    begins: Int32
    ends: Int32

    def on(self, day: date) -> Int64:
        """int64[boards]: students enrolled on each board on `day`."""
        number = (day - _EPOCH).days
        now = np.flatnonzero((self.begins <= number) & (number < self.ends))
        boards, students = self.boards[now], self.students[now]
        if self.board_count * self.student_count <= _ROOM_FOR_TICKS:
            ticks = np.zeros((self.board_count, self.student_count), np.uint8)
            ticks[boards, students] = 1
            return ticks.sum(axis=1, dtype=np.int64)
        pairs = np.unique((boards.astype(np.int64) << 32) | students)
        return np.bincount(pairs >> 32, minlength=self.board_count).astype(np.int64, copy=False)
