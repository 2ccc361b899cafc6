"""What schedules and sensors ask for, and that they ask for nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    AddDynamicPartitionsRequest,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    RunRequest,
    build_schedule_context,
    build_sensor_context,
)

from lb_pipelines.clock import utc_now
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.materialize import aggregates, writing
from lb_pipelines.materialize.results import Provenance
from lb_pipelines.orchestration import sensors
from lb_pipelines.orchestration.assets.family import BoardProduct, Order
from lb_pipelines.orchestration.assets.leaderboards import leaderboard_families
from lb_pipelines.orchestration.build import build_defs
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.schedules import DAILY_SCHEDULE
from lb_pipelines.settings import Settings
from lb_pipelines_tests.orchestration_district import add_event, add_institution

START = date(2024, 3, 20)
EVENTS = DayRange(date(2024, 4, 1), date(2024, 4, 3))


class Clockwork:
    """A database and an instance, with the ticks of schedules and sensors at any instant."""

    def __init__(self, database: Database, instance: DagsterInstance, home: Path) -> None:
        self.database = database
        self.instance = instance
        self.home = home
        self.now = datetime(2024, 4, 3, 12, 0, tzinfo=UTC)
        self.cursor: str | None = None

    @property
    def defs(self) -> Definitions:
        url = self.database.url.render_as_string(hide_password=False)
        return build_defs(
            settings=Settings(home=self.home, start_day=START),
            resource_overrides={"leaderboard_database": LeaderboardDatabase(url=url)},
            now=lambda: self.now,
        )

    def add(self, *institutions: tuple[str, str]) -> None:
        for id, zone in institutions:
            add_institution(self.database, id, zone=zone, days=EVENTS, students=2)
        self.tick_institutions()

    def tick_institutions(self) -> list[str] | str:
        """The dimension after a tick, or why the tick did nothing."""
        sensor = self.defs.resolve_sensor_def("institutions_sensor")
        with build_sensor_context(instance=self.instance, resources=self.defs.resources) as context:
            result = sensor.evaluate_tick(context)
        if not result.dynamic_partitions_requests:
            return str(result.skip_message)
        for request in result.dynamic_partitions_requests:
            # What the daemon does with it.
            if isinstance(request, AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(INSTITUTION, request.partition_keys)
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(INSTITUTION, key)
        return list(self.instance.get_dynamic_partitions(INSTITUTION))

    def tick_daily(self) -> list[RunRequest] | str:
        schedule = self.defs.resolve_schedule_def(DAILY_SCHEDULE)
        with build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=self.now,
            resources=self.defs.resources,
        ) as context:
            result = schedule.evaluate_tick(context)
        return list(result.run_requests or []) or str(result.skip_message)

    def tick_late_events(self) -> list[RunRequest] | str:
        sensor = self.defs.resolve_sensor_def("late_events_sensor")
        with build_sensor_context(
            instance=self.instance, resources=self.defs.resources, cursor=self.cursor
        ) as context:
            result = sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return list(result.run_requests or []) or str(result.skip_message)

    def submit(self, request: RunRequest, status: DagsterRunStatus, **tags: str) -> DagsterRun:
        """The run that the daemon would make of a request of the schedule."""
        run = DagsterRun(
            job_name="daily_leaderboards",
            status=status,
            tags={**request.tags, **tags},
        )
        return self.instance.add_run(run)

    def materialize(self, first: str, last: str, *ids: str) -> None:
        """What a run would write, without a run."""
        days = DayRange(date.fromisoformat(first), date.fromisoformat(last))
        for id in ids:
            with self.database.transaction() as connection:
                institution = institutions.find(connection, id)
            order = Order(Provenance("test"), self.now.date())
            products = []
            for asset in leaderboard_families(START):
                if isinstance(asset.making, BoardProduct):
                    products.append(asset.making.of(order))
                elif asset.name in DAILY_ASSETS:
                    list(asset.making(self.database, institution, days, order))
            list(writing.write(self.database, institution, products, days, order.provenance))


@pytest.fixture
def clockwork(database: Database, tmp_path: Path) -> Iterator[Clockwork]:
    # A schedule's tick wants an instance that it can open again.
    with DagsterInstance.local_temp(
        str(tmp_path), overrides={"telemetry": {"enabled": False}}
    ) as instance:
        yield Clockwork(database, instance, tmp_path)


def rectangle(first: str, last: str, low: str, high: str) -> Rectangle:
    return Rectangle(DayRange(date.fromisoformat(first), date.fromisoformat(last)), low, high)


def asked(requests: list[RunRequest] | str) -> list[Rectangle | None] | str:
    return requests if isinstance(requests, str) else [Rectangle.of_run(r.tags) for r in requests]


# Institutions.


def test_the_dimension_follows_the_active_institutions(clockwork: Clockwork) -> None:
    for id, zone in [("a", "UTC"), ("la", "America/Los_Angeles"), ("z", "UTC")]:
        add_institution(clockwork.database, id, zone=zone, days=EVENTS, students=1)
    assert clockwork.tick_institutions() == ["a", "z", "la"]
    assert clockwork.tick_institutions() == "The 3 active institutions are the partitions."
    with clockwork.database.transaction() as connection:
        connection.execute("UPDATE lb.institutions SET status = 'INACTIVE' WHERE id = 'z'")
    add_institution(clockwork.database, "new", days=EVENTS, students=1)
    assert clockwork.tick_institutions() == ["a", "la", "new"]


def test_those_with_one_midnight_come_to_lie_side_by_side(clockwork: Clockwork) -> None:
    """They join one by one, so that each would have a run of its own."""
    zones = ["UTC", "America/Los_Angeles"] * 3
    for id, zone in zip("abcdef", zones, strict=True):
        clockwork.add((id, zone))
    clockwork.now = datetime(2024, 3, 21, 3, 0, tzinfo=UTC)  # Evening in Los Angeles.
    requests = clockwork.tick_daily()
    assert len(requests) == 3
    # Not while a run is at work over a range of them.
    run = clockwork.submit(requests[0], DagsterRunStatus.STARTED)  # type: ignore[arg-type]
    assert clockwork.tick_institutions() == "The 6 active institutions are the partitions."
    clockwork.instance.delete_run(run.run_id)
    assert clockwork.tick_institutions() == ["a"]
    assert clockwork.tick_institutions() == ["a", "c", "e", "b", "d", "f"]
    assert clockwork.tick_institutions() == "The 6 active institutions are the partitions."
    assert asked(clockwork.tick_daily()) == [rectangle("2024-03-20", "2024-03-20", "a", "e")]


# The daily schedule.


def test_each_institution_after_its_own_midnight(clockwork: Clockwork) -> None:
    clockwork.add(("auckland", "Pacific/Auckland"), ("london", "Europe/London"))
    clockwork.materialize("2024-03-28", "2024-04-03", "auckland", "london")

    clockwork.now = datetime(2024, 4, 4, 10, 45, tzinfo=UTC)
    assert clockwork.tick_daily() == "All 2 institutions have every day that is over there."
    clockwork.now = datetime(2024, 4, 4, 11, 0, tzinfo=UTC)  # Midnight in Auckland (UTC+13).
    [request] = clockwork.tick_daily()
    assert Rectangle.of_run(request.tags) == rectangle(
        "2024-04-04", "2024-04-04", "auckland", "auckland"
    )
    clockwork.now = datetime(2024, 4, 4, 23, 0, tzinfo=UTC)  # Midnight in London (UTC+1).
    assert asked(clockwork.tick_daily()) == [
        rectangle("2024-04-04", "2024-04-04", "auckland", "london")
    ]


def test_one_run_for_all_with_the_same_midnight_and_missed_days(clockwork: Clockwork) -> None:
    clockwork.add(("a", "UTC"), ("la", "America/Los_Angeles"), ("b", "UTC"))
    clockwork.now = datetime(2024, 4, 10, 0, 0, tzinfo=UTC)
    # Seven days at most; Los Angeles is a day behind.
    assert asked(clockwork.tick_daily()) == [
        rectangle("2024-04-02", "2024-04-08", "la", "la"),
        rectangle("2024-04-03", "2024-04-09", "a", "b"),
    ]


def test_days_before_the_first_partition_are_not_asked_for(clockwork: Clockwork) -> None:
    clockwork.add(("a", "UTC"))
    clockwork.now = datetime(2024, 3, 22, 0, 0, tzinfo=UTC)
    assert asked(clockwork.tick_daily()) == [rectangle("2024-03-20", "2024-03-21", "a", "a")]


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED])
def test_what_is_queued_or_at_work_is_not_asked_for_again(
    clockwork: Clockwork, status: DagsterRunStatus
) -> None:
    clockwork.add(("a", "UTC"), ("b", "UTC"))
    clockwork.now = datetime(2024, 3, 22, 0, 0, tzinfo=UTC)
    [request] = clockwork.tick_daily()
    # Whoever started it.
    clockwork.submit(request, status)
    assert clockwork.tick_daily() == (
        "Runs are queued or at work for a 2024-03-20, a 2024-03-21, b 2024-03-20, b 2024-03-21."
    )


def test_a_day_that_fails_is_asked_for_three_times(clockwork: Clockwork) -> None:
    clockwork.add(("a", "UTC"), ("b", "UTC"))
    clockwork.now = datetime(2024, 3, 21, 0, 0, tzinfo=UTC)
    by_schedule = {"dagster/schedule_name": DAILY_SCHEDULE}
    keys = set()
    for _ in range(3):
        [request] = clockwork.tick_daily()
        keys.add(request.run_key)
        clockwork.submit(request, DagsterRunStatus.FAILURE, **by_schedule)
        clockwork.now += timedelta(minutes=15)
    assert clockwork.tick_daily() == (
        "Asked for 3 times without success, so left to a person: a 2024-03-20, b 2024-03-20."
    )
    # The next day is another matter.
    clockwork.now = datetime(2024, 3, 22, 0, 0, tzinfo=UTC)
    assert asked(clockwork.tick_daily()) == [rectangle("2024-03-21", "2024-03-21", "a", "b")]


def test_institutions_that_are_no_partitions_yet_are_named(clockwork: Clockwork) -> None:
    add_institution(clockwork.database, "new", days=EVENTS, students=1)
    assert clockwork.tick_daily() == "Not among the partitions yet: new."


def test_an_unknown_zone_does_not_hold_up_the_others(clockwork: Clockwork) -> None:
    clockwork.add(("a", "UTC"), ("lost", "UTC"))
    with clockwork.database.transaction() as connection:
        connection.execute("UPDATE lb.institutions SET time_zone = 'Mars' WHERE id = 'lost'")
    clockwork.now = datetime(2024, 3, 21, 0, 0, tzinfo=UTC)
    assert asked(clockwork.tick_daily()) == [rectangle("2024-03-20", "2024-03-20", "a", "lost")]
    assert clockwork.tick_late_events() == (
        "1 institutions: no day is stale. Left out: Institution 'lost': 'Mars' is"
        " no IANA time zone. Set time_zone to a name like 'Europe/London'"
    )


# Late events.


@pytest.mark.present
def test_a_late_event_is_answered_by_one_run_up_to_the_latest_day(clockwork: Clockwork) -> None:
    clockwork.add(("a", "UTC"), ("b", "UTC"))
    clockwork.now = utc_now()
    clockwork.materialize("2024-04-01", "2024-04-05", "a", "b")
    assert clockwork.tick_late_events() == "2 institutions: no day is stale."

    add_event(clockwork.database, "b", date(2024, 4, 3), 50)
    [request] = clockwork.tick_late_events()
    stale = rectangle("2024-04-03", "2024-04-05", "b", "b")
    assert Rectangle.of_run(request.tags) == stale
    assert request.tags["leaderboards/institution"] == "b"
    # As long as nothing has been written it is the same request: Dagster drops it.
    [again] = clockwork.tick_late_events()
    assert again.run_key == request.run_key

    run = clockwork.submit(request, DagsterRunStatus.STARTED)
    assert clockwork.tick_late_events() == "A run is queued or in progress for the stale days of b."
    clockwork.instance.delete_run(run.run_id)
    clockwork.materialize("2024-04-03", "2024-04-05", "b")
    assert clockwork.tick_late_events() == "2 institutions: no day is stale."

    add_event(clockwork.database, "b", date(2024, 4, 3), 50)
    [anew] = clockwork.tick_late_events()
    assert Rectangle.of_run(anew.tags) == stale
    assert anew.run_key != request.run_key


def test_boards_older_than_their_aggregates_are_late_too(clockwork: Clockwork) -> None:
    clockwork.add(("a", "UTC"))
    clockwork.materialize("2024-04-01", "2024-04-03", "a")
    add_event(clockwork.database, "a", date(2024, 4, 2), 50)
    with clockwork.database.transaction() as connection:
        institution = institutions.find(connection, "a")
    day = date(2024, 4, 2)
    list(
        aggregates.materialize(
            clockwork.database, institution, DayRange(day, day), Provenance("test")
        )
    )
    assert asked(clockwork.tick_late_events()) == [rectangle("2024-04-02", "2024-04-03", "a", "a")]


def test_what_changes_before_the_first_partition_reaches_the_boards(clockwork: Clockwork) -> None:
    before = DayRange(START - timedelta(days=2), START - timedelta(days=1))
    add_institution(clockwork.database, "a", days=before, students=2)
    clockwork.tick_institutions()
    clockwork.materialize("2024-03-20", "2024-03-21", "a")
    add_event(clockwork.database, "a", before.first, 1000)
    assert asked(clockwork.tick_late_events()) == [rectangle("2024-03-20", "2024-03-21", "a", "a")]
    clockwork.materialize("2024-03-20", "2024-03-21", "a")
    assert clockwork.tick_late_events() == "1 institutions: no day is stale."
    with clockwork.database.transaction() as connection:
        most = connection.execute(
            "SELECT max((metadata ->> 'max')::integer) FROM lb.leaderboard_snapshots"
        ).fetchone()
    assert most is not None
    assert most[0] >= 1000


@pytest.mark.present
def test_a_change_is_found_whatever_its_age(clockwork: Clockwork) -> None:
    clockwork.add(("a", "UTC"), ("b", "UTC"))
    clockwork.now = utc_now()
    clockwork.materialize("2024-04-01", "2024-04-02", "a", "b")
    add_event(clockwork.database, "b", date(2024, 4, 1), 50)
    clockwork.tick_late_events()
    # Long after, with the run never made, and with another cursor.
    clockwork.now += timedelta(days=300)
    clockwork.cursor = "nonsense"
    [request] = clockwork.tick_late_events()
    assert Rectangle.of_run(request.tags) == rectangle("2024-04-01", "2024-04-02", "b", "b")


@pytest.mark.parametrize(
    ("statement", "first", "assets"),
    [
        (
            # All that is aggregated, the day before the first event too.
            "UPDATE lb.institutions SET time_zone = 'Asia/Tokyo' WHERE id = 'b'",
            "2024-03-31",
            None,
        ),
        (
            "UPDATE lb.institutions SET metadata = jsonb_build_object('leaderboardLimits',"
            " jsonb_build_object('CLASS', jsonb_build_object('daily', 1))) WHERE id = 'b'",
            "2024-04-01",
            {"class_snapshots", "class_trends"},
        ),
        (
            "UPDATE lb.enrollments SET withdrawn_on = '2024-04-02' FROM lb.institutions i"
            " WHERE i.institution_key = enrollments.institution_key AND i.id = 'b'",
            "2024-04-02",
            {"class_snapshots", "subject_snapshots", "campus_snapshots"},
        ),
    ],
)
def test_a_change_of_another_input_starts_a_run_of_what_it_can_touch(
    clockwork: Clockwork, statement: str, first: str, assets: set[str] | None
) -> None:
    clockwork.add(("a", "UTC"), ("b", "UTC"))
    clockwork.now = datetime(2024, 5, 1, tzinfo=UTC)
    clockwork.materialize("2024-04-01", "2024-04-03", "a", "b")
    assert clockwork.tick_late_events() == "2 institutions: no day is stale."
    with clockwork.database.transaction() as connection:
        connection.execute(statement)
    [request] = clockwork.tick_late_events()
    assert Rectangle.of_run(request.tags) == rectangle(first, "2024-04-03", "b", "b")
    selected = request.asset_selection
    assert (selected and {key.to_user_string() for key in selected}) == assets


def test_a_tick_that_runs_out_of_time_goes_on_with_the_next(
    clockwork: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    clockwork.add(("a", "UTC"), ("b", "UTC"), ("c", "UTC"))
    clockwork.now = datetime(2024, 5, 1, tzinfo=UTC)
    clockwork.materialize("2024-04-01", "2024-04-02", "a", "b", "c")
    for id in ("a", "b", "c"):
        add_event(clockwork.database, id, date(2024, 4, 1), 50)
    # Each institution takes all the time that a tick has.
    seconds = iter(range(0, 10_000, 20))
    monkeypatch.setattr(sensors.time, "monotonic", lambda: next(seconds))
    seen = [
        [request.tags["leaderboards/institution"] for request in clockwork.tick_late_events()]
        for _ in range(3)
    ]
    assert all(len(ids) < 3 for ids in seen)
    assert {id for ids in seen for id in ids} == {"a", "b", "c"}


# Maintenance.


def test_partition_maintenance_shows_its_plan_and_then_does_it(clockwork: Clockwork) -> None:
    clockwork.add(("a", "UTC"))
    job = clockwork.defs.resolve_job_def("partition_maintenance")
    dry = job.execute_in_process(instance=clockwork.instance)
    said = [e.user_message for e in clockwork.instance.all_logs(dry.run_id)]
    assert "This was a dry run; set dry_run to false to do it." in said
    assert any("a_CLASS_2024-05" in line for line in said)

    schedule = clockwork.defs.resolve_schedule_def("partition_maintenance_schedule")
    with build_schedule_context(
        instance=clockwork.instance, scheduled_execution_time=clockwork.now
    ) as context:
        [request] = schedule.evaluate_tick(context).run_requests or []
    for _ in range(2):
        done = job.execute_in_process(instance=clockwork.instance, run_config=request.run_config)
        assert done.success
    said = [e.user_message for e in clockwork.instance.all_logs(done.run_id)]
    assert any("Nothing to do" in line for line in said)
    with clockwork.database.transaction() as connection:
        leaves = connection.execute(
            "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_CLASS\\_2024-0%'"
            " AND relkind = 'r'"
        ).fetchone()
    assert leaves is not None
    assert leaves[0] >= 3
