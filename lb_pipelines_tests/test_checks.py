"""Checks through real runs: what each finds in rows that were really damaged, and what it stops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    ExecuteInProcessResult,
)
from sqlalchemy.engine import URL

from lb_pipelines.core import checking
from lb_pipelines.core.checking import Entries
from lb_pipelines.core.periods import DayRange
from lb_pipelines.core.words import BoardType, RankMethod
from lb_pipelines.db import partitions
from lb_pipelines.db.engine import Database
from lb_pipelines.materialize.snapshots import asset_name
from lb_pipelines.orchestration.assets.archive import ARCHIVE
from lb_pipelines.orchestration.checks import RULES, blocks
from lb_pipelines.orchestration.jobs import AGGREGATES, DAILY_ASSETS, SNAPSHOTS
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle
from lb_pipelines.settings import Settings
from lb_pipelines_tests.conftest import _Databases
from lb_pipelines_tests.orchestration_district import START, District, add_event

DAYS = DayRange(date(2024, 4, 1), date(2024, 4, 2))
LAST = DayRange(DAYS.last, DAYS.last)
LIMITS = '{"leaderboardLimits": {"CLASS": {"weekly": 3}}}'
CLASS = asset_name(BoardType.CLASS)

DAMAGED = " WHERE institution_id = 'a' AND type = 'CLASS' AND snapshot_date = '2024-04-02'"
WEEKLY = DAMAGED + " AND reference_id = 'b' AND time_granularity = 'weekly'"
DAILY = DAMAGED + " AND reference_id = 'b' AND time_granularity = 'daily'"


@pytest.fixture(scope="module")
def made(_databases: _Databases) -> Iterator[URL]:
    """Two institutions with the boards of two days, from one run whose checks have all passed."""
    database = Database(_databases.create(migrated=True))
    with DagsterInstance.ephemeral() as instance:
        district = District(database, instance, Settings(home=Path("/nowhere"), start_day=START))
        district.add("a", metadata=LIMITS)
        district.add("z")
        result = district.run(Rectangle(DAYS, "a", "z"))
        assert result.success
        verdicts = evaluations(district, result)
        assert len(verdicts) == 4 * (len(AGGREGATES) + len(SNAPSHOTS) * len(RULES))
        assert [verdict for verdict in verdicts if not verdict.passed] == []
        assert all(verdict.target_materialization_data for verdict in verdicts)
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO lb.students (institution_key, id)"
            " SELECT institution_key, 'of z alone' FROM lb.institutions WHERE id = 'z'"
        )
    database.close()
    yield database.url
    _databases.drop(database.url)


@pytest.fixture
def district(_databases: _Databases, made: URL) -> Iterator[District]:
    """A copy of all that, under a Dagster that knows nothing of how it came to be."""
    database = Database(_databases.copy(made))
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(INSTITUTION, ["a", "z"])
        yield District(database, instance, Settings(home=Path("/nowhere"), start_day=START))
    database.close()
    _databases.drop(database.url)


def evaluations(district: District, result: ExecuteInProcessResult) -> list[AssetCheckEvaluation]:
    return [
        entry.dagster_event.asset_check_evaluation_data
        for entry in district.events(result, DagsterEventType.ASSET_CHECK_EVALUATION)
    ]


def checked_alone(district: District) -> dict[tuple[str, str], AssetCheckEvaluation]:
    """The last day of institution a, as the Checks pages look at it: what does not pass."""
    job = district.defs.resolve_implicit_global_asset_job_def()
    keys = {
        key
        for key in job.asset_layer.asset_graph.asset_check_keys
        if key.asset_key.to_user_string() in [*AGGREGATES, *SNAPSHOTS]
        and job.asset_layer.asset_graph.get(key).partitions_def is not None
    }
    result = job.get_subset(asset_selection=set(), asset_check_selection=keys).execute_in_process(
        instance=district.instance, tags=Rectangle(LAST, "a", "a").tags
    )
    found = evaluations(district, result)
    assert len(found) == len(AGGREGATES) + len(SNAPSHOTS) * len(RULES)
    return {(v.asset_key.to_user_string(), v.check_name): v for v in found if not v.passed}


def execute(district: District, statement: str) -> None:
    with district.database.transaction() as connection:
        connection.execute(statement)


UPDATE = "UPDATE lb.leaderboard_snapshots SET "
RANKS, LIMIT, SUMS, COUNTS, STRANGERS, PREVIOUS, PARTITION = ((CLASS, str(c)) for c in RULES)


@pytest.mark.parametrize(
    ("statement", "loud", "said", "shown"),
    [
        pytest.param(
            UPDATE + "entries = jsonb_set(entries, '{1,rank}', '9')" + WEEKLY,
            [RANKS],
            "1 of 10 boards are wrong. b weekly: rank of entry 2 should be 2, found 9. ",
            "| b weekly | rank of entry 2 | 2 | 9 |",
            id="rank",
        ),
        pytest.param(
            UPDATE + "entries = jsonb_set(entries, '{0,points}', '999')" + WEEKLY,
            [RANKS],
            "b weekly: points of entry 1 should be ",
            "| 999 |",
            id="points",
        ),
        pytest.param(
            UPDATE + """metadata = metadata || '{"sum": 77}'""" + DAILY,
            [RANKS, SUMS],
            "b daily: sum should be ",
            "| b daily | sum | ",
            id="sum",
        ),
        pytest.param(
            UPDATE + "entries = jsonb_set(entries, '{0,studentId}', '\"of z alone\"')" + WEEKLY,
            [STRANGERS],
            "entries without a student of the institution (the first is entry 1) should be 0, "
            "found 1. ",
            "| 0 | 1 |",
            id="a student of another institution",
        ),
        pytest.param(
            UPDATE + "reference_id = 'elsewhere'" + WEEKLY,
            [STRANGERS],
            "elsewhere weekly: reference should be a class, subject or campus of the institution",
            "| elsewhere weekly | reference | ",
            id="a board of nothing here",
        ),
        pytest.param(
            UPDATE
            + """entries = entries || '[{"rank": 4, "points": -9, "previousRank": null,
            "studentId": "student-1"}]'"""
            + WEEKLY,
            [RANKS, LIMIT],
            "b weekly: ",
            "| b weekly | entries (N = 3, 4 ranked) | 3 | 4 |",
            id="too many entries",
        ),
        pytest.param(
            UPDATE + "entries = jsonb_set(entries, '{1,previousRank}', '40')" + DAILY,
            [PREVIOUS],
            "b daily: previous rank of entry 2 should be ",
            "| 40 |",
            id="previous rank",
        ),
        pytest.param(
            UPDATE + """metadata = metadata || '{"enrolled": 1}'""" + DAILY,
            [COUNTS],
            "b daily: enrolled students should be 4, found 1. ",
            "| b daily | enrolled students | 4 | 1 |",
            id="enrolled",
        ),
        pytest.param(
            "DELETE FROM lb.leaderboard_snapshots" + DAILY,
            [SUMS, PARTITION],
            "b daily: board should be ",
            " points | no row |",
            id="a missing daily board",
        ),
        pytest.param(
            "DELETE FROM lb.leaderboard_snapshots" + WEEKLY,
            [PARTITION],
            "boards, by window: daily 2, weekly 1, monthly 2, term 2, all-time 2 should be 10, "
            "found 9. ",
            "| b weekly | board | a row | no row |",
            id="a missing weekly board",
        ),
        pytest.param(
            'ALTER TABLE lb_part."a:CLASS" DETACH PARTITION lb_part."a_CLASS_2024-04"',
            [SUMS, PARTITION],
            "leaf should be a_CLASS_2024-04, found not in the tree. ",
            "|  | leaf | a_CLASS_2024-04 | not in the tree |",
            id="a missing leaf",
        ),
        pytest.param(
            "UPDATE lb.point_aggregates SET points[1] = points[1] + 3, points[3] = points[3] - 3"
            " WHERE day = '2024-04-02'",
            [("point_aggregates", "sums_agree_with_events")],
            "point_aggregates of a on 2024-04-02: ",
            "| class a | students | those of the events | others |",
            id="points of the wrong student in the aggregates",
        ),
        pytest.param(
            # With triggers off: else the days are stale, and no damage.
            "SET LOCAL session_replication_role = replica;"
            " UPDATE lb.student_points SET amount = amount + 5 WHERE event_id IN"
            " (SELECT min(event_id) FROM lb.student_points WHERE event_id LIKE '2024-04-02%/%'"
            "  GROUP BY institution_key)",
            [("point_aggregates", "sums_agree_with_events")]
            + [(asset, "sums_agree_with_events") for asset in SNAPSHOTS],
            "sum of points should be ",
            "sum of points",
            id="an event that changed while triggers were off",
        ),
    ],
)
def test_a_damage_is_found_named_and_healed(
    district: District, statement: str, loud: list[tuple[str, str]], said: str, shown: str
) -> None:
    execute(district, statement)
    found = checked_alone(district)
    assert sorted(found) == sorted(loud)
    told = [verdict.description or "" for verdict in found.values()]
    assert any(said in text for text in told), told
    tables = [str(verdict.metadata["findings"].value) for verdict in found.values()]
    assert any(shown in table for table in tables), tables
    assert not [text for text in told + tables if "student-" in text or "of z" in text]
    for (_, check), verdict in found.items():
        warns = check == "counts_agree_with_enrollments"
        assert (verdict.severity is AssetCheckSeverity.WARN) is warns
        assert verdict.partition == "2024-04-02|a"


def test_late_events_make_a_verdict_a_warning(district: District) -> None:
    add_event(district.database, "a", DAYS.last, 50)
    found = checked_alone(district)
    assert set(found) == {(asset, "sums_agree_with_events") for asset in [*AGGREGATES, *SNAPSHOTS]}
    for verdict in found.values():
        assert verdict.severity is AssetCheckSeverity.WARN
        assert "late_events_sensor has it made again" in (verdict.description or "")


def test_points_without_an_enrollment_are_no_fault(district: District) -> None:
    execute(district, "DELETE FROM lb.enrollments")
    assert district.run(Rectangle(LAST, "a", "a")).success
    assert checked_alone(district) == {}


def test_what_has_left_for_the_archive_is_not_missed(district: District) -> None:
    """The days before are purged, and some of the day itself."""
    partitions.ensure_archive_years(district.database, ["2023-2024"])
    gone = (
        " FROM lb.leaderboard_snapshots WHERE institution_id = 'a'"
        " AND (snapshot_date < '2024-04-02' OR reference_id = 'b')"
    )
    columns = (
        "created_at, snapshot_date, period_start, institution_id, type, reference_id,"
        " time_granularity, content_hash, entries, metadata, distribution"
    )
    execute(
        district,
        "INSERT INTO lb.archived_leaderboard_snapshots (archive_run, academic_year, "
        + columns + ") SELECT 1, '2023-2024', " + columns + gone,
    )  # fmt: skip
    execute(district, "DELETE" + gone)
    assert checked_alone(district) == {}


def test_a_wrong_day_holds_up_what_builds_on_it_and_nobody_else(district: District) -> None:
    execute(district, UPDATE + "entries = jsonb_set(entries, '{0,points}', '999')" + WEEKLY)
    result = district.run(Rectangle(DAYS, "a", "z"))
    assert not result.success
    assert district.failure(result) == (
        "1 of 2 institutions failed. a (at its checks): Found wrong: class_snapshots of 2024-04-02 "
        "(ranks_agree_with_points); what builds on that was not made. See the checks of these "
        "partitions; re-execute from failure writes the boards found wrong anew and goes on"
    )
    [wrong] = [verdict for verdict in evaluations(district, result) if not verdict.passed]
    assert (wrong.asset_key, wrong.partition) == (AssetKey(CLASS), "2024-04-02|a")
    everything = {(a, f"{day}|{id}") for a in DAILY_ASSETS for day in DAYS for id in ("a", "z")}
    held_up = {("class_trends", "2024-04-02|a")}
    assert set(district.recorded(result)) == everything - held_up
    assert district.statuses("class_trends")["failed"] == {"2024-04-02|a"}

    again = district.run(Rectangle(DAYS, "a", "z"), resumes=result.run_id)
    assert again.success
    assert set(district.recorded(again)) == everything
    # Only what was wrong and what was held up has been done again.
    assert district.writer(CLASS, "a", DAYS.last) == again.run_id
    assert district.writer(CLASS, "a", DAYS.first) == result.run_id
    assert district.writer("subject_trends", "a", DAYS.last) == result.run_id
    assert checked_alone(district) == {}


def test_a_wrong_day_is_not_archived(district: District) -> None:
    execute(district, UPDATE + "entries = jsonb_set(entries, '{0,points}', '999')" + WEEKLY)
    result = district.run(Rectangle(DAYS, "a", "z"), job="reward_processing")
    archived = {key for asset, key in district.recorded(result) if asset == ARCHIVE}
    assert archived == {"2024-04-01|a", "2024-04-01|z", "2024-04-02|z"}


def test_wrong_aggregates_hold_up_all_days_after_them(district: District) -> None:
    execute(
        district,
        "UPDATE lb.point_aggregates SET points[1] = points[1] + 3 WHERE day = '2024-04-01'"
        " AND institution_key = (SELECT institution_key FROM lb.institutions WHERE id = 'a')",
    )
    result = district.run(Rectangle(DAYS, "a", "z"))
    assert "point_aggregates of 2024-04-01 (sums_agree_with_events)" in district.failure(result)
    made = {asset for asset, key in district.recorded(result) if key.endswith("|a")}
    assert made == set(AGGREGATES)
    assert len({key for key in district.recorded(result) if key[1].endswith("|z")}) == 14
    again = district.run(Rectangle(DAYS, "a", "z"), resumes=result.run_id)
    assert again.success
    assert checked_alone(district) == {}


def test_boards_of_the_shared_subtree_are_expected_in_its_leaves(district: District) -> None:
    partitions.demote(district.database, "a")
    assert checked_alone(district) == {}


@pytest.mark.parametrize(
    ("severity", "blocking", "passed", "held_up"),
    [
        (AssetCheckSeverity.ERROR, True, False, True),
        (AssetCheckSeverity.ERROR, True, True, False),
        (AssetCheckSeverity.ERROR, False, False, False),
        # As of a day whose events have changed since it was made: nothing can be said of it.
        (AssetCheckSeverity.WARN, True, False, False),
    ],
)
def test_only_an_error_of_a_check_that_blocks_holds_anything_up(
    severity: AssetCheckSeverity, blocking: bool, passed: bool, held_up: bool
) -> None:
    verdict = AssetCheckEvaluation(
        asset_key=AssetKey("class_snapshots"),
        check_name="ranks_agree_with_points",
        passed=passed,
        severity=severity,
        blocking=blocking,
    )
    assert blocks(verdict) is held_up


def test_a_student_who_is_listed_twice_is_found_where_all_else_is_right() -> None:
    """Two who are tied, and the same one in both places: no rank, no points, no number is wrong."""
    both = Entries(
        ranks=np.array([1, 1, 3]),
        points=np.array([50, 50, 10]),
        previous=np.zeros(3, np.int64),
        students=np.array([7, 7, 0]),
        order=np.array([1, 1, 2]),
    )
    found = list(checking.limits(both, ranked=3, limit=3))
    assert found == [checking.Difference("students who are listed twice", "0", "1")]
    # Strangers are another check's.
    strangers = replace(both, students=np.array([7, 0, 0]))
    assert list(checking.limits(strangers, ranked=3, limit=3)) == []


@pytest.mark.parametrize(
    ("method", "first_possible"),
    # The last one listed may be tied with some who are not, except where ties have no rank.
    [(RankMethod.COMPETITION, 2), (RankMethod.DENSE, 2), (RankMethod.ORDINAL, 3)],
)
def test_who_was_not_listed_was_ranked_behind_those_who_were(
    method: RankMethod, first_possible: int
) -> None:
    def one(student: int, previous: int) -> Entries:
        return Entries(*(np.array([value]) for value in (1, 90, previous, student, 1)))

    earlier = Entries(
        ranks=np.array([1, 2]),
        points=np.array([50, 40]),
        previous=np.zeros(2, np.int64),
        students=np.array([7, 8]),
        order=np.array([1, 2]),
    )
    silent = [
        previous
        for previous in range(8)
        if not list(checking.previous_ranks(one(9, previous), earlier, 5, method))
    ]
    assert silent == [0, *range(first_possible, 6)]
    # Where all who were ranked were listed, nobody else has a previous rank.
    [found] = checking.previous_ranks(one(9, 2), earlier, 2, method)
    assert (found.expected, found.found) == ("none", "2")
    [found] = checking.previous_ranks(one(8, 1), earlier, 5, method)
    assert (found.expected, found.found) == ("2", "1")
