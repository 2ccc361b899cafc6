"""A small plot in the terminal: columns of eighths of a cell, oldest left.

Pure: values in, lines of text out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:#"
WIDTH, HEIGHT = 60, 4
_WIDEST_COLUMN = 3


def columns(
    title: str,
    series: Sequence[tuple[date, float | None]],
    *,
    low: float | None = None,
    high: float | None = None,
    width: int = WIDTH,
    ascii_only: bool = False,
) -> str:
    """A plot of days and values, oldest first, from `low` to `high` or what the values ask for.

    Columns stand on 0 unless a value is negative. None leaves a gap; even the lowest value shows.
    Where there are more values than places, each place shows the last of its share.
    """
    known = [value for _, value in series if value is not None]
    if not known:
        return f"{title}: nothing to plot"
    low = min(0, *known) if low is None else low
    high = max(low, *known) if high is None else high
    places = min(width, len(series))
    shown = [series[(place + 1) * len(series) // places - 1][1] for place in range(places)]
    wide = max(1, min(_WIDEST_COLUMN, width // places))
    levels = _ASCII if ascii_only else _EIGHTHS
    steps = [_steps(value, low, high, len(levels) - 1) for value in shown]
    labels = [f"{high:,.0f}", *[""] * (HEIGHT - 2), f"{low:,.0f}"]
    margin = max(map(len, labels))
    lines = [title]
    for row, label in enumerate(labels):
        below = (HEIGHT - 1 - row) * (len(levels) - 1)
        cells = (levels[max(0, min(len(levels) - 1, step - below))] * wide for step in steps)
        lines.append(f"{label:>{margin}} |{''.join(cells)}".rstrip())
    first, last = series[0][0].isoformat(), series[-1][0].isoformat()
    between = max(1, places * wide - len(first) - len(last))
    lines.append(f"{'':>{margin}}  {first}{' ' * between}{last}")
    return "\n".join(lines)


def _steps(value: float | None, low: float, high: float, cell: int) -> int:
    """How high a column is, in parts of a cell; 0: there is none."""
    if value is None:
        return 0
    share = (value - low) / (high - low) if high > low else 1.0
    return max(1, round(share * HEIGHT * cell))
