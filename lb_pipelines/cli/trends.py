"""`lb trends` and `lb compare`: what has moved over time, of a board, a student, or two of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any

import typer

from lb_pipelines.cli import plots
from lb_pipelines.cli.access import desk_opened
from lb_pipelines.cli.answers import key_told, named, signed, standing_told, standings_shown
from lb_pipelines.cli.options import (
    InstitutionId,
    OneGranularity,
    Reference,
    SeriesFirst,
    SeriesLast,
    Type,
    board_day_option,
)
from lb_pipelines.cli.telling import (
    AsJson,
    camel,
    errors_told,
    examples,
    listing,
    people,
    plain,
    say,
)
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.service.boards import MONTHS
from lb_pipelines.service.results import BoardTrends, Comparison, Standings, TrendPoint

TRENDS_EXAMPLES = examples(
    "lb trends --institution inst_101 --reference class_7",
    "lb trends --institution inst_101 --reference class_7 --student s_42 --months 3",
    "lb trends --institution inst_101 --type CAMPUS --reference main --granularity monthly "
    "--months 36 --today 2026-06-30 --json",
)
COMPARE_EXAMPLES = examples(
    "lb compare --institution inst_101 --reference class_7 --reference class_8",
    "lb compare --institution inst_101 --reference class_7 --student s_42 --student s_43 "
    "--granularity term --from 2026-01-01 --to 2026-03-31",
)

_FIGURES = ("ranked", "enrolled", "mean", "median", "max")
_PLACES = ("rank", "points", "percentile")


def trends(
    institution_id: InstitutionId,
    reference_id: Reference,
    type: Type = BoardType.CLASS,
    granularity: OneGranularity = Granularity.WEEKLY,
    student_id: Annotated[
        str | None,
        typer.Option("--student", metavar="ID", help="Of this student instead of the whole board."),
    ] = None,
    months: Annotated[int, typer.Option(help="The last so many months.")] = MONTHS,
    today: Annotated[
        datetime | None,
        board_day_option("--today", "As if it were this day; the institution's own by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what has moved at the end of each period of the last months, with a small plot.

    A board against its baseline (of a daily board the day before, of a weekly one the last Sunday);
    with --student where the student stood, exact in the top N or far below it. Stayed is over the
    top N; Climbed, and Rho (Spearman's, of the ranks then and now), over all who are ranked both
    times; Since counts calendar days by the events.
    """
    board = (institution_id, type, reference_id, granularity)
    with (
        errors_told(as_json),
        desk_opened((institution_id, today) if today else None) as desk,
    ):
        if student_id is None:
            moved = desk.service.get_leaderboard_trends(*board, months=months)
        else:
            stood = desk.service.get_student_trends(
                institution_id, student_id, *board[1:], months=months
            )
    if student_id is None:
        told = [plain(point) for point in moved.points]
        say({**key_told(moved.key), "points": told}, as_json, *_moved_shown(moved))
        return
    say(
        {
            "institutionId": institution_id,
            "studentId": student_id,
            "standings": [standing_told(standing) for standing in stood.standings],
        },
        as_json,
        *_stood_shown(stood),
    )


def compare(
    institution_id: InstitutionId,
    references: Annotated[
        list[str],
        typer.Option(
            "--reference", metavar="ID", help="Twice: two boards. Once: the board of two students."
        ),
    ],
    type: Type = BoardType.CLASS,
    granularity: OneGranularity = Granularity.WEEKLY,
    student_ids: Annotated[
        list[str] | None,
        typer.Option("--student", metavar="ID", help="Twice: two students on one board."),
    ] = None,
    first: SeriesFirst = None,
    last: SeriesLast = None,
    as_json: AsJson = False,
) -> None:
    """Put two boards, or two students on one board, side by side at the end of each period."""
    pair = _pair(references, student_ids or [])
    with errors_told(as_json), desk_opened() as desk:
        days = desk.series(institution_id, [type], first, last)
        if student_ids:
            found = desk.service.compare_students(
                institution_id, pair, type, references[0], granularity, days.first, days.last
            )
        else:
            found = desk.service.compare_boards(
                institution_id, type, pair, granularity, days.first, days.last
            )
    where = f" on {type} {references[0]}" if student_ids else ""
    say(
        {
            "institutionId": institution_id,
            "type": type,
            "granularity": granularity,
            "a": found.a,
            "b": found.b,
            "rows": [{camel(name): value for name, value in row.items()} for row in found.rows],
        },
        as_json,
        _compared_shown(
            f"A = {found.a}, B = {found.b}{where}, {granularity}",
            found,
            _PLACES if student_ids else _FIGURES,
        ),
    )


def _pair(references: Sequence[str], student_ids: Sequence[str]) -> tuple[str, str]:
    given = list(student_ids or references)
    if len(given) != 2 or (student_ids and len(references) != 1):
        raise typer.BadParameter(
            "give two boards, or one board and two students", param_hint="--reference / --student"
        )
    return given[0], given[1]


def _moved_shown(moved: BoardTrends) -> list[Any]:
    title = named(moved.key)
    if not moved.points:
        return [f"{title}: no trends in these months."]
    return [
        listing(
            title,
            "Day, Against, Ranked, +/-, Mean, +/-, Median, +/-, Stayed, Rho, "
            "Leader, Since, Climbed",
            (
                (
                    point.day,
                    point.baseline_day,
                    point.ranked,
                    signed(point.ranked_change),
                    point.mean,
                    signed(point.mean_change),
                    point.median,
                    signed(point.median_change),
                    None if point.retained_share is None else f"{point.retained_share:.0%}",
                    None if point.spearman_rho is None else f"{point.spearman_rho:.2f}",
                    point.leader_id,
                    point.leader_since,
                    _climber(point),
                )
                for point in moved.points
            ),
        ),
        _plot("Ranked", [(point.day, point.ranked) for point in moved.points]),
        _plot("Mean points", [(point.day, point.mean) for point in moved.points]),
    ]


def _climber(point: TrendPoint) -> str | None:
    climbers = point.movement.get("climbers") or []
    return f"{climbers[0]['studentId']} {climbers[0]['rankChange']:+,}" if climbers else None


def _stood_shown(stood: Standings) -> list[Any]:
    if not stood.standings:
        return [f"{stood.student_id}: no board in these months."]
    title = f"{stood.student_id} on {named(stood.standings[0].key)}"
    return [
        standings_shown(title, list(stood.standings), over_time=True),
        _plot(
            "Percentile (100: nobody has more points)",
            [(standing.day, standing.percentile) for standing in stood.standings],
            low=0,
            high=100,
        ),
    ]


def _plot(
    title: str,
    newest_first: Sequence[tuple[date, float | None]],
    *,
    low: float | None = None,
    high: float | None = None,
) -> str:
    console = people()
    return "\n" + plots.columns(
        title,
        newest_first[::-1],
        low=low,
        high=high,
        width=max(20, min(plots.WIDTH, console.width - 12)),
        ascii_only=console.options.ascii_only,
    )


def _compared_shown(title: str, found: Comparison, names: Sequence[str]) -> Any:
    if not found.rows:
        return f"{title}: no board on these days."
    columns = [f"{name.capitalize()} {side.upper()}" for name in names for side in "ab"]
    return listing(
        title,
        ", ".join(["Day", *columns]),
        ([row["day"], *(row[f"{n}_{side}"] for n in names for side in "ab")] for row in found.rows),
    )
