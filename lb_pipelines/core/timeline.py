"""One pass over days: every board of one type, ranked for each window, with its baseline.

The pass walks forward through days with running sums. A window's sums are the sums now minus the
sums at its start, so the past is read once however many windows look back on it. Where a stored
total stands before the next day of interest, the walk jumps onto it instead of reading the days
between. `plan` says beforehand which days and totals a pass will read; nothing here does I/O:
what is read comes from a `PointSource`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lb_pipelines.core.periods import (
    ONE_DAY,
    DayRange,
    Term,
    baseline_day,
    days_between,
    institution_term,
    window_start,
)
from lb_pipelines.core.ranking import Int32, Int64, Ranking, rank
from lb_pipelines.core.sums import RunningSums, State, Sums, Total, boards_of
from lb_pipelines.core.words import Granularity, RankMethod

# A total that does not stand yet is made first, from all days since the one before it: below this
# many days walking is cheaper.
SHORTEST_JUMP_ONTO_A_MISSING_TOTAL = timedelta(days=7)
# Their baselines are a week old and differ each day: what is kept of a day is one mark for both, of
# which their boards are ranked anew: that takes a fraction of the room of the boards.
_AS_OF_A_MARK = (Granularity.TERM, Granularity.ALL_TIME)
# Days read at once: enough to make growing the universe cheap, few enough to stay small.
DAYS_READ_AT_ONCE = 4


class PointSource(Protocol):
    """Where a pass gets its sums, for one institution and board type."""

    def before(self, cut: date) -> Sums | Total:
        """Sums over all days before `cut`."""
        ...

    def on(self, days: Sequence[date]) -> list[Sums]:
        """Sums of each of these days."""
        ...


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
    """All boards of one type, granularity and day: `ranking`, and datetime64[D] period starts."""

    granularity: Granularity
    day: date
    period_start: NDArray[np.datetime64]
    ranking: Ranking


@dataclass(frozen=True)
class Step:
    """One step of the walk: jump onto the total before `jump`, then read `days`, then stand before
    `boundary`.
    """

    jump: date | None
    days: tuple[date, ...]
    boundary: date


@dataclass(frozen=True)
class Plan:
    """What a pass over `days` evaluates, marks and reads.

    `evaluations`: per day the granularities to rank on it; `marks`: before which days the sums are
    remembered, for windows that begin there and baselines that end there, with the last day on
    which each is needed; `baselines`: (granularity, day) whose boards are kept.
    """

    days: DayRange
    evaluations: Mapping[date, Sequence[Granularity]]
    marks: Mapping[date, date]
    baselines: frozenset[tuple[Granularity, date]]
    steps: Sequence[Step]

    @property
    def cuts(self) -> list[date]:
        """The totals that the pass will ask for."""
        return [step.jump for step in self.steps if step.jump is not None]


def plan(
    days: DayRange,
    board_terms: BoardTerms,
    first_event_day: date,
    standing: Collection[date] = (),
) -> Plan:
    """Plan a pass over `days`; `first_event_day` is the first with an ACTIVE event, `standing` the
    cuts whose totals need not be made.

    Days before that have no boards; a range wholly before it gives an empty plan.
    """
    baselines = {
        (g, baseline_day(g, day)) for day in days for g in Granularity if g not in _AS_OF_A_MARK
    }
    evaluations: dict[date, list[Granularity]] = {}
    marks: dict[date, date] = {}

    def remember(start: date, until: date) -> None:
        """Have the sums before `start` on the days up to `until`."""
        if start > first_event_day:
            marks[start] = max(until, marks.get(start, until))

    def remember_windows(granularity: Granularity, day: date, until: date) -> None:
        """Have what the boards as of `day` begin with."""
        if granularity is Granularity.ALL_TIME:
            return
        of_term = granularity is Granularity.TERM
        for term in [t for t, _ in board_terms.on(day)] if of_term else [None]:
            start = window_start(granularity, day, term=term, first_event_day=first_event_day)
            if start is not None:
                remember(start, until)

    for day in sorted({day for _, day in baselines} | set(days)):
        if day < first_event_day:
            continue
        evaluations[day] = [g for g in Granularity if day in days or (g, day) in baselines]
        for granularity in evaluations[day]:
            remember_windows(granularity, day, day)
    for day in days:
        for granularity in _AS_OF_A_MARK:
            before = baseline_day(granularity, day)
            if before >= first_event_day:
                remember(before + ONE_DAY, day)
                remember_windows(granularity, before, day)
    boundaries = {day + ONE_DAY for day in evaluations} | set(marks)
    steps = steps_to(boundaries, first_event_day, standing, board_terms.is_cut)
    return Plan(days, evaluations, marks, frozenset(baselines), steps)


def steps_to(
    boundaries: Collection[date],
    first_event_day: date,
    standing: Collection[date],
    can_be_made: Callable[[date], bool] = lambda _: False,
) -> list[Step]:
    """The way from the first event over each of these boundaries, in ascending order.

    It jumps onto totals that stand, and over far distances onto those that can be made.
    """
    steps = []
    position = first_event_day
    for boundary in sorted(boundaries):
        jump = next(
            (
                day
                for day in (boundary - i * ONE_DAY for i in range((boundary - position).days))
                if day in standing
                or (can_be_made(day) and day - position > SHORTEST_JUMP_ONTO_A_MISSING_TOTAL)
            ),
            None,
        )
        days_read = tuple(days_between(jump or position, boundary - ONE_DAY))
        steps.append(Step(jump, days_read, boundary))
        position = boundary
    return steps


def walk(
    plan: Plan,
    source: PointSource,
    board_terms: BoardTerms,
    first_event_day: date,
    method: RankMethod,
    sums: RunningSums | None = None,
    reached: Callable[[date], None] = lambda _: None,
) -> Iterator[tuple[date, Iterator[tuple[Boards, Boards | None]]]]:
    """Yield, for every day of the plan, its boards by granularity, each with its baseline.

    Each granularity is ranked when it is asked for, and all of them before the next day is: so one
    at a time takes room. One without any board on a day is left out. The baseline is None where the
    earlier day had no boards. `sums` may know pairs beforehand; they stand before a boundary when
    `reached` is called with it.
    """
    sums = sums or RunningSums()
    kept: dict[tuple[Granularity, date], Boards] = {}

    def as_of(granularity: Granularity, day: date, state: State) -> Boards | None:
        return _evaluate(sums, state, granularity, day, board_terms, first_event_day, method)

    def baseline(granularity: Granularity, day: date) -> Boards | None:
        if granularity not in _AS_OF_A_MARK:
            return kept.get((granularity, day))
        state = sums.marked(day + ONE_DAY)
        return None if state is None else as_of(granularity, day, state)

    def ranked(day: date) -> Iterator[tuple[Boards, Boards | None]]:
        for granularity in plan.evaluations[day]:
            boards = as_of(granularity, day, sums.now)
            if boards is None:
                continue
            if day in plan.days:
                yield boards, baseline(granularity, baseline_day(granularity, day))
            if (granularity, day) in plan.baselines:
                kept[granularity, day] = boards
            # Not to be held while the next granularity is ranked.
            del boards

    yield from ((day, iter(())) for day in plan.days if day < first_event_day)
    for boundary in follow(plan.steps, source, sums):
        reached(boundary)
        if boundary in plan.marks:
            sums.mark(boundary)
        day = boundary - ONE_DAY
        if day not in plan.evaluations:
            continue
        boards_of_day = ranked(day)
        if day in plan.days:
            yield day, boards_of_day
        for _ in boards_of_day:
            pass
        for start, last in plan.marks.items():
            if last <= day:
                sums.forget(start)
        coming = max(day + ONE_DAY, plan.days.first)
        for granularity, kept_day in list(kept):
            if kept_day < baseline_day(granularity, coming):
                del kept[granularity, kept_day]


def follow(steps: Sequence[Step], source: PointSource, sums: RunningSums) -> Iterator[date]:
    """Move the sums along the steps, reading some days ahead of them; yields each boundary."""
    buffer: dict[date, Sums] = {}
    # What may be read together, in order.
    coming = [day for step in steps for day in step.days]
    for step in steps:
        if step.jump is not None:
            total = source.before(step.jump)
            if isinstance(total, Sums):
                sums.admit([total])
            sums.restart(total)
        for day in step.days:
            if day not in buffer:
                ahead = coming[:DAYS_READ_AT_ONCE]
                batches = source.on(ahead)
                sums.admit(batches)
                buffer = dict(zip(ahead, batches, strict=True))
            coming.pop(0)
            sums.add(buffer.pop(day))
        yield step.boundary


def _evaluate(
    sums: RunningSums,
    state: State,
    granularity: Granularity,
    day: date,
    board_terms: BoardTerms,
    first_event_day: date,
    method: RankMethod,
) -> Boards | None:
    """The boards of one granularity as of `day`, after which the sums are `state`; None if none."""
    if granularity is Granularity.TERM:
        codes, points, starts = _term_window(sums, state, day, board_terms)
    else:
        start = window_start(granularity, day, term=None, first_event_day=first_event_day)
        assert start is not None
        mark = None if granularity is Granularity.ALL_TIME else sums.marked(start)
        codes, points = _window(sums.codes, state, mark)
        starts = _constant(start)
    if not len(codes):
        return None
    ranking = rank(boards_of(codes), codes, points, method)
    return Boards(granularity, day, starts(ranking.boards), ranking)


def _constant(day: date) -> Callable[[Int32], NDArray[np.datetime64]]:
    return lambda boards: np.full(len(boards), np.datetime64(day, "D"))


def _window(
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


def _term_window(
    sums: RunningSums, state: State, day: date, board_terms: BoardTerms
) -> tuple[Int64, Int64, Callable[[Int32], NDArray[np.datetime64]]]:
    parts: list[tuple[Int64, Int64]] = []
    held = board_terms.on(day)
    for term, index in held:
        among = None
        if index is not None:
            assert board_terms.own is not None
            among = board_terms.own[boards_of(sums.codes)] == index
        parts.append(_window(sums.codes, state, sums.marked(term.starts_on), among))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), _constant(day)
    codes = np.concatenate([codes for codes, _ in parts])
    points = np.concatenate([points for _, points in parts])
    if len(parts) > 1:
        order = np.argsort(codes)
        codes, points = codes[order], points[order]

    def starts(boards: Int32) -> NDArray[np.datetime64]:
        if board_terms.own is None:
            return _constant(held[0][0].starts_on)(boards)
        firsts = np.array([term.starts_on for term in board_terms.terms], dtype="datetime64[D]")
        return firsts[board_terms.own[boards]]

    return codes, points, starts
