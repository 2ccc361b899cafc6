"""Who is late is told by everyone's own midnight: the arithmetic, the check and its sensor."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    build_sensor_context,
)

from lb_pipelines.core.lateness import Punctuality, due_at, punctuality
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration.checks import ON_TIME
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import Rectangle
from lb_pipelines.settings import Settings
from lb_pipelines_tests.orchestration_district import District

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
FIRST, YESTERDAY = date(2024, 4, 5), date(2024, 4, 7)
BROKEN = '{"leaderboardRanking": "best"}'


@pytest.mark.parametrize(
    ("zone", "day", "due"),
    [
        ("UTC", date(2024, 4, 7), "2024-04-08T04:00Z"),
        ("Pacific/Kiritimati", date(2024, 4, 7), "2024-04-07T14:00Z"),
        ("Pacific/Honolulu", date(2024, 4, 7), "2024-04-08T14:00Z"),
        # Clocks went back on that day, which had 25 hours: it ended at 00:00 UTC.
        ("Europe/London", date(2023, 10, 29), "2023-10-30T04:00Z"),
        # The midnight after it never was: clocks went from 23:59 to 01:00, 03:00 UTC.
        ("America/Sao_Paulo", date(2018, 11, 3), "2018-11-04T07:00Z"),
    ],
)
def test_a_day_is_due_after_the_midnight_of_its_own_zone(zone: str, day: date, due: str) -> None:
    assert due_at(day, ZoneInfo(zone), LONG_AGO) == datetime.fromisoformat(due)


def test_an_institution_that_has_just_come_is_given_its_time() -> None:
    came = datetime(2024, 4, 8, 11, tzinfo=UTC)
    assert due_at(YESTERDAY, ZoneInfo("UTC"), came) == came + timedelta(hours=4)


def test_what_is_missing_is_late_or_awaited() -> None:
    expected = [date(2024, 4, 5), date(2024, 4, 6), YESTERDAY]
    zone = ZoneInfo("UTC")
    due = datetime(2024, 4, 8, 4, tzinfo=UTC)
    just_before = due - timedelta(seconds=1)
    assert punctuality(expected, expected, zone, LONG_AGO, due) == Punctuality((), (), None)
    there = expected[:2]
    assert punctuality(expected, there, zone, LONG_AGO, just_before) == Punctuality(
        (), (YESTERDAY,), due
    )
    assert punctuality(expected, there, zone, LONG_AGO, due) == Punctuality((YESTERDAY,), (), due)
    assert punctuality(expected, expected[2:], zone, LONG_AGO, just_before) == Punctuality(
        tuple(expected[:2]), (), datetime(2024, 4, 6, 4, tzinfo=UTC)
    )


class Watch(District):
    """A district with the ticks of the freshness sensor."""

    cursor: str | None = None

    def came_long_ago(self) -> None:
        with self.database.transaction() as connection:
            connection.execute("UPDATE lb.institutions SET created_at = %s", (LONG_AGO,))

    def make(self, first: date, last: date, *ids: str) -> str:
        return self.run(Rectangle(DayRange(first, last), ids[0], ids[-1])).run_id

    def tick(self) -> tuple[str, dict[str, AssetCheckEvaluation]]:
        """What a tick says, and what it tells Dagster by asset; recorded as the daemon does it."""
        sensor = self.defs.resolve_sensor_def("freshness_sensor")
        with build_sensor_context(
            instance=self.instance, resources=self.defs.resources, cursor=self.cursor
        ) as context:
            result: Any = sensor.evaluate_tick(context)
        self.cursor = result.cursor
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        told = {event.asset_key.to_user_string(): event for event in result.asset_events}
        return str(result.skip_message), told


@pytest.fixture
def watch(database: Database, tmp_path: Path) -> Iterator[Watch]:
    with DagsterInstance.ephemeral() as instance:
        watch = Watch(database, instance, Settings(home=tmp_path, start_day=FIRST))
        watch.now = datetime(2024, 4, 8, 12, tzinfo=UTC)
        yield watch


def shown(evaluation: AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in evaluation.metadata.items()}


def test_everyone_is_late_by_their_own_midnight(watch: Watch) -> None:
    watch.add("london", zone="Europe/London")
    watch.add("honolulu", zone="Pacific/Honolulu")
    watch.came_long_ago()
    watch.make(FIRST, date(2024, 4, 6), "london", "honolulu")
    watch.make(YESTERDAY, YESTERDAY, "london")
    said, told = watch.tick()
    assert said == (
        "1 of 2 institutions have every day that is over there. "
        "Awaited, the first by 2024-04-08 14:00 UTC: honolulu."
    )
    assert set(told) == set(DAILY_ASSETS)
    for evaluation in told.values():
        assert evaluation.passed
        assert shown(evaluation)["not_complete"].splitlines()[2:] == [
            "| honolulu | Pacific/Honolulu | awaited | 2024-04-07 | 2024-04-07 |"
            " 2024-04-08 14:00 UTC |  |"
        ]
    assert watch.tick() == (said, {})
    # A later materialization has the UI show it as not evaluated: it is said once more.
    watch.make(YESTERDAY, YESTERDAY, "london")
    assert set(watch.tick()[1]) == set(DAILY_ASSETS)
    assert watch.tick() == (said, {})

    watch.now = datetime(2024, 4, 8, 14, tzinfo=UTC)
    said, told = watch.tick()
    assert "Late: honolulu (2024-04-07). " in said
    assert set(told) == set(DAILY_ASSETS)
    assert not any(evaluation.passed for evaluation in told.values())
    counts = shown(told["class_trends"])
    assert (counts["institutions"], counts["complete"], counts["late"]) == (2, 1, 1)

    watch.make(YESTERDAY, YESTERDAY, "honolulu")
    said, told = watch.tick()
    assert said == "2 of 2 institutions have every day that is over there."
    assert all(evaluation.passed for evaluation in told.values())
    assert len(told) == len(DAILY_ASSETS)

    # The next midnight alone is news: who is awaited stands in the verdict.
    watch.now = datetime(2024, 4, 9, 1, tzinfo=UTC)
    said, told = watch.tick()
    assert said.endswith("Awaited, the first by 2024-04-09 03:00 UTC: london.")
    assert set(told) == set(DAILY_ASSETS)
    assert all(evaluation.passed for evaluation in told.values())


def test_an_asset_is_late_alone_and_the_run_that_failed_is_named(watch: Watch) -> None:
    watch.add("a", metadata=BROKEN)
    watch.came_long_ago()
    said, told = watch.tick()
    assert "Late: a (settings that cannot be used). " in said
    assert "metadata.leaderboardRanking is 'best'" in shown(told["class_trends"])["not_complete"]
    failed = watch.make(FIRST, YESTERDAY, "a")
    watch.set_metadata("a", "{}")
    _, told = watch.tick()
    assert f"| {failed} |" in shown(told["class_trends"])["not_complete"]
    watch.make(FIRST, YESTERDAY, "a")
    watch.tick()
    with watch.database.transaction() as connection:
        connection.execute(
            "DELETE FROM lb.materialized_days WHERE asset = 'class_trends' AND day = '2024-04-06'"
        )
    said, told = watch.tick()
    assert "class_trends: " in said
    assert {asset: evaluation.passed for asset, evaluation in told.items()} == {
        "class_trends": False
    }
    # What Dagster is told by the sensor, and what the Checks page finds, is the same.
    job = watch.defs.resolve_implicit_global_asset_job_def()
    keys = {AssetCheckKey(AssetKey(asset), ON_TIME) for asset in DAILY_ASSETS}
    alone = job.get_subset(asset_selection=set(), asset_check_selection=keys).execute_in_process(
        instance=watch.instance
    )
    found = {
        entry.dagster_event.asset_check_evaluation_data.asset_key.to_user_string(): (
            entry.dagster_event.asset_check_evaluation_data
        )
        for entry in watch.events(alone, DagsterEventType.ASSET_CHECK_EVALUATION)
    }
    assert {asset for asset, evaluation in found.items() if not evaluation.passed} == {
        "class_trends"
    }
    assert len(found) == len(DAILY_ASSETS)
    assert found["class_trends"].description == told["class_trends"].description
