"""Charts of a few hundred bytes: SVG in a Markdown image, small enough for every materialization.

Dagster's UI shows Markdown in place where it is shorter than 1,000 characters, and a link to it
where it is longer; `<svg>` itself it strips, an image from a data URI it keeps. So a chart here is
an image and its caption, together below that length, written in microseconds; one that would be
longer loses its picture, never its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from lb_pipelines.insight.series import Histogram

LONGEST = 999
"""Characters up to which the UI shows Markdown in place."""
_WIDTH, _HEIGHT = 300, 84
_FOOT = 14
"""Pixels below the drawing for the words on its axis."""
_BLUE, _GREEN, _ORANGE = "%230072b2", "%23009e73", "%23d55e00"


def plain(text: str, most: int = 60) -> str:
    """A name as one line of Markdown that means nothing but itself."""
    words = " ".join(text.split())
    cut = words if len(words) <= most else f"{words[: most - 1]}…"
    return "".join(f"\\{c}" if c in "\\`*_[]<>|!#&~" else c for c in cut)


def bars(values: Sequence[int], first: str, last: str, caption: str) -> str:
    """Bars from 0 to the largest value; `first` and `last` stand below the ends."""
    most = max([*values, 1])
    step = _WIDTH / max(len(values), 1)
    path = "".join(
        f"M{round(step * at)},{_HEIGHT}v-{_tall(value, most)}h{max(round(step) - 1, 1)}V{_HEIGHT}"
        for at, value in enumerate(values)
        if value > 0
    )
    drawn = f"<path fill='{_BLUE}' d='{path}'/>" if path else ""
    return _image(drawn + _words(first, last, f"{most:,}"), caption)


def distribution(histogram: Histogram, caption: str) -> str:
    """Students by points, as `bars`."""
    # The last edge is the first point that nobody has.
    return bars(
        histogram.counts.tolist(),
        f"{histogram.edges[0]:,}",
        f"{histogram.edges[-1] - 1:,} points",
        caption,
    )


def slopes(pairs: Sequence[tuple[int | None, int]], caption: str) -> str:
    """Where each came from and is: (previous rank, rank), rank 1 on top.

    Climbers are green, fallers orange, the others blue; whoever was beyond twice the lines comes
    from below, and whoever was not ranked from nowhere.
    """
    lowest = 2 * max(len(pairs), 1)
    of: dict[str, str] = {}
    for previous, rank in pairs:
        end = _level(rank, lowest)
        if previous is None:
            part, colour = f"M{_WIDTH - 24},{end}h24", _GREEN
        else:
            colour = _GREEN if previous > rank else _ORANGE if previous < rank else _BLUE
            part = f"M0,{_level(previous, lowest)}L{_WIDTH},{end}"
        of[colour] = of.get(colour, "") + part
    lines = "".join(
        f"<path fill='none' stroke-width='2' stroke='{colour}' d='{path}'/>"
        for colour, path in of.items()
    )
    return _image(lines + _words("then", "now", "1"), caption)


def _level(rank: int, lowest: int) -> int:
    return round(4 + (min(rank, lowest + 1) - 1) / lowest * (_HEIGHT - 6))


def _tall(value: int, most: int) -> int:
    # What is there is seen, be it one among thousands.
    return max(round(value / most * (_HEIGHT - 12)), 1)


def _words(first: str, last: str, top: str) -> str:
    low = _HEIGHT + _FOOT - 3
    return (
        f"<g font-size='11' fill='gray'><text y='{low}'>{first}</text>"
        f"<text x='{_WIDTH}' y='{low}' text-anchor='end'>{last}</text>"
        f"<text x='{_WIDTH}' y='10' text-anchor='end'>{top}</text></g>"
    )


def _image(inside: str, caption: str) -> str:
    height = _HEIGHT + _FOOT
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{height}'>{inside}</svg>"
    )
    uri = "data:image/svg+xml," + quote(svg, safe="/:=,;'%-.")
    shown = f"![chart]({uri})\n\n{caption}"
    return shown if len(shown) <= LONGEST else caption
