"""`lb board`, `history`, `rank`, `around`: what a board said on a day, where a student stood.

Everything is asked of the service; live boards and archived ones answer alike.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

import typer

from lb_pipelines.cli.access import Desk, desk_opened
from lb_pipelines.cli.answers import (
    around_told,
    board_told,
    entries_shown,
    key_told,
    named,
    standing_told,
    standings_shown,
)
from lb_pipelines.cli.options import (
    Day,
    EveryDay,
    InstitutionId,
    Names,
    OneGranularity,
    Reference,
    SeriesFirst,
    SeriesLast,
    StudentId,
    Type,
    board_day_option,
)
from lb_pipelines.cli.options import day as day_of
from lb_pipelines.cli.telling import AsJson, errors_told, examples, listing, say
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.service.boards import PAGE
from lb_pipelines.service.results import Board, BoardKey, Standing

BOARD_EXAMPLES = examples(
    "lb board --institution inst_101 --reference class_7",
    "lb board --institution inst_101 --type CAMPUS --reference main --granularity term "
    "--day 2026-03-03",
    "lb board --institution inst_101 --reference class_7 --top 3 --names --json",
)
HISTORY_EXAMPLES = examples(
    "lb history --institution inst_101 --reference class_7 --granularity monthly",
    "lb history --institution inst_101 --reference class_7 --from 2026-01-01 --to 2026-03-31 "
    "--every-day --limit 31",
    "lb history --institution inst_101 --reference class_7 --before 2026-02-02 --entries --json",
)
RANK_EXAMPLES = examples(
    "lb rank --institution inst_101 --student s_42",
    "lb rank --institution inst_101 --student s_42 --reference class_7 --granularity weekly "
    "--day 2026-03-03",
    "lb rank --institution inst_101 --student s_42 --granularity all-time --json",
)
AROUND_EXAMPLES = examples(
    "lb around --institution inst_101 --student s_42 --reference class_7",
    "lb around --institution inst_101 --student s_42 --type CAMPUS --reference main "
    "--granularity term --day 2026-03-03 -k 5 --names",
)


def board(
    institution_id: InstitutionId,
    reference_id: Reference,
    type: Type = BoardType.CLASS,
    granularity: OneGranularity = Granularity.WEEKLY,
    day: Day = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Only so many lines; all by default.")
    ] = None,
    names: Names = False,
    as_json: AsJson = False,
) -> None:
    """Show a board as of the end of a day, live or archived."""
    with errors_told(as_json), desk_opened() as desk:
        found = desk.service.get_leaderboard(
            institution_id, type, reference_id, granularity, day_of(day), names=names
        )
    told, entries = board_told(found), found.entries[:top]
    told["entries"] = told["entries"][:top]
    title = f"{named(found.key)} as of {found.day}"
    say(
        told,
        as_json,
        entries_shown(title, entries, names=names, before=True) if entries else title,
        _figures(found),
    )


def history(
    institution_id: InstitutionId,
    reference_id: Reference,
    type: Type = BoardType.CLASS,
    granularity: OneGranularity = Granularity.WEEKLY,
    first: SeriesFirst = None,
    last: SeriesLast = None,
    every_day: EveryDay = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Boards a page.")] = PAGE,
    before: Annotated[
        datetime | None,
        board_day_option("--before", "The next page: as the page before says at its end."),
    ] = None,
    entries: Annotated[
        bool, typer.Option("--entries", help="With the entries; for --json.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a board over time, newest first: as it closed each of its periods, or every day."""
    with errors_told(as_json), desk_opened() as desk:
        days = desk.series(institution_id, [type], first, last)
        found = desk.service.get_historical_leaderboard(
            institution_id,
            type,
            reference_id,
            granularity,
            days.first,
            days.last,
            every_day=every_day,
            before=day_of(before),
            limit=limit,
        )
    title = f"{named(found.key)}, {days.first} to {days.last}"
    say(
        {
            **key_told(found.key),
            "boards": [board_told(one, entries=entries) for one in found.boards],
            "nextBefore": found.next_before,
        },
        as_json,
        listing(
            title,
            "Day, Since, Ranked, Mean, Median, Most, Leader, Status",
            (
                (
                    one.day,
                    one.period_start,
                    one.ranked,
                    one.mean,
                    one.median,
                    one.max,
                    one.entries[0].student_id,
                    one.status,
                )
                for one in found.boards
            ),
        )
        if found.boards
        else f"{title}: no board.",
        *([f"More: --before {found.next_before}"] if found.next_before else []),
    )


def rank(
    institution_id: InstitutionId,
    student_id: StudentId,
    reference_id: Annotated[
        str | None,
        typer.Option("--reference", metavar="ID", help="Only on this class, subject or campus."),
    ] = None,
    type: Annotated[
        BoardType | None,
        typer.Option(
            "--type", case_sensitive=False, help="Only this one. CLASS where a board is named."
        ),
    ] = None,
    granularity: Annotated[
        Granularity | None, typer.Option("--granularity", help="Only this one. All by default.")
    ] = None,
    day: Day = None,
    as_json: AsJson = False,
) -> None:
    """Show where a student stood on a day: on all their boards, or on the one that is named.

    Exact, in the top N or far below it. On a named board also that they are not ranked is told.
    """
    with errors_told(as_json), desk_opened() as desk:
        types = [type or BoardType.CLASS] if reference_id else [type] if type else list(BoardType)
        wanted = day_of(day) or desk.last_day(institution_id, types)
        if reference_id is None:
            found = [
                standing
                for standing in desk.service.get_student_boards(
                    institution_id, student_id, wanted
                ).standings
                if standing.key.type in types and granularity in (None, standing.key.granularity)
            ]
        else:
            found = _on_board(
                desk,
                student_id,
                [
                    BoardKey(institution_id, types[0], reference_id, one)
                    for one in ([granularity] if granularity else Granularity)
                ],
                wanted,
            )
    title = f"{student_id} as of {wanted}"
    say(
        {
            "institutionId": institution_id,
            "studentId": student_id,
            "day": wanted,
            "standings": [standing_told(standing) for standing in found],
        },
        as_json,
        standings_shown(title, found, over_time=False)
        if any(standing.rank is not None for standing in found)
        else f"{title}: not ranked.",
    )


def around(
    institution_id: InstitutionId,
    student_id: StudentId,
    reference_id: Reference,
    type: Type = BoardType.CLASS,
    granularity: OneGranularity = Granularity.WEEKLY,
    day: Day = None,
    k: Annotated[int, typer.Option("-k", min=0, help="Students above, and as many below.")] = 3,
    names: Names = False,
    as_json: AsJson = False,
) -> None:
    """Show who stood right above and below a student, in a tie by student id, and how many tie."""
    with errors_told(as_json), desk_opened() as desk:
        found = desk.service.get_around(
            institution_id,
            student_id,
            type,
            reference_id,
            granularity,
            day_of(day) or desk.last_day(institution_id, [type]),
            k=k,
            names=names,
        )
    title = f"Around {student_id} on {named(found.key)} as of {found.day}"
    say(
        around_told(found),
        as_json,
        entries_shown(title, found.entries, names=names, before=False, mark=student_id)
        if found.entries
        else f"{title}: not ranked.",
        f"{found.ranked:,} ranked"
        + (f", {found.tied_students:,} others tie with {student_id}" if found.entries else ""),
    )


def _on_board(desk: Desk, student_id: str, keys: list[BoardKey], day: date) -> list[Standing]:
    return [
        desk.service.get_rank(
            key.institution_id, student_id, key.type, key.reference_id, key.granularity, day
        )
        for key in keys
    ]


def _figures(board: Board) -> str:
    if not board.ranked:
        return "Nobody is ranked."
    told = (
        f"{board.ranked:,} ranked ({board.enrolled:,} enrolled on that day): points since "
        f"{board.period_start}, mean {board.mean:,.1f}, median {board.median:,.1f}, "
        f"most {board.max:,}."
    )
    if board.ties_cut:
        told += f" {board.ties_cut:,} more tie with the last."
    if board.academic_year:
        # Its original was purged, or it was imported.
        told += f" Only the archive of {board.academic_year} has it."
    elif board.status == "ARCHIVED":
        told += " Archived."
    return told
