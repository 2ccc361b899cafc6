"""Who has a subtree of its own: a pure plan of moves, to be read first and carried out by `moves`.

While the budget of leaves lasts everybody is dedicated; then the largest are. A move carries all
rows of an institution, so nobody is moved for a small gain, nor soon moved back:

- over the budget, the smallest dedicated institutions leave until it is kept;
- one with rows in `shared` comes out where `HEADROOM_MONTHS` more months of all dedicated ones
  would still fit, or where it is more than `EXCHANGE_RATIO` times as large as the smallest of
  them, which leaves first if need be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from itertools import takewhile

from lb_pipelines.db.partitions.names import LEAVES_PER_MONTH

HEADROOM_MONTHS = 12
EXCHANGE_RATIO = 2


class Direction(StrEnum):
    """Which way an institution moves."""

    PROMOTE = "promote"
    DEMOTE = "demote"


@dataclass(frozen=True)
class Holding:
    """What the plan knows of one institution.

    `size` is anything that compares (enrolments, see sql/partitions.sql). `months` are those for
    which it has leaves (dedicated) or rows (in `shared`).
    """

    institution_id: str
    size: int
    dedicated: bool
    months: frozenset[date] = frozenset()
    active: bool = True

    @property
    def is_newcomer(self) -> bool:
        """Has neither leaves nor rows: its move carries nothing."""
        return not self.months


@dataclass(frozen=True)
class Move:
    """One institution's move, and the leaves there will be after it (coming months included)."""

    direction: Direction
    institution_id: str
    size: int
    leaves_after: int
    reason: str

    def __str__(self) -> str:
        return f"{self.direction} {self.institution_id} ({self.reason})"


class _Placement:
    """A placement in the making, and the leaves it takes with everybody's coming months."""

    def __init__(
        self, holdings: Sequence[Holding], coming: frozenset[date], shared_months: frozenset[date]
    ) -> None:
        self.holdings = sorted(holdings, key=lambda h: (-h.size, not h.dedicated, h.institution_id))
        self.wanted = {
            h.institution_id: h.months | coming if h.active else h.months for h in holdings
        }
        self.dedicated: set[str] = set()
        self._own_months = 0
        # How many want each month of the shared subtree; those that have leaves are wanted once.
        self._shared = Counter(shared_months)
        for months in self.wanted.values():
            self._shared.update(months)
        for holding in holdings:
            if holding.dedicated:
                self.put(holding, dedicated=True)

    @property
    def leaves(self) -> int:
        return LEAVES_PER_MONTH * (self._own_months + len(self._shared))

    def put(self, holding: Holding, *, dedicated: bool) -> None:
        """Place somebody who is not placed so yet."""
        months = self.wanted[holding.institution_id]
        if dedicated:
            self.dedicated.add(holding.institution_id)
            self._own_months += len(months)
            for month in months:
                self._shared[month] -= 1
                if not self._shared[month]:
                    del self._shared[month]
        else:
            self.dedicated.remove(holding.institution_id)
            self._own_months -= len(months)
            self._shared.update(months)

    def smallest_first(self) -> Iterator[Holding]:
        """The dedicated, the smallest first."""
        for holding in reversed(self.holdings):
            if holding.institution_id in self.dedicated:
                yield holding


def plan_placement(
    holdings: Sequence[Holding],
    budget: int,
    *,
    coming: Iterable[date] = (),
    shared_months: Iterable[date] = (),
) -> list[Move]:
    """The moves that bring the institutions to their places; demotions come first.

    `coming` are the months that every active institution will need, `shared_months` those for
    which the shared subtree has leaves (they stay). The order of `holdings` does not matter, and
    planning again after the moves gives none.
    """
    ahead, ready = frozenset(coming), frozenset(shared_months)
    goal = _Placement(holdings, ahead, ready)
    for holding in goal.smallest_first():
        if goal.leaves <= budget:
            break
        goal.put(holding, dedicated=False)
    # Ends, because whoever comes in is larger than all who leave for it.
    while sum(_try_in(goal, holding, budget) for holding in goal.holdings):
        pass

    now = _Placement(holdings, ahead, ready)
    moves: list[Move] = []
    for holding in now.smallest_first():
        if holding.institution_id not in goal.dedicated:
            now.put(holding, dedicated=False)
            reason = f"among the smallest, budget {budget}"
            moves.append(_move(Direction.DEMOTE, holding, now.leaves, reason))
    for holding in now.holdings:
        if holding.institution_id in goal.dedicated - now.dedicated:
            now.put(holding, dedicated=True)
            reason = "no rows yet" if holding.is_newcomer else f"fits into the budget {budget}"
            moves.append(_move(Direction.PROMOTE, holding, now.leaves, reason))
    return moves


def _move(direction: Direction, holding: Holding, leaves_after: int, reason: str) -> Move:
    return Move(direction, holding.institution_id, holding.size, leaves_after, reason)


def _try_in(placement: _Placement, holding: Holding, budget: int) -> bool:
    """Dedicate this institution if it is worth it; whether it was done."""
    if not holding.active or holding.institution_id in placement.dedicated:
        return False
    smaller = list(
        takewhile(
            lambda other: EXCHANGE_RATIO * other.size < holding.size, placement.smallest_first()
        )
    )
    placement.put(holding, dedicated=True)
    spare = LEAVES_PER_MONTH * HEADROOM_MONTHS * len(placement.dedicated)
    needed = 0 if smaller or holding.is_newcomer else spare
    if placement.leaves + needed <= budget:
        return True
    out = []
    for other in smaller:
        placement.put(other, dedicated=False)
        out.append(other)
        if placement.leaves <= budget:
            return True
    for other in out:
        placement.put(other, dedicated=True)
    placement.put(holding, dedicated=False)
    return False
