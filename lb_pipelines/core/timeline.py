"""One pass over days: every board of one type, ranked for each window, with its baseline.

The pass walks forward through days with running sums. A window's sums are the sums now minus the
sums at its start, so the past is read once however many windows look back on it; a baseline's are
those of its own day minus those at its start, so that no boards have to wait. Where a stored
total stands before the next day of interest, the walk jumps onto it instead of reading the days
between. `plan` says beforehand which days and totals a pass will read; nothing here does I/O:
what is read comes from a `PointSource`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol

from lb_pipelines.core.periods import ONE_DAY, DayRange, baseline_day, days_between, window_start
from lb_pipelines.core.sums import RunningSums, State, Sums, Total
from lb_pipelines.core.windows import Boards, BoardTerms, Windows
from lb_pipelines.core.words import Granularity, RankMethod

# A total that does not stand yet is made first, from all days since the one before it: below this
# many days walking is cheaper.
SHORTEST_JUMP_ONTO_A_MISSING_TOTAL = timedelta(days=7)
# Up to so many pairs, all granularities are ranked together: then what a ranking costs whatever its
# size weighs more than the room that it takes.
RANKED_TOGETHER = 1 << 14
# Their baselines are those of a week or a month of days, and are ranked once for all of them.
_SERVE_LONG = ((Granularity.WEEKLY,), (Granularity.MONTHLY,))
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
class Step:
    """One step of the walk: jump onto the total before `jump`, then read `days`, then stand before
    `boundary`.
    """

    jump: date | None
    days: tuple[date, ...]
    boundary: date


@dataclass(frozen=True)
class Plan:
    """What a pass over `days` marks and reads.

    `marks`: before which days the sums are remembered, for windows that begin there and baselines
    that end there, with the last day on which each is needed.
    """

    days: DayRange
    marks: Mapping[date, date]
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

    with_boards = [day for day in days if day >= first_event_day]
    for day in with_boards:
        for granularity in Granularity:
            remember_windows(granularity, day, day)
            before = baseline_day(granularity, day)
            if before >= first_event_day:
                remember(before + ONE_DAY, day)
                remember_windows(granularity, before, day)
    boundaries = {day + ONE_DAY for day in with_boards} | set(marks)
    steps = steps_to(boundaries, first_event_day, standing, board_terms.is_cut)
    return Plan(days, marks, steps)


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

    Many are ranked one granularity after the other, when it is asked for, so that one at a time
    takes room; few all together. Granularities without any board on a day are left out. A baseline
    is None where its day had no boards. `sums` may know pairs beforehand; they stand before a
    boundary when `reached` is called with it.
    """
    sums = sums or RunningSums()
    windows = Windows(sums, board_terms, first_event_day, method)
    kept: dict[tuple[Granularity, ...], tuple[Mapping[Granularity, date], Boards | None]] = {}

    def after(day: date) -> State:
        state = sums.marked(day + ONE_DAY)
        assert state is not None
        return state

    def baseline(granularities: tuple[Granularity, ...], day: date) -> Boards | None:
        days = {granularity: baseline_day(granularity, day) for granularity in granularities}
        kept_days, boards = kept.get(granularities, ({}, None))
        if days != kept_days:
            as_of = {of: (on, after(on)) for of, on in days.items() if on >= first_event_day}
            boards = windows.boards(as_of)
        if granularities in _SERVE_LONG:
            kept[granularities] = days, boards
        return boards

    def ranked(day: date) -> Iterator[tuple[Boards, Boards | None]]:
        few = len(sums.codes) <= RANKED_TOGETHER
        for granularities in [tuple(Granularity)] if few else [(g,) for g in Granularity]:
            boards = windows.boards(dict.fromkeys(granularities, (day, sums.now)))
            if boards is not None:
                yield boards, baseline(granularities, day)
            # Not to be held while the next granularity is ranked.
            del boards

    yield from ((day, iter(())) for day in plan.days if day < first_event_day)
    for boundary in follow(plan.steps, source, sums):
        reached(boundary)
        if boundary in plan.marks:
            sums.mark(boundary)
        day = boundary - ONE_DAY
        if day not in plan.days:
            continue
        boards_of_day = ranked(day)
        yield day, boards_of_day
        for _ in boards_of_day:
            pass
        for start, last in plan.marks.items():
            if last <= day:
                sums.forget(start)


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
