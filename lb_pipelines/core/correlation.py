"""Rank correlations of many groups at once: Kendall's tau-b and Spearman's rho.

tau-b = (concordant - discordant) / sqrt(pairs untied in x * pairs untied in y)
(Kendall 1945, "The treatment of ties in ranking problems", Biometrika 33:239-251), with the pairs
counted as by Knight (1966, JASA 61:436-439): sorted by x, every inversion in y is a discordant
pair: O(n log n), for the few entries of boards.

rho is Pearson's correlation of the ranks, in which ties have the mean of their positions (Spearman
1904, "The proof and measurement of association between two things", American Journal of
Psychology 15:72-101; for ties: Kendall & Gibbons 1990, "Rank Correlation Methods", chapter 3). It
is linear in the rows, for all who are ranked.
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


def spearman_rho(x: Int32, y: Int32, offsets: Int64) -> Float64:
    """float64[G]: rho of every group `offsets[g]:offsets[g + 1]`; NaN where it is undefined.

    `x` and `y` int32[n] are levels: equal where rows tie, ascending from the best to the worst and
    from group to group, so that no two groups share one. Undefined: fewer than two members, or all
    of them tied in x or in y.

    Exact up to the last division: doubled and centered, mean ranks are whole numbers d in
    -(n - 1)..n - 1, and sums of their products are int64. The sum of d * d over n members is at
    most n * (n * n - 1) / 3, which int64 holds up to n = 3,024,616; so the products, which it
    holds up to n = 2 ** 31, are summed in two halves of 32 bits, each exact.
    """
    sizes = np.diff(offsets)
    filled = sizes > 0
    begins, sizes = offsets[:-1][filled], sizes[filled]
    x_ranks, y_ranks = (_doubled_centered_ranks(levels, begins, sizes) for levels in (x, y))
    covariance = _sum_products(x_ranks, y_ranks, begins)
    variances = [_sum_products(ranks, ranks, begins) for ranks in (x_ranks, y_ranks)]
    rho = np.full(len(filled), np.nan)
    with np.errstate(invalid="ignore"):
        # The root of a rounded square is exact: equal ranks give 1, reversed ones -1.
        rho[filled] = covariance / np.sqrt(variances[0] * variances[1])
    return rho


def _doubled_centered_ranks(levels: Int32, begins: Int64, sizes: Int64) -> Int64:
    """int64[n]: twice the mean rank of each row, minus twice the mean of its group's ranks."""
    counts = np.bincount(levels)
    # Those on higher levels of all groups, twice, and those on the level itself.
    doubled = 2 * np.cumsum(counts) - counts
    ranks: Int64 = doubled[levels]
    ranks -= np.repeat(2 * begins + sizes, sizes)
    return ranks


def _sum_products(x: Int64, y: Int64, begins: Int64) -> Float64:
    """The sum of x * y over every group; groups begin at `begins`, none is empty."""
    if not len(begins):
        return np.empty(0)
    products = x * y
    high = np.add.reduceat(products >> 32, begins)
    low = np.add.reduceat(products & 0xFFFFFFFF, begins)
    return high.astype(np.float64) * 2.0**32 + low.astype(np.float64)


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
