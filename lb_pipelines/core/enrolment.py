"""How many students are enrolled on each board as of a day.

A student with several enrollments on one board (two classes of a subject) counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from lb_pipelines.core.ranking import Int32, Int64, opens
from lb_pipelines.core.sums import ascending, boards_of, pair_codes

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Enrolment:
    """Enrollments on `board_count` boards: `codes` int64[n] the pair codes (`core.sums`),
    ascending; `begins` and `ends` int32[n] the first day and the first day after the last, counted
    from 1970-01-01; days beyond any calendar stand for none.
    """

    board_count: int
    codes: Int64
    begins: Int32
    ends: Int32

    @classmethod
    def of(
        cls, board_count: int, boards: Int32, students: Int32, begins: Int32, ends: Int32
    ) -> Enrolment:
        """The same from ordinals int32[n] in any order."""
        codes = pair_codes(boards, students)
        order = ascending(codes)
        return cls(board_count, codes[order], begins[order], ends[order])

    def on(self, day: date) -> Int64:
        """int64[boards]: students enrolled on each board on `day`."""
        number = (day - _EPOCH).days
        codes = self.codes[(self.begins <= number) & (number < self.ends)]
        return np.bincount(boards_of(codes[opens(codes)]), minlength=self.board_count)
