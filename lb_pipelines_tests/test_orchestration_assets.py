"""Real runs of the assets: what is recorded, what a failure leaves, what a re-run does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RetryPolicy,
    serialize_value,
)

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.orchestration.assets import leaderboards
from lb_pipelines.orchestration.assets.archive import ARCHIVE
from lb_pipelines.orchestration.build import build_defs
from lb_pipelines.orchestration.jobs import AGGREGATES, DAILY_ASSETS, SNAPSHOTS, TRENDS
from lb_pipelines.orchestration.partitions import Rectangle
from lb_pipelines.settings import Settings
from lb_pipelines_tests.orchestration_district import START, District

APRIL = DayRange(date(2024, 4, 1), date(2024, 4, 2))
BROKEN = '{"leaderboardRanking": "best"}'


@pytest.fixture
def district(database: Database, tmp_path) -> Iterator[District]:
    with DagsterInstance.ephemeral() as instance:
        yield District(database, instance, Settings(home=tmp_path, start_day=START))


def keys(days: DayRange, *ids: str) -> set[str]:
    return {f"{day}|{id}" for day in days for id in ids}


def test_a_rectangle_is_recorded_once_per_asset_and_partition(district: District) -> None:
    district.add("a", "b")
    result = district.run(Rectangle(APRIL, "a", "b"))
    assert result.success
    assert district.recorded(result) == Counter(
        {(asset, key): 1 for asset in DAILY_ASSETS for key in keys(APRIL, "a", "b")}
    )
    for asset in DAILY_ASSETS:
        assert district.statuses(asset) == {"green": keys(APRIL, "a", "b"), "failed": set()}


def test_a_single_partition(district: District) -> None:
    district.add("a")
    job = district.defs.resolve_job_def("reward_processing")
    result = job.execute_in_process(instance=district.instance, partition_key="2024-04-01|a")
    assert district.recorded(result) == Counter(
        {(asset, "2024-04-01|a"): 1 for asset in [*AGGREGATES, *SNAPSHOTS, ARCHIVE]}
    )


def test_a_run_of_a_backfill_from_a_jobs_page_does_its_whole_range(district: District) -> None:
    district.add("a", "b")
    # Dagster gives each of its runs the dimensions of the first partition of the whole backfill.
    misleading = {"dagster/partition/day": "2024-04-01", "dagster/partition/institution": "a"}
    result = district.defs.resolve_job_def("daily_leaderboards").execute_in_process(
        instance=district.instance, tags=Rectangle(APRIL, "b", "b").tags | misleading
    )
    assert district.recorded(result) == Counter(
        {(asset, key): 1 for asset in DAILY_ASSETS for key in keys(APRIL, "b")}
    )


def test_only_what_is_selected_is_done(district: District) -> None:
    district.add("a")
    result = district.run(Rectangle(APRIL, "a", "a"), assets=["class_trends"])
    assert {asset for asset, _ in district.recorded(result)} == {"class_trends"}
    assert district.writer("class_trends", "a", APRIL.first) == result.run_id
    assert district.writer("class_snapshots", "a", APRIL.first) is None


def test_an_institution_that_fails_is_named_and_red_and_the_others_go_through(
    district: District,
) -> None:
    district.add("a")
    district.add("broken", metadata=BROKEN)
    district.add("z")
    result = district.run(Rectangle(APRIL, "a", "z"))
    assert not result.success
    assert district.failure(result) == (
        "1 of 3 institutions failed. broken (at its settings): Institution 'broken': "
        "metadata.leaderboardRanking is 'best'. Set it to 'competition' or 'dense' or 'ordinal'"
    )
    for asset in DAILY_ASSETS:
        assert district.statuses(asset) == {
            "green": keys(APRIL, "a", "z"),
            "failed": keys(APRIL, "broken"),
        }
    log = district.log(result)
    assert any(line.startswith("broken failed at its settings") for line in log)
    assert not any("Traceback" in line for line in log)


def test_an_error_of_the_code_is_named_with_its_traceback(district: District) -> None:
    district.add("a", "b")
    with district.database.transaction() as connection:
        connection.execute(
            "ALTER TABLE lb.materialized_days ADD CHECK"
            " (NOT (asset = 'class_trends' AND day = '2024-04-02' AND institution_key = 1))"
        )
    result = district.run(Rectangle(APRIL, "a", "b"))
    assert "a (at class_trends of 2024-04-02): CheckViolation" in district.failure(result)
    assert any("Traceback" in line for line in district.log(result))
    assert district.statuses("class_trends") == {
        "green": {"2024-04-01|a", *keys(APRIL, "b")},
        "failed": {"2024-04-02|a"},
    }


def test_resuming_does_what_failed_and_keeps_the_rest(district: District) -> None:
    district.add("a")
    district.add("broken", metadata=BROKEN)
    rectangle = Rectangle(APRIL, "a", "broken")
    first = district.run(rectangle)
    again = district.run(rectangle, resumes=first.run_id)
    # It failed again: what is kept must not turn red with it.
    assert district.statuses("class_snapshots") == {
        "green": keys(APRIL, "a"),
        "failed": keys(APRIL, "broken"),
    }
    district.set_metadata("broken", "{}")
    last = district.run(rectangle, resumes=again.run_id)
    assert last.success
    assert district.recorded(last) == Counter(
        {(asset, key): 1 for asset in DAILY_ASSETS for key in keys(APRIL, "a", "broken")}
    )
    for asset in DAILY_ASSETS:
        assert district.writer(asset, "a", APRIL.first) == first.run_id
        assert district.writer(asset, "broken", APRIL.first) == last.run_id
    kept = district.instance.get_latest_materialization_event(AssetKey("campus_trends"))
    assert kept is not None
    materialization = kept.asset_materialization
    assert materialization is not None
    assert materialization.metadata["dagster/partition_row_count"].value > 0


def test_starting_afresh_does_everything_again(district: District) -> None:
    district.add("a")
    rectangle = Rectangle(APRIL, "a", "a")
    district.run(rectangle)
    again = district.run(rectangle)
    assert district.writer("class_snapshots", "a", APRIL.first) == again.run_id


def test_what_may_heal_is_tried_again_within_the_run(district: District) -> None:
    district.add("a", "b")
    district.retries = RetryPolicy(max_retries=1)
    rectangle = Rectangle(APRIL, "a", "b")
    district.run(rectangle)
    with district.database.transaction() as connection:
        # Refuses what a lock that is not let go refuses, without the time until it does.
        connection.execute(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RAISE lock_not_available USING MESSAGE = ''busy''; END'"
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON lb.materialized_days FOR EACH ROW"
            " WHEN (old.asset = 'subject_snapshots' AND old.institution_key ="
            f" {institutions.find(connection, 'b').key}) EXECUTE FUNCTION public.refuse()"
        )
    asked = 0

    def let_go_at_the_second_try() -> datetime:
        nonlocal asked
        asked += 1
        if asked == 3:
            with district.database.transaction() as connection:
                connection.execute("DROP TRIGGER refuse ON lb.materialized_days")
        return datetime(2024, 5, 1, tzinfo=UTC)

    defs = district.defs
    district.now = None  # type: ignore[assignment]
    defs = build_defs(
        settings=district.settings,
        resource_overrides=defs.resources,
        now=let_go_at_the_second_try,
        retries=district.retries,
    )
    result = defs.resolve_job_def("daily_leaderboards").execute_in_process(
        instance=district.instance, tags=rectangle.tags, raise_on_error=False
    )
    assert result.success
    assert any(
        "b failed at subject_snapshots of 2024-04-01: LockNotAvailable" in line
        for line in district.log(result)
    )
    # Once each, though there were two tries.
    assert set(district.recorded(result).values()) == {1}
    assert len(district.recorded(result)) == len(DAILY_ASSETS) * 4


def test_bad_data_is_not_tried_again(district: District) -> None:
    district.add("broken", metadata=BROKEN)
    district.retries = RetryPolicy(max_retries=3)
    result = district.run(Rectangle(APRIL, "broken", "broken"))
    assert not result.success
    assert sum("broken failed at" in line for line in district.log(result)) == 1


def test_a_day_that_is_not_over_yet_is_refused_and_the_days_before_it_are_done(
    district: District,
) -> None:
    district.add("honolulu", zone="Pacific/Honolulu")
    district.now = datetime(2024, 4, 3, 9, 59, tzinfo=UTC)  # One minute to midnight there.
    result = district.run(Rectangle(APRIL, "honolulu", "honolulu"))
    assert district.failure(result) == (
        "1 of 1 institutions failed. honolulu (at 2024-04-02): 2024-04-02 is not over yet at "
        "honolulu (Pacific/Honolulu). Materialize it after midnight there; the daily schedule does"
    )
    assert district.statuses("class_snapshots") == {
        "green": {"2024-04-01|honolulu"},
        "failed": {"2024-04-02|honolulu"},
    }
    district.now = datetime(2024, 4, 3, 10, 0, tzinfo=UTC)
    assert district.run(Rectangle(APRIL, "honolulu", "honolulu")).success


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE lb.institutions SET status = 'INACTIVE'", "Institution 'a' is INACTIVE"),
        ("UPDATE lb.institutions SET time_zone = 'Mars/Base'", "'Mars/Base' is no IANA time zone"),
    ],
)
def test_what_a_person_sees_of_an_institution_that_cannot_be_used(
    district: District, statement: str, said: str
) -> None:
    district.add("a")
    with district.database.transaction() as connection:
        connection.execute(statement)
    result = district.run(Rectangle(APRIL, "a", "a"))
    assert said in district.failure(result)


def test_a_day_without_events_is_materialized_as_empty(district: District) -> None:
    district.add("a")
    before = DayRange(date(2024, 2, 1), date(2024, 2, 1))
    result = district.run(Rectangle(before, "a", "a"))
    assert result.success
    assert set(district.recorded(result)) == {(asset, "2024-02-01|a") for asset in DAILY_ASSETS}


def test_what_a_person_sees_of_a_day(district: District) -> None:
    district.add("a")
    result = district.run(Rectangle(APRIL, "a", "a"))
    events = {
        entry.asset_materialization.asset_key.to_user_string(): entry.asset_materialization
        for entry in district.events(result, DagsterEventType.ASSET_MATERIALIZATION)
    }
    snapshots = events["class_snapshots"]
    assert snapshots.tags == {
        "dagster/partition/day": "2024-04-02",
        "dagster/partition/institution": "a",
    }
    assert snapshots.description == (
        "class_snapshots of a on 2024-04-02: 10 rows, 10 new or changed"
    )
    shown = {name: value.value for name, value in snapshots.metadata.items()}
    assert shown["dagster/partition_row_count"] == 10
    assert shown["ranked"] == 8
    assert shown["partition_key"] == "a_CLASS_2024-04"
    table = shown["largest_boards"].splitlines()
    assert table[0] == "| largest board | window | ranked | 1st | 2nd | 3rd |"
    assert [row.split(" | ")[1] for row in table[2:]] == [
        "daily", "weekly", "monthly", "term", "all-time",
    ]  # fmt: skip
    assert re.fullmatch(r"\| Class a \| daily \| 4 \| \d+ \| \d+ \| \d+ \|", table[2])
    trends = {name: value.value for name, value in events["class_trends"].metadata.items()}
    assert re.search(
        r"\| all-time \| 2024-03-26 \| 4 \(\+0\) \| \d+ points, \d+ days \|",
        trends["largest_boards"],
    )
    # No erasure reaches Dagster's event log: nothing in it names a student.
    told = [serialize_value(entry) for entry in district.instance.all_logs(result.run_id)]
    assert len(told) > 20
    assert not [text for text in told if "student-" in text]


def test_every_verdict_belongs_to_a_partition_and_to_its_latest_materialization(
    district: District,
) -> None:
    district.add("a")
    rectangle = Rectangle(APRIL, "a", "a")
    result = district.run(rectangle)
    assert len(district.events(result, DagsterEventType.ASSET_CHECK_EVALUATION)) == 2 * (1 + 3 * 7)
    with district.database.transaction() as connection:
        connection.execute(
            "UPDATE lb.leaderboard_snapshots SET entries = jsonb_set(entries, '{1,points}', '999')"
            " WHERE type = 'CLASS' AND snapshot_date = '2024-04-02' AND reference_id = 'b'"
            " AND time_granularity = 'weekly'"
        )
    check = AssetCheckKey(AssetKey("class_snapshots"), "ranks_agree_with_points")
    job = district.defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={check}
    )
    alone = job.execute_in_process(instance=district.instance, tags=rectangle.tags)
    assert district.recorded(alone) == Counter()
    verdicts = {
        entry.dagster_event.event_specific_data.partition: entry.dagster_event.event_specific_data
        for entry in district.events(alone, DagsterEventType.ASSET_CHECK_EVALUATION)
    }
    assert {key: verdict.passed for key, verdict in verdicts.items()} == {
        "2024-04-01|a": True,
        "2024-04-02|a": False,
    }
    assert verdicts["2024-04-02|a"].description.startswith(
        "class_snapshots of a on 2024-04-02: 1 of 10 boards are wrong. b weekly: points of entry 2"
    )
    for verdict in verdicts.values():
        assert verdict.target_materialization_data.run_id == result.run_id
    # Materialized again it is right again; a verdict does not fail the run.
    assert district.run(rectangle).success


def test_a_run_that_is_killed_keeps_what_it_has_recorded(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the second institution stops the run the way a kill of Dagster does."""
    # One after the other, so that it is known what stands when the second begins.
    monkeypatch.setattr(leaderboards, "INSTITUTIONS_AT_ONCE", 1)
    district.add("a", "b")

    class Killed(BaseException):
        pass

    asked = 0

    def dies_at_the_second() -> datetime:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise Killed
        return datetime(2024, 5, 1, tzinfo=UTC)

    rectangle = Rectangle(APRIL, "a", "b")
    defs = build_defs(
        settings=district.settings,
        resource_overrides=district.defs.resources,
        now=dies_at_the_second,
    )
    with pytest.raises(Killed):
        defs.resolve_job_def("daily_leaderboards").execute_in_process(
            instance=district.instance, tags=rectangle.tags
        )
    [run] = district.instance.get_runs()
    district.instance.report_run_failed(run)
    assert district.statuses("campus_trends") == {
        "green": keys(APRIL, "a"),
        "failed": keys(APRIL, "b"),
    }
    resumed = district.run(rectangle, resumes=run.run_id)
    assert resumed.dagster_run.status == DagsterRunStatus.SUCCESS
    assert district.writer("campus_trends", "a", APRIL.first) == run.run_id
    assert district.writer("campus_trends", "b", APRIL.first) == resumed.run_id


def test_the_assets_are_the_ones_the_contract_names() -> None:
    assert DAILY_ASSETS == [
        "point_aggregates",
        "class_snapshots", "subject_snapshots", "campus_snapshots",
        "class_trends", "subject_trends", "campus_trends",
    ]  # fmt: skip
    assert [*AGGREGATES, *SNAPSHOTS, *TRENDS] == DAILY_ASSETS
