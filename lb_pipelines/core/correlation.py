"""Kendall's rank correlation of many small groups at once.

tau-b = (concordant - discordant) / sqrt(pairs untied in x * pairs untied in y)
(Kendall 1945, "The treatment of ties in ranking problems", Biometrika 33:239-251).
"""

from __future__ import annotations

import numpy as np

from lb_pipelines.core.ranking import Float64, Int32, Int64

# Elements of one block of pair matrices: a few megabytes, whatever the number of groups.
_BLOCK = 1 << 21


def tau_b(x: Int32, y: Int32, offsets: Int64) -> Float64:
    """float64[G]: tau-b of every group `offsets[g]:offsets[g + 1]`; NaN where it is undefined.

    Undefined: fewer than two members, or all of them tied in x or in y.
    """
    sizes = np.diff(offsets)
    result = np.full(len(sizes), np.nan)
    # Groups of like size share a block, so that little of it is padding.
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] >= 2]
    at = 0
    while at < len(order):
        # The largest group of the block sets its width; sizes ascend, so look from the far end.
        take = 1
        while at + take < len(order) and (take + 1) * sizes[order[at + take]] ** 2 <= _BLOCK:
            take += 1
        block = order[at : at + take]
        result[block] = _block(x, y, offsets[block], sizes[block])
        at += take
    return result


def _block(x: Int32, y: Int32, starts: Int64, sizes: Int64) -> Float64:
    width = int(sizes.max())
    within = np.arange(width)
    valid = within < sizes[:, None]
    index = np.where(valid, starts[:, None] + within, starts[:, None])
    pairs = valid[:, :, None] & valid[:, None, :]

    def signs(values: Int32) -> np.ndarray[tuple[int, int, int], np.dtype[np.int8]]:
        group = values[index]
        above = group[:, :, None] > group[:, None, :]
        below = group[:, :, None] < group[:, None, :]
        return (above.astype(np.int8) - below.astype(np.int8)) * pairs

    in_x, in_y = signs(x), signs(y)
    agreement = (in_x * in_y).sum(axis=(1, 2), dtype=np.int64)
    untied_x = np.count_nonzero(in_x, axis=(1, 2))
    untied_y = np.count_nonzero(in_y, axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return agreement / np.sqrt(untied_x.astype(float) * untied_y.astype(float))
