"""Histories, trends and comparisons against the naive reference; pages while others write."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pandas as pd
import pytest

from lb_pipelines.core.periods import ONE_DAY, DayRange, days_between
from lb_pipelines.core.selection import ArchiveSelection
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.materialize import trends
from lb_pipelines.retention import restoring
from lb_pipelines.retention.actor import Actor
from lb_pipelines.service import LeaderboardService
from lb_pipelines.service.results import Board
from lb_pipelines_tests import oracle, worlds
from lb_pipelines_tests.oracle import GRANULARITIES, TYPES, School
from lb_pipelines_tests.test_service import LATER, RUN, load, make, purge, span, sweep
from lb_pipelines_tests.waiting import LIMIT_SECONDS

SCHOOL = worlds.make_school(21, span=60, events=100, students=6)
CAMPUS = [BoardType.CAMPUS]


def made_days(
    school: School, type: str, reference: str, granularity: str, first: date, last: date
) -> list[tuple[date | None, date]]:
    """(first day of its window, day) of all days with a board, ascending; slow."""
    return [
        (period(school, type, reference, granularity, day), day)
        for day in days_between(first, last)
        if oracle.board(school, type, reference, granularity, day)
    ]


def period(school: School, type: str, reference: str, granularity: str, day: date) -> date | None:
    """What a history shows one board of: the window; a month where it never ends."""
    if granularity == "all-time":
        return day.replace(day=1)
    return oracle.period_start(school, type, reference, granularity, day)


def closing_days(
    school: School, type: str, reference: str, granularity: str, first: date, last: date
) -> list[date]:
    """The last day of every run of days of one period, newest first."""
    made = made_days(school, type, reference, granularity, first, last)
    runs = itertools.groupby(made, key=lambda pair: pair[0])
    return [list(run)[-1][1] for _, run in runs][::-1]


def test_histories_are_what_the_slow_reference_says(database: Database) -> None:
    school, institution = load(database, SCHOOL)
    first, last = span(school)
    middle = first + 40 * ONE_DAY
    service = LeaderboardService(database, keep=False)
    for step in ("live", "swept", "purged in part"):
        if step == "swept":
            assert sweep(database, institution, middle)
        if step == "purged in part":
            for day in days_between(first, first + 30 * ONE_DAY):
                purge(database, institution, day)
        for type, granularity in itertools.product(TYPES, GRANULARITIES):
            reference = school.references(type)[0]
            key = (type, reference, granularity)
            ends = (first + 3 * ONE_DAY, last - ONE_DAY)
            want = closing_days(school, *key, *ends)
            history = service.get_historical_leaderboard(school.id, *key, *ends)
            assert [board.day for board in history.boards] == want, (step, key)
            assert history.next_before is None
            for board in history.boards:
                of = oracle.snapshot(school, *key, board.day)
                assert of is not None
                assert [
                    (e.rank, e.student_id, e.points, e.previous_rank) for e in board.entries
                ] == [tuple(e.values()) for e in of.entries]
                assert (board.period_start, board.ranked) == (
                    of.period_start,
                    sum(of.counts.values()),
                )
                assert board.status == (
                    "ARCHIVED" if step != "live" and board.day <= middle else "ACTIVE"
                )
            every = service.get_historical_leaderboard(school.id, *key, *ends, every_day=True)
            assert [b.day for b in every.boards] == [d for _, d in made_days(school, *key, *ends)][
                ::-1
            ]


@pytest.mark.parametrize("every_day", [True, False])
def test_pages_join_without_a_seam(database: Database, every_day: bool) -> None:
    school, _ = load(database, SCHOOL, CAMPUS)
    service = LeaderboardService(database)
    key = (school.id, "CAMPUS", school.campuses[0], "weekly")
    whole = service.get_historical_leaderboard(*key, *span(school), every_day=every_day).boards
    for limit in (1, 3, len(whole)):
        assert pages(service, key, span(school), limit, every_day)[0] == list(whole)


Key = tuple[str, str, str, str]


def pages(
    service: LeaderboardService,
    key: Key,
    ends: tuple[date, date],
    limit: int,
    every_day: bool,
    between: Any = lambda: None,
) -> tuple[list[Board], int]:
    """All boards, page by page, and how many pages."""
    boards: list[Board] = []
    before, count = None, 0
    while count == 0 or before is not None:
        page = service.get_historical_leaderboard(
            *key, ends[0], ends[1], limit=limit, before=before, every_day=every_day
        )
        boards += page.boards
        before, count = page.next_before, count + 1
        between()
        assert count <= 400, "the pages never end"
    return boards, count


@pytest.mark.parametrize("keep", [False, True])
def test_pages_stay_right_while_rows_arrive_and_move(database: Database, keep: bool) -> None:
    """Newer and older days are made, all is swept and restored, without a pause."""
    school, institution = load(database, SCHOOL, CAMPUS)
    first, last = span(school)
    key = (school.id, "CAMPUS", school.campuses[0], "all-time")
    with database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.leaderboard_snapshots WHERE snapshot_date NOT BETWEEN %s AND %s",
            (first + 25 * ONE_DAY, last - 15 * ONE_DAY),
        )
    there = set(days_between(first + 25 * ONE_DAY, last - 15 * ONE_DAY)) & {
        d for _, d in made_days(school, *key[1:], first, last)
    }
    over, moved, failed = threading.Event(), threading.Semaphore(0), []

    def write() -> None:
        older, newer = first + 24 * ONE_DAY, last - 14 * ONE_DAY
        try:
            while not over.is_set():
                if newer <= last:
                    make(database, institution, newer, newer, CAMPUS)
                    make(database, institution, older, older, CAMPUS)
                    older, newer = older - ONE_DAY, newer + ONE_DAY
                sweep(database, institution, last)
                moved.release()
                restoring.restore(
                    database, institution, ArchiveSelection(), last + LATER, last, Actor("test")
                )
                moved.release()
        except BaseException as error:
            failed.append(error)
            moved.release()

    def wait_for_a_move() -> None:
        assert moved.acquire(timeout=LIMIT_SECONDS)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        service = LeaderboardService(database, keep=keep)
        for _ in range(2):
            boards, _ = pages(service, key, (first, last), 9, True, between=wait_for_a_move)
            days = [board.day for board in boards]
            assert days == sorted(set(days), reverse=True), "a board came twice, or out of order"
            assert there <= set(days), "a board that was there all the time is missing"
    finally:
        over.set()
        writer.join()
    assert not failed


def test_trends_of_a_board_and_of_a_student(database: Database) -> None:
    school, institution = load(database, SCHOOL, CAMPUS)
    first, last = span(school)
    days = DayRange(first, last)
    list(trends.materialize(database, institution, BoardType.CAMPUS, days, RUN))
    now = datetime.combine(last, time(12), institution.zone).astimezone(UTC)
    service = LeaderboardService(database, keep=False, now=lambda: now)
    since = (last.replace(day=1) - ONE_DAY).replace(day=1)
    for granularity in ("weekly", "all-time"):
        key = ("CAMPUS", school.campuses[0], granularity)
        want = closing_days(school, *key, since, last)
        assert len(want) > 1
        board_trends = service.get_leaderboard_trends(school.id, *key, months=2)
        assert [point.day for point in board_trends.points] == want
        for point in board_trends.points:
            of = oracle.trend(school, *key, point.day)
            assert of is not None
            assert (point.ranked, point.leader_id) == (
                of.figures["ranked"],
                of.figures["leader_id"],
            )
            assert point.movement == of.movement
        assert len(board_trends.to_pandas()) == len(want)
        for student in school.students:
            found = service.get_student_trends(school.id, student, *key, months=2)
            boards = [oracle.board(school, *key, day) for day in want]
            ranks = [board.ranks.get(student) for board in boards if board]
            points = [board.points.get(student) for board in boards if board]
            assert [(s.day, s.rank, s.points) for s in found.standings] == list(
                zip(want, ranks, points, strict=True)
            )
            for now_, then, standing in zip(ranks, ranks[1:], found.standings, strict=False):
                change = None if now_ is None or then is None else then - now_
                assert standing.rank_change == change
            assert found.standings[-1].rank_change is None


def test_two_boards_and_two_students_side_by_side(database: Database) -> None:
    school, _ = load(database, SCHOOL, [BoardType.CAMPUS, BoardType.SUBJECT])
    first, last = span(school)
    service = LeaderboardService(database, keep=False)
    one, other = school.students[:2]
    key = ("CAMPUS", school.campuses[0], "monthly")
    rows = service.compare_students(school.id, (one, other), *key, first, last).to_pandas()
    assert rows["day"].tolist() == closing_days(school, *key, first, last)
    for row in rows.to_dict("records"):
        board = oracle.board(school, *key, row["day"])
        assert board is not None
        for name, student in (("rank_a", one), ("rank_b", other)):
            want = board.ranks.get(student)
            assert pd.isna(row[name]) if want is None else row[name] == want
    a, b = school.references("SUBJECT")[0], school.references("SUBJECT")[-1]
    compared = service.compare_boards(school.id, "SUBJECT", (a, b), "weekly", first, last)
    days = {d for r in (a, b) for d in closing_days(school, "SUBJECT", r, "weekly", first, last)}
    assert [row["day"] for row in compared.rows] == sorted(days, reverse=True)
    for compared_row in compared.rows:
        board = oracle.board(school, "SUBJECT", a, "weekly", compared_row["day"])
        assert compared_row["ranked_a"] == (len(board.places) if board else None)


def test_a_day_is_made_in_its_partition_and_its_names_are_joined(database: Database) -> None:
    school, institution = load(database, worlds.make_school(22, span=10, events=60))
    day = span(school)[1] + 5 * ONE_DAY
    service = LeaderboardService(
        database, now=lambda: datetime.combine(day, time(), UTC) + timedelta(days=3)
    )
    result = service.create_partitioned_snapshot(school.id, "CAMPUS", day)
    assert (result.asset, result.day, result.superseded) == ("campus_snapshots", day, False)
    assert result.rows == result.written > 0
    board = service.get_leaderboard(school.id, "CAMPUS", school.campuses[0], "all-time", names=True)
    assert board.day == day
    assert [entry.name for entry in board.entries] == [entry.student_id for entry in board.entries]
    # A name is as it is now, although the board was kept.
    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.students SET name = 'Ada' WHERE institution_key = %s", (institution.key,)
        )
    again = service.get_leaderboard(
        school.id, *("CAMPUS", school.campuses[0], "all-time"), names=True
    )
    assert {entry.name for entry in again.entries} == {"Ada"}
    assert service.cache_statistics.hits == 1
    frame = again.to_pandas()
    assert list(frame) == ["rank", "student_id", "points", "previous_rank", "name"]
    assert str(frame["previous_rank"].dtype) == "Int64"
    # The other boards of that day were never made; nobody was ranked that day.
    daily = service.get_leaderboard(school.id, "CAMPUS", school.campuses[0], "daily", day)
    assert (daily.entries, daily.ranked, len(daily.to_pandas())) == ((), 0, 0)
    empty = service.get_historical_leaderboard(
        school.id, "CAMPUS", school.campuses[0], "daily", day, day
    )
    assert len(empty.to_pandas()) == 0
