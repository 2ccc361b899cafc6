"""The pictures: matplotlib figures of what `series` gives, made without any state of pyplot's.

matplotlib is imported by the first picture, not by the module: the import takes longer than the
start of most commands. Colours are those of Okabe and Ito, which the colour-blind tell apart; where
ten are needed the rest are dashed.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lb_pipelines.insight.series import Histogram, Line, Movement, Participation, ShareGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#6b6b6b"
_LOWEST = 20
"""The last rank that a movement chart has room for."""
DPI = 110
_PALETTE = 255


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as a PNG of a palette, a third of the size; equal figures give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    drawn = Image.fromarray(pixels).convert("RGB")
    out = io.BytesIO()
    drawn.quantize(_PALETTE, dither=Image.Dither.NONE).save(out, format="png", optimize=True)
    return out.getvalue()


def movement_figure(movement: Movement, title: str, subtitle: str) -> Figure:
    """Ranks over the days, rank 1 on top, each line named at its end; a bump chart."""
    figure, axes = _sheet(title, subtitle, height=4.6)
    lowest = max(12, min(_LOWEST, max(_ranks(movement), default=12)))
    places = _tie_places(movement)
    # The last line first, so that the leader lies on top.
    for number, line in reversed(list(enumerate(movement.lines))):
        colour = _COLOURS[number % len(_COLOURS)]
        heights = [
            np.nan if rank is None else min(rank, lowest + 1) + places[number, at]
            for at, rank in enumerate(line.ranks)
        ]
        axes.plot(
            movement.days,  # type: ignore[arg-type]
            heights,
            color=colour,
            linestyle="-" if number < len(_COLOURS) else (0, (4, 1.5)),
            linewidth=2.4 if number < 3 else 1.5,
            marker="o",
            markersize=3.2 if len(movement.days) < 45 else 0,
            solid_capstyle="round",
        )
        axes.annotate(
            _end_of(line),
            (movement.days[-1], heights[-1]),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
            annotation_clip=False,
        )
    axes.set_ylim(lowest + 0.8, 0.5)
    axes.set_yticks([1, *range(5, lowest + 1, 5)])
    axes.set_ylabel("Rank")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    _days_below(axes)
    return figure


def _ranks(movement: Movement) -> list[int]:
    return [rank for line in movement.lines for rank in line.ranks if rank is not None]


def _end_of(line: Line) -> str:
    rank = f"{line.last_rank}{'=' if line.tied > 1 else ''}"
    named = f"  {_cut(line.name, 22)}" if line.name else ""
    return f"{rank}{named}  {line.points:,} pts"


def _tie_places(movement: Movement) -> dict[tuple[int, int], float]:
    """By (line, day): how far from its rank a line is drawn, so that lines that tie lie apart."""
    places: dict[tuple[int, int], float] = defaultdict(float)
    for at in range(len(movement.days)):
        sharing: dict[int, list[int]] = defaultdict(list)
        for number, line in enumerate(movement.lines):
            rank = line.ranks[at]
            if rank is not None:
                sharing[rank].append(number)
        for numbers in sharing.values():
            # Ranks 1224 leave the places of a tie empty: it is fanned out over them.
            for place, number in enumerate(numbers):
                places[number, at] = place * 0.8
    return places


def histogram_figure(histogram: Histogram, title: str, subtitle: str) -> Figure:
    """Students by points, with the median marked."""
    figure, axes = _sheet(title, subtitle, height=3.6)
    axes.bar(
        histogram.edges[:-1],
        histogram.counts,
        width=np.diff(histogram.edges) * 0.94,
        align="edge",
        color=_COLOURS[0],
    )
    axes.axvline(histogram.median, color=_COLOURS[1], linewidth=1.6)
    right = histogram.median < (histogram.edges[0] + histogram.edges[-1]) / 2
    axes.annotate(
        f"median {histogram.median:,.1f}",
        (histogram.median, 1),
        xycoords=("data", "axes fraction"),
        xytext=(5 if right else -5, -10),
        textcoords="offset points",
        ha="left" if right else "right",
        fontsize=8.5,
        color=_COLOURS[1],
    )
    axes.set_xlabel("Points")
    axes.set_ylabel("Students")
    axes.set_ylim(bottom=0)
    _whole_numbers(axes, x_too=True)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure


def participation_figure(participation: Participation, title: str, subtitle: str) -> Figure:
    """Enrolled, and of them those with points, over the days."""
    figure, axes = _sheet(title, subtitle, height=3.6)
    days = participation.days
    lines: list[tuple[str, tuple[int | None, ...], str, float]] = [
        ("enrolled", participation.enrolled, _GREY, 1.4),
        ("with points in the week", participation.ranked, _COLOURS[0], 2.2),
    ]
    for label, values, colour, width in lines:
        heights = np.array([np.nan if value is None else value for value in values])
        axes.plot(days, heights, color=colour, linewidth=width, marker="o", markersize=3)  # type: ignore[arg-type]
        axes.annotate(
            f"{label}: {heights[-1]:,.0f}",
            (days[-1], heights[-1]),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
            annotation_clip=False,
        )
        if label != "enrolled":
            axes.fill_between(days, 0, heights, color=colour, alpha=0.12, linewidth=0)  # type: ignore[arg-type]
    axes.set_ylabel("Students")
    axes.set_ylim(bottom=0)
    _whole_numbers(axes)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    _days_below(axes)
    return figure


def share_figure(grid: ShareGrid, title: str, subtitle: str) -> Figure:
    """Share of the enrolled with points by board and week: dark is quiet, grey is absent."""
    from matplotlib import colormaps

    figure, axes = _sheet(title, subtitle, height=1.7 + 0.19 * len(grid.names), right=0.98)
    colours = colormaps["cividis"].with_extremes(bad="#e4e4e4")
    mesh = axes.pcolormesh(
        np.arange(len(grid.days) + 1),
        np.arange(len(grid.names) + 1),
        np.ma.masked_invalid(grid.shares),
        cmap=colours,
        vmin=0,
        vmax=1,
        edgecolors="white",
        linewidth=0.4,
    )
    axes.invert_yaxis()
    axes.set_yticks(
        np.arange(len(grid.names)) + 0.5, [_cut(name, 26) for name in grid.names], fontsize=7.5
    )
    step = -(-len(grid.days) // 12)
    axes.set_xticks(
        np.arange(0, len(grid.days), step) + 0.5,
        [f"{day:%-d %b}" for day in grid.days[::step]],
        fontsize=8,
    )
    axes.tick_params(length=0)
    axes.set_xlabel("Week that ends on")
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, fraction=0.03)
    bar.ax.yaxis.set_major_formatter(_percent)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure


def _percent(value: float, _: object) -> str:
    return f"{value:.0%}"


def _sheet(
    title: str, subtitle: str, *, height: float, right: float | None = None
) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b0b0b0")
    axes.tick_params(colors="#333333", labelsize=8.5)
    # A dollar sign in a name is no formula.
    figure.suptitle(
        _cut(title, 90), x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False
    )
    axes.set_title(subtitle, loc="left", fontsize=8.5, color=_GREY, parse_math=False)
    return figure, axes


def _days_below(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=4, maxticks=10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)


def _whole_numbers(axes: Axes, *, x_too: bool = False) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    thousands: Callable[[float, int], str] = lambda value, _: f"{value:,.0f}"  # noqa: E731
    for axis in (axes.yaxis, *([axes.xaxis] if x_too else [])):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axis.set_major_formatter(FuncFormatter(thousands))


def _cut(text: str | None, most: int) -> str:
    words = " ".join((text or "").split())
    return words if len(words) <= most else f"{words[: most - 1]}…"
