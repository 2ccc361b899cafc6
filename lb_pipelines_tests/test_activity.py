"""What has ended is not expected for ever: the arithmetic, the one statement that it comes from,
and what the schedule, the freshness sensor and the report of missing partitions make of it.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import psycopg.errors
import pytest
from dagster import DagsterInstance, build_schedule_context, build_sensor_context
from hypothesis import given
from hypothesis import strategies as st

from lb_pipelines.core.activity import Activity
from lb_pipelines.core.periods import DayRange, baseline_day, window_start
from lb_pipelines.core.words import Granularity
from lb_pipelines.core.zones import load_zone
from lb_pipelines.db import partitions, queries
from lb_pipelines.db.engine import Database
from lb_pipelines.db.repositories import institutions
from lb_pipelines.db.repositories.activity import read_activity
from lb_pipelines.materialize import completeness
from lb_pipelines.materialize.completeness import ASSETS, State
from lb_pipelines.orchestration.partitions import INSTITUTION, Rectangle
from lb_pipelines.settings import Settings
from lb_pipelines_tests.orchestration_district import District, add_event, add_institution

EVENTS = DayRange(date(2024, 4, 1), date(2024, 4, 5))
LAST_EXPECTED = date(2024, 4, 30)
ONE_DAY = timedelta(days=1)
UTC_ZONE = load_zone("UTC")

days = st.dates(date(1970, 1, 1), date(2200, 1, 1))


@given(last_event=st.none() | days, last_term=st.none() | days)
def test_days_are_expected_as_long_as_a_window_or_a_baseline_reaches_back(
    last_event: date | None, last_term: date | None
) -> None:
    """Against every day asked for itself."""
    noon = None if last_event is None else datetime.combine(last_event, time(12), UTC)
    found = Activity(noon, last_term).last_expected_day(UTC_ZONE)
    active = [day for day in (last_event, last_term) if day is not None]
    if not active:
        assert found == date.max
        return
    last = max(active)

    def reaches_back(day: date) -> bool:
        starts = [
            window_start(granularity, day, term=None, first_event_day=last)
            for granularity in (Granularity.DAILY, Granularity.WEEKLY, Granularity.MONTHLY)
        ]
        # A week, as a TERM or ALL_TIME board is compared with; longer baselines lie within a month
        # or a week whose own windows are asked for here.
        starts.append(baseline_day(Granularity.ALL_TIME, day))
        return any(start is not None and start <= last for start in starts)

    until = max(day for day in (last + timedelta(days=n) for n in range(40)) if reaches_back(day))
    assert found == until
    assert calendar.monthrange(found.year, found.month)[1] == found.day or found == last + (
        timedelta(days=7)
    )


@pytest.mark.parametrize(
    ("instant", "zone", "last_expected"),
    [
        ("2024-04-10T12:00Z", "UTC", "2024-04-30"),
        ("2024-04-28T12:00Z", "UTC", "2024-05-05"),
        # The month of the institution's own day.
        ("2024-04-30T12:00Z", "Pacific/Auckland", "2024-05-31"),
        ("2024-05-01T03:00Z", "America/Los_Angeles", "2024-05-07"),
        ("9999-12-31T00:00Z", "Pacific/Kiritimati", "9999-12-31"),
        ("9999-12-05T00:00Z", "UTC", "9999-12-31"),
    ],
)
def test_the_last_event_counts_by_its_local_day(
    instant: str, zone: str, last_expected: str
) -> None:
    activity = Activity(datetime.fromisoformat(instant))
    assert activity.last_expected_day(load_zone(zone)) == date.fromisoformat(last_expected)


def test_activity_is_read_of_all_in_one_statement_by_probes(database: Database) -> None:
    add_institution(database, "a", days=EVENTS)
    add_institution(database, "b", days=DayRange(date(2023, 1, 1), date(2023, 2, 2)))
    add_institution(database, "none", days=EVENTS, students=0)
    partitions.ensure_event_months(database, date(2021, 1, 1), date(2025, 12, 1))
    with database.transaction() as connection:
        connection.execute("DELETE FROM lb.enrollments WHERE class_key IN"
            " (SELECT class_key FROM lb.classes JOIN lb.institutions USING (institution_key)"
            "  WHERE lb.institutions.id = 'none')")  # fmt: skip
        connection.execute("DELETE FROM lb.classes WHERE institution_key ="
            " (SELECT institution_key FROM lb.institutions WHERE id = 'none')")  # fmt: skip
        connection.execute("DELETE FROM lb.terms WHERE institution_key ="
            " (SELECT institution_key FROM lb.institutions WHERE id = 'none')")  # fmt: skip
        every = institutions.every(connection)
        assert read_activity(connection, every) == {
            "a": Activity(datetime(2024, 4, 5, 12, tzinfo=UTC), EVENTS.last),
            "b": Activity(datetime(2023, 2, 2, 12, tzinfo=UTC), date(2023, 2, 2)),
            "none": Activity(None, None),
        }
        connection.execute("ANALYZE lb.student_points")
        # What a large table has the planner do; small leaves are read whole.
        connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        plan = connection.execute(
            "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off, FORMAT json) "
            + queries.text(queries.activity.last_activity),
            {"institution_keys": [every[0].key]},
        ).fetchone()
    assert plan is not None
    scans = list(_scans_of_points(plan[0][0]["Plan"]))
    # From the latest month back to the first row found: later months are probed, earlier ones not.
    assert {scan["Scan Direction"] for scan in scans} == {"Backward"}
    assert sum(scan["Actual Rows"] for scan in scans) == 1
    probed = [scan for scan in scans if scan["Actual Loops"]]
    assert len(probed) == 1 + 20  # April 2024, and the months to December 2025.
    assert len(scans) == 5 * 12


def _scans_of_points(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if node.get("Alias", "").startswith("p_") or node.get("Alias") == "p":
        yield node
    for inner in node.get("Plans", ()):
        yield from _scans_of_points(inner)


def test_dates_beyond_pythons_end_the_statement_for_nobody(database: Database) -> None:
    add_institution(database, "a", days=EVENTS)
    add_institution(database, "b", days=EVENTS)
    with database.transaction() as connection:
        connection.execute("UPDATE lb.terms SET ends_on = 'infinity' WHERE institution_key ="
            " (SELECT institution_key FROM lb.institutions WHERE id = 'a')")  # fmt: skip
        found = read_activity(connection, institutions.every(connection))
    assert found["a"].last_expected_day(UTC_ZONE) == date.max
    assert found["b"].last_expected_day(UTC_ZONE) == LAST_EXPECTED


# What asks for days, or says that they are not there.


class Ending(District):
    """A district over time."""

    def schedule_asks_for(self) -> list[str] | str:
        """The days that a tick asks for, or why for none."""
        schedule = self.defs.resolve_schedule_def("daily_leaderboards_schedule")
        with build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=self.now,
            resources=self.defs.resources,
        ) as context:
            result = schedule.evaluate_tick(context)
        asked = [Rectangle.of_run(request.tags) for request in result.run_requests or []]
        return [str(d) for r in asked if r for d in r.days] or str(result.skip_message)

    def late(self) -> list[str]:
        """The days that the freshness sensor finds late."""
        sensor = self.defs.resolve_sensor_def("freshness_sensor")
        with build_sensor_context(instance=self.instance, resources=self.defs.resources) as context:
            result: Any = sensor.evaluate_tick(context)
        [of_snapshots] = [
            event
            for event in result.asset_events
            if event.asset_key.to_user_string() == "class_snapshots"
        ]
        rows = of_snapshots.metadata["not_complete"].value.splitlines()[2:]
        assert of_snapshots.passed is not bool(rows)
        return [day for row in rows for day in row.split("|")[5].strip().split(", ")]

    def look(self, **bounds: date) -> completeness.Completeness:
        with self.database.transaction() as connection:
            institution = institutions.find(connection, "a")
        last_closed = self.now.date() - ONE_DAY
        first = bounds.pop("first", EVENTS.first)
        return completeness.look(
            self.database, institution, last_closed, None, first=first, **bounds
        )

    def missing(self) -> set[str]:
        """The days of class snapshots that the report finds missing."""
        return {
            str(day)
            for finding in self.look().findings
            if finding.state is State.MISSING and "class_snapshots" in finding.assets
            for part in finding.days
            for day in part
        }


@pytest.fixture
def ending(database: Database, tmp_path: Path) -> Iterator[Ending]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        world = Ending(database, instance, Settings(home=tmp_path, start_day=EVENTS.first))
        add_institution(database, "a", days=EVENTS, students=2)
        instance.add_dynamic_partitions(INSTITUTION, ["a"])
        with database.transaction() as connection:
            connection.execute("UPDATE lb.institutions SET created_at = '2024-01-01'")
        yield world


def day_list(first: date, last: date) -> list[str]:
    return [str(day) for day in DayRange(first, last)]


def noon_of(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


def test_days_after_the_end_are_neither_asked_for_nor_late_nor_missing(ending: Ending) -> None:
    ending.now = noon_of(date(2024, 5, 1))
    week = day_list(date(2024, 4, 24), LAST_EXPECTED)
    assert ending.schedule_asks_for() == week == ending.late()
    ending.now = noon_of(date(2024, 5, 4))
    assert ending.schedule_asks_for() == day_list(date(2024, 4, 27), LAST_EXPECTED)
    assert ending.late() == day_list(date(2024, 4, 27), LAST_EXPECTED)
    ending.now = noon_of(date(2024, 9, 1))
    assert ending.schedule_asks_for() == "All 1 institutions have every day that is over there."
    assert ending.late() == []
    assert ending.missing() == set(day_list(EVENTS.first, LAST_EXPECTED))
    assert ending.look().expected == 30 * len(ASSETS)
    assert ending.look().days == DayRange(EVENTS.first, LAST_EXPECTED)
    after = ending.look(first=date(2024, 5, 1))
    assert (after.days, after.expected, after.findings) == (None, 0, ())


def test_a_new_event_or_a_longer_term_brings_it_back(ending: Ending) -> None:
    ending.now = noon_of(date(2024, 9, 1))
    assert ending.late() == []
    week = day_list(date(2024, 8, 25), date(2024, 8, 31))
    partitions.ensure_event_months(ending.database, date(2024, 8, 1), date(2024, 8, 31))
    add_event(ending.database, "a", date(2024, 8, 10), 5)
    assert ending.schedule_asks_for() == week == ending.late()
    assert ending.missing() == set(day_list(EVENTS.first, date(2024, 8, 31)))
    ending.now = noon_of(date(2024, 9, 10))
    assert ending.late() == []
    with ending.database.transaction() as connection:
        connection.execute("UPDATE lb.terms SET ends_on = '2025-06-30'")
    week = day_list(date(2024, 9, 3), date(2024, 9, 9))
    assert ending.schedule_asks_for() == week == ending.late()
    assert ending.missing() == set(day_list(EVENTS.first, date(2024, 9, 9)))


def test_a_term_without_an_event_ends_too_and_without_both_days_are_expected(
    ending: Ending,
) -> None:
    with ending.database.transaction() as connection:
        connection.execute("DELETE FROM lb.student_points")
    ending.now = noon_of(date(2024, 9, 1))
    assert ending.late() == []
    with ending.database.transaction() as connection:
        for table in ("enrollments", "classes", "terms"):
            connection.execute(f"DELETE FROM lb.{table}")
    week = day_list(date(2024, 8, 25), date(2024, 8, 31))
    assert ending.schedule_asks_for() == week == ending.late()


def test_what_is_there_after_the_end_is_still_examined(ending: Ending) -> None:
    """A board that stands is never silently wrong, whether it is expected or not."""
    ending.now = noon_of(date(2024, 5, 10))
    assert ending.run(Rectangle(DayRange(date(2024, 5, 1), date(2024, 5, 3)), "a", "a")).success
    add_event(ending.database, "a", date(2024, 4, 2), 50)
    found = ending.look()
    stale = [f for f in found.findings if f.state is State.STALE and "class_snapshots" in f.assets]
    assert [f.days for f in stale] == [(DayRange(date(2024, 5, 1), date(2024, 5, 3)),)]
    assert found.days == DayRange(EVENTS.first, date(2024, 5, 3))
    # 30 days are expected; the days after them that are there count too.
    assert found.expected == (30 + 3) * len(ASSETS)


def test_an_institutions_id_cannot_be_changed_under_its_boards(database: Database) -> None:
    add_institution(database, "a", days=EVENTS)
    update = "UPDATE lb.institutions SET id = %s, name = 'Other'"
    with (
        pytest.raises(psycopg.errors.RestrictViolation, match="'a' cannot be changed to 'b'") as no,
        database.transaction() as connection,
    ):
        connection.execute(update, ("b",))
    assert "Import the institution under the new id" in (no.value.diag.message_hint or "")
    with database.transaction() as connection:
        connection.execute(update, ("a",))
