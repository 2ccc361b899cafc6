"""What must be true of a stored board: its entries against its distribution, figures and past.

Pure, and one board at a time: what was read is given, what is wrong comes back as findings. What
is read, of which boards and when, is not decided here. The rule of each check is said once, in the
function that has its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

import numpy as np

from lb_pipelines.core.distribution import Distribution, unpack
from lb_pipelines.core.ranking import Int64, opens
from lb_pipelines.core.words import RankMethod


@dataclass(frozen=True)
class Difference:
    """What of a board is wrong, what it should say and what it says; no student is named."""

    what: str
    expected: str
    found: str


@dataclass(frozen=True)
class Entries:
    """The entries of a board as they stand, int64[n] each.

    `students` are keys, 0 for an id that no student of the institution has; `order` is where each
    stands among students by id, which breaks ties; `previous` is 0 for null.
    """

    ranks: Int64
    points: Int64
    previous: Int64
    students: Int64
    order: Int64

    def __len__(self) -> int:
        return len(self.ranks)


NOBODY = Entries(*(np.empty(0, np.int64),) * 5)


def ranks(
    entries: Entries,
    figures: Mapping[str, Any],
    packed: bytes,
    limit: int,
    method: RankMethod,
) -> Iterator[Difference]:
    """Points and ranks of the entries, and the figures, follow from the distribution.

    Inside a tie the entries stand by student id. `figures`: the statistics of `metadata`.
    """
    try:
        distribution = unpack(packed)
    except (ValueError, OverflowError, MemoryError):
        yield Difference("distribution", "one that can be read", "none")
        return
    through = np.cumsum(distribution.counts)
    count = min(len(entries), distribution.ranked)
    place = np.arange(count)
    level = np.searchsorted(through, place, side="right")
    points = distribution.points[level]
    by_method = {
        RankMethod.COMPETITION: (through - distribution.counts)[level] + 1,
        RankMethod.DENSE: level + 1,
        RankMethod.ORDINAL: place + 1,
    }
    yield from _first_difference("points", points, entries.points[:count])
    yield from _first_difference("rank", by_method[method], entries.ranks[:count])
    order = entries.order[:count]
    known = entries.students[:count] > 0
    tied = (level[1:] == level[:-1]) & known[1:] & known[:-1]
    swapped = np.flatnonzero(tied & (order[1:] <= order[:-1]))
    if len(swapped):
        at = int(swapped[0]) + 1
        yield Difference(
            f"entries {at} and {at + 1}, which are tied", "in the order of student ids", "not so"
        )
    for name, right in _figures(distribution, through, limit).items():
        value = figures.get(name)
        if not _equal(right, value):
            yield Difference(name, _number(right), _number(value))


def limits(entries: Entries, ranked: int, limit: int) -> Iterator[Difference]:
    """As many entries as N and the ranked students allow, and nobody twice."""
    allowed = min(ranked, limit)
    if len(entries) != allowed:
        yield Difference(f"entries (N = {limit}, {ranked} ranked)", str(allowed), str(len(entries)))
    known = entries.students[entries.students > 0]
    if doubled := len(known) - len(np.unique(known)):
        yield Difference("students who are listed twice", "0", str(doubled))


def strangers(entries: Entries) -> Iterator[Difference]:
    """Every entry is of a student of the institution."""
    at = np.flatnonzero(entries.students == 0)
    if len(at):
        yield Difference(
            f"entries without a student of the institution (the first is entry {at[0] + 1})",
            "0",
            str(len(at)),
        )


def previous_ranks(
    entries: Entries, earlier: Entries, earlier_ranked: int, method: RankMethod
) -> Iterator[Difference]:
    """Previous ranks are those of the earlier board, by the institution's method as it is now.

    Who stands in its entries has that rank; who does not, was ranked behind them or not at all.
    """
    count = len(earlier)
    begins = opens(earlier.points)
    place = np.arange(count)
    then = {
        RankMethod.COMPETITION: np.maximum.accumulate(np.where(begins, place, 0)) + 1,
        RankMethod.DENSE: np.cumsum(begins),
        RankMethod.ORDINAL: place + 1,
    }[method]
    sorter = np.argsort(earlier.students, kind="stable")
    keys = earlier.students[sorter]
    at = np.minimum(np.searchsorted(keys, entries.students), max(count - 1, 0))
    listed = (keys[at] == entries.students) if count else np.zeros(len(entries), dtype=bool)
    known = entries.students > 0
    expected = then[sorter][at] if count else np.zeros(len(entries), np.int64)
    wrong = np.flatnonzero(known & listed & (entries.previous != expected))
    if len(wrong):
        first = int(wrong[0])
        yield Difference(
            f"previous rank of entry {first + 1}",
            str(int(expected[first])),
            _rank(int(entries.previous[first])),
        )
    lowest = (int(then[-1]) + (method is RankMethod.ORDINAL)) if count else 1
    possible = (entries.previous >= lowest) & (entries.previous <= earlier_ranked)
    if earlier_ranked <= count:
        possible[:] = False
    wrong = np.flatnonzero(known & ~listed & (entries.previous != 0) & ~possible)
    if len(wrong):
        first = int(wrong[0])
        beyond = f" or {lowest} to {earlier_ranked}" if earlier_ranked > count else ""
        yield Difference(
            f"previous rank of entry {first + 1}, who was not among the entries then",
            f"none{beyond}",
            _rank(int(entries.previous[first])),
        )


def _first_difference(name: str, expected: Int64, found: Int64) -> Iterator[Difference]:
    wrong = np.flatnonzero(expected != found)
    if len(wrong):
        at = int(wrong[0])
        yield Difference(f"{name} of entry {at + 1}", str(expected[at]), str(found[at]))


def _figures(distribution: Distribution, through: Int64, limit: int) -> dict[str, int | float]:
    """The statistics over all who are ranked, as `core.snapshots.Statistics` defines them."""
    ranked = distribution.ranked
    if not ranked:
        return {"ranked": 0}

    def ascending(index: int) -> int:
        level = np.searchsorted(through, ranked - 1 - index, side="right")
        return int(distribution.points[level])

    exact = 0.9 * (ranked - 1)
    below = int(exact)
    low, high = ascending(below), ascending(min(below + 1, ranked - 1))
    listed = min(ranked, limit)
    total = int((distribution.points * distribution.counts).sum())
    return {
        "ranked": ranked,
        "sum": total,
        "mean": total / ranked,
        "median": (ascending((ranked - 1) // 2) + ascending(ranked // 2)) / 2,
        "p90": low + (exact - below) * (high - low),
        "max": int(distribution.points[0]),
        "tiesCut": int(through[np.searchsorted(through, listed)]) - listed,
    }


def _equal(right: float, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(right, int):
        return value == right
    return isclose(value, right, rel_tol=1e-9, abs_tol=1e-9)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else "none"


def _rank(previous: int) -> str:
    return str(previous) if previous else "none"
