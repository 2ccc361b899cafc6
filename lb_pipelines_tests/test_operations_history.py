"""Pruning of Dagster's own history: what goes, and that no asset's page shows a difference."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    ExecuteInProcessResult,
    RunConfig,
    RunsFilter,
)

from lb_pipelines.clock import utc_now
from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.orchestration.history_pruning import HISTORY_PRUNING, PruningConfig
from lb_pipelines.orchestration.jobs import DAILY_ASSETS
from lb_pipelines.orchestration.partitions import Rectangle
from lb_pipelines.settings import Settings
from lb_pipelines_tests.orchestration_district import START, District, instance_in

APRIL = DayRange(date(2024, 4, 1), date(2024, 4, 2))
LAST = DayRange(APRIL.last, APRIL.last)
BROKEN = '{"leaderboardRanking": "best"}'


@pytest.fixture
def district(database: Database, tmp_path) -> Iterator[District]:
    with instance_in(database, tmp_path) as instance:
        yield District(database, instance, Settings(home=tmp_path, start_day=START))


def prune(district: District, **config: Any) -> ExecuteInProcessResult:
    return district.defs.resolve_job_def(HISTORY_PRUNING).execute_in_process(
        instance=district.instance,
        run_config=RunConfig(ops={"prune_history": PruningConfig(**config)}),
        raise_on_error=False,
    )


def told(result: ExecuteInProcessResult) -> dict[str, Any]:
    [output] = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    metadata = output.step_output_data.metadata
    return {name: metadata[name].value for name in ("events", "check_verdicts", "runs", "ticks")}


def sql(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        found = connection.execute("SET LOCAL search_path = dagster") and connection.execute(
            statement
        )
        return found.fetchall() if found.description else []


def pages(district: District) -> dict[str, Any]:
    """What the pages of all assets show of their partitions, computed anew."""
    sql(district.database, "UPDATE asset_keys SET cached_status_data = NULL")
    shown: dict[str, Any] = {}
    for asset in DAILY_ASSETS:
        shown[asset] = district.statuses(asset)
        latest: dict[str, tuple[int, object]] = {}
        for record in district.instance.fetch_materializations(
            AssetRecordsFilter(AssetKey(asset)), limit=1_000, ascending=True
        ).records:
            assert record.asset_materialization is not None
            latest[str(record.partition_key)] = (
                record.storage_id,
                record.asset_materialization.metadata,
            )
        shown[asset, "latest"] = latest
        planned = district.instance.get_latest_planned_materialization_info
        shown[asset, "planned"] = {key: planned(AssetKey(asset), key) for key in
                                   shown[asset]["failed"]}  # fmt: skip
    shown["checks"] = sql(
        district.database,
        "SELECT asset_key, check_name, partition, max(id) FROM asset_check_executions"
        " WHERE execution_status IN ('SUCCEEDED', 'FAILED') GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    )
    return shown


@pytest.mark.present
def test_what_goes_is_missed_by_nobody(district: District) -> None:
    database, instance = district.database, district.instance
    district.add("a")
    district.add("broken", metadata=BROKEN)
    district.add("z")
    superseded = district.run(Rectangle(APRIL, "z", "z"))
    partly = district.run(Rectangle(APRIL, "a", "broken"))
    district.run(Rectangle(LAST, "a", "a"))
    district.run(Rectangle(APRIL, "z", "z"))
    unfinished = district.run(Rectangle(LAST, "a", "a"))
    young = district.run(Rectangle(LAST, "a", "a"))
    sql(database, f"UPDATE runs SET status = 'STARTED' WHERE run_id = '{unfinished.run_id}'")
    sql(database, "UPDATE runs SET end_time = extract(epoch FROM now() + interval '80 days')"
        f" WHERE run_id = '{young.run_id}'")  # fmt: skip
    for days in (200, 150, 1):
        sql(database, "INSERT INTO job_ticks (job_origin_id, selector_id, status, type, timestamp,"
            " tick_body) VALUES ('o', 's', 'SKIPPED', 'SENSOR',"
            f" now() - interval '{days} days', '')")  # fmt: skip
    district.now = utc_now() + timedelta(days=100)

    def rows() -> list[Any]:
        tables = ("event_logs", "asset_event_tags", "asset_check_executions", "runs", "job_ticks")
        return [sql(database, f"SELECT count(*) FROM {table}") for table in tables]

    shown = pages(district)
    assert shown["class_snapshots"]["failed"] == {f"{day}|broken" for day in APRIL}
    log_of_young = len(instance.all_logs(young.run_id))
    log_of_unfinished = len(instance.all_logs(unfinished.run_id))

    planned = prune(district, runs_at_once=1)
    assert planned.success
    before = rows()
    assert pages(district) == shown
    promised = told(planned)
    assert promised["runs"] == 2
    assert promised["ticks"] == 2
    # Killed on its way, the third run's deletion: what was committed stays committed.
    sql(
        database,
        """
        CREATE FUNCTION fall() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN OLD; END $$;
        """,
    )
    sql(database, "CREATE TRIGGER fall BEFORE DELETE ON event_logs FOR EACH ROW"
        f" WHEN (OLD.run_id = '{partly.run_id}') EXECUTE FUNCTION fall()")  # fmt: skip
    assert not prune(district, dry_run=False, runs_at_once=1).success
    assert instance.get_run_by_id(superseded.run_id) is None
    assert pages(district) == shown
    sql(database, "DROP TRIGGER fall ON event_logs")
    left = [int(more[0][0]) for more in rows()]
    assert all(now <= int(then[0][0]) for now, then in zip(left[1:3], before[1:3], strict=True))

    done = prune(district, dry_run=False)
    assert done.success
    assert 0 < told(done)["events"] < promised["events"]
    assert pages(district) == shown
    # The failed one can still be asked why.
    assert instance.get_run_by_id(partly.run_id) is not None
    assert "broken (at its settings)" in district.failure(partly)
    assert not any(line.startswith("broken failed") for line in district.log(partly))
    assert len(instance.all_logs(young.run_id)) == log_of_young
    assert len(instance.all_logs(unfinished.run_id)) == log_of_unfinished
    assert sql(database, "SELECT count(*) FROM job_ticks WHERE selector_id = 's'") == [(1,)]
    orphans = sql(
        database,
        "SELECT count(*) FROM event_logs e WHERE run_id <> ''"
        " AND NOT EXISTS (SELECT FROM runs r WHERE r.run_id = e.run_id)",
    )
    assert orphans == [(0,)]
    assert sql(
        database,
        "SELECT count(*) FROM asset_event_tags t"
        " WHERE NOT EXISTS (SELECT FROM event_logs e WHERE e.id = t.event_id)",
    ) == [(0,)]
    # Nothing is left but the run before, which by this clock is long over.
    again = told(prune(district, dry_run=False))
    assert again.pop("events") < 15
    assert again == {"check_verdicts": 0, "runs": 1, "ticks": 0}
    assert pages(district) == shown
    # Nothing that comes later is in the way: a run resumes, a partition turns green.
    district.set_metadata("broken", "{}")
    assert district.run(Rectangle(APRIL, "a", "broken"), resumes=partly.run_id).success
    assert district.statuses("class_snapshots")["failed"] == set()
    assert len(instance.get_runs(RunsFilter(run_ids=[unfinished.run_id]))) == 1


@pytest.mark.present
def test_what_something_at_work_stands_on_stays(district: District) -> None:
    database, instance = district.database, district.instance
    district.add("a")
    of_backfill, gone_on_from, last = (district.run(Rectangle(APRIL, "a", "a")) for _ in range(3))
    instance.add_run_tags(of_backfill.run_id, {"dagster/backfill": "months"})
    instance.add_run_tags(last.run_id, {"dagster/parent_run_id": gone_on_from.run_id})
    sql(database, f"UPDATE runs SET status = 'STARTED' WHERE run_id = '{last.run_id}'")
    sql(database, "INSERT INTO bulk_actions (key, status, timestamp, body)"
        " VALUES ('months', 'REQUESTED', now(), '')")  # fmt: skip
    district.now = utc_now() + timedelta(days=100)

    def logs() -> list[int]:
        return [len(instance.all_logs(run.run_id)) for run in (of_backfill, gone_on_from)]

    before = logs()
    assert told(prune(district, dry_run=False))["events"] == 0
    assert logs() == before
    sql(database, "UPDATE bulk_actions SET status = 'COMPLETED'")
    prune(district, dry_run=False)
    assert logs() == [0, before[1]]
    sql(database, f"UPDATE runs SET status = 'SUCCESS' WHERE run_id = '{last.run_id}'")
    prune(district, dry_run=False)
    assert logs() == [0, 0]


def test_a_record_that_is_not_in_postgresql_is_refused(database: Database, tmp_path) -> None:
    with DagsterInstance.ephemeral() as instance:
        district = District(database, instance, Settings(home=tmp_path, start_day=START))
        assert "not in PostgreSQL" in district.failure(prune(district))
