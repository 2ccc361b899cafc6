"""One student's exact standings: own points, and the distribution that every snapshot keeps.

Rank and percentile follow from the two without scanning the board, for any student and any past
day. An ordinal rank inside a tie, and the neighbours of somebody outside the top N, need the whole
board: `neighbours` makes it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from lb_pipelines.core.distribution import unpack
from lb_pipelines.core.institution import Institution
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, RankMethod
from lb_pipelines.db.engine import Connection
from lb_pipelines.db.repositories import reading
from lb_pipelines.db.repositories.reading import DayPoints, NamedBoard
from lb_pipelines.errors import StaleBoard
from lb_pipelines.service import neighbours
from lb_pipelines.service.results import BoardKey, Standing


@dataclass(frozen=True)
class Student:
    """A student of the institution."""

    key: int
    id: str


@dataclass(frozen=True)
class Snapshot:
    """What a standing is read from: any stored board, live or archived."""

    key: BoardKey
    day: date
    period_start: date
    entries: Sequence[Mapping[str, Any]]
    ranked: int
    distribution: bytes

    @property
    def window(self) -> DayRange:
        """The days whose points count."""
        return DayRange(self.period_start, self.day)


def standings(
    connection: Connection,
    institution: Institution,
    student: Student,
    boards: Mapping[tuple[BoardType, str], NamedBoard],
    snapshots: Sequence[Snapshot],
) -> list[Standing]:
    """Where the student stood on each of these snapshots; raises `StaleBoard`.

    Their points are read at most once, however many snapshots there are.
    """
    found = [_in_top(snapshot, student) for snapshot in snapshots]
    missing = [s for s, standing in zip(snapshots, found, strict=True) if standing is None]
    if missing:
        days = DayRange(min(s.period_start for s in missing), max(s.day for s in missing))
        points = reading.points_of_student(connection, institution, student.key, days)
    return [
        standing
        if standing is not None
        else _below_top(
            connection,
            institution,
            student,
            boards[snapshot.key.type, snapshot.key.reference_id],
            snapshot,
            points,
        )
        for snapshot, standing in zip(snapshots, found, strict=True)
    ]


def with_changes(series: Sequence[Standing]) -> tuple[Standing, ...]:
    """A series of one board, newest first, each with its change against the one before in time."""
    changed = []
    for now, then in zip(series, [*series[1:], None], strict=True):
        if then is None or now.rank is None or then.rank is None:
            changed.append(now)
            continue
        assert now.points is not None
        assert then.points is not None
        changed.append(
            Standing(
                **{
                    **vars(now),
                    "rank_change": then.rank - now.rank,
                    "points_change": now.points - then.points,
                }
            )
        )
    return tuple(changed)


def _in_top(snapshot: Snapshot, student: Student) -> Standing | None:
    for entry in snapshot.entries:
        if entry["studentId"] == student.id:
            percentile = unpack(snapshot.distribution).percentile_of(entry["points"])
            return _standing(snapshot, student, entry["rank"], entry["points"], percentile)
    if len(snapshot.entries) == snapshot.ranked:
        # All who are ranked are on it.
        return _standing(snapshot, student, None, None, None)
    return None


def _below_top(
    connection: Connection,
    institution: Institution,
    student: Student,
    board: NamedBoard,
    snapshot: Snapshot,
    points: Iterable[DayPoints],
) -> Standing:
    window = snapshot.window
    own = [p for p in points if p.day in window and p.keys[board.type] == board.key]
    if not own:
        return _standing(snapshot, student, None, None, None)
    total = sum(p.points for p in own)
    distribution = unpack(snapshot.distribution)
    lowest = snapshot.entries[-1]["points"] if snapshot.entries else None
    if not distribution.holds(total) or (lowest is not None and total > lowest):
        raise stale(snapshot)
    method = institution.rank_method
    if method is RankMethod.ORDINAL:
        everybody = neighbours.whole_board(connection, institution, board, snapshot.window)
        rank = everybody.rank_of(student.key)
    else:
        rank = distribution.rank_of(total, method)
    return _standing(snapshot, student, rank, total, distribution.percentile_of(total))


def stale(snapshot: Snapshot) -> StaleBoard:
    """The error of a board that the events have left behind."""
    return StaleBoard(
        f"{snapshot.key} of {snapshot.day} was made before its events changed",
        "Wait for the late-events sensor, or materialize the day again; an archived day stays as "
        "it is unless it is materialized again on purpose",
    )


def _standing(
    snapshot: Snapshot,
    student: Student,
    rank: int | None,
    points: int | None,
    percentile: float | None,
) -> Standing:
    return Standing(
        snapshot.key, student.id, snapshot.day, snapshot.ranked, rank, points, percentile
    )
