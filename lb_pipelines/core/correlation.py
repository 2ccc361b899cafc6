"""Kendall's rank correlation of many groups at once.

tau-b = (concordant - discordant) / sqrt(pairs untied in x * pairs untied in y)
(Kendall 1945, "The treatment of ties in ranking problems", Biometrika 33:239-251), with the pairs
counted as by Knight (1966, JASA 61:436-439): sorted by x, every inversion in y is a discordant
pair.
"""

from __future__ import annotations

import numpy as np

from lb_pipelines.core.ranking import Float64, Int32, Int64, opens


def tau_b(x: Int32, y: Int32, offsets: Int64) -> Float64:
    """float64[G]: tau-b of every group `offsets[g]:offsets[g + 1]`; NaN where it is undefined.

    Undefined: fewer than two members, or all of them tied in x or in y.
    """
    sizes = np.diff(offsets)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    by_x = np.lexsort((y, x, groups))
    x, y = x[by_x], y[by_x]
    by_y = np.lexsort((y, groups))

    pairs = sizes * (sizes - 1) // 2
    tied_x = _tied_pairs(len(sizes), groups, x)
    tied_y = _tied_pairs(len(sizes), groups, y[by_y])
    tied_both = _tied_pairs(len(sizes), groups, x, y)
    levels = np.empty(len(y), dtype=np.int64)
    levels[by_y] = np.cumsum(opens(groups, y[by_y]))
    levels -= np.minimum.reduceat(levels, offsets[:-1][sizes > 0]).repeat(sizes[sizes > 0])
    discordant = _inversions(len(sizes), groups, levels)

    agreement = pairs - tied_x - tied_y + tied_both - 2 * discordant
    with np.errstate(invalid="ignore", divide="ignore"):
        return agreement / np.sqrt((pairs - tied_x) * (pairs - tied_y).astype(float))


def _tied_pairs(count: int, groups: Int64, *columns: Int32) -> Int64:
    """Per group, the pairs of rows that are equal in all columns, given that equal rows adjoin."""
    begins = np.flatnonzero(opens(groups, *columns))
    lengths = np.diff(np.append(begins, len(groups)))
    return _sum_by(count, groups[begins], lengths * (lengths - 1) // 2)


def _inversions(count: int, groups: Int64, levels: Int64) -> Int64:
    """Per group, the pairs of rows of which the earlier has the higher level.

    Bit by bit from the highest: within rows that agree in all higher bits, every 1 before a 0 is
    an inversion; then the 0s go before the 1s, in their order (a wavelet tree, built by sums).
    """
    total = np.zeros(count, dtype=np.int64)
    segments = groups
    position = np.arange(len(levels))
    for bit in reversed(range(int(levels.max(initial=0)).bit_length())):
        ones = (levels >> bit) & 1
        begins = np.flatnonzero(opens(segments))
        lengths = np.diff(np.append(begins, len(levels)))
        first = np.repeat(begins, lengths)
        running = np.cumsum(ones) - ones
        ones_before = running - running[first]
        total += _sum_by(count, groups, np.where(ones == 0, ones_before, 0))
        zeros = np.repeat(lengths - np.add.reduceat(ones, begins), lengths)
        target = np.where(ones == 1, first + zeros + ones_before, position - ones_before)
        # Groups stay where they are: a segment never leaves its group.
        moved, fresh = np.empty_like(levels), np.empty_like(levels)
        moved[target] = levels
        fresh[target] = 2 * first + ones
        levels, segments = moved, fresh
    return total


def _sum_by(count: int, groups: Int64, values: Int64) -> Int64:
    """Whole sums of values per group."""
    # bincount sums in float64, which is exact for these counts (below 2^53).
    return np.bincount(groups, weights=values, minlength=count).astype(np.int64)
