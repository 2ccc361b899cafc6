"""How boards, entries and standings are told: plain values for scripts, rows for tables.

The same for every verb that reads. What is read is decided in `boards`, `trends` and `extracts`.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from lb_pipelines.cli.telling import listing, plain
from lb_pipelines.service.results import Around, Board, BoardKey, Entry, Standing


def key_told(key: BoardKey) -> dict[str, Any]:
    """Which board."""
    told: dict[str, Any] = plain(key)
    return told


def entry_told(entry: Entry) -> dict[str, Any]:
    """A line of a board; without a name where none is known or asked for."""
    told = {
        "rank": entry.rank,
        "studentId": entry.student_id,
        "points": entry.points,
        "previousRank": entry.previous_rank,
    }
    return told if entry.name is None else {**told, "name": entry.name}


def board_told(board: Board, *, entries: bool = True) -> dict[str, Any]:
    """A board as one object; its key, day and figures in one line."""
    told: dict[str, Any] = plain(board)
    del told["key"], told["entries"]
    told = {**key_told(board.key), **told}
    return {**told, "entries": [entry_told(e) for e in board.entries]} if entries else told


def standing_told(standing: Standing) -> dict[str, Any]:
    """A standing as one object, its board's key in one line with it."""
    told: dict[str, Any] = plain(standing)
    del told["key"]
    return {**key_told(standing.key), **told}


def around_told(around: Around) -> dict[str, Any]:
    """A neighbourhood as one object. Nobody's earlier rank is part of it."""
    told: dict[str, Any] = plain(around)
    del told["key"]
    entries = [entry_told(entry) for entry in around.entries]
    for entry in entries:
        del entry["previousRank"]
    return {**key_told(around.key), **told, "entries": entries}


def named(key: BoardKey) -> str:
    """A board as a title names it."""
    return f"{key.type} {key.reference_id} {key.granularity}"


def entries_shown(
    title: str, entries: tuple[Entry, ...], *, names: bool, before: bool, mark: str | None = None
) -> Table:
    """Lines of a board; `before`: with the rank on the baseline's day; `mark`: a student shown."""
    columns = ["Rank", "Student", "Points"]
    rows: list[list[object]] = [[entry.rank, entry.student_id, entry.points] for entry in entries]
    if names:
        columns.insert(2, "Name")
        for row, entry in zip(rows, entries, strict=True):
            row.insert(2, entry.name)
    if before:
        columns.append("Before")
        for row, entry in zip(rows, entries, strict=True):
            row.append(entry.previous_rank)
    if mark is not None:
        columns.append(" ")
        for row, entry in zip(rows, entries, strict=True):
            row.append("<" if entry.student_id == mark else None)
    return listing(title, ", ".join(columns), rows)


def standings_shown(title: str, standings: list[Standing], *, over_time: bool) -> Table:
    """Standings as a table: of one board over time with changes, or of several boards of a day."""
    if over_time:
        return listing(
            title,
            "Day, Rank, Ranked, Percentile, Points, Climbed, Gained",
            (
                (s.day, s.rank, s.ranked, s.percentile, s.points, signed(s.rank_change),
                 signed(s.points_change))
                for s in standings
            ),
        )  # fmt: skip
    return listing(
        title,
        "Type, Board, Granularity, Rank, Ranked, Percentile, Points",
        (
            (s.key.type, s.key.reference_id, s.key.granularity, s.rank, s.ranked, s.percentile,
             s.points)
            for s in standings
        ),
    )  # fmt: skip


def signed(change: float | None) -> Text | None:
    """A change with its sign; whole numbers without a fraction."""
    if change is None:
        return None
    return Text(f"{change:+,}" if isinstance(change, int) else f"{change:+,.1f}")
