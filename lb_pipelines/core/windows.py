"""The boards of one type as of a day: points summed over windows of running sums, and ranked.

Boards of several granularities can be ranked together: what a ranking costs whatever its size is
then paid once. So a board has a number there that says its granularity too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lb_pipelines.core.periods import Term, institution_term, window_start
from lb_pipelines.core.ranking import Int32, Int64, Ranking, rank
from lb_pipelines.core.sums import STUDENT_BITS, RunningSums, State, ascending, boards_of
from lb_pipelines.core.words import Granularity, RankMethod

# The number of a board: the place of its granularity above the bits of its ordinal. It fits in an
# int32, and leaves pair codes positive.
_ORDINAL_BITS = 28
_GRANULARITIES = tuple(Granularity)


@dataclass(frozen=True)
class BoardTerms:
    """Which term the TERM board of each board belongs to.

    `terms`: the institution's. `own` int32[boards]: for classes the index of a class's own term;
    None for subjects and campuses, which follow the institution's term of the day.
    """

    terms: Sequence[Term]
    own: Int32 | None

    def on(self, day: date) -> list[tuple[Term, int | None]]:
        """The terms that have boards on `day`: (term, index in `own`, None where it is for all)."""
        if self.own is None:
            term = institution_term(self.terms, day)
            return [] if term is None else [(term, None)]
        used = set(np.unique(self.own).tolist())
        return [
            (term, index)
            for index, term in enumerate(self.terms)
            if index in used and term.holds(day)
        ]

    def is_cut(self, day: date) -> bool:
        """Whether a total before `day` is kept: months and terms begin at cuts."""
        return day.day == 1 or any(term.starts_on == day for term in self.terms)


@dataclass(frozen=True)
class Boards:
    """All boards of one type and of one granularity or several, ranked together.

    `ranking` has them by number, ascending: by granularity, then by ordinal. `period_start`
    datetime64[D] by board.
    """

    period_start: NDArray[np.datetime64]
    ranking: Ranking

    @staticmethod
    def number(granularity: Granularity, ordinal: int) -> int:
        """The number of a board."""
        return (_GRANULARITIES.index(granularity) << _ORDINAL_BITS) | ordinal

    @property
    def ordinals(self) -> Int32:
        """int32[boards]: the ordinal of each."""
        return self.ranking.boards & ((1 << _ORDINAL_BITS) - 1)

    @property
    def _places(self) -> Int32:
        return self.ranking.boards >> _ORDINAL_BITS

    @property
    def granularities(self) -> list[Granularity]:
        """The granularity of each."""
        return [_GRANULARITIES[place] for place in self._places.tolist()]

    def of_each(self, values: Mapping[Granularity, int]) -> Int64:
        """int64[boards]: the value that each board's granularity has."""
        by_place = np.array([values[granularity] for granularity in _GRANULARITIES], np.int64)
        return by_place[self._places]


@dataclass(frozen=True)
class Windows:
    """Boards as of days that `sums` stand at or have marked, in an institution whose first day
    with an ACTIVE event is `first_event_day`.
    """

    sums: RunningSums
    terms: BoardTerms
    first_event_day: date
    method: RankMethod

    def boards(self, as_of: Mapping[Granularity, tuple[date, State]]) -> Boards | None:
        """The boards of these granularities, each as of a day, after which the sums are a state;
        None if there are none.
        """
        codes, points, starts = [], [], []
        for granularity, (day, state) in as_of.items():
            pairs, window, start = self._window(granularity, day, state)
            number = np.int64(Boards.number(granularity, 0))
            pairs |= number << STUDENT_BITS
            codes.append(pairs)
            points.append(window)
            starts.append((number, start))
        members = _joined(codes)
        if not len(members):
            return None
        ranking = rank(boards_of(members), members, _joined(points), self.method)
        period_start = np.empty(len(ranking.boards), "datetime64[D]")
        for number, start in starts:
            begin, end = np.searchsorted(ranking.boards, (number, number + (1 << _ORDINAL_BITS)))
            here = ranking.boards[begin:end] - number
            period_start[begin:end] = start[here] if start.ndim else start
        return Boards(period_start, ranking)

    def _window(
        self, granularity: Granularity, day: date, state: State
    ) -> tuple[Int64, Int64, NDArray[np.datetime64]]:
        """Codes and points of who is ranked, in arrays of their own, and the first day of all
        boards or by ordinal.
        """
        if granularity is Granularity.TERM:
            return self._term_window(day, state)
        start = window_start(granularity, day, term=None, first_event_day=self.first_event_day)
        assert start is not None
        mark = None if granularity is Granularity.ALL_TIME else self.sums.marked(start)
        return *_since(self.sums.codes, state, mark), np.array(start, "datetime64[D]")

    def _term_window(self, day: date, state: State) -> tuple[Int64, Int64, NDArray[np.datetime64]]:
        sums, own = self.sums, self.terms.own
        held = self.terms.on(day)
        term_of = None if own is None else own[boards_of(sums.codes)]
        parts = [
            _since(
                sums.codes,
                state,
                sums.marked(term.starts_on),
                None if term_of is None else term_of == index,
            )
            for term, index in held
        ]
        codes, points = (_joined([part[side] for part in parts]) for side in (0, 1))
        if len(parts) > 1:
            order = ascending(codes)
            codes, points = codes[order], points[order]
        if own is None:
            return codes, points, np.array(held[0][0].starts_on if held else day, "datetime64[D]")
        firsts = np.array([term.starts_on for term in self.terms.terms], dtype="datetime64[D]")
        return codes, points, firsts[own]


def _since(
    universe: Int64,
    state: State,
    mark: State | None,
    among: NDArray[np.bool_] | None = None,
) -> tuple[Int64, Int64]:
    """Codes and points of the pairs with an event after the mark, of those in `among`."""
    ranked = state.events > (mark.events if mark is not None else 0)
    if among is not None:
        ranked &= among
    at = np.flatnonzero(ranked)
    window = state.points[at].astype(np.int64, copy=False)
    return universe[at], window - mark.points[at] if mark is not None else window


def _joined(parts: Sequence[NDArray[Any]]) -> Int64:
    """One after the other; one alone is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])
