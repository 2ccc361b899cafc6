"""Which pictures there are of a board and of an institution as of a day, and what they read.

A portrait that has nothing to show says so in a sentence instead of a picture. Ids and names of
students stay out of them unless a caller asks for names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange, week_start
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import glances, reading
from lb_pipelines.errors import UnknownBoard
from lb_pipelines.insight import figures, series
from lb_pipelines.materialize.snapshots import asset_name
from lb_pipelines.service import LeaderboardService
from lb_pipelines.service.reader import not_materialized
from lb_pipelines.service.results import Board

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOVEMENT, DISTRIBUTION, PARTICIPATION, CLASSES = (
    "movement",
    "distribution",
    "participation",
    "classes",
)
BOARD_PORTRAITS = (MOVEMENT, DISTRIBUTION, PARTICIPATION)
WEEKS = 30
"""Weeks that the participation of an institution looks back."""
BOARDS_SHOWN = 30
_LONGEST = timedelta(days=400)
"""Days that a movement goes back at most: all-time boards have no beginning worth drawing."""


@dataclass(frozen=True)
class Portrait:
    """One picture by name, or in its place the sentence that says why there is none."""

    name: str
    draw: Callable[[], Figure] | None
    sentence: str

    def png(self, dpi: int = figures.DPI) -> bytes | None:
        """The picture as a PNG; None where there is none."""
        return figures.png(self.draw(), dpi) if self.draw else None


def of_board(
    database: Database,
    institution: Institution,
    type: BoardType,
    reference_id: str,
    day: date,
    *,
    names: bool = False,
) -> list[Portrait]:
    """Movement, distribution and participation of the board's term as of `day`.

    Where the board has no term that day, those of all time. Raises what the service raises:
    `UnknownBoard`, `NotMaterialized`.
    """
    # Read once each: there is nothing to keep.
    service = LeaderboardService(database, keep=False)
    with database.reading(institution.id) as connection:
        opening = reading.opening(connection, institution.id, type, reference_id)
    if opening is None or opening.board is None:
        raise UnknownBoard(institution.id, type, reference_id)
    title = opening.board.name
    board, granularity = None, Granularity.TERM
    for granularity in (Granularity.TERM, Granularity.ALL_TIME):
        board = service.get_leaderboard(institution.id, type, reference_id, granularity, day)
        if board.entries:
            break
    assert board is not None
    if board.period_start is None or not board.entries:
        nobody = f"{title}: nobody is ranked on {day}, so there is nothing to draw."
        return [Portrait(name, None, nobody) for name in BOARD_PORTRAITS]
    days = DayRange(max(board.period_start, day - _LONGEST), day)
    history = partial(_history, service, institution.id, type, reference_id, names=names)
    about = f"{granularity} board of {title}" if granularity is not Granularity.TERM else title
    where = f"{days.first:%-d %b %Y} to {day:%-d %b %Y} ({institution.time_zone})"
    return [
        _movement(history(granularity, days, every_day=True), days, about, where, names=names),
        _distribution(service, board, about, where),
        _participation(history(Granularity.WEEKLY, days, every_day=False), about, where),
    ]


@dataclass(frozen=True)
class Week:
    """What there is to see of an institution as of a day; `largest` is the id of the class that
    the pictures of a board are of, None where nobody is ranked on any.
    """

    largest: str | None
    portraits: list[Portrait]


def of_week(
    database: Database, institution: Institution, day: date, *, names: bool = False
) -> Week:
    """Which classes take part, and the portraits of the largest of them.

    Raises `NotMaterialized` for a day that was never made.
    """
    with database.transaction(snapshot=True) as connection:
        largest = glances.largest_board(connection, institution, BoardType.CLASS, day)
        made = reading.any_materialized(connection, institution, [asset_name(BoardType.CLASS)], day)
    if largest is None and not made:
        raise not_materialized(institution.id, day)
    classes = of_institution(database, institution, day)
    if largest is None:
        nobody = f"Nobody is ranked on any class on {day}."
        return Week(None, [classes, *(Portrait(name, None, nobody) for name in BOARD_PORTRAITS)])
    return Week(
        largest,
        [classes, *of_board(database, institution, BoardType.CLASS, largest, day, names=names)],
    )


def of_institution(database: Database, institution: Institution, day: date) -> Portrait:
    """The share of the enrolled of every class who had points, week by week up to `day`."""
    last = week_start(day) - timedelta(days=1) if day.isoweekday() < 7 else day
    weeks = [last - timedelta(days=7 * back) for back in range(WEEKS)][::-1]
    with database.transaction(snapshot=True) as connection:
        rows = glances.weekly_participation(connection, institution, BoardType.CLASS, weeks)
    seen = {row[1] for row in rows}
    shown = [week for week in weeks if seen and week >= min(seen)]
    grid = series.share_grid(rows, shown, BOARDS_SHOWN)
    title = f"{institution.name or institution.id}: who takes part, week by week"
    if grid is None:
        sentence = f"{title}: no weekly board of a class from {weeks[0]} to {weeks[-1]}."
        return Portrait(CLASSES, None, sentence)
    shown_of = f"the {len(grid.names)} largest classes, {grid.left_out} smaller ones not shown"
    which = shown_of if grid.left_out else f"all {len(grid.names)} classes with boards"
    subtitle = (
        f"Share of the enrolled with points, {which}; grey: no board ({institution.time_zone})"
    )
    return Portrait(
        CLASSES, partial(figures.share_figure, grid, title, subtitle), f"{title}. {subtitle}."
    )


def _history(
    service: LeaderboardService,
    institution_id: str,
    type: BoardType,
    reference_id: str,
    granularity: Granularity,
    days: DayRange,
    *,
    every_day: bool,
    names: bool,
) -> list[Board]:
    found = service.get_historical_leaderboard(
        institution_id,
        type,
        reference_id,
        granularity,
        days.first,
        days.last,
        every_day=every_day,
        limit=len(days),
    )
    boards = list(found.boards)
    if names and boards and boards[0].day == days.last:
        boards[0] = service.get_leaderboard(
            institution_id, type, reference_id, granularity, days.last, names=True
        )
    return boards


def _movement(
    boards: list[Board], days: DayRange, title: str, where: str, *, names: bool
) -> Portrait:
    moved = series.movement(boards, series.movement_days(days), names=names)
    heading = f"{title}: how the top {series.TOP} came to be there"
    if moved is None:
        return Portrait(MOVEMENT, None, f"{heading}: nobody is ranked on {days.last}.")
    tied = "; = tied" if any(line.tied > 1 for line in moved.lines) else ""
    cut = f"; {moved.ties_cut:,} more tie with the last" if moved.ties_cut else ""
    step = "day by day" if len(moved.days) == len(days) else "week by week"
    subtitle = f"Rank {step}, {where}; {moved.ranked:,} ranked{tied}{cut}"
    return Portrait(
        MOVEMENT,
        partial(figures.movement_figure, moved, heading, subtitle),
        f"{heading}. {subtitle}.",
    )


def _distribution(service: LeaderboardService, board: Board, title: str, where: str) -> Portrait:
    key = board.key
    points = series.histogram(
        service.get_distribution(
            key.institution_id, key.type, key.reference_id, key.granularity, board.day
        )
    )
    heading = f"{title}: how points are spread"
    # Not "of": whoever has left is ranked with the points of before.
    subtitle = f"{board.ranked:,} students with points, {board.enrolled:,} enrolled now; {where}"
    return Portrait(
        DISTRIBUTION,
        partial(figures.histogram_figure, points, heading, subtitle),
        f"{heading}. {subtitle}.",
    )


def _participation(boards: list[Board], title: str, where: str) -> Portrait:
    taking_part = series.participation(boards)
    heading = f"{title}: who takes part"
    if taking_part is None:
        return Portrait(PARTICIPATION, None, f"{heading}: no weekly board, {where}.")
    subtitle = f"Students by week, {where}"
    return Portrait(
        PARTICIPATION,
        partial(figures.participation_figure, taking_part, heading, subtitle),
        f"{heading}. {subtitle}.",
    )
