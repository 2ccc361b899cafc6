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
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lb_pipelines.core.packed import narrowest
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
from lb_pipelines.core.sums import RunningSums, Sums, Total, boards_of, pair_codes, students_of
from lb_pipelines.core.words import Granularity, RankMethod

# A total that does not stand yet is made first, from all days since the one before it: below this
# many days walking is cheaper.
SHORTEST_JUMP_ONTO_A_MISSING_TOTAL = timedelta(days=7)
# Days read at once: enough to make growing the universe cheap, few enough to stay small.
DAYS_READ_AT_ONCE = 8


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

    `evaluations`: per day the granularities to rank on it; `marks`: the first days of windows,
    with the last day on which each is needed; `baselines`: (granularity, day) to be kept.
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
    baselines = {(g, baseline_day(g, day)) for day in days for g in Granularity}
    evaluations: dict[date, list[Granularity]] = {}
    marks: dict[date, date] = {}
    for day in sorted({day for _, day in baselines} | set(days)):
        if day < first_event_day:
            continue
        wanted = [g for g in Granularity if day in days or (g, day) in baselines]
        evaluations[day] = wanted
        for granularity in wanted:
            if granularity is Granularity.ALL_TIME:
                continue
            terms = (
                [t for t, _ in board_terms.on(day)] if granularity is Granularity.TERM else [None]
            )
            for term in terms:
                start = window_start(granularity, day, term=term, first_event_day=first_event_day)
                if start is not None and start > first_event_day:
                    marks[start] = max(day, marks.get(start, day))
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
    kept: dict[tuple[Granularity, date], Boards | _Waiting] = {}

    def ranked(day: date) -> Iterator[tuple[Boards, Boards | None]]:
        for granularity in plan.evaluations[day]:
            boards = _evaluate(sums, granularity, day, board_terms, first_event_day, method)
            if boards is None:
                continue
            if day in plan.days:
                before = kept.get((granularity, baseline_day(granularity, day)))
                yield boards, before.boards(method) if isinstance(before, _Waiting) else before
                del before
            if (granularity, day) in plan.baselines:
                kept[granularity, day] = (
                    _Waiting.of(boards) if granularity in _WAITS_A_WEEK else boards
                )

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


@dataclass(frozen=True)
class _Waiting:
    """Boards that will be a baseline in some days, in a third of the room: without what can be
    told from the rest, and points in their narrowest type.
    """

    period_start: NDArray[np.datetime64]
    granularity: Granularity
    day: date
    numbers: Int32
    sizes: Int64
    students: Int32
    points: NDArray[np.integer[Any]]

    @classmethod
    def of(cls, boards: Boards) -> _Waiting:
        ranking = boards.ranking
        return cls(
            boards.period_start,
            boards.granularity,
            boards.day,
            ranking.boards,
            ranking.sizes,
            students_of(ranking.members).astype(np.int32),
            narrowest(ranking.points),
        )

    def boards(self, method: RankMethod) -> Boards:
        numbers = np.repeat(self.numbers, self.sizes)
        codes = pair_codes(numbers, self.students)
        ranking = rank(numbers, codes, self.points.astype(np.int64), method)
        return Boards(self.granularity, self.day, self.period_start, ranking)


# The baselines of others are of yesterday, or serve several days.
_WAITS_A_WEEK = (Granularity.TERM, Granularity.ALL_TIME)


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
    granularity: Granularity,
    day: date,
    board_terms: BoardTerms,
    first_event_day: date,
    method: RankMethod,
) -> Boards | None:
    """The boards of one granularity as of `day`, with the sums standing after it; None if none."""
    if granularity is Granularity.TERM:
        codes, points, starts = _term_window(sums, day, board_terms)
    else:
        start = window_start(granularity, day, term=None, first_event_day=first_event_day)
        assert start is not None
        mark = None if granularity is Granularity.ALL_TIME else sums.marked(start)
        codes, points = _window(sums, mark)
        starts = _constant(start)
    if not len(codes):
        return None
    ranking = rank(boards_of(codes), codes, points, method)
    return Boards(granularity, day, starts(ranking.boards), ranking)


def _constant(day: date) -> Callable[[Int32], NDArray[np.datetime64]]:
    return lambda boards: np.full(len(boards), np.datetime64(day, "D"))


def _window(
    sums: RunningSums, mark: tuple[Int64, Int32] | None, among: NDArray[np.bool_] | None = None
) -> tuple[Int64, Int64]:
    """Codes and points of the pairs with an event since the mark, of those in `among`."""
    points, events = sums.points, sums.events
    ranked = events > (mark[1] if mark is not None else 0)
    if among is not None:
        ranked &= among
    at = np.flatnonzero(ranked)
    window = points[at] - mark[0][at] if mark is not None else points[at]
    return sums.codes[at], window


def _term_window(
    sums: RunningSums, day: date, board_terms: BoardTerms
) -> tuple[Int64, Int64, Callable[[Int32], NDArray[np.datetime64]]]:
    parts: list[tuple[Int64, Int64]] = []
    held = board_terms.on(day)
    for term, index in held:
        among = None
        if index is not None:
            assert board_terms.own is not None
            among = board_terms.own[boards_of(sums.codes)] == index
        parts.append(_window(sums, sums.marked(term.starts_on), among))
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
