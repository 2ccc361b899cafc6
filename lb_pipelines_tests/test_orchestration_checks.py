"""What the check of snapshots finds: every way in which a board can contradict itself."""

from __future__ import annotations

from datetime import date

import pytest
from psycopg.types.json import Jsonb

from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, RankMethod
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions, verification
from lb_pipelines.db.repositories.verification import Verdict
from lb_pipelines.materialize import snapshots
from lb_pipelines.materialize.results import Provenance
from lb_pipelines_tests.orchestration_district import add_institution

DAYS = DayRange(date(2024, 4, 1), date(2024, 4, 2))


@pytest.fixture
def boards(database: Database) -> Database:
    """Two days of boards; on the campus board of all time four students, two of them tied."""
    add_institution(database, "a", days=DAYS, students=4)
    with database.transaction() as connection:
        institution = institutions.find(connection, "a")
    for type in BoardType:
        for _ in snapshots.materialize(database, institution, type, DAYS, Provenance("test")):
            pass
    with database.transaction() as connection:
        connection.execute(
            "UPDATE lb.leaderboard_snapshots SET entries = %s,"
            ' metadata = metadata || \'{"ranked": 4, "sum": 30}\''
            " WHERE type = 'CAMPUS' AND time_granularity = 'all-time'"
            " AND snapshot_date = '2024-04-02'",
            (entries("1 d 10", "2 a 8", "2 b 8", "4 c 4"),),
        )
    return database


def entries(*rows: str) -> Jsonb:
    return Jsonb(
        [
            {"rank": int(rank), "studentId": student, "points": int(points), "previousRank": None}
            for rank, student, points in map(str.split, rows)
        ]
    )


def verdicts(
    database: Database, type: BoardType = BoardType.CAMPUS, at_most: int | None = None
) -> dict[date, Verdict]:
    with database.transaction() as connection:
        institution = institutions.find(connection, "a")
        return verification.wrong_boards(connection, institution, type, DAYS, at_most=at_most)


def test_boards_as_they_are_written_are_right(boards: Database) -> None:
    for type, count in ((BoardType.CLASS, 10), (BoardType.SUBJECT, 5), (BoardType.CAMPUS, 5)):
        assert verdicts(boards, type) == dict.fromkeys(DAYS, Verdict(count, count, 0, None))


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(["1 d 10", "2 a 8", "2 b 8"], id="an entry is missing"),
        pytest.param(["1 d 10", "2 a 8", "2 b 8", "4 c 2", "5 e 2"], id="one too many"),
        pytest.param(["1 d 10", "2 a 8", "2 a 8", "4 c 4"], id="a student twice"),
        pytest.param(["2 d 10", "2 a 8", "2 b 8", "4 c 4"], id="nobody is first"),
        pytest.param(["1 d 10", "2 a 8", "3 b 8", "4 c 4"], id="a tie with two ranks"),
        pytest.param(["1 d 10", "2 a 8", "2 b 8", "3 c 4"], id="no gap after a tie"),
        pytest.param(["1 d 10", "2 a 4", "3 b 8", "3 c 8"], id="points that rise"),
        pytest.param(["1 d 10", "2 a 8", "2 b 8", "4 c 3"], id="a sum that does not fit"),
        pytest.param([], id="nothing"),
    ],
)
def test_a_board_that_contradicts_itself_is_found(boards: Database, rows: list[str]) -> None:
    with boards.transaction() as connection:
        connection.execute(
            "UPDATE lb.leaderboard_snapshots SET entries = %s WHERE type = 'CAMPUS'"
            " AND time_granularity = 'all-time' AND snapshot_date = '2024-04-02'",
            (entries(*rows),),
        )
    assert verdicts(boards) == {
        DAYS.first: Verdict(5, 5, 0, None),
        DAYS.last: Verdict(5, 5, 1, "one all-time"),
    }


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        (RankMethod.COMPETITION, ["1 d 10", "2 a 8", "2 b 8", "4 c 4"]),
        (RankMethod.DENSE, ["1 d 10", "2 a 8", "2 b 8", "3 c 4"]),
        (RankMethod.ORDINAL, ["1 d 10", "2 a 8", "3 b 8", "4 c 4"]),
    ],
)
def test_ranks_are_held_to_the_institutions_method(
    boards: Database, method: RankMethod, rows: list[str]
) -> None:
    with boards.transaction() as connection:
        connection.execute(
            "UPDATE lb.leaderboard_snapshots SET entries = %s WHERE type = 'CAMPUS'"
            " AND time_granularity = 'all-time' AND snapshot_date = '2024-04-02'",
            (entries(*rows),),
        )
        # The boards beside it have ties of their own.
        connection.execute(
            "DELETE FROM lb.leaderboard_snapshots WHERE time_granularity <> 'all-time'"
        )
    for by in RankMethod:
        with boards.transaction() as connection:
            connection.execute(
                "UPDATE lb.institutions SET metadata = %s",
                (Jsonb({"leaderboardRanking": by.value}),),
            )
        assert verdicts(boards)[DAYS.last].wrong == (by is not method)


def test_archived_boards_keep_the_settings_of_their_time(boards: Database) -> None:
    with boards.transaction() as connection:
        connection.execute(
            "UPDATE lb.leaderboard_snapshots SET entries = '[]', status = 'ARCHIVED'"
        )
    assert verdicts(boards) == dict.fromkeys(DAYS, Verdict())


def test_a_sample_says_how_many_it_looked_at(boards: Database) -> None:
    assert verdicts(boards, BoardType.CLASS, at_most=3) == dict.fromkeys(
        DAYS, Verdict(10, 3, 0, None)
    )
