"""Reading from the command line: what each verb tells people and scripts is what the naive
reference says, what cannot be meant is refused, and files appear whole or not at all.

All look at one prepared database with two schools; the daily boards of north are in the archive.
What help and documents show is typed in test_cli_retention.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import Result

from lb_pipelines.cli import access, extracts, plots
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, Granularity
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates, snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.retention import sweeping
from lb_pipelines.retention.actor import Actor
from lb_pipelines.service.cache import region_from
from lb_pipelines_tests import oracle
from lb_pipelines_tests.commands import asked_of_the_service, python_shown_in, run, told
from lb_pipelines_tests.conftest import libpq_url
from lb_pipelines_tests.worlds import load, make_school

ROOT = Path(__file__).parent.parent
MOMENT = ("Europe/London", date(2023, 10, 29))
DAYS = DayRange(date(2023, 10, 23), date(2023, 11, 5))
DAY, PURGED = date(2023, 11, 3), date(2023, 11, 1)
RUN = Provenance("run")
# Two on a weekly board: others are below it.
LIMITS = {"leaderboardLimits": {"CLASS": {"weekly": 2}}}
NORTH = ("--institution", "north")


@dataclass(frozen=True)
class Schools:
    """What is in the database, as the reference sees it."""

    north: oracle.School
    south: oracle.School
    reference: str
    """The class of north with most students on its weekly board of `DAY`; south has it too."""

    @property
    def board(self) -> tuple[str, ...]:
        return (*NORTH, "--reference", self.reference)

    def places(self, granularity: str, day: date, type: str = "CLASS") -> list[Any]:
        """(rank, student, points) of all who are ranked, best first."""
        found = oracle.board(self.north, type, self.reference, granularity, day)
        return [(p.rank, p.student, p.points) for p in found.places] if found else []


@pytest.fixture(scope="module")
def prepared(_databases: Any) -> Iterator[tuple[Any, Schools]]:
    url = _databases.create(migrated=True)
    database = Database(url)
    schools = {}
    for seed, id, metadata in ((1, "north", LIMITS), (2, "south", {})):
        school = make_school(seed, id=id, moment=MOMENT, span=20, events=300, metadata=metadata)
        institution = load(database, school)
        list(aggregates.materialize(database, institution, DAYS, RUN))
        for type in BoardType:
            # The last day of south's campuses is still being made.
            unfinished = id == "south" and type is BoardType.CAMPUS
            made = DayRange(DAYS.first, DAYS.last - timedelta(days=1)) if unfinished else DAYS
            list(snapshots.materialize(database, institution, type, made, RUN))
            list(trends.materialize(database, institution, type, made, RUN))
        schools[id] = school
    with database.transaction() as connection:
        connection.execute("UPDATE lb.students SET name = 'Name of ' || id")
        # A class that south alone has.
        connection.execute(
            "INSERT INTO lb.classes (institution_key, id, name, subject_key, term_key)"
            " SELECT institution_key, 'only_south', 'x', min(subject_key), min(term_key)"
            " FROM lb.classes JOIN lb.institutions i USING (institution_key)"
            " WHERE i.id = 'south' GROUP BY 1"
        )
        connection.execute(
            "INSERT INTO lb.institutions (id, name, time_zone, status)"
            " VALUES ('quiet', 'x', 'UTC', 'ACTIVE'), ('closed', 'x', 'UTC', 'INACTIVE')"
        )
        north = institutions.find(connection, "north")
    sweeping.sweep(database, north, Granularity.DAILY, DAYS.last + timedelta(99), Actor("test"))
    with database.transaction() as connection:
        # As a purge of their leaf does.
        connection.execute(
            "DELETE FROM lb.leaderboard_snapshots WHERE institution_id = 'north'"
            " AND status = 'ARCHIVED' AND snapshot_date = %s",
            (PURGED,),
        )
    database.close()
    reference = max(
        schools["north"].references("CLASS"),
        key=lambda id: len(
            getattr(oracle.board(schools["north"], "CLASS", id, "weekly", DAY), "places", ())
        ),
    )
    yield url, Schools(schools["north"], schools["south"], reference)
    _databases.drop(url)


@pytest.fixture
def schools(
    prepared: tuple[Any, Schools], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Schools:
    url, schools = prepared
    monkeypatch.setenv("LB_DATABASE_URL", libpq_url(url))
    monkeypatch.setenv("LB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LB_CACHE_URL", raising=False)
    return schools


def asked(*arguments: object, exit_code: int = 0) -> dict[str, Any]:
    return told(run(*arguments, "--json"), exit_code)


def shown(*arguments: object) -> list[list[str]]:
    """The cells of a printed table, row by row, its header first."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return [
        [cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")]
        for line in result.stdout.splitlines()
        if line.startswith(("┃", "│"))
    ]


def lines(entries: list[dict[str, Any]]) -> list[tuple[int, str, int]]:
    return [(entry["rank"], entry["studentId"], entry["points"]) for entry in entries]


def test_the_board_is_rich_enough_to_tell_mistakes(schools: Schools) -> None:
    assert len(schools.places("weekly", DAY)) > 3
    assert schools.places("weekly", DAY) != schools.places("weekly", DAYS.last)
    assert schools.places("daily", DAY)


def test_a_board_of_a_day_is_what_the_reference_says(schools: Schools) -> None:
    board = asked("board", *schools.board, "--day", DAY)
    assert lines(board["entries"]) == schools.places("weekly", DAY)[:2]
    assert board["ranked"] == len(schools.places("weekly", DAY))
    assert (board["institutionId"], board["type"], board["referenceId"]) == (
        "north",
        "CLASS",
        schools.reference,
    )
    assert (board["day"], board["granularity"], board["status"]) == (
        DAY.isoformat(),
        "weekly",
        "ACTIVE",
    )
    assert all("name" not in entry for entry in board["entries"])
    header, *rows = shown("board", *schools.board, "--day", DAY)
    assert header == ["Rank", "Student", "Points", "Before"]
    assert [(row[0], row[1]) for row in rows] == [
        (str(rank), student) for rank, student, _ in schools.places("weekly", DAY)[:2]
    ]


def test_a_board_without_a_day_is_the_last_one_made(schools: Schools) -> None:
    board = asked("board", *schools.board, "--granularity", "monthly")
    assert board["day"] == DAYS.last.isoformat()
    assert lines(board["entries"]) == schools.places("monthly", DAYS.last)


def test_names_are_joined_only_when_asked_for(schools: Schools) -> None:
    board = asked("board", *schools.board, "--day", DAY, "--names", "--top", 1)
    (entry,) = board["entries"]
    assert entry["name"] == f"Name of {entry['studentId']}"
    header, *rows = shown("board", *schools.board, "--day", DAY, "--names", "--top", 1)
    assert header[2] == "Name"
    assert [row[2] for row in rows] == [entry["name"]]
    around = asked("around", *schools.board, "--student", entry["studentId"], "--names")
    assert all(e["name"] == f"Name of {e['studentId']}" for e in around["entries"])
    assert "Name of" not in run("board", *schools.board, "--day", DAY).stdout


def test_an_archived_board_answers_like_a_live_one(schools: Schools) -> None:
    for day, year, end in (
        (DAY, None, " Archived.\n"),
        (PURGED, "2023-2024", " Only the archive of 2023-2024 has it.\n"),
    ):
        options = (*schools.board, "--granularity", "daily", "--day", day)
        board = asked("board", *options)
        assert (board["status"], board["academicYear"]) == ("ARCHIVED", year)
        assert lines(board["entries"]) == schools.places("daily", day) != []
        assert run("board", *options).stdout.endswith(end)


def test_a_board_on_which_nobody_is_ranked_says_so(schools: Schools) -> None:
    quiet = next(
        (reference, type, day)
        for type in oracle.TYPES
        for reference in schools.north.references(type)
        for day in DAYS
        if oracle.board(schools.north, type, reference, "daily", day) is None
    )
    reference, type, day = quiet
    options = (*NORTH, "--reference", reference, "--type", type.lower(), "--day", day)
    board = asked("board", *options, "--granularity", "daily")
    assert (board["entries"], board["ranked"], board["mean"]) == ([], 0, None)
    assert "Nobody is ranked" in run("board", *options, "--granularity", "daily").stdout


def test_a_history_shows_closing_days_or_every_day_page_by_page(schools: Schools) -> None:
    range_ = ("--from", DAYS.first, "--to", DAYS.last)
    closing = asked("history", *schools.board, *range_)["boards"]
    assert [board["day"] for board in closing] == ["2023-11-05", "2023-10-29"]
    assert "entries" not in closing[0]
    pages: list[Any] = []
    before: tuple[object, ...] = ()
    while True:
        page = asked(
            "history", *schools.board, *range_, "--every-day", "--entries", "--limit", 4, *before
        )
        pages += page["boards"]
        if page["nextBefore"] is None:
            break
        assert len(page["boards"]) == 4
        assert len(pages) <= len(DAYS), "a page came twice"
        before = ("--before", page["nextBefore"])
    expected = {
        day.isoformat(): schools.places("weekly", day)[:2]
        for day in DAYS
        if schools.places("weekly", day)
    }
    assert {board["day"]: lines(board["entries"]) for board in pages} == expected
    assert len(pages) == len(expected) > 8
    text = run("history", *schools.board, *range_, "--every-day", "--limit", 4).stdout
    assert "More: --before 2023-11-02" in text
    header, *rows = shown("history", *schools.board, *range_)
    assert header[:3] == ["Day", "Since", "Ranked"]
    assert [row[0] for row in rows] == [board["day"] for board in closing]


def test_a_history_of_a_year_by_default(schools: Schools) -> None:
    boards = asked("history", *schools.board, "--granularity", "monthly")["boards"]
    assert [board["day"] for board in boards] == ["2023-11-05", "2023-10-31"]
    nothing = run("history", *schools.board, "--from", "2020-01-01", "--to", "2020-12-31")
    assert (nothing.exit_code, "no board" in nothing.stdout) == (0, True)


def test_ranks_on_a_named_board_are_exact_below_the_top_too(schools: Schools) -> None:
    places = schools.places("weekly", DAY)
    for rank, student, points in places:
        (standing,) = asked(
            "rank", *schools.board, "--student", student, "--granularity", "weekly", "--day", DAY
        )["standings"]
        assert (standing["rank"], standing["points"]) == (rank, points)
        assert standing["ranked"] == len(places)
        assert (standing["studentId"], standing["day"]) == (student, DAY.isoformat())
    unranked = set(schools.north.students) - {student for _, student, _ in places}
    for student in unranked:
        (standing,) = asked(
            "rank", *schools.board, "--student", student, "--granularity", "weekly", "--day", DAY
        )["standings"]
        assert (standing["rank"], standing["points"]) == (None, None)


def test_without_a_granularity_a_named_board_tells_all_of_them(schools: Schools) -> None:
    student = schools.places("all-time", DAY)[0][1]
    standings = asked("rank", *schools.board, "--student", student, "--day", DAY)["standings"]
    assert [standing["granularity"] for standing in standings] == list(Granularity)
    for standing in standings:
        places = {s: (r, p) for r, s, p in schools.places(standing["granularity"], DAY)}
        expected = places.get(student, (None, None))
        assert (standing["rank"], standing["points"]) == expected


def test_without_a_board_all_on_which_the_student_is_ranked(schools: Schools) -> None:
    student = schools.places("weekly", DAY)[-1][1]
    expected = {
        (type, reference, granularity): (place.rank, place.points)
        for type in oracle.TYPES
        for reference in schools.north.references(type)
        for granularity in oracle.GRANULARITIES
        for board in [oracle.board(schools.north, type, reference, granularity, DAYS.last)]
        if board
        for place in board.places
        if place.student == student
    }
    standings = asked("rank", *NORTH, "--student", student)["standings"]
    assert {
        (s["type"], s["referenceId"], s["granularity"]): (s["rank"], s["points"]) for s in standings
    } == expected
    part = asked("rank", *NORTH, "--student", student, "--type", "campus", "--granularity", "term")
    assert part["standings"] == [
        s for s in standings if (s["type"], s["granularity"]) == ("CAMPUS", "term")
    ]
    # Of the last day on which all are there.
    of_south = asked("rank", "--institution", "south", "--student", student)
    assert of_south["day"] == (DAYS.last - timedelta(days=1)).isoformat()
    header, *rows = shown("rank", *NORTH, "--student", student)
    assert header == ["Type", "Board", "Granularity", "Rank", "Ranked", "Percentile", "Points"]
    assert len(rows) == len(expected)


def test_around_shows_neighbours_and_points_at_the_student(schools: Schools) -> None:
    places = schools.places("all-time", DAY)
    middle = places[len(places) // 2]
    options = (*schools.board, "--student", middle[1], "--granularity", "all-time", "--day", DAY)
    around = asked("around", *options, "-k", 1)
    at = places.index(middle)
    assert list(lines(around["entries"])) == places[max(0, at - 1) : at + 2]
    assert around["tiedStudents"] == sum(place[2] == middle[2] for place in places) - 1
    assert "previousRank" not in around["entries"][0]
    assert around["ranked"] == len(places)
    _, *rows = shown("around", *options, "-k", 1)
    assert [row[1] for row in rows if row[-1] == "<"] == [middle[1]]


@pytest.mark.present
def test_trends_of_a_board_with_a_plot(schools: Schools) -> None:
    options = (*schools.board, "--months", 2, "--today", DAYS.last)
    points = asked("trends", *options)["points"]
    assert [point["day"] for point in points] == ["2023-11-05", "2023-10-29"]
    assert points[0]["ranked"] == len(schools.places("weekly", DAYS.last))
    assert points[0]["leaderId"] == schools.places("weekly", DAYS.last)[0][1]
    assert "climbers" in points[0]["movement"]
    text = run("trends", *options).stdout
    assert "Climbed" in text
    assert "█" in text
    assert text.splitlines()[-1].split() == ["2023-10-29", "2023-11-05"]  # Oldest left.
    # Without --today the last months are those of now, long after.
    assert asked("trends", *schools.board, "--months", 1)["points"] == []
    assert "no trends in these months" in run("trends", *schools.board, "--months", 1).stdout


@pytest.mark.present
def test_trends_of_a_student_are_exact_and_told_in_signs(schools: Schools) -> None:
    student = schools.places("weekly", DAYS.last)[-1][1]
    options = (*schools.board, "--student", student, "--months", 2, "--today", DAYS.last)
    standings = asked("trends", *options)["standings"]
    for standing in standings:
        places = schools.places("weekly", date.fromisoformat(standing["day"]))
        by_student = {s: (r, p) for r, s, p in places}
        assert (standing["rank"], standing["points"]) == by_student.get(student, (None, None))
    now, then = standings[0], standings[1]
    if then["rank"] is not None:
        assert now["rankChange"] == then["rank"] - now["rank"]
        _, row, *_ = shown("trends", *options)
        assert row[5] == f"{now['rankChange']:+d}"
    assert "Percentile (100: nobody has more points)" in run("trends", *options).stdout
    nothing = run("trends", *schools.board, "--student", student, "--months", 1)
    assert "no board in these months" in nothing.stdout


def test_two_boards_side_by_side(schools: Schools) -> None:
    other = next(id for id in schools.north.references("CLASS") if id != schools.reference)
    answer = asked(
        "compare", *schools.board, "--reference", other, "--from", DAYS.first, "--to", DAYS.last
    )
    assert (answer["a"], answer["b"]) == (schools.reference, other)
    row = answer["rows"][0]
    assert row["day"] == "2023-11-05"
    assert row["rankedA"] == len(schools.places("weekly", DAYS.last))
    of_other = oracle.board(schools.north, "CLASS", other, "weekly", DAYS.last)
    assert row["rankedB"] == (len(of_other.places) if of_other else None)
    header, *rows = shown("compare", *schools.board, "--reference", other)
    assert header[:3] == ["Day", "Ranked A", "Ranked B"]
    assert rows[0][0] == "2023-11-05"


def test_two_students_side_by_side(schools: Schools) -> None:
    (rank_a, a, _), *_, (rank_b, b, _) = schools.places("weekly", DAYS.last)
    answer = asked("compare", *schools.board, "--student", a, "--student", b)
    row = answer["rows"][0]
    assert (row["rankA"], row["rankB"]) == (rank_a, rank_b)
    assert "Percentile B" in run("compare", *schools.board, "--student", a, "--student", b).stdout


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else _csv(path)
    frame["day"] = pd.to_datetime(frame["day"]).dt.date
    named = frame[
        ["type", "reference_id", "granularity", "day", "rank", "student_id", "points", "ranked"]
    ]
    return sorted(named.itertuples(index=False, name=None))


def _csv(path: Path) -> pd.DataFrame:
    # A student is called NA.
    return pd.read_csv(path, keep_default_na=False, dtype={"student_id": str, "reference_id": str})


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_export_of_a_day_holds_all_boards_of_the_institution(
    schools: Schools, tmp_path: Path, suffix: str
) -> None:
    expected = sorted(
        (type, reference, granularity, DAY, p.rank, p.student, p.points, len(board.places))
        for type in oracle.TYPES
        for reference in schools.north.references(type)
        for granularity in oracle.GRANULARITIES
        for board in [oracle.board(schools.north, type, reference, granularity, DAY)]
        if board
        for p in board.places[: 2 if (type, granularity) == ("CLASS", "weekly") else None]
    )
    path = tmp_path / f"day{suffix}"
    done = asked("export", path, *NORTH, "--day", DAY)
    assert rows_of(path) == expected
    assert (done["rows"], done["bytes"]) == (len(expected), path.stat().st_size)
    assert (done["file"], done["format"]) == (str(path), suffix[1:])
    assert done["boards"] == len({row[:3] for row in expected}) > 10


def test_an_export_of_a_history_pages_through_it(
    schools: Schools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extracts, "_GROUP_ROWS", 3)
    monkeypatch.setattr(extracts, "_PAGE", 4)
    path = tmp_path / "history.parquet"
    options = (*schools.board, "--type", "CLASS", "--granularity", "daily", "--every-day")
    result = run("export", path, *options, "--from", DAYS.first, "--to", DAYS.last)
    assert result.exit_code == 0, result.output
    expected = [
        ("CLASS", schools.reference, "daily", day, rank, student, points, len(places))
        for day in DAYS
        for places in [schools.places("daily", day)]
        for rank, student, points in places
    ]
    assert rows_of(path) == sorted(expected)
    assert len(expected) > 10
    assert {PURGED, DAY} <= {row[3] for row in expected}
    assert set(pd.read_parquet(path)["status"]) == {"ARCHIVED"}
    assert f"{len(expected)} entries" in result.stdout


def test_an_export_replaces_nothing_unless_forced(schools: Schools, tmp_path: Path) -> None:
    path = tmp_path / "day.csv"
    path.write_text("mine")
    assert asked("export", path, *NORTH, exit_code=1)["error"] == "ExportRefused"
    assert path.read_text() == "mine"
    asked("export", path, *NORTH, "--force")
    assert path.read_text() != "mine"
    directory = tmp_path / "directory.csv"
    directory.mkdir()
    refused = asked("export", directory, *NORTH, "--force", exit_code=1)
    assert refused["error"] == "ExportRefused"
    assert sorted(tmp_path.iterdir()) == [path, directory]


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(
    schools: Schools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "day.csv"
    path.write_text("mine")
    begun: list[list[str]] = []
    write = extracts._write

    def fail(*arguments: Any) -> Any:
        write(*arguments)
        begun.append([p.name for p in tmp_path.iterdir() if p != path])
        assert path.read_text() == "mine"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(extracts, "_write", fail)
    refused = asked("export", path, *NORTH, "--force", exit_code=1)
    assert (refused["error"], "No space left" in refused["thing"]) == ("ExportRefused", True)
    assert len(begun[0]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["day.csv"]
    assert path.read_text() == "mine"


def test_a_file_that_appears_meanwhile_is_not_replaced(
    schools: Schools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "day.csv"
    write = extracts._write

    def slow(*arguments: Any) -> Any:
        path.write_text("another's")
        return write(*arguments)

    monkeypatch.setattr(extracts, "_write", slow)
    assert asked("export", path, *NORTH, exit_code=1)["error"] == "ExportRefused"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("day.csv", "another's")]


_CLASS = (*NORTH, "--reference", "a")


@pytest.mark.present
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("board", "--institution", "nowhere", "--reference", "a"), "UnknownInstitution"),
        (("board", "--institution", "closed", "--reference", "a"), "InactiveInstitution"),
        (("board", "--institution", "quiet", "--reference", "a"), "UnknownBoard"),
        (("board", *NORTH, "--reference", "nothing"), "UnknownBoard"),
        # Another institution's.
        (("board", *NORTH, "--reference", "only_south"), "UnknownBoard"),
        (("history", *NORTH, "--reference", "only_south"), "UnknownBoard"),
        (("trends", *NORTH, "--reference", "only_south"), "UnknownBoard"),
        (("rank", *NORTH, "--reference", "only_south", "--student", "s1"), "UnknownBoard"),
        (("around", *NORTH, "--reference", "only_south", "--student", "s1"), "UnknownBoard"),
        (("compare", *_CLASS, "--reference", "only_south"), "UnknownBoard"),
        (("export", "OUT/x.csv", *NORTH, "--reference", "only_south"), "UnknownBoard"),
        (("board", *_CLASS, "--day", "2020-01-01"), "NotMaterialized"),
        (("rank", *NORTH, "--student", "nobody"), "UnknownStudent"),
        (("rank", *_CLASS, "--student", "nobody"), "UnknownStudent"),
        (("rank", *NORTH, "--student", "s1", "--day", "2020-01-01"), "NotMaterialized"),
        (("rank", "--institution", "quiet", "--student", "s1"), "NotMaterialized"),
        (("rank", "--institution", "closed", "--student", "s1"), "InactiveInstitution"),
        (("around", *_CLASS, "--student", "nobody"), "UnknownStudent"),
        (("trends", *_CLASS, "--months", "0"), "InvalidSelection"),
        (("trends", "--institution", "nowhere", "--reference", "a", "--today", "2023-01-01"),
         "UnknownInstitution"),
        (("history", *_CLASS, "--from", "2023-11-02", "--to", "2023-11-01"), "InvalidPartition"),
        (("export", "OUT/x.xlsx", *NORTH), "InvalidSelection"),
        (("export", "OUT/absent/x.csv", *NORTH), "ExportRefused"),
        (("export", "OUT/x.csv", *NORTH, "--day", "2020-01-01"), "NotMaterialized"),
        (("export", "OUT/x.csv", "--institution", "closed"), "InactiveInstitution"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_thing_and_remedy(
    schools: Schools, tmp_path: Path, arguments: tuple[str, ...], error: str
) -> None:
    words = [word.replace("OUT", str(tmp_path)) for word in arguments]
    answer = asked(*words, exit_code=1)
    assert answer["error"] == error
    assert answer["thing"]
    spoken = run(*words)
    assert (spoken.exit_code, spoken.stdout) == (1, "")
    assert error in spoken.stderr
    assert answer["remedy"] in spoken.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("board", *NORTH),
        ("board", "--reference", "a"),
        ("board", *_CLASS, "--granularity", "hourly"),
        ("board", *_CLASS, "--type", "SCHOOL"),
        ("board", *_CLASS, "--day", "2023-02-30"),
        ("board", *_CLASS, "--top", "0"),
        ("board", *_CLASS, "--day", "1969-12-31"),
        ("rank", *_CLASS, "--student", "s1", "--day", "9999-12-31"),
        ("trends", *_CLASS, "--today", "0001-01-01"),
        ("history", *_CLASS, "--to", "3000-01-01"),
        ("history", *_CLASS, "--limit", "0"),
        ("rank", *_CLASS),
        ("around", *_CLASS, "--student", "s1", "-k", "-1"),
        ("trends", *_CLASS, "--months", "many"),
        ("compare", *_CLASS),
        ("compare", *_CLASS, "--student", "s1"),
        ("compare", *_CLASS, "--reference", "B", "--student", "s1", "--student", "s2"),
        ("export", *NORTH),
        ("export", "x.csv", *NORTH, "--day", "2023-11-01", "--to", "2023-11-02"),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Said before any database is asked for.
    monkeypatch.setenv("LB_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    result: Result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_the_cache_of_the_settings_is_used(
    schools: Schools, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Redis that does not answer costs a moment, not the answer.
    expected = asked("board", *schools.board)
    monkeypatch.setenv("LB_CACHE_URL", "redis://127.0.0.1:1/0")
    assert asked("board", *schools.board) == expected
    kept, region = [], region_from(None)
    monkeypatch.setattr(access, "region_from", lambda url: kept.append(url) or region)
    assert asked("board", *schools.board) == asked("board", *schools.board) == expected
    assert kept == ["redis://127.0.0.1:1/0"] * 2
    assert len(region.actual_backend._cache) == 1
    monkeypatch.setenv("LB_CACHE_URL", "memcached://x")
    assert asked("board", *schools.board, exit_code=1)["error"] == "InvalidEnvironment"


@pytest.mark.parametrize("day", ["1970-01-01", "2999-12-31"])
def test_no_day_that_can_be_typed_breaks_anything(schools: Schools, day: str) -> None:
    student = ("--student", "s1")
    for arguments in (
        ("board", *schools.board, "--granularity", "term", "--day", day),
        ("rank", *NORTH, *student, "--day", day),
        ("rank", *schools.board, *student, "--day", day),
        ("around", *schools.board, *student, "--day", day),
        ("history", *schools.board, "--to", day),
        ("history", *schools.board, "--before", day),
        ("trends", *schools.board, "--today", day, "--months", 1200),
        ("trends", *schools.board, *student, "--today", day),
        ("compare", *schools.board, *student, *student, "--to", day),
    ):
        assert run(*arguments).exit_code in (0, 1), arguments


def days(*values: float | None) -> list[tuple[date, float | None]]:
    return [(DAY + timedelta(days=at), value) for at, value in enumerate(values)]


def test_a_plot_shows_heights_gaps_and_ends() -> None:
    assert plots.columns("Ranked", days(0, 8, None, 16)).splitlines() == [
        "Ranked",
        "16 |         ███",
        "   |         ███",
        "   |   ███   ███",
        " 0 |▁▁▁███   ███",
        "    2023-11-03 2023-11-06",
    ]
    assert plots.columns("x", days(-4, 0, 4)).splitlines()[1:5] == [
        " 4 |      ███",
        "   |      ███",
        "   |   ██████",
        "-4 |▁▁▁██████",
    ]
    assert plots.columns("x", days(None, None)) == "x: nothing to plot"
    assert "#" in plots.columns("x", days(1, 2), ascii_only=True)
    plots.columns("x", days(1, 2), ascii_only=True).encode("ascii")


def test_a_plot_of_many_days_ends_on_the_last() -> None:
    many = days(*[1.0] * 364, 9.0)
    plot = plots.columns("x", many, width=40).splitlines()
    assert all(len(line) <= 4 + 40 for line in plot)
    assert plot[1] == "9 |" + " " * 39 + "█"
    flat = plots.columns("x", days(5, 5)).splitlines()
    assert flat[1] == "5 |██████"


def test_the_python_of_the_tour_compiles_and_asks_what_the_service_answers() -> None:
    blocks = python_shown_in(ROOT / "docs" / "tour.md")
    assert len(blocks) == 12
    asked_for = set()
    for number, block in enumerate(blocks):
        compile(block, "docs/tour.md", "exec")
        # The first two make ready; after them three lines answer.
        assert number < 2 or len(block.splitlines()) <= 3
        asked_for.update(asked_of_the_service(block))
    assert len(asked_for) > 6


def test_the_check_of_calls_would_notice() -> None:
    assert asked_of_the_service("service.get_rank(1, 2, 3, 4, 5, day=6)") == ["get_rank"]
    for wrong in ("service.get_rank(1)", "service.get_rank(1, 2, 3, 4, 5, 6, 7)", "service.no()"):
        with pytest.raises((TypeError, AttributeError)):
            asked_of_the_service(wrong)


def test_errors_are_one_object_without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LB_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    result = run("board", *_CLASS, "--json")
    assert json.loads(result.stdout)["error"] == "DatabaseUnavailable"
    assert result.exit_code == 1
