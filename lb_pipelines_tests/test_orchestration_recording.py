"""What runs leave in Dagster's own tables, stored a batch at a time by the project's storage.

The reference is dagster-postgres' own storage, which is given the same events one by one.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, EventLogEntry
from dagster_postgres.event_log import PostgresEventLogStorage

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration import recording
from lb_pipelines.orchestration.assets import leaderboards
from lb_pipelines.orchestration.event_storage import BatchingEventLogStorage
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import Rectangle
from lb_pipelines.settings import DAGSTER_SCHEMA, Settings, dagster_storage_url
from lb_pipelines_tests.orchestration_district import START, District
from lb_pipelines_tests.waiting import LIMIT_SECONDS, wait_until

PROJECT = Path(__file__).resolve().parents[1]
APRIL = DayRange(date(2024, 4, 1), date(2024, 4, 2))
BROKEN = '{"leaderboardRanking": "best"}'


@pytest.fixture
def district(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[District]:
    """As in production: Dagster's state in PostgreSQL, by the project's dagster.yaml."""
    url = database.url.render_as_string(hide_password=False)
    with database.transaction() as connection:
        connection.execute(f"CREATE SCHEMA {DAGSTER_SCHEMA}")
    shutil.copyfile(PROJECT / "dagster.yaml", tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("LB_DAGSTER_DATABASE_URL", dagster_storage_url(url))
    # The storage sets it where it is not set: here it is gone again after the test.
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "")
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE")
    with DagsterInstance.get() as instance:
        yield District(database, instance, Settings(home=tmp_path, start_day=START))


def everything(*ids: str) -> Counter[tuple[str, str]]:
    return Counter(
        {(asset, f"{day}|{id}"): 1 for asset in DAILY_ASSETS for day in APRIL for id in ids}
    )


def of_type(district: District, type: str) -> list[tuple[Any, ...]]:
    with district.database.transaction() as connection:
        return connection.execute(
            f"SELECT asset_key, partition, run_id FROM {DAGSTER_SCHEMA}.event_logs"
            " WHERE dagster_event_type = %s",
            (type,),
        ).fetchall()


# Seven on each type of snapshots, one on the aggregates.
CHECKS = 22


def tables(database: Database, schema: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that Dagster looks events up by, without the ids and instants of this writing."""
    queries = {
        "events": "SELECT run_id, event, dagster_event_type, timestamp, step_key, asset_key,"
        " partition FROM event_logs ORDER BY id",
        "tags": "SELECT partition, t.asset_key, key, value, event_timestamp FROM asset_event_tags t"
        " JOIN event_logs e ON e.id = event_id ORDER BY event_id, key",
        "assets": "SELECT asset_key, last_run_id,"
        " last_materialization::json -> 'event_log_entry' ->> 'timestamp',"
        " last_materialization_timestamp FROM asset_keys ORDER BY 1",
        "checks": "SELECT c.asset_key, check_name, c.partition, c.run_id, execution_status,"
        " CASE execution_status WHEN 'PLANNED' THEN '' ELSE evaluation_event END,"
        " evaluation_event_timestamp, e.dagster_event_type, e.timestamp,"
        " m.partition FROM asset_check_executions c"
        " LEFT JOIN event_logs e ON e.id = evaluation_event_storage_id"
        " LEFT JOIN event_logs m ON m.id = materialization_event_storage_id"
        " ORDER BY 1, 2, 3, 4",
    }
    with database.transaction() as connection:
        connection.execute(f"SET LOCAL search_path = {schema}")
        return {name: connection.execute(query).fetchall() for name, query in queries.items()}


def test_a_run_is_stored_as_dagster_itself_would_have_stored_it(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "WAIT_SECONDS", 3600.0)
    district.add("a", "b")
    district.add("broken", metadata=BROKEN)
    batches: list[int] = []
    storage = district.instance.event_log_storage
    assert isinstance(storage, BatchingEventLogStorage)
    store = storage.store_event_batch

    def counted(events: list[EventLogEntry]) -> None:
        batches.append(len(events))
        store(events)

    storage.store_event_batch = counted  # type: ignore[method-assign, assignment]
    result = district.run(Rectangle(APRIL, "a", "broken"))
    del storage.store_event_batch
    assert not result.success
    assert district.recorded(result) == everything("a", "b")
    # Every partition of the rectangle was announced, those that failed included.
    planned = Counter(of_type(district, "ASSET_MATERIALIZATION_PLANNED"))
    assert planned == Counter(
        (f'["{asset}"]', key, result.run_id) for asset, key in everything("a", "b", "broken")
    )
    # Announced together, made together, and the verdicts on it: nothing of it one by one.
    assert [size for size in batches if size > 1] == [
        3 * 2 * 7 + CHECKS,
        2 * 2 * 7,
        2 * 2 * CHECKS,
    ]

    events = [r.event_log_entry for r in storage.get_records_for_run(result.run_id).records]
    url = district.database.url.render_as_string(hide_password=False)
    with district.database.transaction() as connection:
        for schema in ("plain", "batches"):
            connection.execute(f"CREATE SCHEMA {schema}")
    plain, batched = (
        made(dagster_storage_url(url).replace(DAGSTER_SCHEMA, schema))
        for made, schema in (
            (PostgresEventLogStorage, "plain"),
            (BatchingEventLogStorage, "batches"),
        )
    )
    for event in events:
        plain.store_event(event)
    for first in range(0, len(events), 17):
        batched.store_event_batch(events[first : first + 17])
    stored = tables(district.database, "batches")
    assert {name: len(rows) > 6 for name, rows in stored.items()} == dict.fromkeys(stored, True)
    assert stored == tables(district.database, "plain")


def test_a_check_is_announced_without_a_list_of_all_partitions(district: District) -> None:
    district.add("a", "b", "c", "d")
    with district.database.transaction() as connection:
        # The first verdict fails, so that announcements stay as they are.
        connection.execute("ALTER TABLE lb.leaderboard_snapshots RENAME COLUMN entries TO gone")
    district.run(Rectangle(APRIL, "a", "d"))
    with district.database.transaction() as connection:
        rows = connection.execute(
            f"SELECT partition, evaluation_event FROM {DAGSTER_SCHEMA}.asset_check_executions"
            " WHERE execution_status = 'PLANNED' AND asset_key = '[\"class_snapshots\"]'"
        ).fetchall()
    announced = Counter(key for key, _ in rows)
    assert announced == dict.fromkeys((f"{day}|{id}" for day in APRIL for id in "abcd"), 7)
    for _, event in rows:
        said = json.loads(event)["dagster_event"]["event_specific_data"]
        assert said["partitions_subset"] is None
        assert said["check_name"]


def test_what_cannot_be_recorded_fails_the_run_and_is_recorded_once_when_resumed(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One after the other: what of the first came with something of the second is not recorded.
    monkeypatch.setattr(leaderboards, "INSTITUTIONS_AT_ONCE", 1)
    district.add("a", "b")
    with district.database.transaction() as connection:
        # The events themselves can be stored, what they are looked up by can not.
        connection.execute(
            f"ALTER TABLE {DAGSTER_SCHEMA}.asset_event_tags ADD CONSTRAINT full_up"
            " CHECK (value <> 'b') "
        )
    rectangle = Rectangle(APRIL, "a", "b")
    failed = district.run(rectangle)
    assert not failed.success
    assert district.recorded(failed) == everything("a")
    with district.database.transaction() as connection:
        connection.execute(f"ALTER TABLE {DAGSTER_SCHEMA}.asset_event_tags DROP CONSTRAINT full_up")
    resumed = district.run(rectangle, resumes=failed.run_id)
    assert resumed.success
    assert district.recorded(resumed) == everything("a", "b")
    assert district.writer("class_snapshots", "a", APRIL.first) == failed.run_id
    # Committed and not recorded, so done again.
    assert district.writer("point_aggregates", "b", APRIL.first) == resumed.run_id
    for asset in DAILY_ASSETS:
        assert district.statuses(asset) == {
            "green": {key for name, key in everything("a", "b") if name == asset},
            "failed": set(),
        }


def test_ids_come_into_sight_in_their_order(district: District) -> None:
    """A reader goes on from the highest id that it has seen: no lower one may turn up later."""
    district.add("a")
    result = district.run(Rectangle(DayRange(APRIL.first, APRIL.first), "a", "a"))
    storage = district.instance.event_log_storage
    event = storage.get_records_for_run(result.run_id).records[0].event_log_entry
    url = dagster_storage_url(district.database.url.render_as_string(hide_password=False))
    gate = 4711
    with district.database.transaction() as connection:
        connection.execute(
            f"CREATE FUNCTION {DAGSTER_SCHEMA}.wait() RETURNS trigger LANGUAGE plpgsql AS"
            f" 'BEGIN PERFORM pg_advisory_xact_lock_shared({gate}); RETURN new; END'"
        )
        connection.execute(
            f"CREATE TRIGGER slow BEFORE INSERT ON {DAGSTER_SCHEMA}.event_logs FOR EACH ROW"
            f" WHEN (new.run_id = 'slow') EXECUTE FUNCTION {DAGSTER_SCHEMA}.wait()"
        )

    def writer(run_id: str) -> threading.Thread:
        mine = BatchingEventLogStorage(url)
        events = [event._replace(run_id=run_id)] * 3
        thread = threading.Thread(target=mine.store_event_batch, args=(events,))
        thread.start()
        return thread

    def waiting() -> int:
        with district.database.transaction() as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchone()
        return row[0] if row else 0

    with district.database.transaction() as keeper:
        keeper.execute("SELECT pg_advisory_xact_lock(%s)", (gate,))
        slow = writer("slow")
        wait_until(lambda: waiting() == 1)
        quick = writer("quick")
        wait_until(lambda: waiting() == 2 or not quick.is_alive())
        assert quick.is_alive()
    for thread in (slow, quick):
        thread.join(LIMIT_SECONDS)
    with district.database.transaction() as connection:
        rows = connection.execute(
            f"SELECT run_id FROM {DAGSTER_SCHEMA}.event_logs"
            " WHERE run_id IN ('slow', 'quick') ORDER BY id"
        ).fetchall()
    assert [run_id for (run_id,) in rows] == ["slow"] * 3 + ["quick"] * 3


def test_events_wait_for_others_but_not_for_long(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    district.add("a", "b", "c")
    storage = district.instance.event_log_storage
    store = storage.store_event_batch
    batches: list[int] = []

    def counted(events: list[EventLogEntry]) -> None:
        made = [e for e in events if e.dagster_event and e.dagster_event.is_step_materialization]
        batches.extend([len(made)] * bool(made))
        store(events)

    monkeypatch.setattr(storage, "store_event_batch", counted)
    a_day = DayRange(APRIL.first, APRIL.first)

    def batches_of_a_run(seconds: float, at_once: int) -> list[int]:
        monkeypatch.setattr(recording, "WAIT_SECONDS", seconds)
        monkeypatch.setattr(recording, "AT_ONCE", at_once)
        batches.clear()
        result = district.run(Rectangle(a_day, "a", "c"), assets=["point_aggregates"])
        assert len(district.recorded(result)) == 3
        return list(batches)

    # To the end of the op, or until there are enough of them, or enough time has passed.
    assert batches_of_a_run(3600.0, 1000) == [3]
    assert max(batches_of_a_run(3600.0, 2)) <= 2
    assert batches_of_a_run(0.0, 1000) == [1, 1, 1]
