"""Who has a subtree of its own: a pure plan of moves, to be read first and carried out by `moves`.

While the budget of leaves lasts everybody is dedicated; then the largest are. A move carries all
rows of an institution, so nobody is moved for a small gain:

- over the budget, the smallest dedicated institutions leave until it is kept;
- one that has rows in `shared` comes out only where `HEADROOM_MONTHS` more months of all dedicated
  ones would still fit, or in exchange for others not half its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

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
        """Has neither a subtree nor rows: its move carries nothing."""
        return not self.dedicated and not self.months


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


@dataclass(frozen=True)
class _Placement:
    holdings: tuple[Holding, ...]
    coming: frozenset[date]
    shared_months: frozenset[date]

    def leaves(self, dedicated: Iterable[str]) -> int:
        """All leaves when these are dedicated and everybody active has the coming months."""
        own = set(dedicated)
        months, shared = 0, set(self.shared_months)
        for holding in self.holdings:
            wanted = holding.months | self.coming if holding.active else holding.months
            if holding.institution_id in own:
                months += len(wanted)
            else:
                shared |= wanted
        return LEAVES_PER_MONTH * (months + len(shared))


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
    ordered = tuple(sorted(holdings, key=lambda h: (-h.size, not h.dedicated, h.institution_id)))
    placement = _Placement(ordered, frozenset(coming), frozenset(shared_months))
    before = {h.institution_id for h in ordered if h.dedicated}
    after = _promoted(placement, _within(placement, before, budget), budget)

    moves: list[Move] = []
    now = set(before)
    for holding in reversed(ordered):
        if holding.institution_id in before - after:
            now.discard(holding.institution_id)
            reason = f"smallest of the dedicated, budget {budget}"
            moves.append(_move(Direction.DEMOTE, holding, placement.leaves(now), reason))
    for holding in ordered:
        if holding.institution_id in after - before:
            now.add(holding.institution_id)
            reason = "no rows yet" if holding.is_newcomer else f"fits into the budget {budget}"
            moves.append(_move(Direction.PROMOTE, holding, placement.leaves(now), reason))
    return moves


def _move(direction: Direction, holding: Holding, leaves_after: int, reason: str) -> Move:
    return Move(direction, holding.institution_id, holding.size, leaves_after, reason)


def _within(placement: _Placement, dedicated: set[str], budget: int) -> set[str]:
    """The dedicated that stay, the smallest having left until the budget is kept."""
    kept = set(dedicated)
    for holding in reversed(placement.holdings):
        if placement.leaves(kept) <= budget:
            break
        kept.discard(holding.institution_id)
    return kept


def _promoted(placement: _Placement, dedicated: set[str], budget: int) -> set[str]:
    """The dedicated after everybody had a try, the largest first, until nothing changes."""
    placed = set(dedicated)
    changed = True
    while changed:
        changed = False
        for holding in placement.holdings:
            if not holding.active or holding.institution_id in placed:
                continue
            better = _with(placement, placed, holding, budget)
            if better is not None:
                placed, changed = better, True
    return placed


def _with(
    placement: _Placement, placed: set[str], newcomer: Holding, budget: int
) -> set[str] | None:
    """The dedicated once this one is among them; None if that is not worth it."""
    tried = placed | {newcomer.institution_id}
    headroom = 0 if newcomer.is_newcomer else LEAVES_PER_MONTH * HEADROOM_MONTHS * len(tried)
    if placement.leaves(tried) + headroom <= budget:
        return tried
    for holding in reversed(placement.holdings):
        if holding.institution_id in placed and EXCHANGE_RATIO * holding.size < newcomer.size:
            tried = tried - {holding.institution_id}
            if placement.leaves(tried) <= budget:
                return tried
    return None
