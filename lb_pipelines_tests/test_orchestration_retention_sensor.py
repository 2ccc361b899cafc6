"""What the retention sensor asks for: what is due, once, and what it says of the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunRequest,
    SensorResult,
    build_sensor_context,
)

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration import requests, retention_sensor
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle
from lb_pipelines.settings import Settings
from lb_pipelines_tests.orchestration_district import START, District, add_institution

PROJECT = Path(__file__).resolve().parents[1]
SHORT = '{"leaderboardRetention": {"daily": 5, "weekly": 6}}'
WRONG = '{"leaderboardRetention": {"daily": "five"}}'
LAST = DayRange(date(2024, 4, 7), date(2024, 4, 7))
NOTHING = "No snapshot's retention is over anywhere."


class Sentry(District):
    """A district with the ticks of the retention sensor, and what a daemon does with them."""

    cursor: str | None = None

    def boards(self, first: date, last: date, *ids: str) -> None:
        assert self.run(Rectangle(DayRange(first, last), ids[0], ids[-1])).success

    def tick(self) -> SensorResult:
        sensor = self.defs.resolve_sensor_def("retention_sensor")
        with build_sensor_context(
            instance=self.instance,
            resources=self.defs.resources,
            cursor=self.cursor,
        ) as context:
            result: Any = sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def keys(self) -> list[str] | str:
        """The run keys that a tick asks for, or why it asks for none."""
        result: Any = self.tick()
        return [request.run_key for request in result.run_requests] or str(result.skip_message)

    def carry_out(self, request: RunRequest) -> None:
        """What the run does that the daemon makes of a request."""
        result = self.defs.resolve_job_def("archive_expired_snapshots").execute_in_process(
            instance=self.instance, run_config=request.run_config, tags=request.tags
        )
        assert result.success

    def archived(self) -> dict[str, int]:
        with self.database.transaction() as connection:
            return dict(
                connection.execute(
                    "SELECT institution_id || ' ' || time_granularity, count(*)"
                    " FROM lb.archived_leaderboard_snapshots GROUP BY 1"
                ).fetchall()
            )


@pytest.fixture
def sentry(database: Database, tmp_path: Path) -> Iterator[Sentry]:
    with DagsterInstance.ephemeral() as instance:
        sentry = Sentry(database, instance, Settings(home=tmp_path, start_day=START))
        sentry.now = datetime(2024, 4, 8, 12, tzinfo=UTC)
        yield sentry


def test_one_run_an_institution_and_granularity_and_nothing_twice(sentry: Sentry) -> None:
    sentry.add("a", "b", metadata=SHORT)
    sentry.add("c")
    assert sentry.keys() == NOTHING
    sentry.boards(date(2024, 4, 1), date(2024, 4, 3), "a", "c")
    result: Any = sentry.tick()
    assert [request.run_key for request in result.run_requests] == [
        "a:daily:2024-04-03", "a:weekly:2024-04-02",
        "b:daily:2024-04-03", "b:weekly:2024-04-02",
    ]  # fmt: skip
    request = result.run_requests[1]
    assert (
        request.tags.items()
        >= {
            "leaderboards/institution": "a",
            "leaderboards/granularity": "weekly",
            "leaderboards/cutoff": "2024-04-02",
            **Rectangle(LAST, "a", "a").tags,
        }.items()
    )
    assert request.run_config["ops"]["leaderboards"]["config"] == {
        "archive_dry_run": False,
        "archive_granularities": ["weekly"],
        "rematerialize_archived": False,
    }
    # While they wait they are not asked for again, and a person sees that they are.
    assert sentry.keys() == (
        "Asked for already: a:daily:2024-04-03, a:weekly:2024-04-02, b:daily:2024-04-03, "
        "b:weekly:2024-04-02."
    )
    for request in result.run_requests:
        sentry.carry_out(request)
    assert sentry.archived() == {"a daily": 8, "a weekly": 4, "b daily": 8, "b weekly": 4}
    assert sentry.keys() == NOTHING
    assert json.loads(sentry.cursor or "")["asked"] == []
    # The next day is another cutoff.
    sentry.now += timedelta(days=1)
    assert sentry.keys() == [
        "a:daily:2024-04-04", "a:weekly:2024-04-03", "b:daily:2024-04-04", "b:weekly:2024-04-03",
    ]  # fmt: skip


def test_what_failed_is_asked_for_with_the_next_cutoff(sentry: Sentry) -> None:
    sentry.add("a", metadata=SHORT)
    sentry.boards(date(2024, 4, 1), date(2024, 4, 1), "a")
    assert sentry.keys() == ["a:daily:2024-04-03", "a:weekly:2024-04-02"]
    assert str(sentry.keys()).startswith("Asked for already: ")
    sentry.now += timedelta(days=1)
    assert sentry.keys() == ["a:daily:2024-04-04", "a:weekly:2024-04-03"]


def test_today_is_the_institutions_own(sentry: Sentry) -> None:
    for id, zone in (("auckland", "Pacific/Auckland"), ("honolulu", "Pacific/Honolulu")):
        sentry.add(id, zone=zone, metadata='{"leaderboardRetention": {"daily": 5}}')
    sentry.boards(date(2024, 4, 1), date(2024, 4, 2), "auckland", "honolulu")
    sentry.now = datetime(2024, 4, 7, 13, tzinfo=UTC)
    # It is the 8th in Auckland and the 7th in Honolulu.
    assert sentry.keys() == ["auckland:daily:2024-04-03", "honolulu:daily:2024-04-02"]


def test_a_tick_asks_for_so_many_and_goes_on_when_these_are_done(
    sentry: Sentry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_sensor, "AT_ONCE", 3)
    sentry.add("a", "b", metadata=SHORT)
    sentry.boards(date(2024, 4, 1), date(2024, 4, 1), "a", "b")
    first: Any = sentry.tick()
    assert [r.run_key for r in first.run_requests] == [
        "a:daily:2024-04-03", "a:weekly:2024-04-02", "b:daily:2024-04-03",
    ]  # fmt: skip
    runs = [
        sentry.instance.add_run(
            DagsterRun(
                job_name="archive_expired_snapshots",
                status=DagsterRunStatus.NOT_STARTED,
                tags=request.tags,
            )
        )
        for request in first.run_requests
    ]
    assert str(sentry.keys()).startswith("1 more wait until runs of retention have ended.")
    # A queue of them does not keep anybody's boards from being made.
    order = sentry.instance.get_dynamic_partitions(INSTITUTION)
    assert requests.at_work(sentry.instance, order) == {}
    sentry.instance.delete_run(runs[0].run_id)
    assert sentry.keys() == ["b:weekly:2024-04-02"]


def test_who_has_no_partition_to_archive_in_is_named(sentry: Sentry) -> None:
    sentry.add("a", metadata=SHORT)
    sentry.boards(date(2024, 4, 1), date(2024, 4, 1), "a")
    sentry.instance.delete_dynamic_partition(INSTITUTION, "a")
    assert sentry.keys() == "Not among the partitions yet: a."
    sentry.instance.add_dynamic_partitions(INSTITUTION, ["a"])
    sentry.settings = Settings(home=sentry.settings.home, start_day=date(2024, 4, 8))
    assert sentry.keys() == "Yesterday lies before the first partition, 2024-04-08, at: a."
    # Neither has been asked for.
    sentry.settings = Settings(home=sentry.settings.home, start_day=START)
    assert sentry.keys() == ["a:daily:2024-04-03", "a:weekly:2024-04-02"]


def test_wrong_settings_are_said_once_and_stop_nobody_else(sentry: Sentry) -> None:
    sentry.add("a", "wrong", metadata=SHORT)
    sentry.boards(date(2024, 4, 1), date(2024, 4, 1), "a", "wrong")
    sentry.set_metadata("wrong", WRONG)

    first: Any = sentry.tick()
    assert [r.run_key for r in first.run_requests] == ["a:daily:2024-04-03", "a:weekly:2024-04-02"]
    [verdict] = first.asset_events
    assert (verdict.check_name, verdict.passed) == ("retention_settings", False)
    said = "Institution 'wrong': metadata.leaderboardRetention.daily is 'five'. Set it to a whole"
    assert said in verdict.description

    second: Any = sentry.tick()
    assert second.asset_events == []
    assert said in second.skip_message

    sentry.set_metadata("wrong", SHORT)
    third: Any = sentry.tick()
    assert [verdict.passed for verdict in third.asset_events] == [True]
    assert [r.run_key for r in third.run_requests] == [
        "wrong:daily:2024-04-03", "wrong:weekly:2024-04-02",
    ]  # fmt: skip
    fourth: Any = sentry.tick()
    assert fourth.asset_events == []


@pytest.mark.parametrize("cursor", ["nonsense", "[]", '{"asked": 3}', '{"wrong": [1]}'])
def test_a_cursor_that_was_edited_begins_anew(sentry: Sentry, cursor: str) -> None:
    sentry.cursor = cursor
    result: Any = sentry.tick()
    assert result.skip_message == NOTHING
    assert [verdict.passed for verdict in result.asset_events] == [True]


def test_the_queue_knows_the_tags_of_these_runs(sentry: Sentry) -> None:
    add_institution(sentry.database, "a", metadata=SHORT)
    sentry.instance.add_dynamic_partitions(INSTITUTION, ["a"])
    sentry.boards(date(2024, 4, 1), date(2024, 4, 1), "a")
    result: Any = sentry.tick()
    config = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    limits = config["concurrency"]["runs"]["tag_concurrency_limits"]
    tags = {**sentry.defs.resolve_job_def("archive_expired_snapshots").tags}
    tags |= result.run_requests[0].tags
    # One an institution, and never all places of the queue.
    assert {"leaderboards/institution", "leaderboards/work"} == {
        limit["key"]
        for limit in limits
        if limit["key"] in tags
        and (isinstance(limit["value"], dict) or limit["value"] == tags[limit["key"]])
    }
