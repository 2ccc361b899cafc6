"""Sums of points by (board, student): grouping, and dense running totals over a growing universe.

A pair is one int64 code, `board ordinal << 32 | student ordinal`. Ordinals count an institution's
boards of one type and its students in ascending order of their ids, so ascending codes are the
order that ranking asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lb_pipelines.core.packed import narrowest
from lb_pipelines.core.ranking import Int32, Int64, opens

Number = TypeVar("Number", bound=np.integer[Any])

STUDENT_BITS = 32
STUDENT_MASK = (1 << STUDENT_BITS) - 1


def pair_codes(boards: Int32, students: Int32) -> Int64:
    """The code of every (board ordinal, student ordinal)."""
    return (boards.astype(np.int64) << STUDENT_BITS) | students


def boards_of(codes: Int64) -> Int32:
    """The board ordinal of every code."""
    return (codes >> STUDENT_BITS).astype(np.int32)


def students_of(codes: Int64) -> Int64:
    """The student ordinal of every code."""
    return codes & STUDENT_MASK


@dataclass(frozen=True)
class Sums:
    """`codes` int64[n] strictly ascending; `points` and `events` int64[n] summed for each."""

    codes: Int64
    points: Int64
    events: Int64

    @classmethod
    def empty(cls) -> Sums:
        """No pair at all."""
        return cls(*(np.empty(0, dtype=np.int64) for _ in range(3)))

    @classmethod
    def of(cls, codes: Int64, points: Int64, events: Int64) -> Sums:
        """Group: the same code may come many times, in any order."""
        if not len(codes):
            return cls.empty()
        order = ascending(codes)
        codes = codes[order]
        begins = np.flatnonzero(opens(codes))
        return cls(
            codes[begins],
            np.add.reduceat(points[order], begins, dtype=np.int64),
            np.add.reduceat(events[order], begins, dtype=np.int64),
        )


@dataclass(frozen=True)
class Total:
    """Sums over all days before some day, by slot: `points` and `events` whole numbers[n].

    A pair has the slot that it was given when it was first met; pairs with a slot beyond the end
    had no event before that day.
    """

    points: np.ndarray[Any, Any]
    events: np.ndarray[Any, Any]


@dataclass(frozen=True)
class State:
    """What running sums are at one moment: `points` and `events` whole numbers[pairs]."""

    points: NDArray[np.integer[Any]]
    events: NDArray[np.integer[Any]]


class RunningSums:
    """Totals per pair that only grow, with remembered states ("marks") of the past.

    The universe is every pair seen so far, ascending; all arrays have its length. `points` int64,
    `events` int32; marks are in the narrowest types that hold them, for there are many. `slots`
    int64: where the pairs that were known beforehand stand in a `Total`; -1 for a stranger.
    """

    def __init__(self, codes: Int64 | None = None, slots: Int64 | None = None) -> None:
        """`codes` and `slots` int64: pairs that are known beforehand, in any order, none twice."""
        nothing = np.empty(0, dtype=np.int64)
        codes, slots = nothing if codes is None else codes, nothing if slots is None else slots
        order = ascending(codes)
        self.codes: Int64 = codes[order]
        self.slots: Int64 = slots[order]
        self.points: Int64 = np.zeros(len(codes), dtype=np.int64)
        self.events: Int32 = np.zeros(len(codes), dtype=np.int32)
        self._marks: dict[object, State] = {}

    def admit(self, batches: Sequence[Sums]) -> None:
        """Make room for the pairs of these batches; one call for many days is cheaper."""
        fresh = np.concatenate([self.codes[:0], *(self._strange(batch) for batch in batches)])
        if not len(fresh):
            return
        # Sorting finds the distinct ones several times faster than np.unique's hashing.
        fresh.sort()
        fresh = fresh[opens(fresh)]
        where = np.searchsorted(self.codes, fresh)

        def widen(values: NDArray[Number], absent: int = 0) -> NDArray[Number]:
            return np.insert(values, where, absent)

        self.codes = np.insert(self.codes, where, fresh)
        self.slots = widen(self.slots, -1)
        self.points, self.events = widen(self.points), widen(self.events)
        self._marks = {
            name: State(widen(mark.points), widen(mark.events))
            for name, mark in self._marks.items()
        }

    def _strange(self, batch: Sums) -> Int64:
        """The codes of a batch that are not in the universe."""
        if not len(self.codes):
            return batch.codes
        at = np.minimum(np.searchsorted(self.codes, batch.codes), len(self.codes) - 1)
        return batch.codes[self.codes[at] != batch.codes]

    def restart(self, total: Sums | Total) -> None:
        """Set the totals to `total`, whose pairs are known or admitted; marks stay."""
        if isinstance(total, Total):
            self.points = self._by_slot(total.points, np.int64)
            self.events = self._by_slot(total.events, np.int32)
        else:
            self.points = np.zeros_like(self.points)
            self.events = np.zeros_like(self.events)
            self.add(total)

    def _by_slot(
        self, values: np.ndarray[Any, Any], kind: type[Number]
    ) -> np.ndarray[Any, np.dtype[Number]]:
        if not len(values):
            return np.zeros(len(self.slots), kind)
        found = values.take(self.slots, mode="clip").astype(kind)
        found[(self.slots < 0) | (self.slots >= len(values))] = 0
        return found

    def total(self) -> Total:
        """The totals as they are now; every pair must have a slot."""
        size = int(self.slots.max(initial=-1)) + 1
        points, events = np.zeros(size, np.int64), np.zeros(size, np.int32)
        points[self.slots], events[self.slots] = self.points, self.events
        return Total(points, events)

    def add(self, batch: Sums) -> None:
        """Add sums whose pairs are known or admitted."""
        at = np.searchsorted(self.codes, batch.codes)
        self.points[at] += batch.points
        self.events[at] += batch.events.astype(np.int32)

    @property
    def now(self) -> State:
        """The totals as they are; what changes them next changes this state too."""
        return State(self.points, self.events)

    def mark(self, name: object) -> None:
        """Remember the totals as they are now."""
        self._marks[name] = State(narrowest(self.points), narrowest(self.events))

    def forget(self, name: object) -> None:
        """Drop a mark, if there is one."""
        self._marks.pop(name, None)

    def marked(self, name: object) -> State | None:
        """The totals at a mark; None for the beginning of time, which is never marked."""
        return self._marks.get(name)


def ascending(codes: Int64) -> Int64:
    """A permutation that sorts codes."""
    if not len(codes):
        return np.empty(0, dtype=np.int64)
    # Board, student and position in one integer, where they fit, sort in half the time.
    board_bits = int(codes.max() >> STUDENT_BITS).bit_length()
    students = codes & STUDENT_MASK
    student_bits, position_bits = int(students.max()).bit_length(), len(codes).bit_length()
    if int(codes.min()) < 0 or board_bits + student_bits + position_bits > 63:
        return np.argsort(codes)
    packed = (codes >> STUDENT_BITS) << student_bits
    packed |= students
    packed <<= position_bits
    packed |= np.arange(len(codes))
    packed.sort()
    packed &= (1 << position_bits) - 1
    return packed
