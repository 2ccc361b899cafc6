"""Pictures: what is plotted is what a slow reference says, and what is small stays small."""

from __future__ import annotations

import statistics
from datetime import date, timedelta
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb_pipelines.core.distribution import Distribution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.insight import figures, inline, series
from lb_pipelines.service.results import Board, BoardKey, Entry

KEY = BoardKey("inst", BoardType.CLASS, "a", Granularity.TERM)
FIRST = date(2024, 1, 1)
STUDENTS = [f"s{number}" for number in range(6)]

points = st.lists(st.integers(-40, 400), min_size=1, max_size=60)


def board_of(day: date, scores: dict[str, int], top: int, enrolled: int = 9) -> Board:
    """A board by the definition of its words, ranks 1224."""
    order = sorted(scores, key=lambda s: (-scores[s], s))
    entries = tuple(
        Entry(1 + sum(scores[t] > scores[s] for t in scores), s, scores[s]) for s in order
    )
    shown = entries[:top]
    cut = sum(entry.points == shown[-1].points for entry in entries[top:]) if shown else 0
    return Board(
        KEY, day, FIRST, shown, len(order), enrolled, None, None, None, None, None, cut, "ACTIVE"
    )


scores = st.dictionaries(st.sampled_from(STUDENTS), st.integers(0, 3), max_size=6)


@settings(max_examples=40)
@given(st.lists(st.one_of(st.none(), scores), min_size=1, max_size=5), st.integers(1, 7))
def test_a_movement_is_everybodys_rank_on_every_day(
    by_day: list[dict[str, int] | None], top: int
) -> None:
    days = [FIRST + timedelta(days=at) for at in range(len(by_day))]
    made = [board_of(d, s, 5) for d, s in zip(days, by_day, strict=True) if s is not None]
    moved = series.movement(made, days, top, names=True)
    last = by_day[-1]
    if not last:
        assert moved is None
        return
    assert moved is not None
    order = sorted(last, key=lambda s: (-last[s], s))[: min(top, 5)]
    assert [line.name for line in moved.lines] == order
    assert [line.points for line in moved.lines] == [last[s] for s in order]
    for line, student in zip(moved.lines, order, strict=True):
        for rank, of_day in zip(line.ranks, by_day, strict=True):
            places = sorted(of_day or {}, key=lambda s: (-(of_day or {})[s], s))[:5]
            expected = (
                1 + sum(other > of_day[student] for other in of_day.values())
                if of_day and student in places
                else None
            )
            assert rank == expected
        assert line.tied == sum(last[s] == last[student] for s in order)
    beyond = [s for s in last if s not in order and last[s] == last[order[-1]]]
    assert moved.ties_cut == len(beyond)
    figure = figures.movement_figure(moved, "t", "s")
    drawn = {tuple(np.nan_to_num(line.get_ydata(), nan=-1)) for line in figure.axes[0].lines}
    for line in moved.lines:
        # A tie is fanned out below its rank, by less than one rank a line.
        assert any(
            all(
                height == -1 if rank is None else rank <= height < rank + len(order)
                for rank, height in zip(line.ranks, heights, strict=True)
            )
            for heights in drawn
        )
    top_of_axis = figure.axes[0].get_ylim()
    assert top_of_axis[0] > top_of_axis[1], "rank 1 is on top"


def test_no_line_bears_a_name_unless_asked() -> None:
    made = [board_of(FIRST, {"s1": 3, "s2": 3}, 5)]
    moved = series.movement(made, [FIRST])
    assert moved is not None
    assert {line.name for line in moved.lines} == {None}
    words = " ".join(
        text.get_text() for text in figures.movement_figure(moved, "t", "s").axes[0].texts
    )
    assert "s1" not in words
    assert words.count("1=") == 2


@given(st.integers(1, 400))
def test_movement_days_end_with_the_last_and_lie_a_week_or_a_day_apart(length: int) -> None:
    days = DayRange(FIRST, FIRST + timedelta(days=length - 1))
    found = series.movement_days(days)
    assert found[-1] == days.last
    assert found[0] in days
    step = {b - a for a, b in zip(found, found[1:], strict=False)}
    assert step <= {timedelta(days=1 if length <= series.DAILY_UP_TO else 7)}
    assert found[0] - days.first < timedelta(days=7)


def distribution_of(values: list[int]) -> Distribution:
    levels, counts = np.unique(values, return_counts=True)
    return Distribution(levels[::-1].astype(np.int64), counts[::-1].astype(np.int64))


@settings(max_examples=40)
@given(points, st.integers(1, 40))
def test_a_histogram_counts_every_student_once(values: list[int], bins: int) -> None:
    made = series.histogram(distribution_of(values), bins)
    assert len(made.counts) <= bins
    assert made.median == statistics.median(values)
    assert len(set(np.diff(made.edges).tolist())) == 1
    for low, high, count in zip(made.edges, made.edges[1:], made.counts, strict=False):
        assert count == sum(low <= value < high for value in values)
    assert made.counts.sum() == len(values)
    bars = figures.histogram_figure(made, "t", "s").axes[0].patches
    assert [bar.get_height() for bar in bars] == made.counts.tolist()


def test_participation_leaves_a_gap_where_there_was_no_board() -> None:
    weeks = [FIRST + timedelta(days=7 * at) for at in (0, 1, 4, 5)]
    made = [board_of(day, {"s1": 1}, 5, enrolled=at) for at, day in enumerate(weeks)]
    found = series.participation(reversed(made))
    assert found is not None
    assert found.days == (weeks[0], weeks[1], weeks[1] + timedelta(days=7), weeks[2], weeks[3])
    assert found.ranked == (1, 1, None, 1, 1)
    assert found.enrolled == (0, 1, None, 2, 3)
    [enrolled, ranked] = figures.participation_figure(found, "t", "s").axes[0].lines
    assert np.isnan(ranked.get_ydata()[2])
    assert enrolled.get_ydata()[3] == 2
    assert series.participation([]) is None


def test_the_grid_shows_the_largest_and_says_how_many_it_leaves_out() -> None:
    days = [FIRST, FIRST + timedelta(days=7)]
    rows = [("small", days[0], 1, 2), ("large", days[1], 3, 9), ("middle", days[0], 5, 5)]
    grid = series.share_grid(rows, days, 2)
    assert grid is not None
    assert grid.names == ("large", "middle")
    assert grid.left_out == 1
    np.testing.assert_array_equal(grid.shares, [[np.nan, 3 / 9], [1, np.nan]])
    assert series.share_grid([], days, 2) is None


def svg_of(markdown: str) -> ElementTree.Element:
    """The image of a chart as a browser would parse it."""
    start = markdown.index("data:image/svg+xml,") + len("data:image/svg+xml,")
    return ElementTree.fromstring(unquote(markdown[start : markdown.index(")", start)]))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2**40), max_size=30), st.text(max_size=80))
def test_bars_are_as_tall_as_their_values_and_fit_in_place(values: list[int], name: str) -> None:
    caption = f"**{inline.plain(name)}** and what it shows"
    chart = inline.bars(values, "1 Jan", "30 Jan", caption)
    assert len(chart) <= inline.LONGEST
    assert chart.endswith(caption)
    assert "![chart](" in chart
    [*paths] = svg_of(chart).iter("{http://www.w3.org/2000/svg}path")
    heights = [
        int(bar.split("v-")[1].split("h")[0]) for p in paths for bar in p.attrib["d"].split("M")[1:]
    ]
    shown = [value for value in values if value]
    assert len(heights) == len(shown)
    for value, height in zip(shown, heights, strict=True):
        assert abs(height - value / max(shown) * max(heights)) <= 1


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.integers(1, 10**6)), st.integers(1, 10)),
        max_size=10,
    )
)
def test_slopes_colour_who_climbed_and_who_fell(pairs: list[tuple[int | None, int]]) -> None:
    chart = inline.slopes(pairs, "caption")
    assert len(chart) <= inline.LONGEST
    by_colour = {
        path.attrib["stroke"]: path.attrib["d"].count("M")
        for path in svg_of(chart).iter("{http://www.w3.org/2000/svg}path")
    }
    climbed = sum(previous is None or previous > rank for previous, rank in pairs)
    fell = sum(previous is not None and previous < rank for previous, rank in pairs)
    assert by_colour.get("#009e73", 0) == climbed
    assert by_colour.get("#d55e00", 0) == fell
    assert sum(by_colour.values()) == len(pairs)


def test_a_chart_that_would_not_fit_loses_its_picture_and_keeps_its_words() -> None:
    caption = "x" * 700
    assert inline.bars([1, 2] * 10, "a", "b", caption) == caption


@pytest.mark.parametrize(
    "name", ["a|b", "[x](http://y)", "![i](data:z)", "<b>", "# h", "two\nlines"]
)
def test_a_name_means_nothing_to_markdown(name: str) -> None:
    assert "\n" not in inline.plain(name)
    bare = inline.plain(name)
    for special in "[]<|!#":
        assert bare.count(special) == bare.count(f"\\{special}")


def test_a_picture_is_the_same_bytes_again_and_small() -> None:
    made = series.histogram(distribution_of([n * n % 997 for n in range(2_000)]))
    one, two = (figures.png(figures.histogram_figure(made, "A $title$ 5", "s")) for _ in range(2))
    assert one == two
    assert one.startswith(b"\x89PNG")
    assert len(one) < 50_000
