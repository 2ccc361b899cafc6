"""Retention from the command line, on one prepared district: what moves, what is only shown, what
is refused, and that what the help and the documents show can be typed.

All days lie in 2023, so that they have expired whatever day it is; what must not expire has a
retention of a hundred years.
"""

from __future__ import annotations

import getpass
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from lb_pipelines.clock import utc_now
from lb_pipelines.core.periods import ONE_DAY, DayRange
from lb_pipelines.core.words import BoardType
from lb_pipelines.db.engine import Database
from lb_pipelines.materialize import snapshots, trends
from lb_pipelines.materialize.results import Provenance
from lb_pipelines_tests.commands import (
    Lb,
    parsed,
    run,
    shown_in,
    shown_in_help,
    sql_shown_in,
    told,
    verbs,
)
from lb_pipelines_tests.conftest import libpq_url
from lb_pipelines_tests.worlds import at_local, load, make_school

ROOT = Path(__file__).parent.parent
MOMENT = ("Europe/London", date(2023, 10, 29))
DAYS = DayRange(date(2023, 10, 25), date(2023, 11, 3))
ALWAYS = 36_500
NORTH = {"leaderboardRetention": {"term": ALWAYS, "all-time": ALWAYS}}
# No retention lets anything expire before it.
FUTURE = date(2999, 12, 31)
NORTH_DAYS = ("--institution", "north", "--from", DAYS.first, "--to", DAYS.last)


@pytest.fixture(scope="module")
def prepared(_databases: Any) -> Iterator[Any]:
    """Two schools with ten days of boards; copied for each test."""
    url = _databases.create(migrated=True)
    database = Database(url)
    for seed, id, metadata in ((1, "north", NORTH), (2, "south", {})):
        school = make_school(seed, id=id, moment=MOMENT, span=20, events=200, metadata=metadata)
        institution = load(database, school)
        for type in BoardType:
            for _ in snapshots.materialize(database, institution, type, DAYS, Provenance("first")):
                pass
            for _ in trends.materialize(database, institution, type, DAYS, Provenance("first")):
                pass
    database.close()
    yield url
    _databases.drop(url)


@pytest.fixture(scope="module")
def swept(_databases: Any, prepared: Any) -> Iterator[Any]:
    """The same after a sweep."""
    url = _databases.copy(prepared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LB_DATABASE_URL", libpq_url(url))
        assert run("archive", "run", "--execute").exit_code == 0
    yield url
    _databases.drop(url)


@pytest.fixture
def district(
    _databases: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Database]:
    """A test's own copy: after the sweep where it asks for `archived`, else before."""
    template = "swept" if "archived" in request.fixturenames else "prepared"
    url = _databases.copy(request.getfixturevalue(template))
    monkeypatch.setenv("LB_DATABASE_URL", libpq_url(url))
    monkeypatch.setenv("LB_HOME", str(tmp_path / "home"))
    database = Database(url)
    yield database
    database.close()
    _databases.drop(url)


@pytest.fixture
def lb(district: Database) -> Lb:
    return run


@pytest.fixture
def archived(district: Database) -> Lb:
    """`lb` where all that had expired is in the archive."""
    return run


@pytest.fixture(scope="module")
def untouched(swept: Any) -> Any:
    """What the database after the sweep holds, which tests that only look must leave so."""
    database = Database(swept)
    try:
        return state(database)
    finally:
        database.close()


@pytest.fixture
def looking(swept: Any, untouched: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """For tests that change nothing: all look at one database after the sweep, not at copies."""
    monkeypatch.setenv("LB_DATABASE_URL", libpq_url(swept))
    database = Database(swept)
    yield database
    now = state(database)
    database.close()
    assert now == untouched


def query(database: Database, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def state(database: Database) -> dict[str, Any]:
    """All that the database holds, as a number a table."""
    tables = query(
        database,
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'lb' AND c.relkind IN ('r', 'p') ORDER BY 1",
    )
    assert len(tables) > 15
    return {
        table: query(
            database, f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM lb.{table} t"
        )
        for (table,) in tables
    }


def moved(database: Database) -> dict[str, tuple[int, int, int]]:
    """By granularity of north: ACTIVE, ARCHIVED, copies."""
    rows = query(
        database,
        "SELECT s.time_granularity, count(*) FILTER (WHERE status = 'ACTIVE'),"
        " count(*) FILTER (WHERE status = 'ARCHIVED'), count(a.original_id)"
        " FROM lb.leaderboard_snapshots s LEFT JOIN lb.archived_leaderboard_snapshots a"
        " ON a.institution_id = s.institution_id AND a.original_id = s.id"
        " WHERE s.institution_id = 'north' GROUP BY 1",
    )
    return {granularity: (active, marked, copies) for granularity, active, marked, copies in rows}


def test_every_example_of_the_help_can_be_typed() -> None:
    lines = shown_in_help()
    assert len(lines) > 25
    for line in lines:
        parsed(line)
    # Every verb that came later teaches by example.
    without = {words for words, command in verbs().items() if not command.epilog}
    assert without == {("migrate",), ("generate",), ("import", "oulad"), ("import", "csv")}


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/operations.md",
        "docs/retention.md",
        "docs/import-format.md",
        "docs/tour.md",
    ],
)
def test_every_command_of_a_document_can_be_typed(document: str) -> None:
    lines = shown_in(ROOT / document)
    assert lines
    for line in lines:
        parsed(line)


def test_every_command_that_is_named_anywhere_exists() -> None:
    groups = {words[:length] for words in verbs() for length in range(1, len(words) + 1)}
    files = [*(ROOT / "lb_pipelines").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
    named = {
        tuple(re.findall(r"[a-z]+", words)): path
        for path in [*files, ROOT / "README.md"]
        for words in re.findall(r"`lb ((?:[a-z]+ ?)+)", path.read_text())
    }
    assert len(named) > 15
    for words, path in named.items():
        assert words in groups, f"{path} names `lb {' '.join(words)}`"


@pytest.mark.parametrize("document", ["README.md", "docs/retention.md"])
def test_the_sql_of_a_document_runs(looking: Database, document: str) -> None:
    statements = sql_shown_in(ROOT / document)
    assert statements
    with looking.transaction() as connection:
        for statement in statements:
            connection.execute(statement)
        connection.rollback()


def test_what_is_destructive_is_only_shown_unless_told_to_execute() -> None:
    expected = {
        ("archive", "run"),
        ("restore",),
        ("rematerialize",),
        ("purge", "run"),
        ("erase", "student"),
    }
    can = {
        words
        for words, command in verbs().items()
        if any(p.name == "execute" for p in command.params)
    }
    assert can == expected
    for words, command in verbs().items():
        names = {parameter.name for parameter in command.params}
        assert "as_json" in names, words
        for parameter in command.params:
            assert parameter.name != "execute" or parameter.default is False, words


@pytest.mark.present
def test_a_plan_shows_what_has_expired_and_moves_nothing(lb: Lb, district: Database) -> None:
    before = state(district)
    plan = told(lb("archive", "plan", "--json"))["plan"]
    assert len(plan) == 10
    by = {(line["institutionId"], line["granularity"]): line for line in plan}
    active = moved(district)
    daily = by["north", "daily"]
    assert (daily["rows"], daily["first"]) == (active["daily"][0], DAYS.first.isoformat())
    assert daily["rows"] > 10
    assert daily["bytes"] > 0
    assert by["north", "all-time"]["rows"] == 0
    assert by["north", "term"]["cutoff"] < "1950"
    shown = lb("archive", "run")
    assert shown.exit_code == 0
    assert "north" in shown.stdout
    assert "Nothing was moved" in shown.stdout
    assert state(district) == before


def test_a_plan_can_be_asked_for_another_day_and_for_a_part(lb: Lb) -> None:
    day = DAYS.first + timedelta(days=32)  # The daily boards of two days are older than 30 then.
    part = ("--institution", "north", "--granularity", "daily", "--today", day, "--json")
    plan = told(lb("archive", "plan", *part))["plan"]
    assert [line["granularity"] for line in plan] == ["daily"]
    assert told(lb("archive", "plan", "--granularity", "daily", *part))["plan"] == plan
    assert plan[0]["last"] == (DAYS.first + timedelta(days=1)).isoformat()
    assert plan[0]["cutoff"] == (DAYS.first + timedelta(days=2)).isoformat()


@pytest.mark.present
def test_a_sweep_archives_what_the_plan_said_and_the_second_finds_nothing(
    lb: Lb, district: Database
) -> None:
    planned = told(lb("archive", "plan", "--institution", "north", "--json"))["plan"]
    sweeps = told(
        lb("archive", "run", "--institution", "north", "--execute", "--json", "--by", "Ada")
    )["sweeps"]
    assert [(s["granularity"], s["rows"]) for s in sweeps] == [
        (p["granularity"], p["rows"]) for p in planned if p["rows"]
    ]
    now = moved(district)
    assert all(now[g][0] == 0 and now[g][1] == now[g][2] > 0 for g in ("daily", "monthly"))
    assert now["all-time"][1:] == (0, 0)
    assert query(district, "SELECT DISTINCT started_by, run_id FROM lb.archive_runs") == [
        ("Ada", None)
    ]
    again = lb("archive", "run", "--institution", "north", "--execute")
    assert "Nothing had expired" in again.stdout
    assert moved(district) == now


@pytest.mark.present
def test_one_wrong_setting_stops_one_institution(lb: Lb, district: Database) -> None:
    query(
        district,
        "UPDATE lb.institutions SET metadata ="
        """ '{"leaderboardRetention": {"daily": "soon"}}' WHERE id = 'north'""",
    )
    answer = told(lb("archive", "run", "--execute", "--json"), exit_code=1)
    assert {sweep["institutionId"] for sweep in answer["sweeps"]} == {"south"}
    (refused,) = answer["refused"]
    assert (refused["institutionId"], refused["error"]) == ("north", "InvalidSetting")
    assert "leaderboardRetention.daily" in refused["thing"]
    assert "soon" in refused["thing"]
    result = lb("archive", "plan")
    assert result.exit_code == 1
    assert "InvalidSetting" in result.stderr
    assert "Set it to" in result.stderr


@pytest.mark.present
def test_without_names_only_active_institutions_are_meant(lb: Lb, district: Database) -> None:
    query(district, "UPDATE lb.institutions SET status = 'INACTIVE' WHERE id = 'north'")
    plan = told(lb("archive", "plan", "--json"))["plan"]
    assert {line["institutionId"] for line in plan} == {"south"}
    named = told(lb("archive", "plan", "--institution", "north", "--json"))["plan"]
    assert sum(line["rows"] for line in named) > 0


def test_the_archive_is_read_page_by_page(looking: Database) -> None:
    choice = ("--institution", "north", "--type", "class", "--granularity", "weekly")
    rows = told(run("archive", "list", *choice, "--count", "--json"))["rows"]
    pages: list[Any] = []
    after: tuple[str, ...] = ()
    while True:
        page = told(run("archive", "list", *choice, "--limit", 3, *after, "--json"))
        pages += page["snapshots"]
        if page["next"] is None:
            break
        assert len(page["snapshots"]) == 3
        after = ("--after", page["next"])
    ids = [snapshot["originalId"] for snapshot in pages]
    assert len(ids) == len(set(ids)) == rows > 3
    days = [snapshot["snapshotDate"] for snapshot in pages]
    assert days == sorted(days, reverse=True)
    assert {(s["type"], s["granularity"], s["academicYear"]) for s in pages} == {
        ("CLASS", "weekly", "2023-2024")
    }
    assert "entries" not in pages[0]
    full = told(run("archive", "list", *choice, "--entries", "--json"))["snapshots"]
    assert full[0]["entries"]
    assert full[0]["metadata"]["ranked"] == pages[0]["ranked"]
    shown = run("archive", "list", *choice, "--limit", 3)
    assert f"More: --after '{ids[2]}'" in shown.stdout


@pytest.mark.parametrize(
    ("choice", "condition"),
    [
        (("--reference", "a"), "reference_id = 'a'"),
        (("--from", "2023-10-30", "--to", "2023-10-30"), "snapshot_date = '2023-10-30'"),
        (("--year", "2022-2023"), "false"),
        (("--term", "t0", "--term", "t1"), "term_id IN ('t0', 't1')"),
        (
            ("--type", "CAMPUS", "--granularity", "daily"),
            "type = 'CAMPUS' AND time_granularity = 'daily'",
        ),
    ],
)
def test_a_selection_is_what_it_says(
    looking: Database, choice: tuple[str, ...], condition: str
) -> None:
    ((expected,),) = query(
        looking,
        "SELECT count(*) FROM lb.archived_leaderboard_snapshots"
        f" WHERE institution_id = 'south' AND {condition}",
    )
    answer = run("archive", "list", "--institution", "south", *choice, "--count", "--json")
    assert told(answer) == {"rows": expected}
    assert (expected > 0) == (condition != "false")


@pytest.mark.present
def test_the_ledger_tells_sweeps_and_restores_the_latest_first(archived: Lb) -> None:
    choice = ("--institution", "north", "--granularity", "daily", "--until", FUTURE)
    restored = told(archived("restore", *choice, "--execute", "--json"))["restored"]
    runs = told(archived("archive", "runs", "--institution", "north", "--json"))["runs"]
    assert [line["kind"] for line in runs] == ["RESTORE", "SWEEP", "SWEEP", "SWEEP"]
    assert runs[0]["archiveRun"] == restored["archiveRun"]
    assert runs[0]["startedBy"] == getpass.getuser()
    daily = next(line for line in runs[1:] if line["granularity"] == "daily")
    # What came back is what went: the digest does not depend on order or batches.
    assert (daily["rows"], daily["digest"]) == (runs[0]["rows"], runs[0]["digest"])
    shown = archived("archive", "runs", "--institution", "north", "--limit", 1)
    assert "RESTORE" in shown.stdout
    assert "SWEEP" not in shown.stdout


def test_verification_passes_until_a_copy_differs(archived: Lb, district: Database) -> None:
    verdicts = told(archived("archive", "verify", "--json"))["verdicts"]
    assert [verdict["wrong"] for verdict in verdicts] == [0, 0]
    assert verdicts[0]["originals"] == verdicts[0]["copies"] > 0
    query(
        district,
        r"UPDATE lb.archived_leaderboard_snapshots SET content_hash = '\x00'"
        " WHERE original_id = (SELECT min(original_id) FROM lb.archived_leaderboard_snapshots"
        " WHERE institution_id = 'south')",
    )
    broken = told(archived("archive", "verify", "--json"), exit_code=1)["verdicts"]
    assert [(v["institutionId"], v["differing"]) for v in broken] == [("north", 0), ("south", 1)]
    shown = archived("archive", "verify", "--institution", "south")
    assert shown.exit_code == 1
    assert broken[1]["example"] in shown.stdout
    assert "docs/retention.md" in shown.stderr
    assert archived("archive", "verify", "--from", "2024-01-01").exit_code == 2
    elsewhere = ("--from", "2024-01-01", "--to", "2024-01-31")
    assert told(archived("archive", "verify", *elsewhere, "--json"))["verdicts"][1]["copies"] == 0


@pytest.mark.present
def test_a_restore_is_shown_first_and_holds_until_its_day(archived: Lb, district: Database) -> None:
    before = state(district)
    choice = ("--institution", "north", "--granularity", "daily", "--until", FUTURE)
    planned = told(archived("restore", *choice, "--json"))
    assert planned["dryRun"] is True
    assert planned["plan"]["rows"] > 0
    assert "add --execute" in archived("restore", *choice).stdout
    assert state(district) == before
    done = told(archived("restore", *choice, "--execute", "--json"))["restored"]
    assert done["rows"] == planned["plan"]["rows"]
    active, marked, copies = moved(district)["daily"]
    assert (active, marked, copies) == (done["rows"], 0, 0)
    assert query(
        district,
        "SELECT DISTINCT active_until FROM lb.leaderboard_snapshots"
        " WHERE institution_id = 'north' AND time_granularity = 'daily'",
    ) == [(FUTURE,)]
    plan = told(archived("archive", "plan", "--institution", "north", "--json"))["plan"]
    assert (plan[0]["rows"], plan[0]["restored"]) == (0, done["rows"])
    again = told(archived("restore", *choice, "--execute", "--json"))["restored"]
    assert (again["rows"], again["archiveRun"]) == (0, None)


@pytest.mark.present
@pytest.mark.parametrize("execute", [(), ("--execute",)])
def test_a_restore_into_the_past_is_refused_when_shown_too(
    looking: Database, execute: tuple[str, ...]
) -> None:
    refused = run("restore", *NORTH_DAYS, "--until", "2024-01-01", *execute, "--json")
    assert told(refused, exit_code=1)["error"] == "InvalidSelection"


@pytest.mark.present
def test_archived_boards_are_made_anew_only_when_told_to(archived: Lb, district: Database) -> None:
    day = DAYS.first
    query(
        district,
        "INSERT INTO lb.student_points (institution_key, event_id, student_key, class_key,"
        " amount, occurred_at) SELECT institution_key, 'late', min(student_key),"
        " (SELECT class_key FROM lb.classes c WHERE c.institution_key = s.institution_key"
        "  AND c.id = 'a'), 1000, %s FROM lb.students s"
        " JOIN lb.institutions i USING (institution_key) WHERE i.id = 'north'"
        " GROUP BY institution_key",
        at_local(day, time(12), "Europe/London"),
    )
    choice = ("--institution", "north", "--type", "CLASS", "--from", day, "--to", day)
    before = state(district)
    planned = told(archived("rematerialize", *choice, "--archived", "--json"))
    assert planned["archivedRows"]["CLASS"] > 0
    assert "would be renewed" in archived("rematerialize", *choice, "--archived").stdout
    assert "stay as they are" in archived("rematerialize", *choice).stdout
    assert state(district) == before
    kept = told(archived("rematerialize", *choice, "--execute", "--json"))["assets"]
    snapshots_of = {line["asset"]: line for line in kept}["class_snapshots"]
    assert snapshots_of["archivedKept"] == planned["archivedRows"]["CLASS"]
    assert snapshots_of["archivedDiffering"] > 0
    assert snapshots_of["archivedRenewed"] == 0
    done = told(
        archived("rematerialize", *choice, "--archived", "--execute", "--by", "Ada", "--json")
    )["assets"]
    renewed = {line["asset"]: line for line in done}["class_snapshots"]["archivedRenewed"]
    assert renewed == snapshots_of["archivedDiffering"]
    ledger = query(district, "SELECT DISTINCT run_id, revision FROM lb.archive_revisions")
    assert ledger == [("lb rematerialize by Ada", 2)]
    assert told(archived("archive", "verify", "--json"))["verdicts"][0]["wrong"] == 0


@pytest.mark.present
def test_days_that_are_not_over_are_not_made(lb: Lb) -> None:
    after_tomorrow = utc_now().date() + 2 * ONE_DAY
    choice = ("--institution", "north", "--from", DAYS.first, "--to", after_tomorrow)
    assert told(lb("rematerialize", *choice, "--json"), 1)["error"] == "InvalidSelection"


@pytest.mark.present
def test_a_hold_keeps_everything_where_it_is_until_it_is_released(
    archived: Lb, district: Database
) -> None:
    archived("restore", *NORTH_DAYS, "--until", FUTURE, "--execute")
    query(district, "UPDATE lb.leaderboard_snapshots SET active_until = NULL")
    place = ("hold", "place", "--institution", "north", "--from", "2023-10", "--to", "2023-10")
    number = told(archived(*place, "--reason", "Case [17]", "--by", "Ada", "--json"))["hold"]
    (line, *_) = told(archived("archive", "plan", "--institution", "north", "--json"))["plan"]
    assert line["held"] > 0
    assert line["first"] == "2023-11-01"
    archived("archive", "run", "--institution", "north", "--execute")
    assert moved(district)["daily"][0] == line["held"]
    refused = archived("rematerialize", *NORTH_DAYS, "--archived", "--json")
    assert told(refused, 1)["error"] == "UnderLegalHold"
    (hold,) = told(archived("hold", "list", "--json"))["holds"]
    assert (hold["hold"], hold["reason"], hold["placedBy"]) == (number, "Case [17]", "Ada")
    assert (hold["type"], hold["firstMonth"], hold["lastMonth"]) == (
        None,
        "2023-10-01",
        "2023-10-01",
    )
    assert "Case [17]" in archived("hold", "list").stdout
    assert archived("hold", "release", number, "--institution", "north").exit_code == 0
    assert told(archived("hold", "list", "--json"))["holds"] == []
    assert len(told(archived("hold", "list", "--every", "--json"))["holds"]) == 1
    twice = archived("hold", "release", number, "--institution", "north", "--json")
    assert told(twice, 1)["error"] == "InvalidHold"
    archived("archive", "run", "--institution", "north", "--execute")
    assert moved(district)["daily"][0] == 0


@pytest.mark.present
def test_an_export_is_checked_and_comes_back(
    archived: Lb, district: Database, tmp_path: Path
) -> None:
    directory = tmp_path / "out" / "2023"
    choice = ("--institution", "north", "--type", "CLASS")
    rows = told(archived("archive", "list", *choice, "--count", "--json"))["rows"]
    done = told(archived("archive", "export", directory, *choice, "--by", "Ada", "--json"))
    assert (done["rows"], done["directory"]) == (rows, str(directory))
    checked = told(archived("archive", "check", directory, "--json"))
    assert (checked["rows"], checked["manifestSha256"]) == (rows, done["manifestSha256"])
    assert told(archived("archive", "export", directory, *choice, "--json"), 1)["error"] == (
        "ExportRefused"
    )
    before = query(district, "SELECT * FROM lb.archived_leaderboard_snapshots ORDER BY original_id")
    there = told(archived("archive", "import", directory, "--json"))
    assert (there["rows"], there["there"]) == (0, rows)
    lost = (
        "DELETE FROM lb.{} WHERE institution_id = 'north' AND type = 'CLASS'"
        " AND snapshot_date = '2023-10-30' AND {}"
    )
    query(district, lost.format("archived_leaderboard_snapshots", "true"))
    assert told(archived("archive", "verify", "--json"), 1)["verdicts"][0]["missing"] > 0
    back = archived("archive", "import", directory, "--by", "Ada")
    assert back.exit_code == 0, back.output
    assert "came into the archive of institution north" in back.stdout
    assert told(archived("archive", "verify", "--json"))["verdicts"][0]["wrong"] == 0
    after = query(district, "SELECT * FROM lb.archived_leaderboard_snapshots ORDER BY original_id")
    assert [row[2:] for row in after] == [row[2:] for row in before]  # But the run and when.
    file = next(directory.glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    damaged = told(archived("archive", "check", directory, "--json"), 1)
    assert damaged["error"] == "ExportDamaged"
    assert file.name in damaged["thing"]


@pytest.mark.present
def test_a_purge_goes_in_two_phases_and_the_archive_stays(
    lb: Lb, district: Database, tmp_path: Path
) -> None:
    days = dict.fromkeys(("daily", "weekly", "monthly", "term", "all-time"), 1)
    query(
        district,
        "UPDATE lb.institutions SET metadata = %s::jsonb WHERE id = 'north'",
        json.dumps({"leaderboardRetention": days, "leaderboardPurge": {"graceDays": 5}}),
    )
    lb("archive", "run", "--institution", "north", "--execute")
    query(district, "UPDATE lb.archived_leaderboard_snapshots SET archived_at = '2024-01-01'")
    copies = query(district, "SELECT count(*) FROM lb.archived_leaderboard_snapshots")
    before = state(district)
    plan = told(lb("purge", "plan", "--json"))["plan"]
    assert {(line["phase"], line["waitsFor"]) for line in plan} == {("detach", None)}
    assert len(plan) == 6  # Three types, two months.
    assert "add --execute" in lb("purge", "run").stdout
    assert state(district) == before
    run = ("purge", "run", "--execute", "--exports", tmp_path, "--by", "Ada", "--json")
    purges = told(lb(*run))["purges"]
    assert {line["state"] for line in purges} == {"DETACHED"}
    assert {Path(line["exportDirectory"]).is_relative_to(tmp_path) for line in purges} == {True}
    waiting = told(lb("purge", "plan", "--json"))["plan"]
    assert {line["phase"] for line in waiting} == {"drop"}
    assert all("grace" in line["waitsFor"] for line in waiting)
    assert "Nothing could go" in lb(*run[:-1]).stdout
    query(district, "UPDATE lb.purges SET drop_after = '2024-01-01'")
    assert {line["state"] for line in told(lb(*run))["purges"]} == {"DROPPED"}
    assert moved(district) == {}
    assert query(district, "SELECT count(*) FROM lb.archived_leaderboard_snapshots") == copies
    assert told(lb("archive", "verify", "--json"))["verdicts"][0]["wrong"] == 0


@pytest.mark.present
def test_nothing_is_purged_of_who_has_not_asked_for_it(looking: Database) -> None:
    assert told(run("purge", "plan", "--json"))["plan"] == []
    (line, *_) = told(run("purge", "plan", "--institution", "south", "--json"))["plan"]
    assert "leaderboardPurge" in line["waitsFor"]
    assert told(run("purge", "run", "--execute", "--json"))["purges"] == []


def naming(district: Database, student: str) -> int:
    """Rows of boards and trends, live and archived, in which an id stands."""
    tables = ("leaderboard_snapshots", "archived_leaderboard_snapshots", "leaderboard_trends")
    return sum(
        query(
            district,
            f"SELECT count(*) FROM lb.{table} t WHERE institution_id = 'north'"
            " AND position(%s IN to_jsonb(t)::text) > 0",
            json.dumps(student),
        )[0][0]
        for table in tables
    )


@pytest.mark.present
def test_an_erasure_is_shown_first_and_names_nobody(
    archived: Lb, district: Database, tmp_path: Path
) -> None:
    archived("archive", "export", tmp_path / "out", "--institution", "north")
    named = naming(district, "s10")
    assert named > 10
    before = state(district)
    choice = ("erase", "student", "--institution", "north", "--reason", "Request 12")
    planned = told(archived(*choice, "--student", "s10", "--json"))["plan"]
    assert planned["counts"]["archived"] > 0
    assert len(planned["exports"]) == 1
    assert "add --execute" in archived(*choice, "--student", "s10").stdout
    assert state(district) == before
    done = run(*choice, "--student", "-", "--execute", "--by", "Ada", input="s10\n")
    assert done.exit_code == 0, done.output
    assert "s10" not in done.output
    assert "1 rewritten" in done.stdout
    assert naming(district, "s10") == 0
    assert query(district, "SELECT requested_by, reason FROM lb.erasures") == [
        ("Ada", "Request 12")
    ]
    assert told(archived("archive", "check", tmp_path / "out", "--json"))["rows"] > 0
    assert told(archived("archive", "verify", "--json"))["verdicts"][0]["wrong"] == 0
    again = archived(*choice, "--student", "s10", "--execute", "--json")
    assert told(again, 1)["error"] in ("UnknownStudent", "InvalidErasure")


@pytest.mark.present
def test_an_export_out_of_reach_is_left_to_be_finished(
    archived: Lb, district: Database, tmp_path: Path
) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    archived("archive", "export", out, "--institution", "north")
    out.rename(away)
    choice = ("--institution", "north", "--student", "s1", "--reason", "Request 13")
    done = archived("erase", "student", *choice, "--execute")
    assert done.exit_code == 3, done.output
    assert str(out) in done.stderr
    assert "lb erase finish" in done.stderr
    away.rename(out)
    finished = told(archived("erase", "finish", "--json"))
    assert (finished["rewritten"], finished["left"]) == (1, [])
    assert told(archived("erase", "finish", "--json"))["rewritten"] == 0


_NORTH = ("--institution", "north")


@pytest.mark.present
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("archive", "plan", "--institution", "nowhere"), "UnknownInstitution"),
        (("archive", "run", "--institution", "nowhere", "--execute"), "UnknownInstitution"),
        (("archive", "list", *_NORTH, "--year", "2023"), "InvalidSelection"),
        (("archive", "list", *_NORTH, "--after", "north:x"), "InvalidSelection"),
        (("archive", "list", *_NORTH, "--from", "2023-02-01", "--to", "2023-01-01"),
         "InvalidSelection"),
        (("archive", "verify", "--from", "2023-02-01", "--to", "2023-01-01"), "InvalidPartition"),
        (("archive", "export", "out", *_NORTH, "--reference", ""), "InvalidSelection"),
        (("archive", "check", "absent"), "ExportDamaged"),
        (("archive", "import", "absent"), "ExportDamaged"),
        (("restore", "--institution", "nowhere", "--until", "2999-01-01"), "UnknownInstitution"),
        (("hold", "place", *_NORTH, "--reason", " "), "InvalidHold"),
        (("hold", "place", *_NORTH, "--reason", "x", "--from", "2024-02", "--to", "2024-01"),
         "InvalidHold"),
        (("hold", "release", "99", *_NORTH), "InvalidHold"),
        (("erase", "student", *_NORTH, "--student", "nobody", "--reason", "x"), "UnknownStudent"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_thing_and_remedy(
    looking: Database, arguments: tuple[str, ...], error: str
) -> None:
    answer = told(run(*arguments, "--json"), exit_code=1)
    assert answer["error"] == error
    assert answer["thing"]
    spoken = run(*arguments)
    assert spoken.exit_code == 1
    assert error in spoken.stderr
    assert answer["remedy"] in spoken.stderr
    assert spoken.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("archive", "plan", "--granularity", "hourly"),
        ("archive", "plan", "--today", "2023-02-30"),
        ("archive", "list"),
        ("archive", "list", *_NORTH, "--type", "SCHOOL"),
        ("archive", "list", *_NORTH, "--limit", "0"),
        ("restore", *_NORTH),
        ("hold", "place", *_NORTH),
        ("hold", "place", *_NORTH, "--reason", "x", "--from", "2024-13"),
        ("hold", "place", *_NORTH, "--reason", "x", "--by", " "),
        ("hold", "release", "1", *_NORTH, "--by", ""),
        ("archive", "verify", "--from", "2023-10-30"),
        ("erase", "student", *_NORTH, "--reason", "x"),
        ("erase", "student", *_NORTH, "--reason", "x", "--student", "s1", "--student-key", "1"),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Said before any database is asked for.
    monkeypatch.setenv("LB_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_it_also_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lb_pipelines.cli", "archive", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "lb archive" in done.stdout
