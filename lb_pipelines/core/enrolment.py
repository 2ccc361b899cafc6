"""How many students are enrolled on each board as of a day.

A student with several enrollments on one board (two classes of a subject) counts once; so
overlapping spans of the same student are merged first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from lb_pipelines.core.ranking import Int32, Int64

# Spans without a first or last day reach to the ends of time.
ALWAYS, NEVER = -(2**30), 2**30
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Enrolment:
    """Merged spans, as boards sorted by first day and by the first day after the last."""

    boards: int
    begin_days: Int64
    begin_boards: Int32
    end_days: Int64
    end_boards: Int32

    def on(self, day: date) -> Int64:
        """int64[boards]: students enrolled on each board on `day`."""
        number = (day - _EPOCH).days
        begun = self.begin_boards[: np.searchsorted(self.begin_days, number, side="right")]
        ended = self.end_boards[: np.searchsorted(self.end_days, number, side="right")]
        return np.bincount(begun, minlength=self.boards) - np.bincount(ended, minlength=self.boards)


def merge(boards: int, codes: Int64, begins: Int64, ends: Int64) -> Enrolment:
    """Merge the spans [begin, end) of each pair code; days are counted from 1970-01-01.

    `boards` is the number of boards. Spans that end before they begin are dropped.
    """
    valid = begins < ends
    codes, begins, ends = codes[valid], begins[valid], ends[valid]
    order = np.lexsort((begins, codes))
    codes, begins, ends = codes[order], begins[order], ends[order]
    fresh_pair = np.ones(len(codes), dtype=bool)
    fresh_pair[1:] = codes[1:] != codes[:-1]
    # The furthest end so far within a pair: lift every pair above all earlier ones first.
    lift = np.cumsum(fresh_pair) * (2 * NEVER - 2 * ALWAYS)
    furthest = np.maximum.accumulate(ends + lift) - lift
    opens = fresh_pair.copy()
    opens[1:] |= begins[1:] > furthest[:-1]
    firsts = np.flatnonzero(opens)
    lasts = np.append(firsts[1:], len(codes)) - 1
    owners = (codes[firsts] >> 32).astype(np.int32)
    begin_days, end_days = begins[firsts], furthest[lasts] if len(firsts) else ends
    by_begin, by_end = np.argsort(begin_days), np.argsort(end_days)
    return Enrolment(
        boards, begin_days[by_begin], owners[by_begin], end_days[by_end], owners[by_end]
    )
